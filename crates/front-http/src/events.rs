//! Server-sent events (the WHATWG HTML standard, section 9.2): how a watch looks over HTTP.

use byname_api::Result;
use byname_api::request::WatchReply;
use bytes::Bytes;
use serde::Serialize;

use crate::problem::Problem;

/// The events of one message. Each has its name and data; the last one alone has the id, because only after it nothing
/// of its revision is missing.
pub(crate) fn of(message: Result<WatchReply>) -> Bytes {
    let mut text = Vec::new();
    match message {
        Ok(WatchReply { at, events }) => {
            let last = events.len().saturating_sub(1);
            for (index, event) in events.iter().enumerate() {
                put(&mut text, event.change.as_str(), (index == last).then_some(&at), event);
            }
            if events.is_empty() {
                put(&mut text, "at", Some(&at), &serde_json::json!({ "at": at }));
            }
        }
        Err(error) => put(&mut text, "error", None, &Problem::from(error).details()),
    }
    text.into()
}

fn put(text: &mut Vec<u8>, event: &str, id: Option<&String>, data: &impl Serialize) {
    text.extend_from_slice(format!("event: {event}\n").as_bytes());
    if let Some(id) = id {
        text.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    text.extend_from_slice(b"data: ");
    // JSON holds no line break: strings escape theirs. Our own types have string keys only, so this cannot fail.
    let _ = serde_json::to_writer(&mut *text, data);
    text.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use byname_api::{Code, Error};

    #[test]
    fn a_message_without_events_and_an_error_are_events_too() {
        let text = of(Ok(WatchReply { at: "7".into(), events: Vec::new() }));
        assert_eq!(text, "event: at\nid: 7\ndata: {\"at\":\"7\"}\n\n".as_bytes());
        let text = of(Err(Error::new(Code::Conflict, "too old\nlist again")));
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(text.starts_with("event: error\ndata: {") && text.ends_with("}\n\n"), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
