//! Patterns as Tcl's `string match` reads them: `*` is any run of characters, also of slashes; `?` is one; `[a-z]` one of
//! a set; a backslash takes the meaning from what follows it.

/// A pattern.
#[derive(Clone, Debug)]
pub struct Glob {
    text: String,
    pattern: Vec<char>,
}

impl Glob {
    /// Every text is a pattern.
    pub fn new(text: &str) -> Glob {
        Glob { text: text.to_owned(), pattern: text.chars().collect() }
    }

    /// The name that this is, when nothing in it has a meaning beyond itself.
    pub fn as_exact(&self) -> Option<&str> {
        (!self.text.contains(['*', '?', '[', '\\'])).then_some(self.text.as_str())
    }

    /// What everything begins with that matches, up to a slash: `/BVODS` for `/BVODS/V*`, nothing for `*`.
    pub fn directory(&self) -> &str {
        let literal = self.text.find(['*', '?', '[', '\\']).and_then(|at| self.text.get(..at)).unwrap_or(&self.text);
        literal.rfind('/').and_then(|at| literal.get(..at)).unwrap_or_default()
    }

    /// Whether a text matches. Takes at most the product of both lengths.
    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut at, mut in_text) = (0, 0);
        // The star that was passed last: what follows it, and the text that it does not cover yet.
        let mut star: Option<(usize, usize)> = None;
        loop {
            if self.pattern.get(at) == Some(&'*') {
                at += 1;
                star = Some((at, in_text));
                continue;
            }
            let Some(&c) = text.get(in_text) else { return at == self.pattern.len() };
            match self.one(at, c) {
                Some(next) => {
                    at = next;
                    in_text += 1;
                }
                None => {
                    let Some((after, covered)) = star else { return false };
                    star = Some((after, covered + 1));
                    (at, in_text) = (after, covered + 1);
                }
            }
        }
    }

    /// Where the pattern goes on when what stands at `at` is this character.
    fn one(&self, at: usize, c: char) -> Option<usize> {
        match *self.pattern.get(at)? {
            '?' => Some(at + 1),
            '[' => self.set(at + 1, c),
            '\\' => (*self.pattern.get(at + 1)? == c).then_some(at + 2),
            own => (own == c).then_some(at + 1),
        }
    }

    /// A set, from behind its bracket. Neither a backslash nor `^` has a meaning here, as in Tcl.
    fn set(&self, mut at: usize, c: char) -> Option<usize> {
        loop {
            let start = *self.pattern.get(at).filter(|c| **c != ']')?;
            at += 1;
            if self.pattern.get(at) == Some(&'-') {
                let end = *self.pattern.get(at + 1)?;
                at += 2;
                if (start..=end).contains(&c) || (end..=start).contains(&c) {
                    break;
                }
            } else if start == c {
                break;
            }
        }
        // A set that is never closed ends with the pattern.
        let close = self.pattern.iter().skip(at).position(|c| *c == ']');
        Some(close.map_or(self.pattern.len(), |further| at + further + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_tcl() {
        for (pattern, text, expect) in [
            ("*", "", true),
            ("*", "/a/b", true),
            ("/BVODS/*", "/BVODS/VFS1/CMS", true),
            ("/BVODS/*", "/BVODS", false),
            ("/*/CMS", "/BVODS/VFS1/CMS", true),
            ("/a?c", "/abc", true),
            ("/a?c", "/a/c", true),
            ("/[a-c]x", "/bx", true),
            ("/[c-a]x", "/bx", true),
            ("/[a-c]x", "/dx", false),
            ("/[]x", "/x", false),
            ("[abc", "b", true),
            ("[abc", "d", false),
            ("[a-", "a", false),
            ("[a-]", "a", true),
            ("[^a]", "^", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a", false),
            ("a\\", "a\\", false),
            ("**a*", "bab", true),
            ("*a*b*c", "xaxbxcx", false),
            ("é?", "éè", true),
            ("", "", true),
            ("", "a", false),
            ("a", "", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), expect, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_longer_than_they_must() {
        let pattern = Glob::new(&("*a".repeat(40) + "b"));
        assert!(!pattern.matches(&"a".repeat(1_000)));
    }

    #[test]
    fn a_pattern_tells_where_to_look() {
        for (pattern, directory, exact) in [
            ("*", "", false),
            ("/*", "", false),
            ("/BVODS/V*", "/BVODS", false),
            ("/BVODS/VFS1/CMS", "/BVODS/VFS1", true),
            ("/a/[bc]/d", "/a", false),
            ("/a/\\b", "/a", false),
        ] {
            let glob = Glob::new(pattern);
            assert_eq!((glob.directory(), glob.as_exact().is_some()), (directory, exact), "{pattern}");
        }
    }
}
