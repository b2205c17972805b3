//! `search`: names whose attributes fit a filter.

use byname_api::filter::Filter;
use byname_api::object::Object;
use byname_api::request::{SearchReply, SearchRequest};

use super::Session;
use crate::cli::keep::SearchArgs;
use crate::failure::Outcome;
use crate::screen::{Cell, Format, Paint, Table};

/// The most objects that are asked for at once.
const PAGE: u32 = 1_000;

/// Attributes that have a column of their own anyway.
const SHOWN: [&str; 5] = ["name", "cn", "kind", "objectclass", "state"];

/// Runs it: follows the pages by itself.
pub(crate) async fn run(session: &mut Session, args: SearchArgs) -> Outcome {
    let mut named = Vec::new();
    attributes(&Filter::parse(&args.filter)?, &mut named);
    let under = match &args.under {
        Some(text) => session.name(text)?,
        None => session.context.clone(),
    };
    let mut request =
        SearchRequest { under, next: args.next, consistent: args.consistent, ..SearchRequest::new(args.filter) };
    let mut left = args.limit.unwrap_or(u32::MAX);
    let mut whole: Option<SearchReply> = None;
    let heads = ["NAME", "KIND", "STATE"].map(str::to_owned).into_iter();
    let mut table = Table::new(&heads.chain(named.iter().map(|a| a.to_uppercase())).collect::<Vec<_>>());
    loop {
        request.limit = Some(left.min(PAGE));
        let mut page = session.service.search(&session.cx, request.clone()).await?;
        left = left.saturating_sub(u32::try_from(page.objects.len()).unwrap_or(u32::MAX));
        let next = page.next.take();
        match session.screen.format {
            Format::Json => match &mut whole {
                Some(whole) => whole.objects.append(&mut page.objects),
                None => whole = Some(page),
            },
            Format::Name => {
                for object in &page.objects {
                    session.screen.line(object.name.as_str())?;
                }
            }
            Format::Table => {
                for object in &page.objects {
                    let state = match &object.status {
                        Some(status) => Cell::new(status.state.as_str(), Paint::of(status.state)),
                        None => Cell::from("-"),
                    };
                    let name = Cell::from(object.name.as_str());
                    let values = named.iter().map(|attribute| Cell::from(values(object, attribute)));
                    table.row([name, object.spec.kind().as_str().into(), state].into_iter().chain(values));
                }
                table.print(&mut session.screen)?;
            }
        }
        match next {
            Some(next) if left > 0 => request.next = Some(next),
            next => {
                if next.is_some() && session.screen.format != Format::Json {
                    session.screen.say("byname: note: there may be more names; raise --limit to see them");
                }
                if let Some(whole) = &mut whole {
                    whole.next = next;
                }
                break;
            }
        }
    }
    if let Some(whole) = whole {
        session.warn_stale(&whole.fresh);
        session.screen.json(&whole)?;
    }
    Ok(())
}

/// The attributes that a filter names, each once, without those that are shown anyway.
fn attributes(filter: &Filter, into: &mut Vec<String>) {
    let name = match filter {
        Filter::And(list) | Filter::Or(list) => return list.iter().for_each(|f| attributes(f, into)),
        Filter::Not(filter) => return attributes(filter, into),
        Filter::Equal(name, _) | Filter::AtLeast(name, _) | Filter::AtMost(name, _) | Filter::Present(name) => name,
        Filter::Substring { attribute, .. } => attribute,
    };
    if !SHOWN.contains(&name.as_str()) && !into.contains(name) {
        into.push(name.clone());
    }
}

/// The values of an attribute in one cell.
fn values(object: &Object, attribute: &str) -> Option<String> {
    let spec = &object.spec;
    let joined = |list: &Option<Vec<String>>| list.as_ref().map(|l| l.join(","));
    match attribute {
        "owner" => return spec.owner.clone(),
        "target" => return spec.target.as_ref().map(ToString::to_string),
        "member" => return joined(&spec.members),
        "address" => return joined(&spec.addresses),
        "value" => return spec.value.clone(),
        "version" => return Some(object.version.to_string()),
        _ => {}
    }
    let attribute = attribute.strip_prefix("attributes.").unwrap_or(attribute);
    let declared = spec.attributes.iter().flatten().find(|(name, _)| name.eq_ignore_ascii_case(attribute));
    declared.map(|(_, values)| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use crate::fake::run;

    #[tokio::test]
    async fn what_the_filter_names_is_shown_and_pages_are_followed() {
        let done = run("search --under /BVODS (&(team=media)(|(tier>=1)(value=H*))(!(kind=group)))").await;
        assert_eq!(
            done.out,
            "NAME       KIND     STATE    TEAM   TIER  VALUE\n\
             /BVODS/QS  service  running  media  1,2   -\n\
             /conf/motd  record   -        media  -     Hello\n"
        );
        let asked = "search (&(team=media)(|(tier>=1)(value=H*))(!(kind=group))) under=/BVODS";
        assert_eq!(
            done.log,
            ["", "1", "2"].map(|next| {
                let limit = 1_000;
                format!("{asked} limit={limit} next={next}")
            })
        );
    }

    #[tokio::test]
    async fn names_and_json_are_for_programs() {
        assert_eq!(run("search -o name team=media").await.out, "/BVODS/QS\n/conf/motd\n");
        let done = run("search -o json --root /BVODS --limit 1 team=media").await;
        assert_eq!(done.log, ["search team=media under=/BVODS limit=1 next="]);
        let reply: serde_json::Value = serde_json::from_str(&done.out).unwrap();
        assert_eq!((reply["objects"].as_array().unwrap().len(), &reply["next"]), (1, &"1".into()));
        let done = run("search -o name --limit 1 team=media").await;
        assert_eq!(done.talk, "byname: note: there may be more names; raise --limit to see them\n");
    }

    #[tokio::test]
    async fn what_is_no_filter_is_refused_before_the_server_is_asked() {
        let done = run("search (team=media").await;
        assert_eq!((done.status, done.log.len()), (2, 0));
        assert!(done.talk.starts_with("byname: invalid-argument: filter: at byte 11: "), "{}", done.talk);
    }
}
