//! Names: canonical, immutable, compared by key.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::iter::FusedIterator;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use crate::error::{NameError, NameRule};
use crate::key::{self, NameKey};
use crate::label::{self, MAX_DEPTH, MAX_NAME_BYTES};

/// The text that means the outermost root when it is the first label (DCE, X.500).
pub(crate) const OUTERMOST: &str = "...";

/// A full name, canonical: labels in NFC, the case as created.
///
/// Cloning copies a pointer. Equality, order and hash go by [`key`](Name::key), so `/BVODS/QS` and
/// `/bvods/qs` are equal although each displays as it was created; to tell them apart compare
/// [`as_str`](Name::as_str).
#[derive(Clone)]
pub struct Name(Arc<str>);

impl Name {
    /// Reads a full name: `/`, `/BVODS/QS`, or with `/...` in front of either.
    ///
    /// # Errors
    ///
    /// The first rule, from the left, that the text breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::new(NameRule::Empty, 0));
        }
        if !text.starts_with('/') {
            return Err(NameError::new(NameRule::NotAbsolute, 0));
        }
        let rest = strip_outermost(text);
        if rest.is_empty() || text == "/" {
            return Ok(Self::root());
        }
        Self::root().extend(rest.get(1..).unwrap_or_default(), text.len() - rest.len() + 1)
    }

    /// Reads a full name from bytes that may not be UTF-8.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse), and [`NameRule::NotUtf8`].
    pub fn parse_bytes(bytes: &[u8]) -> Result<Self, NameError> {
        Self::parse(utf8(bytes)?)
    }

    /// Reads `text` against a context: a full name stands for itself, anything else is beneath `context`.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse); positions are those in `text`.
    pub fn resolve(context: &Self, text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::new(NameRule::Empty, 0));
        }
        if text.starts_with('/') { Self::parse(text) } else { context.extend(text, 0) }
    }

    /// `/`, the root of the tree.
    pub fn root() -> Self {
        static ROOT: OnceLock<Name> = OnceLock::new();
        ROOT.get_or_init(|| Self(Arc::from("/"))).clone()
    }

    /// Whether this is `/`.
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// The canonical text, in the case of creation.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels, outermost first; none for the root.
    pub fn labels(&self) -> Labels<'_> {
        Labels { rest: self.path() }
    }

    /// The last label; `None` for the root.
    pub fn leaf(&self) -> Option<&str> {
        self.labels().next_back()
    }

    /// The number of labels; 0 for the root.
    pub fn depth(&self) -> usize {
        if self.is_root() { 0 } else { count_labels(&self.0) }
    }

    /// The name above; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        match self.0.rfind('/') {
            Some(end) if end > 0 => self.0.get(..end).map(|text| Self(Arc::from(text))),
            _ => Some(Self::root()),
        }
    }

    /// The name one label further down.
    ///
    /// # Errors
    ///
    /// The rule that `label` breaks, or that the longer name breaks; positions are those in `label`.
    pub fn child(&self, label: &str) -> Result<Self, NameError> {
        if let Some(at) = label.find('/') {
            return Err(NameError::new(NameRule::SlashInLabel, at));
        }
        self.extend(label, 0)
    }

    /// The names above this one, nearest first, down to the root; without this one itself.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> + use<> {
        std::iter::successors(self.parent(), Self::parent)
    }

    /// Whether this name is `ancestor` or beneath it.
    pub fn is_under(&self, ancestor: &Self) -> bool {
        if ancestor.is_root() {
            return true;
        }
        if !self.0.is_ascii() || !ancestor.0.is_ascii() {
            return self.key().is_under(&ancestor.key());
        }
        let (own, above) = (self.0.as_bytes(), ancestor.0.as_bytes());
        own.get(..above.len()).is_some_and(|start| start.eq_ignore_ascii_case(above))
            && own.get(above.len()).is_none_or(|&byte| byte == b'/')
    }

    /// The form by which names are compared, sorted and stored.
    pub fn key(&self) -> NameKey {
        key::from_path(&self.0)
    }

    /// Lends the key's text to `use_key` without allocating it for short ASCII names, to search a map that
    /// is keyed by [`NameKey`].
    pub fn with_key<R>(&self, use_key: impl FnOnce(&str) -> R) -> R {
        const SHORT: usize = 128;
        let path = self.path().as_bytes();
        let mut short = [0; SHORT];
        // The byte after the path stays NUL: the end of the last label.
        if path.len() < SHORT && path.is_ascii() && !path.is_empty() {
            for (to, from) in short.iter_mut().zip(path) {
                *to = key::ascii_key_byte(*from);
            }
            if let Some(Ok(key)) = short.get(..=path.len()).map(std::str::from_utf8) {
                return use_key(key);
            }
        }
        let mut key = String::with_capacity(self.0.len());
        key::push_key(&self.0, &mut key);
        use_key(&key)
    }

    /// The labels without the slash in front.
    fn path(&self) -> &str {
        self.0.get(1..).unwrap_or_default()
    }

    /// This name with the labels of `relative` beneath it; `at` is where `relative` stands in its text.
    fn extend(&self, relative: &str, at: usize) -> Result<Self, NameError> {
        let mut text = String::with_capacity(self.0.len() + 1 + relative.len().min(MAX_NAME_BYTES));
        let mut depth = self.depth();
        if depth > 0 {
            text.push_str(&self.0);
        }
        let mut at = at;
        let mut labels = relative.split('/').peekable();
        while let Some(raw) = labels.next() {
            if raw.is_empty() && at > 0 && labels.peek().is_none() {
                return Err(NameError::new(NameRule::TrailingSlash, at - 1));
            }
            if depth == 0 && raw == OUTERMOST {
                return Err(NameError::new(NameRule::OutermostLabel, at));
            }
            if depth == MAX_DEPTH {
                return Err(NameError::new(NameRule::TooManyLabels, at));
            }
            text.push('/');
            label::push_checked(raw, at, &mut text)?;
            if text.len() > MAX_NAME_BYTES {
                return Err(NameError::new(NameRule::NameTooLong, at));
            }
            depth += 1;
            at += raw.len() + 1;
        }
        Ok(Self(Arc::from(text)))
    }
}

/// The text without a first label `...`: empty, or starting with a slash.
pub(crate) fn strip_outermost(text: &str) -> &str {
    match text.strip_prefix("/...") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => text,
    }
}

pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, NameError> {
    std::str::from_utf8(bytes).map_err(|error| NameError::new(NameRule::NotUtf8, error.valid_up_to()))
}

fn count_labels(path: &str) -> usize {
    path.bytes().filter(|&byte| byte == b'/').count()
}

/// The labels of a name, outermost first, from either end.
#[derive(Clone, Debug)]
pub struct Labels<'a> {
    /// The labels still to come, with slashes between them. Labels are never empty, so empty means none.
    rest: &'a str,
}

impl<'a> Iterator for Labels<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let (label, rest) = self.rest.split_once('/').unwrap_or((self.rest, ""));
        self.rest = rest;
        Some(label)
    }
}

impl DoubleEndedIterator for Labels<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (rest, label) = self.rest.rsplit_once('/').unwrap_or(("", self.rest));
        self.rest = rest;
        Some(label)
    }
}

impl FusedIterator for Labels<'_> {}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || if self.0.is_ascii() && other.0.is_ascii() {
                self.0.eq_ignore_ascii_case(&other.0)
            } else {
                self.key() == other.key()
            }
    }
}

impl Eq for Name {}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        let (own, theirs) = (self.path(), other.path());
        if own.is_ascii() && theirs.is_ascii() {
            own.bytes().map(key::ascii_key_byte).cmp(theirs.bytes().map(key::ascii_key_byte))
        } else {
            self.key().cmp(&other.key())
        }
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.with_key(|key| key.hash(state));
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({:?})", &*self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    fn refused(text: &str) -> (NameRule, usize) {
        let error = Name::parse(text).expect_err(text);
        (error.rule, error.position)
    }

    #[test]
    fn names_are_kept_as_created() {
        for text in ["/", "/BVODS", "/BVODS/VFS1/CMS", "/C=US/O=Berkeley", "/a b/...", "/~/x:y", "/é", "/日本"] {
            assert_eq!(name(text).as_str(), text);
            assert_eq!(name(text).to_string(), text);
            assert_eq!(text.parse::<Name>().map(|name| name.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn three_dots_in_front_mean_the_outermost_root() {
        assert!(name("/...").is_root());
        assert_eq!(name("/.../BVODS/QS").as_str(), "/BVODS/QS");
        assert_eq!(name("/.../a/...").as_str(), "/a/...");
        assert_eq!(name("/...a").as_str(), "/...a");
        assert_eq!(refused("/.../"), (NameRule::TrailingSlash, 4));
        assert_eq!(refused("/.../..."), (NameRule::OutermostLabel, 5));
        assert_eq!(refused("/.../a/../b"), (NameRule::DotLabel, 7));
        assert_eq!(Name::root().child("...").expect_err("reserved").rule, NameRule::OutermostLabel);
        assert_eq!(name("/a").child("...").map(|child| child.to_string()), Ok("/a/...".to_owned()));
    }

    #[test]
    fn each_rule_is_reported_with_its_place() {
        use NameRule::*;
        for (text, rule, position) in [
            ("", Empty, 0),
            ("a", NotAbsolute, 0),
            ("//", EmptyLabel, 1),
            ("/a//b", EmptyLabel, 3),
            ("/a/", TrailingSlash, 2),
            ("/a/./b", DotLabel, 3),
            ("/..", DotLabel, 1),
            ("/a\0b", ControlCharacter('\0'), 2),
            ("/a\u{1f}", ControlCharacter('\u{1f}'), 2),
            ("/é\u{7f}", ControlCharacter('\u{7f}'), 3),
            ("/é\u{85}", ControlCharacter('\u{85}'), 3),
            ("/a*", PatternCharacter('*'), 2),
            ("/a?", PatternCharacter('?'), 2),
            ("/[a", PatternCharacter('['), 1),
            ("/a]", PatternCharacter(']'), 2),
            ("/{a", PatternCharacter('{'), 1),
            ("/b/a}", PatternCharacter('}'), 4),
            ("/a/ b", LeadingSpace, 3),
            ("/a /b", TrailingSpace, 2),
            ("/a/\u{a0}b", LeadingSpace, 3),
            ("/ab\u{3000}", TrailingSpace, 3),
            ("/ ", LeadingSpace, 1),
        ] {
            assert_eq!(refused(text), (rule, position), "{text:?}");
        }
    }

    #[test]
    fn bytes_must_be_utf8() {
        assert_eq!(Name::parse_bytes(b"/caf\xc3\xa9").map(|name| name.to_string()), Ok("/café".to_owned()));
        assert_eq!(Name::parse_bytes(b"/caf\xe9"), Err(NameError::new(NameRule::NotUtf8, 4)));
    }

    #[test]
    fn limits_count_bytes_after_normalisation() {
        let longest = format!("/{}", "a".repeat(63));
        assert_eq!(name(&longest).as_str(), longest);
        assert_eq!(refused(&format!("/x{longest}a")), (NameRule::LabelTooLong, 3));

        // 21 letters: 63 bytes decomposed, 42 in NFC; 31 letters: 62 in NFC; 32: 64.
        let letters = |count: usize| format!("/{}", "e\u{301}".repeat(count));
        assert_eq!(name(&letters(31)).as_str().len(), 63);
        assert_eq!(refused(&letters(32)), (NameRule::LabelTooLong, 1));
        // U+2ADC has no composed form and grows from three bytes to five.
        assert_eq!(name(&format!("/{}", "\u{2adc}".repeat(12))).as_str().len(), 61);
        assert_eq!(refused(&format!("/{}", "\u{2adc}".repeat(13))), (NameRule::LabelTooLong, 1));
        assert_eq!(refused(&letters(100_000)), (NameRule::LabelTooLong, 1));

        // 15 × 64 + 63 bytes.
        let full = format!("{}/{}", longest.repeat(15), "b".repeat(62));
        assert_eq!(name(&full).as_str().len(), MAX_NAME_BYTES);
        assert_eq!(refused(&format!("{full}b")), (NameRule::NameTooLong, 961));

        let deep = "/a".repeat(64);
        assert_eq!(name(&deep).depth(), 64);
        assert_eq!(refused(&format!("{deep}/b")), (NameRule::TooManyLabels, 129));
        assert_eq!(name(&deep).child("b"), Err(NameError::new(NameRule::TooManyLabels, 0)));
    }

    #[test]
    fn errors_say_what_to_do() {
        let error = Name::parse("/a//b").expect_err("an empty label");
        assert_eq!(error.to_string(), "invalid name at byte 3: a label is empty; write one `/` between labels");
        let error = Name::parse("/a\tb").expect_err("a control character");
        assert_eq!(
            error.to_string(),
            "invalid name at byte 2: the control character U+0009 is not allowed in a name; remove it"
        );
    }

    #[test]
    fn relative_names_are_read_against_the_context() {
        let context = name("/BVODS/VFS1");
        let resolve = |text| Name::resolve(&context, text).map(|name| name.to_string());
        assert_eq!(resolve("CMS"), Ok("/BVODS/VFS1/CMS".to_owned()));
        assert_eq!(resolve("CMS/Host1"), Ok("/BVODS/VFS1/CMS/Host1".to_owned()));
        assert_eq!(resolve("/QS"), Ok("/QS".to_owned()));
        assert_eq!(resolve("/"), Ok("/".to_owned()));
        assert_eq!(resolve("/.../QS"), Ok("/QS".to_owned()));
        assert_eq!(Name::resolve(&Name::root(), "QS").map(|name| name.to_string()), Ok("/QS".to_owned()));
        assert_eq!(resolve(""), Err(NameError::new(NameRule::Empty, 0)));
        assert_eq!(resolve("CMS/"), Err(NameError::new(NameRule::TrailingSlash, 3)));
        assert_eq!(resolve("../QS"), Err(NameError::new(NameRule::DotLabel, 0)));
    }

    #[test]
    fn names_are_taken_apart_and_put_together() {
        let cms = name("/BVODS/VFS1/CMS");
        assert_eq!(cms.labels().collect::<Vec<_>>(), ["BVODS", "VFS1", "CMS"]);
        assert_eq!(cms.labels().rev().collect::<Vec<_>>(), ["CMS", "VFS1", "BVODS"]);
        assert_eq!((cms.leaf(), cms.depth()), (Some("CMS"), 3));
        assert_eq!(cms.parent().map(|name| name.to_string()), Some("/BVODS/VFS1".to_owned()));
        let above: Vec<String> = cms.ancestors().map(|name| name.to_string()).collect();
        assert_eq!(above, ["/BVODS/VFS1", "/BVODS", "/"]);
        assert_eq!(name("/BVODS/VFS1").child("CMS"), Ok(cms));

        let root = Name::root();
        assert!(root.is_root());
        assert_eq!((root.labels().next(), root.leaf(), root.parent(), root.depth()), (None, None, None, 0));
        assert_eq!(root.ancestors().count(), 0);
        assert_eq!(root.child("a/b"), Err(NameError::new(NameRule::SlashInLabel, 1)));
        assert_eq!(root.child(""), Err(NameError::new(NameRule::EmptyLabel, 0)));
    }

    #[test]
    fn beneath_goes_by_whole_labels_and_not_by_case() {
        for (below, above, expected) in [
            ("/a/b", "/a", true),
            ("/a/b", "/A", true),
            ("/a", "/a", true),
            ("/ab", "/a", false),
            ("/a", "/a/b", false),
            ("/", "/", true),
            ("/a", "/", true),
            ("/", "/a", false),
            ("/É/b", "/é", true),
            ("/éa", "/É", false),
            ("/ſ/x", "/S", true),
        ] {
            assert_eq!(name(below).is_under(&name(above)), expected, "{below} {above}");
            assert_eq!(name(below).key().is_under(&name(above).key()), expected, "{below} {above}");
        }
    }

    #[test]
    fn equality_order_and_hash_go_by_key() {
        use std::collections::{BTreeSet, HashSet};
        let spellings = [name("/Caf\u{e9}"), name("/CAFE\u{301}"), name("/cafÉ")];
        assert_eq!(spellings.iter().cloned().collect::<HashSet<_>>().len(), 1);
        assert_eq!(spellings.iter().cloned().collect::<BTreeSet<_>>().len(), 1);
        let mixed = [name("/s"), name("/ſ"), name("/S")];
        assert_eq!(mixed.iter().cloned().collect::<HashSet<_>>().len(), 1);
        assert!(name("/a/b") < name("/a!"));
        assert!(name("/é/b") < name("/É!"));
        assert!(name("/a") < name("/B"));
    }
}
