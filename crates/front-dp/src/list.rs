//! Lists as Tcl writes and reads them (Tcl_SplitList, Tcl_Merge): split and put together, and never evaluated.
//!
//! Quoting is that of Tcl 8.6 (`TclScanElement`, `TclConvertElement` and `TclFindElement` in its tclUtil.c), so that
//! what is written here is, byte for byte, what `list` gives there; `tests/tcl.rs` compares the two.

use std::borrow::Cow;

/// Why a text is no list, in the words of Tcl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAList {
    /// A brace is never closed.
    OpenBrace,
    /// A quote is never closed.
    OpenQuote,
    /// Something else than white space follows the end of a braced or quoted element.
    Followed {
        /// `braces` or `quotes`.
        by: &'static str,
        /// What follows, shortened.
        text: String,
    },
    /// There are more elements than whoever reads it has room for.
    TooLong,
}

impl std::fmt::Display for NotAList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotAList::OpenBrace => f.write_str("unmatched open brace in list"),
            NotAList::OpenQuote => f.write_str("unmatched open quote in list"),
            NotAList::Followed { by, text } => {
                write!(f, "list element in {by} followed by \"{text}\" instead of space")
            }
            NotAList::TooLong => f.write_str("the list has too many elements"),
        }
    }
}

/// The elements of a list, at most `most` of them. Nothing in it is evaluated: `$x` and `[x]` are text.
///
/// # Errors
///
/// What Tcl would say of it.
pub fn split(text: &str, most: usize) -> Result<Vec<Cow<'_, str>>, NotAList> {
    let mut elements = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if elements.len() == most {
            return Err(NotAList::TooLong);
        }
        let (element, after) = match rest.as_bytes().first() {
            Some(b'{') => braced(rest)?,
            Some(b'"') => quoted(rest)?,
            _ => bare(rest),
        };
        elements.push(element);
        rest = after.trim_start_matches(is_space);
    }
    Ok(elements)
}

/// What separates the elements of a list (isspace in the C locale).
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

/// `{…}`: braces nest, a backslash protects what follows it, and everything inside is as it stands.
fn braced(text: &str) -> Result<(Cow<'_, str>, &str), NotAList> {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (1, 1u32);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    let (inside, after) = (text.get(1..at), text.get(at + 1..));
                    return end(inside.unwrap_or_default().into(), after.unwrap_or_default(), "braces");
                }
            }
            // One character is enough: those further on of a longer sequence are neither brace nor backslash.
            b'\\' => at += 1,
            _ => {}
        }
        at += 1;
    }
    Err(NotAList::OpenBrace)
}

/// `"…"`: backslash sequences stand for what they stand for.
fn quoted(text: &str) -> Result<(Cow<'_, str>, &str), NotAList> {
    let bytes = text.as_bytes();
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let (inside, after) = (text.get(1..at), text.get(at + 1..));
                return end(collapse(inside.unwrap_or_default()), after.unwrap_or_default(), "quotes");
            }
            b'\\' => at += 1,
            _ => {}
        }
        at += 1;
    }
    Err(NotAList::OpenQuote)
}

/// An element without either: it goes to the next white space. Braces and quotes inside it are as they stand.
fn bare(text: &str) -> (Cow<'_, str>, &str) {
    // A backslash takes its meaning from the next character, and the end of a line takes the blanks behind it along.
    let (mut escaped, mut folding) = (false, false);
    let end = text.char_indices().find(|(_, c)| {
        folding = (folding && matches!(c, ' ' | '\t')) || (escaped && *c == '\n');
        let ends = !escaped && !folding && is_space(*c);
        escaped = !escaped && *c == '\\';
        ends
    });
    let (element, after) = text.split_at(end.map_or(text.len(), |(at, _)| at));
    (collapse(element), after)
}

fn end<'a>(element: Cow<'a, str>, after: &'a str, by: &'static str) -> Result<(Cow<'a, str>, &'a str), NotAList> {
    if after.is_empty() || after.starts_with(is_space) {
        return Ok((element, after));
    }
    let text = after.split(is_space).next().unwrap_or_default().chars().take(20).collect();
    Err(NotAList::Followed { by, text })
}

/// Puts what backslash sequences stand for in their places (Tcl(n), "Backslash substitution").
fn collapse(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let Some(c) = after.chars().next() else {
            out.push('\\');
            rest = "";
            break;
        };
        let beyond = after.get(c.len_utf8()..).unwrap_or_default();
        rest = match c {
            'a' => push(&mut out, '\x07', beyond),
            'b' => push(&mut out, '\x08', beyond),
            'f' => push(&mut out, '\x0c', beyond),
            'n' => push(&mut out, '\n', beyond),
            'r' => push(&mut out, '\r', beyond),
            't' => push(&mut out, '\t', beyond),
            'v' => push(&mut out, '\x0b', beyond),
            'x' => digits(&mut out, c, beyond, 16, 2),
            'u' => digits(&mut out, c, beyond, 16, 4),
            'U' => digits(&mut out, c, beyond, 16, 8),
            '0'..='7' => digits(&mut out, c, after, 8, 3),
            '\n' => push(&mut out, ' ', beyond.trim_start_matches([' ', '\t'])),
            other => push(&mut out, other, beyond),
        };
    }
    out.push_str(rest);
    out.into()
}

fn push<'a>(out: &mut String, c: char, rest: &'a str) -> &'a str {
    out.push(c);
    rest
}

/// A character by its number in at most so many digits; the letter itself where none follows.
fn digits<'a>(out: &mut String, letter: char, text: &'a str, base: u32, most: usize) -> &'a str {
    let (mut value, mut used) = (0u32, 0);
    for c in text.chars().take(most) {
        let Some(digit) = c.to_digit(base) else { break };
        let next = value * base + digit;
        // `\400` is `\40` and a 0; a number beyond Unicode ends before it is one.
        if (base == 8 && next > 0o377) || next > 0x10_ffff {
            break;
        }
        (value, used) = (next, used + 1);
    }
    if used == 0 {
        out.push(letter);
        return text;
    }
    out.push(char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER));
    text.get(used..).unwrap_or_default()
}

/// A list of these elements.
pub fn merge<S: AsRef<str>>(elements: impl IntoIterator<Item = S>) -> String {
    let mut list = String::new();
    for element in elements {
        append(&mut list, element.as_ref());
    }
    list
}

/// Puts one more element at the end of a list.
pub fn append(list: &mut String, element: &str) {
    let first = list.is_empty();
    if !first {
        list.push(' ');
    }
    // A `#` would be a comment only where a command may begin.
    let hash = first && element.starts_with('#');
    match quoting(element) {
        Quoting::Braces => braces(list, element),
        Quoting::None | Quoting::Escapes { braces: false } if hash => braces(list, element),
        Quoting::None if element.is_empty() => braces(list, element),
        Quoting::None => list.push_str(element),
        Quoting::Escapes { braces } => {
            if hash {
                list.push('\\');
            }
            escape(list, element, braces);
        }
    }
}

enum Quoting {
    None,
    Braces,
    /// With backslashes; before braces as well, or not.
    Escapes {
        braces: bool,
    },
}

fn quoting(element: &str) -> Quoting {
    let mut depth = 0i64;
    // Something must be done; braces would be best; backslashes would be; only backslashes can.
    let (mut needed, mut likes_braces, mut likes_escapes, mut must_escape) = (false, false, false, false);
    if element.starts_with(['{', '"']) {
        (needed, likes_braces) = (true, true);
    }
    let mut bytes = element.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                must_escape |= depth < 0;
            }
            b']' | b'"' => (needed, likes_escapes) = (true, true),
            b'[' | b'$' | b';' | b' ' | b'\x0c' | b'\n' | b'\r' | b'\t' | b'\x0b' => {
                (needed, likes_braces) = (true, true);
            }
            b'\\' => match bytes.peek() {
                None => must_escape = true,
                Some(b'\n') => {
                    must_escape = true;
                    bytes.next();
                }
                Some(b'{' | b'}' | b'\\') => {
                    (needed, likes_braces) = (true, true);
                    bytes.next();
                }
                Some(_) => (needed, likes_braces) = (true, true),
            },
            _ => {}
        }
    }
    if must_escape || depth != 0 {
        Quoting::Escapes { braces: true }
    } else if needed && likes_escapes && !likes_braces {
        Quoting::Escapes { braces: false }
    } else if needed {
        Quoting::Braces
    } else {
        Quoting::None
    }
}

fn braces(list: &mut String, element: &str) {
    list.push('{');
    list.push_str(element);
    list.push('}');
}

fn escape(list: &mut String, element: &str, braces: bool) {
    for c in element.chars() {
        let letter = match c {
            ']' | '[' | '$' | ';' | ' ' | '\\' | '"' => c,
            '{' | '}' if braces => c,
            '\x0c' => 'f',
            '\n' => 'n',
            '\r' => 'r',
            '\t' => 't',
            '\x0b' => 'v',
            other => {
                list.push(other);
                continue;
            }
        };
        list.push('\\');
        list.push(letter);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_are_split_as_tcl_splits_them() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("  \n\t ", &[]),
            ("a b\tc\nd", &["a", "b", "c", "d"]),
            ("{a b} {} {c {d e}}", &["a b", "", "c {d e}"]),
            ("\"a b\" \"\" \"c\\\"d\"", &["a b", "", "c\"d"]),
            ("a\\ b c\\{d", &["a b", "c{d"]),
            ("a{b c}d e\"f", &["a{b", "c}d", "e\"f"]),
            ("{a\\}b} {c\\\nd}", &["a\\}b", "c\\\nd"]),
            ("\\x41 \\u00e9 \\101 \\n \\U1F600 \\q \\", &["A", "é", "A", "\n", "😀", "q", "\\"]),
            ("\\x \\u \\4001 \\x414", &["x", "u", " 01", "A4"]),
            ("a\\\n   b", &["a b"]),
            ("$x [exec rm -rf /] ; #", &["$x", "[exec", "rm", "-rf", "/]", ";", "#"]),
            ("ns_AreYouAlive; expr 40+2", &["ns_AreYouAlive;", "expr", "40+2"]),
        ];
        for (text, expect) in cases {
            assert_eq!(split(text, 100).unwrap(), *expect, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_list_is_told_in_tcl_s_words() {
        for (text, expect) in [
            ("{a", "unmatched open brace in list"),
            ("a {b {c}", "unmatched open brace in list"),
            ("{a\\}", "unmatched open brace in list"),
            ("\"a", "unmatched open quote in list"),
            ("\"a\\\"", "unmatched open quote in list"),
            ("{a}b c", "list element in braces followed by \"b\" instead of space"),
            ("\"a\"\"b\"", "list element in quotes followed by \"\"b\"\" instead of space"),
            ("a b c d", "the list has too many elements"),
        ] {
            assert_eq!(split(text, 3).unwrap_err().to_string(), expect, "{text:?}");
        }
    }

    #[test]
    fn elements_are_quoted_as_tcl_quotes_them() {
        for (elements, expect) in [
            (vec!["a", "", "b c"], "a {} {b c}"),
            (vec!["#x", "#y"], "{#x} #y"),
            (vec!["a]b", "a\"b"], "a\\]b a\\\"b"),
            (vec!["\"a"], "{\"a}"),
            (vec!["{"], "\\{"),
            (vec!["a}b{"], "a\\}b\\{"),
            (vec!["a\\"], "a\\\\"),
            (vec!["$a", "[b]", "c;d"], "{$a} {[b]} {c;d}"),
            (vec!["a\\\nb"], "a\\\\\\nb"),
            (vec!["{a} b"], "{{a} b}"),
            (vec!["a{b}c"], "a{b}c"),
        ] {
            assert_eq!(merge(&elements), expect, "{elements:?}");
            assert_eq!(split(expect, 10).unwrap(), elements);
        }
    }

    proptest! {
        #[test]
        fn what_was_merged_splits_into_the_same(
            elements in prop::collection::vec("[ab {}\\[\\]\"$;#\\\\\n\té😀]{0,8}", 0..6)
        ) {
            let list = merge(&elements);
            prop_assert_eq!(split(&list, 6).unwrap(), elements);
        }

        #[test]
        fn any_text_splits_or_is_refused(text in "[a {}\"\\\\xuU07\n]{0,24}") {
            let _ = split(&text, 100);
        }
    }
}
