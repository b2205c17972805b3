//! JSON merge patch (RFC 7396) over an object's declaration: what is null goes back to unsaid, what is there is laid
//! over. The tree's own `Modify` takes whole fields, so members of a launch's inner objects are merged here.

use byname_api::object::Spec;
use byname_api::{Code, Error, Result};
use serde_json::{Map, Value};

use crate::body;

/// Fields of a launch that are objects themselves.
const INNER: [&str; 4] = ["copies", "restart", "limits", "env"];

/// A merge patch, read.
#[derive(Debug)]
pub(crate) struct Patch {
    fields: Map<String, Value>,
}

impl Patch {
    /// Reads the text of a patch.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        match body::json(bytes)? {
            Value::Object(fields) => Ok(Patch { fields }),
            _ => Err(Error::new(Code::InvalidArgument, "a merge patch is a JSON object with the fields that change")),
        }
    }

    /// Whether it changes members of a launch's inner objects, so that what is there now has to be known.
    pub(crate) fn needs_current(&self) -> bool {
        matches!(self.fields.get("launch"), Some(Value::Object(launch)) if INNER.iter().any(|f| matches!(launch.get(*f), Some(Value::Object(_)))))
    }

    /// The fields that change and those that go back to unsaid, for `Modify`. `current` is what is declared now, for
    /// patches that need it.
    pub(crate) fn over(&self, current: Option<&Spec>) -> Result<(Spec, Vec<String>)> {
        let mut fields = self.fields.clone();
        let mut clear = Vec::new();
        take_nulls(&mut fields, "", &mut clear);
        if let Some(Value::Object(attributes)) = fields.get_mut("attributes") {
            take_nulls(attributes, "attributes.", &mut clear);
        }
        if let Some(Value::Object(launch)) = fields.get_mut("launch") {
            take_nulls(launch, "launch.", &mut clear);
            let now = match current.and_then(|c| c.launch.as_ref()) {
                Some(launch) => serde_json::to_value(launch).map_err(|e| Error::internal(e.to_string()))?,
                None => Value::Null,
            };
            for field in INNER {
                if let Some(inner @ Value::Object(_)) = launch.get_mut(field) {
                    let mut merged = now.get(field).cloned().unwrap_or(Value::Null);
                    merge(&mut merged, std::mem::take(inner));
                    *inner = merged;
                }
            }
        }
        Ok((body::value(Value::Object(fields))?, clear))
    }
}

fn take_nulls(fields: &mut Map<String, Value>, prefix: &str, clear: &mut Vec<String>) {
    fields.retain(|name, value| {
        if value.is_null() {
            clear.push(format!("{prefix}{name}"));
        }
        !value.is_null()
    });
}

/// The algorithm of RFC 7396 section 2.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(target) = target {
        for (name, value) in patch {
            if value.is_null() {
                target.remove(&name);
            } else {
                merge(target.entry(name).or_insert(Value::Null), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use byname_api::launch::{Bytes, Limits};

    fn patch(text: &str) -> Patch {
        Patch::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn null_clears_and_the_rest_is_laid_over() {
        let p =
            patch(r#"{"ttl":null,"owner":"x","attributes":{"a":null,"b":1},"launch":{"ready":null,"program":"p"}}"#);
        assert!(!p.needs_current());
        let (spec, clear) = p.over(None).unwrap();
        assert_eq!(clear, ["ttl", "attributes.a", "launch.ready"]);
        assert_eq!(spec.owner.as_deref(), Some("x"));
        assert_eq!(spec.attributes.unwrap().len(), 1);
        assert_eq!(spec.launch.unwrap().program.as_deref(), Some("p"));
    }

    #[test]
    fn members_of_inner_objects_are_merged_with_what_is_there() {
        let now: Spec =
            serde_json::from_str(r#"{"kind":"service","launch":{"limits":{"memory":"1M","files":20}}}"#).unwrap();
        let p = patch(r#"{"launch":{"limits":{"files":null,"cpu":2.0}}}"#);
        assert!(p.needs_current());
        let (spec, clear) = p.over(Some(&now)).unwrap();
        assert!(clear.is_empty());
        let limits = Limits { cpu: Some(2.0), memory: Some(Bytes(1 << 20)), files: None };
        assert_eq!(spec.launch.unwrap().limits, Some(limits));
    }

    #[test]
    fn the_rfc_s_examples_hold() {
        for (target, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r#"{}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            (r#"[1,2]"#, r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            (r#"{}"#, r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            let mut value: Value = serde_json::from_str(target).unwrap();
            merge(&mut value, serde_json::from_str(patch).unwrap());
            assert_eq!(value, serde_json::from_str::<Value>(result).unwrap(), "{target} {patch}");
        }
    }

    #[test]
    fn a_patch_of_the_wrong_shape_names_the_field() {
        assert_eq!(Patch::parse(b"[1]").unwrap_err().code(), Code::InvalidArgument);
        let error = patch(r#"{"launch":{"copies":{"max":"many"}}}"#).over(None).unwrap_err();
        assert_eq!(error.at_field(), Some("launch.copies.max"));
        let error = patch(r#"{"colour":1}"#).over(None).unwrap_err();
        assert_eq!(error.at_field(), Some("colour"));
    }
}
