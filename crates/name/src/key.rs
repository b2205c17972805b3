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
