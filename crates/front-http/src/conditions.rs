//! Headers that make a write conditional or repeatable.

use byname_api::object::Version;
use byname_api::request::RequestId;
use byname_api::{Error, Result};
use http::HeaderMap;
use http::header::{IF_MATCH, IF_NONE_MATCH};
use sha2::{Digest, Sha256};

/// What `If-Match` asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfMatch {
    /// Nothing.
    Absent,
    /// That the object exists.
    Any,
    /// That it has this version.
    Is(Version),
}

/// Reads `If-Match`: one version, quoted as in an ETag or bare, or `*`.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<IfMatch> {
    let Some(text) = single(headers, IF_MATCH.as_str(), "If-Match")? else { return Ok(IfMatch::Absent) };
    if text == "*" {
        return Ok(IfMatch::Any);
    }
    let bare = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    bare.parse().map(IfMatch::Is).map_err(|_| Error::invalid("If-Match", "give one version as an ETag has it, or `*`"))
}

/// Reads `If-None-Match`, of which only `*` (it must not exist) is taken; true when it is given.
pub(crate) fn if_none_match(headers: &HeaderMap) -> Result<bool> {
    match single(headers, IF_NONE_MATCH.as_str(), "If-None-Match")? {
        None => Ok(false),
        Some("*") => Ok(true),
        Some(_) => Err(Error::invalid("If-None-Match", "only `*` is possible: the object must not exist")),
    }
}

/// Reads `Idempotency-Key`. A request id in its own text form is taken as it is, anything else is hashed into one.
pub(crate) fn request_id(headers: &HeaderMap) -> Result<Option<RequestId>> {
    const HEADER: &str = "Idempotency-Key";
    let Some(text) = single(headers, "idempotency-key", HEADER)? else { return Ok(None) };
    if text.is_empty() || text.len() > 255 || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Error::invalid(HEADER, "a key is 1 to 255 visible ASCII characters"));
    }
    if let Ok(id) = text.parse() {
        return Ok(Some(id));
    }
    let hash = Sha256::digest(text.as_bytes());
    let high = hash.iter().take(16).fold(0u128, |sum, byte| (sum << 8) | u128::from(*byte));
    Ok(Some(RequestId { session: RequestId::session_of_key(high), sequence: 1 }))
}

fn single<'a>(headers: &'a HeaderMap, key: &str, shown: &'static str) -> Result<Option<&'a str>> {
    let mut values = headers.get_all(key).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::invalid(shown, "the header is given twice"));
    }
    let text =
        first.to_str().map_err(|_| Error::invalid(shown, "the header holds more than visible ASCII characters"))?;
    Ok(Some(text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (key, value) in pairs {
            map.append(*key, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn if_match_takes_a_version_quoted_or_bare() {
        for text in ["\"v1a\"", "v1a", " v1a "] {
            assert_eq!(if_match(&headers(&[("if-match", text)])).unwrap(), IfMatch::Is(Version(42)));
        }
        assert_eq!(if_match(&headers(&[("if-match", "*")])).unwrap(), IfMatch::Any);
        assert_eq!(if_match(&headers(&[])).unwrap(), IfMatch::Absent);
        for bad in ["W/\"v1a\"", "\"v1\", \"v2\"", "1a", "\"\"", ""] {
            assert_eq!(if_match(&headers(&[("if-match", bad)])).unwrap_err().at_field(), Some("If-Match"), "{bad}");
        }
        assert!(if_match(&headers(&[("if-match", "v1"), ("if-match", "v1")])).is_err());
    }

    #[test]
    fn a_key_is_a_request_id_or_becomes_one() {
        let key = |text: &str| request_id(&headers(&[("idempotency-key", text)]));
        let id = RequestId { session: 7, sequence: 3 };
        assert_eq!(key(&id.to_string()).unwrap(), Some(id));
        // printf %s order-17 | sha256sum | cut -c1-32
        let hashed = key("order-17").unwrap().unwrap();
        assert_eq!(hashed, key("order-17").unwrap().unwrap());
        assert_ne!(hashed, key("order-18").unwrap().unwrap());
        assert_eq!((hashed.sequence, RequestId::made(hashed.session)), (1, None));
        for bad in ["", "a b", &"x".repeat(256)] {
            assert_eq!(key(bad).unwrap_err().at_field(), Some("Idempotency-Key"), "{bad}");
        }
    }
}
