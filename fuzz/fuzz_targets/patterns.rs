//! Patterns: parsing, and matching against a matcher that tries everything.
//!
//! The input is a pattern and names, with line feeds between. Time is bounded by the fuzzer's own limit.

#![no_main]

use std::ops::RangeBounds;

use byname_name::{Name, Pattern};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let text = lines.next().unwrap_or_default();
    let pattern = match Pattern::parse(text) {
        Ok(pattern) => pattern,
        Err(error) => {
            assert!(text.get(error.position..).is_some(), "{error:?}");
            return;
        }
    };
    assert_eq!(Pattern::parse(pattern.as_str()).as_ref(), Ok(&pattern));
    for line in lines.take(8) {
        let Ok(name) = Name::parse(line) else { continue };
        let selected = pattern.matches(&name);
        if selected {
            assert!(name.is_under(&pattern.literal_prefix()));
            assert!(pattern.key_range().contains(&name.key()));
            assert!(pattern.max_depth().is_none_or(|depth| name.depth() <= depth));
        }
        if let Some(exact) = pattern.as_exact() {
            assert_eq!(selected, exact == name);
        }
        if let Some(expected) = naive::matches(pattern.as_str(), name.as_str()) {
            assert_eq!(selected, expected, "{} {name}", pattern.as_str());
        }
    }
});

/// The meaning of a pattern as plainly as it can be said; only for what is ASCII and short.
mod naive {
    const CHOICES_MAX: usize = 64;

    pub(crate) fn matches(pattern: &str, name: &str) -> Option<bool> {
        if !pattern.is_ascii() || !name.is_ascii() || pattern.len() > 48 || name.len() > 48 {
            return None;
        }
        if pattern == "*" {
            return Some(true);
        }
        let pattern: Vec<Vec<String>> = pattern.split('/').skip(1).map(expand).collect::<Option<_>>()?;
        let name: Vec<&str> = name.split('/').skip(1).filter(|label| !label.is_empty()).collect();
        let root = matches!(&pattern[..], [only] if only[..] == [String::new()]);
        Some(if root { name.is_empty() } else { labels(&pattern, &name) })
    }

    /// Every pattern of a label without its choices.
    fn expand(label: &str) -> Option<Vec<String>> {
        let mut done = vec![String::new()];
        let mut rest = label;
        while let Some(at) = rest.find(['[', '{']) {
            let (front, from) = rest.split_at(at);
            done.iter_mut().for_each(|text| text.push_str(front));
            if from.starts_with('[') {
                // Classes hold no choices, and `]` ends them wherever it stands.
                let end = from.find(']')?;
                done.iter_mut().for_each(|text| text.push_str(&from[..=end]));
                rest = &from[end + 1..];
                continue;
            }
            let end = closing(from)?;
            let parts = parts(&from[1..end]);
            if done.len() * parts.len() > CHOICES_MAX {
                return None;
            }
            done = done.iter().flat_map(|text| parts.iter().map(move |part| format!("{text}{part}"))).collect();
            rest = &from[end + 1..];
        }
        done.iter_mut().for_each(|text| text.push_str(rest));
        Some(done)
    }

    fn closing(from: &str) -> Option<usize> {
        let mut in_class = false;
        from.char_indices().find_map(|(at, c)| {
            match c {
                '[' => in_class = true,
                ']' => in_class = false,
                '}' if !in_class => return Some(at),
                _ => {}
            }
            None
        })
    }

    fn parts(inside: &str) -> Vec<String> {
        let mut parts = vec![String::new()];
        let mut in_class = false;
        for c in inside.chars() {
            match c {
                '[' => in_class = true,
                ']' => in_class = false,
                _ => {}
            }
            if c == ',' && !in_class {
                parts.push(String::new());
            } else if let Some(part) = parts.last_mut() {
                part.push(c);
            }
        }
        parts
    }

    fn labels(pattern: &[Vec<String>], name: &[&str]) -> bool {
        match (pattern, name) {
            ([], rest) => rest.is_empty(),
            ([first, more @ ..], rest) if first[..] == ["**"] => {
                (0..=rest.len()).any(|skip| labels(more, &rest[skip..]))
            }
            ([_, ..], []) => false,
            ([first, more @ ..], [label, rest @ ..]) => {
                let label: Vec<char> = label.chars().collect();
                let one = first.iter().any(|glob| characters(&glob.chars().collect::<Vec<_>>(), &label));
                one && labels(more, rest)
            }
        }
    }

    fn characters(glob: &[char], label: &[char]) -> bool {
        // A run of asterisks, which a choice may leave, is one.
        match glob {
            [] => label.is_empty(),
            ['*', '*', rest @ ..] => characters(&[&['*'], rest].concat(), label),
            ['*', rest @ ..] => (0..=label.len()).any(|skip| characters(rest, &label[skip..])),
            ['?', rest @ ..] => !label.is_empty() && characters(rest, &label[1..]),
            ['[', rest @ ..] => {
                let end = rest.iter().position(|c| *c == ']').expect("closed");
                let (class, more) = (&rest[..end], &rest[end + 1..]);
                let (negated, class) = match class {
                    ['!', class @ ..] => (true, class),
                    class => (false, class),
                };
                label.first().is_some_and(|c| inside(class, *c) != negated) && characters(more, &label[1..])
            }
            [c, rest @ ..] => label.first().is_some_and(|l| l.eq_ignore_ascii_case(c)) && characters(rest, &label[1..]),
        }
    }

    fn inside(class: &[char], c: char) -> bool {
        let holds = |low: char, high: char| {
            [c.to_ascii_lowercase(), c.to_ascii_uppercase()].iter().any(|c| low <= *c && *c <= high)
        };
        match class {
            [] => false,
            [low, '-', high, rest @ ..] => holds(*low, *high) || inside(rest, c),
            [one, rest @ ..] => holds(*one, *one) || inside(rest, c),
        }
    }
}
