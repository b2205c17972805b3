//! Declarations as lines, one field a line, and the difference between two of them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use byname_api::access::AclEntry;
use byname_api::identity::fingerprint;
use byname_api::object::{Kind, Spec};
use byname_api::request::{OpResult, Outcome};
use sha2::{Digest, Sha256};

use crate::screen::{Paint, Screen};

/// The longest value that a line shows whole, in characters.
const MAX_SHOWN: usize = 400;

/// The fields of a declaration by their dotted paths (those that `edit --unset` takes), each as a short text.
pub(crate) fn fields(value: &impl Serialize) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    if let Ok(mut value) = serde_json::to_value(value) {
        without_marks(&mut value);
        flatten("", &value, &mut found);
    }
    found
}

/// Takes out what the server notes by itself, and what nobody wants to read: ids, the value of a secret, and all but a
/// fingerprint of what was signed.
fn without_marks(spec: &mut Value) {
    let Value::Object(spec) = spec else { return };
    spec.remove("member_ids");
    for entry in spec.get_mut("acl").and_then(Value::as_array_mut).into_iter().flatten() {
        *entry = entry_in_words(entry);
    }
    if spec.get("kind").is_some_and(|kind| kind == Kind::Secret.as_str())
        && let Some(value) = spec.get_mut("value")
    {
        // Even its hash would let others try what it could be; the server's own fingerprint does not.
        *value = "(not shown)".into();
    }
    if let Some(signed) = spec.get_mut("certified") {
        *signed = hidden(signed);
    }
}

/// A text that is too long to be read: the fingerprint tells whether it is another one.
fn hidden(value: &Value) -> Value {
    let digest = Sha256::digest(value.as_str().unwrap_or_default());
    format!("(fingerprint {})", fingerprint(&digest)).into()
}

/// An entry of an access control list as `acl grant` and `acl deny` take it.
fn entry_in_words(entry: &Value) -> Value {
    let Ok(read) = serde_json::from_value::<AclEntry>(entry.clone()) else { return entry.clone() };
    let verb = if read.allow { "grant" } else { "deny" };
    let certified = if read.certified { " --certified" } else { "" };
    format!("{verb} {} {}{certified}", read.who, read.rights).into()
}

/// Prints what a change did, or would do: a line for the object and lines for the fields. Where no field differs, what
/// changes is the apply set, which is not in a declaration.
pub(crate) fn print(screen: &mut Screen, result: &OpResult, set: Option<&str>) -> std::io::Result<()> {
    let (sign, paint) = match result.outcome {
        Outcome::Created => ("+", Paint::Green),
        Outcome::Changed => ("~", Paint::Yellow),
        Outcome::Deleted => ("-", Paint::Red),
        Outcome::Unchanged | Outcome::Checked => return Ok(()),
    };
    let kind = result.after.as_ref().or(result.before.as_ref()).map(Spec::kind);
    let kind = kind.map_or_else(String::new, |k| format!(" ({k})"));
    let head = screen.paint(paint, &format!("{sign} {}{kind}", result.name));
    screen.line(&head)?;
    if result.outcome == Outcome::Deleted {
        return Ok(());
    }
    let before = result.before.as_ref().map(fields).unwrap_or_default();
    let after = result.after.as_ref().map(fields).unwrap_or_default();
    let created = result.outcome == Outcome::Created;
    if result.outcome == Outcome::Changed
        && before == after
        && let Some(set) = set
    {
        return screen.line(&format!("  no field differs; it comes into the set {set:?}"));
    }
    let paths: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for path in paths {
        // The kind stands in the first line, and says nothing new in a change.
        if before.get(path) == after.get(path) || path == "kind" {
            continue;
        }
        for (sign, paint, value) in [("-", Paint::Red, before.get(path)), ("+", Paint::Green, after.get(path))] {
            let Some(value) = value else { continue };
            let line = match created {
                true => format!("    {path} = {value}"),
                false => screen.paint(paint, &format!("  {sign} {path} = {value}")),
            };
            screen.line(&line)?;
        }
    }
    Ok(())
}

/// How many of each: `2 created, 1 unchanged`, or with `would` in front for a dry run.
pub(crate) fn summary(results: &[OpResult], dry_run: bool) -> String {
    let counts: Vec<String> = [
        (Outcome::Created, "created", "to create"),
        (Outcome::Changed, "changed", "to change"),
        (Outcome::Deleted, "deleted", "to delete"),
        (Outcome::Unchanged, "unchanged", "unchanged"),
    ]
    .into_iter()
    .filter_map(|(outcome, done, planned)| {
        let count = results.iter().filter(|r| r.outcome == outcome).count();
        (count > 0).then(|| format!("{count} {}", if dry_run { planned } else { done }))
    })
    .collect();
    if counts.is_empty() { "nothing to do".into() } else { counts.join(", ") }
}

fn flatten(path: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (key, value) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, into);
            }
        }
        Value::Null => {}
        // A list of one is how most attributes are: shown as its value.
        Value::Array(list) if path.starts_with("attributes.") && list.len() == 1 => {
            flatten(path, list.first().unwrap_or(&Value::Null), into);
        }
        value => {
            let text = value.to_string();
            let shown = match text.char_indices().nth(MAX_SHOWN) {
                Some((end, _)) => format!("{}… ({} bytes)", text.get(..end).unwrap_or_default(), text.len()),
                None => text,
            };
            into.insert(path.to_owned(), shown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::Format;
    use byname_api::object::Version;

    fn result(outcome: Outcome, before: Option<&str>, after: Option<&str>) -> OpResult {
        let spec = |text: &str| toml::from_str::<Spec>(text).unwrap();
        OpResult {
            name: "/a/QS".parse().unwrap(),
            outcome,
            version: Version(1),
            before: before.map(spec),
            after: after.map(spec),
        }
    }

    #[test]
    fn a_difference_shows_the_fields_that_differ() {
        let before =
            "kind = 'service'\nttl = '5s'\nlaunch = { program = 'p', ready = 'port', copies = { min = 0, max = 2 } }";
        let after = "kind = 'service'\nattributes = { t = 'x', n = [1, 2] }\nlaunch = { program = 'p', ready = 'http', copies = { min = 1, max = 2 } }";
        let (mut screen, out, _) = Screen::captured(Format::Table, false);
        print(&mut screen, &result(Outcome::Changed, Some(before), Some(after)), None).unwrap();
        assert_eq!(
            out.take(),
            "~ /a/QS (service)\n  + attributes.n = [1,2]\n  + attributes.t = \"x\"\n  - launch.copies.min = 0\n  \
             + launch.copies.min = 1\n  - launch.ready = \"port\"\n  + launch.ready = \"http\"\n  - ttl = \"5s\"\n"
        );
        print(&mut screen, &result(Outcome::Created, None, Some("kind = 'record'\nvalue = 1")), None).unwrap();
        print(&mut screen, &result(Outcome::Deleted, Some("kind = 'group'"), None), None).unwrap();
        print(&mut screen, &result(Outcome::Unchanged, None, None), None).unwrap();
        assert_eq!(out.take(), "+ /a/QS (record)\n    value = \"1\"\n- /a/QS (group)\n");
        let same = Some("kind = 'group'");
        print(&mut screen, &result(Outcome::Changed, same, same), Some("b")).unwrap();
        assert_eq!(out.take(), "~ /a/QS (group)\n  no field differs; it comes into the set \"b\"\n");
    }

    #[test]
    fn what_the_server_notes_is_no_difference_and_secrets_are_fingerprints() {
        let before = "kind = 'group'\nmembers = ['/p']\nmember_ids = { '/p' = 'o5' }\n\
                      acl = [{ who = '/p', id = 'o5', rights = ['read', 'find'] }]";
        let after = "kind = 'group'\nmembers = ['/p']\n\
                     acl = [{ who = '/p', rights = ['find', 'read'] }, { who = 'anyone', rights = 'all', allow = false }]";
        let (mut screen, out, _) = Screen::captured(Format::Table, false);
        print(&mut screen, &result(Outcome::Changed, Some(before), Some(after)), None).unwrap();
        assert_eq!(
            out.take(),
            "~ /a/QS (group)\n  - acl = [\"grant /p find,read\"]\n  \
             + acl = [\"grant /p find,read\",\"deny anyone all\"]\n"
        );
        let secret = fields(&toml::from_str::<Spec>("kind = 'secret'\nvalue = 'open sesame'").unwrap());
        assert_eq!(secret["value"], "\"(not shown)\"");
        let signed = fields(&toml::from_str::<Spec>("kind = 'principal'\ncertified = 'signed'").unwrap());
        assert!(signed["certified"].starts_with("\"(fingerprint "), "{signed:?}");
    }

    #[test]
    fn long_values_are_cut_and_counts_add_up() {
        let spec = Spec { value: Some("ü".repeat(1_000)), ..Spec::default() };
        let shown = &fields(&spec)["value"];
        assert!(shown.ends_with("… (2002 bytes)") && shown.chars().count() < 420, "{shown}");
        let results = [Outcome::Created, Outcome::Unchanged, Outcome::Created].map(|o| result(o, None, None));
        assert_eq!(summary(&results, false), "2 created, 1 unchanged");
        assert_eq!(summary(&results, true), "2 to create, 1 unchanged");
        assert_eq!(summary(&[], true), "nothing to do");
    }
}
