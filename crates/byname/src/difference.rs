//! Declarations as lines, one field a line, and the difference between two of them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use byname_api::object::Spec;
use byname_api::request::{OpResult, Outcome};

use crate::screen::{Paint, Screen};

/// The longest value that a line shows whole, in characters.
const MAX_SHOWN: usize = 400;

/// The fields of a declaration by their dotted paths (those that `edit --unset` takes), each as a short text.
pub(crate) fn fields(value: &impl Serialize) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    if let Ok(value) = serde_json::to_value(value) {
        flatten("", &value, &mut found);
    }
    found
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
