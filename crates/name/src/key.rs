//! Keys: names in the form in which they are compared, sorted and stored.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use crate::fold;
use crate::label::MAX_DEPTH;

/// Ends every label of a key. Lower than any byte of a label.
pub(crate) const END: char = '\0';

/// A name as it is compared: every label folded and followed by a NUL; the root is empty.
///
/// `/BVODS/QS` has the key `bvods\0qs\0`. Keys compare as bytes. Two consequences carry the registry's
/// indexes: one key is beneath another exactly if it starts with it, and a parent sorts directly before its
/// whole subtree (`/a`, `/a/b`, `/a!`, not `/a`, `/a!`, `/a/b`).
///
/// Cheap to clone. Maps keyed by it can be searched with a `&str`, see [`Name::with_key`](crate::Name::with_key).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameKey(Arc<str>);

impl NameKey {
    /// The key of `/`, which is empty.
    pub fn root() -> Self {
        Self(Arc::from(""))
    }

    /// Reads a key that was stored with [`as_bytes`](Self::as_bytes). `None` if the bytes cannot be a key:
    /// not UTF-8, an empty label, no NUL at the end, or too many labels.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let Some(labels) = text.strip_suffix(END) else {
            return text.is_empty().then(Self::root);
        };
        let mut depth = 0;
        for label in labels.split(END) {
            depth += 1;
            if label.is_empty() || depth > MAX_DEPTH {
                return None;
            }
        }
        Some(Self(Arc::from(text)))
    }

    /// The bytes to store and compare.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The same as text; keys are UTF-8.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the key of `/`.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The folded labels, outermost first.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        labels_of(&self.0)
    }

    /// The number of labels; 0 for the root.
    pub fn depth(&self) -> usize {
        self.as_bytes().iter().filter(|&&byte| byte == END as u8).count()
    }

    /// The key of the name above; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let labels = self.0.strip_suffix(END)?;
        let end = labels.rfind(END).map_or(0, |at| at + 1);
        Some(Self(Arc::from(self.0.get(..end)?)))
    }

    /// Whether this key is `ancestor` or beneath it.
    pub fn is_under(&self, ancestor: &Self) -> bool {
        self.0.starts_with(&*ancestor.0)
    }

    /// The range that holds this key and everything beneath it, and nothing else.
    pub fn subtree_range(&self) -> (Bound<Self>, Bound<Self>) {
        prefix_range(&self.0)
    }

    /// The range that holds everything beneath this key, without the key itself.
    pub fn beneath_range(&self) -> (Bound<Self>, Bound<Self>) {
        let (_, end) = self.subtree_range();
        (Bound::Excluded(self.clone()), end)
    }
}

/// The range of all keys that start with `prefix`. Its ends need not be keys of names.
pub(crate) fn prefix_range(prefix: &str) -> (Bound<NameKey>, Bound<NameKey>) {
    let start = Bound::Included(NameKey(Arc::from(prefix)));
    // UTF-8 sorts like code points, so the first text after all that start with "…c" is "…" and the next
    // character; after the last code point of all, one character earlier.
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return (start, Bound::Excluded(NameKey(Arc::from(end))));
        }
    }
    (start, Bound::Unbounded)
}

/// Appends the key of a canonical path, which is `/` or labels in NFC with a slash before each.
pub(crate) fn push_key(path: &str, out: &mut String) {
    let labels = path.strip_prefix('/').unwrap_or(path);
    if labels.is_empty() {
        return;
    }
    if labels.is_ascii() {
        out.extend(labels.chars().map(ascii_key_char));
        out.push(END);
        return;
    }
    for label in labels.split('/') {
        fold::push_folded(label, out);
        out.push(END);
    }
}

pub(crate) fn ascii_key_byte(byte: u8) -> u8 {
    if byte == b'/' { END as u8 } else { byte.to_ascii_lowercase() }
}

pub(crate) fn labels_of(key: &str) -> impl DoubleEndedIterator<Item = &str> + Clone {
    key.split_terminator(END)
}

pub(crate) fn from_path(path: &str) -> NameKey {
    let mut key = String::with_capacity(path.len());
    push_key(path, &mut key);
    NameKey(Arc::from(key))
}

fn ascii_key_char(c: char) -> char {
    if c == '/' { END } else { c.to_ascii_lowercase() }
}

impl Borrow<str> for NameKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<[u8]> for NameKey {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl fmt::Debug for NameKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NameKey({:?})", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Name;

    fn key(text: &str) -> NameKey {
        Name::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).key()
    }

    #[test]
    fn keys_are_folded_labels_each_with_an_end() {
        for (name, expected) in [
            ("/", ""),
            ("/BVODS/QS", "bvods\0qs\0"),
            ("/Caf\u{e9}/X", "caf\u{e9}\0x\0"),
            ("/CAFE\u{301}", "caf\u{e9}\0"),
        ] {
            assert_eq!(key(name).as_str(), expected);
            assert_eq!(NameKey::from_bytes(key(name).as_bytes()), Some(key(name)));
            Name::parse(name).expect("a name").with_key(|lent| assert_eq!(lent, expected));
        }
        let long = format!("/{}", "A".repeat(60)).repeat(3);
        Name::parse(&long).expect("a name").with_key(|lent| assert_eq!(lent, key(&long).as_str()));
    }

    #[test]
    fn bytes_that_are_not_a_key_are_refused() {
        for bytes in [&b"a"[..], b"\0", b"a\0\0", b"a\0b", b"\xff\0", &b"a\0".repeat(65)] {
            assert_eq!(NameKey::from_bytes(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_parent_sorts_directly_before_its_subtree() {
        let mut names = ["/a!", "/a/b", "/", "/a b", "/B", "/a", "/a/b/c", "/a-b/c", "/é", "/a\u{301}"];
        names.sort_by_key(|name| key(name));
        assert_eq!(names, ["/", "/a", "/a/b", "/a/b/c", "/a b", "/a!", "/a-b/c", "/B", "/a\u{301}", "/é"]);
    }

    #[test]
    fn ranges_hold_a_subtree_and_nothing_else() {
        let all: BTreeMap<NameKey, &str> =
            ["/", "/a", "/a/b", "/a/b/c", "/a!", "/ab", "/b"].map(|name| (key(name), name)).into();
        let values = |range| all.range::<NameKey, _>(range).map(|(_, name)| *name).collect::<Vec<_>>();
        assert_eq!(values(key("/A").subtree_range()), ["/a", "/a/b", "/a/b/c"]);
        assert_eq!(values(key("/a").beneath_range()), ["/a/b", "/a/b/c"]);
        assert_eq!(values(key("/").subtree_range()).len(), 7);
        assert_eq!(values(key("/").beneath_range()).len(), 6);
        assert_eq!(values(prefix_range("a")), ["/a", "/a/b", "/a/b/c", "/a!", "/ab"]);
        assert_eq!(all.get("a\0b\0"), Some(&"/a/b"));
    }

    #[test]
    fn a_range_ends_behind_the_last_character_of_all() {
        let ends = |prefix: &str| prefix_range(prefix).1;
        let excluded = |text: &str| Bound::Excluded(NameKey(Arc::from(text)));
        assert_eq!(ends("a\u{10ffff}"), excluded("b"));
        assert_eq!(ends("\u{d7ff}"), excluded("\u{e000}"));
        assert_eq!(ends("\u{10ffff}"), Bound::Unbounded);
    }

    #[test]
    fn keys_are_taken_apart() {
        assert_eq!(key("/a/b").labels().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(key("/a/b").parent(), Some(key("/a")));
        assert_eq!(key("/a").parent(), Some(key("/")));
        assert_eq!(key("/").parent(), None);
        assert_eq!((key("/").depth(), key("/a/b").depth()), (0, 2));
        assert_eq!(key("/").labels().count(), 0);
    }
}
