//! Patterns: what selects names.

mod glob;
mod states;

use std::fmt;
use std::ops::Bound;
use std::str::FromStr;
use std::sync::Arc;

use self::glob::Glob;
use self::states::States;
use crate::error::{NameError, NameRule};
use crate::key::{self, NameKey};
use crate::label::{self, MAX_DEPTH};
use crate::name::{Name, OUTERMOST, strip_outermost};
use crate::{fold, label::MAX_LABEL_BYTES};

/// The most bytes a pattern has, in NFC and with its context in front.
pub const MAX_PATTERN_BYTES: usize = 1_023;

/// The bare pattern that selects every name.
const EVERY: &str = "*";

/// A pattern over names.
///
/// `*` is any run inside a label, `?` one character, `[a-z]` and `[!a-z]` one of these or none of these,
/// `{a,b}` one of these, `**` as a whole label zero or more labels; a bare `*` selects every name, the root
/// included. Matching goes by key, so case never matters; a character is one of the folded label in NFC.
///
/// Cheap to clone. The work of a match is bounded by the length of the pattern times the length of the name,
/// whatever the pattern: there is no backtracking.
#[derive(Clone)]
pub struct Pattern(Arc<Compiled>);

struct Compiled {
    /// Canonical: NFC, with the context in front.
    text: String,
    /// The longest literal beginning.
    prefix: Name,
    prefix_key: NameKey,
    /// What follows the prefix; nothing for an exact pattern.
    segments: Vec<Segment>,
}

enum Segment {
    /// `**`
    Labels,
    /// A label without wildcards, folded.
    Exact(String),
    /// A label with wildcards.
    Glob(Glob),
}

impl Pattern {
    /// Reads a full pattern: a bare `*`, or a path that starts with `/` (or `/.../`).
    ///
    /// # Errors
    ///
    /// The first rule, from the left, that the text breaks.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::new(PatternRule::Empty, 0));
        }
        if text == EVERY {
            return Ok(Self::every());
        }
        if !text.starts_with('/') {
            return Err(PatternError::new(PatternRule::NotAbsolute, 0));
        }
        let rest = strip_outermost(text);
        if rest.is_empty() || text == "/" {
            return Ok(Self::exact(Name::root()));
        }
        Self::compile(Name::root(), rest.get(1..).unwrap_or_default(), text.len() - rest.len() + 1)
    }

    /// Reads `text` against a context. A full pattern stands for itself, a bare `*` is still every name,
    /// anything else is beneath `context`.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse); positions are those in `text`.
    pub fn resolve(context: &Name, text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text == EVERY || text.starts_with('/') {
            return Self::parse(text);
        }
        Self::compile(context.clone(), text, 0)
    }

    /// The pattern that selects every name: `*`.
    pub fn every() -> Self {
        Self::new(EVERY.to_owned(), Name::root(), vec![Segment::Labels])
    }

    /// The pattern that selects this name alone.
    pub fn exact(name: Name) -> Self {
        Self::new(name.as_str().to_owned(), name, Vec::new())
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Whether the pattern selects `name`.
    pub fn matches(&self, name: &Name) -> bool {
        name.with_key(|key| self.matches_text(key, &mut 0))
    }

    /// Whether the pattern selects the name with this key.
    pub fn matches_key(&self, key: &NameKey) -> bool {
        self.matches_text(key.as_str(), &mut 0)
    }

    /// The longest name that every selected name is or lies beneath, as far as the pattern's leading labels
    /// without wildcards tell.
    pub fn literal_prefix(&self) -> Name {
        self.0.prefix.clone()
    }

    /// The only name that can be selected, if the pattern has no wildcards.
    pub fn as_exact(&self) -> Option<Name> {
        self.0.segments.is_empty().then(|| self.0.prefix.clone())
    }

    /// A range of keys that holds all selected names (and possibly others), as narrow as the literal
    /// beginning allows: `/a/qs*` scans only what begins with `/a/qs`.
    pub fn key_range(&self) -> (Bound<NameKey>, Bound<NameKey>) {
        let prefix = &self.0.prefix_key;
        match self.0.segments.first() {
            None => (Bound::Included(prefix.clone()), Bound::Included(prefix.clone())),
            Some(Segment::Glob(glob)) => {
                let mut start = prefix.as_str().to_owned();
                start.extend(glob.literal_start());
                key::prefix_range(&start)
            }
            Some(Segment::Labels | Segment::Exact(_)) => prefix.subtree_range(),
        }
    }

    /// The depth of the deepest name that can be selected; `None` if a `**` sets no bound. A scan need not
    /// look beneath names of this depth.
    pub fn max_depth(&self) -> Option<usize> {
        let bounded = self.0.segments.iter().all(|segment| !matches!(segment, Segment::Labels));
        bounded.then(|| self.0.prefix.depth() + self.0.segments.len())
    }

    fn new(text: String, prefix: Name, segments: Vec<Segment>) -> Self {
        let prefix_key = prefix.key();
        Self(Arc::new(Compiled { text, prefix, prefix_key, segments }))
    }

    /// Compiles the labels of `relative`, which stand at byte `at` of the text, beneath `prefix`.
    fn compile(mut prefix: Name, relative: &str, mut at: usize) -> Result<Self, PatternError> {
        let mut text = if prefix.is_root() { String::new() } else { prefix.as_str().to_owned() };
        let mut segments: Vec<Segment> = Vec::new();
        let mut depth = prefix.depth();
        let mut labels = relative.split('/').peekable();
        while let Some(raw) = labels.next() {
            if raw.is_empty() && at > 0 && labels.peek().is_none() {
                return Err(NameError::new(NameRule::TrailingSlash, at - 1).into());
            }
            if raw.len() > MAX_RAW_LABEL_BYTES {
                return Err(PatternError::new(PatternRule::TooLong, at));
            }
            let normal = fold::nfc(raw);
            text.push('/');
            text.push_str(&normal);
            if text.len() > MAX_PATTERN_BYTES {
                return Err(PatternError::new(PatternRule::TooLong, at));
            }
            if raw == "**" {
                if !matches!(segments.last(), Some(Segment::Labels)) {
                    segments.push(Segment::Labels);
                }
                at += raw.len() + 1;
                continue;
            }
            if depth == MAX_DEPTH {
                return Err(NameError::new(NameRule::TooManyLabels, at).into());
            }
            if raw.contains(['*', '?', '[', ']', '{', '}']) {
                let glob = Glob::parse(&normal).map_err(|(rule, offset)| {
                    // After normalisation offsets inside the label mean nothing to the user.
                    let offset = if normal == raw { offset } else { 0 };
                    PatternError::new(rule, at + offset)
                })?;
                segments.push(Segment::Glob(glob));
            } else {
                if raw == OUTERMOST && text.len() == OUTERMOST.len() + 1 {
                    return Err(NameError::new(NameRule::OutermostLabel, at).into());
                }
                label::check(raw, at)?;
                if segments.is_empty() {
                    prefix = prefix.child(&normal).map_err(|error| NameError::new(error.rule, at))?;
                } else {
                    let mut folded = String::with_capacity(MAX_LABEL_BYTES);
                    fold::push_folded(&normal, &mut folded);
                    segments.push(Segment::Exact(folded));
                }
            }
            depth += 1;
            at += raw.len() + 1;
        }
        Ok(Self::new(text, prefix, segments))
    }

    /// Matches a key; adds the automaton states visited to `work`.
    fn matches_text(&self, key: &str, work: &mut u64) -> bool {
        let Some(rest) = key.strip_prefix(self.0.prefix_key.as_str()) else {
            return false;
        };
        let segments = &self.0.segments;
        if segments.is_empty() {
            return rest.is_empty();
        }
        // The same automaton as inside a label, with labels for characters and `**` for `*`.
        let mut now = States::only(0);
        for label in key::labels_of(rest) {
            let mut next = States::empty();
            let mut alive = false;
            let mut from = 0;
            while let Some(state) = now.next_from(from) {
                *work += 1;
                from = state + 1;
                let consumed = match segments.get(state) {
                    Some(Segment::Labels) => {
                        now.insert(state + 1);
                        Some(state)
                    }
                    Some(Segment::Exact(expected)) => (expected == label).then_some(state + 1),
                    Some(Segment::Glob(glob)) => glob.matches(label, work).then_some(state + 1),
                    None => None,
                };
                if let Some(state) = consumed {
                    next.insert(state);
                    alive = true;
                }
            }
            if !alive {
                return false;
            }
            now = next;
        }
        let mut from = 0;
        while let Some(state) = now.next_from(from) {
            *work += 1;
            from = state + 1;
            match segments.get(state) {
                Some(Segment::Labels) => now.insert(state + 1),
                Some(_) => {}
                None => return true,
            }
        }
        false
    }
}

/// NFC never shrinks a text to less than a third; a raw label beyond this is not worth normalising.
const MAX_RAW_LABEL_BYTES: usize = 4 * MAX_PATTERN_BYTES;

/// The rule of patterns that a text breaks; `Display` says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternRule {
    /// There is no text at all.
    #[error("the pattern is empty; write `*` for every name")]
    Empty,
    /// A full pattern starts with a slash.
    #[error("a full pattern starts with `/`; put one in front, or write `*` alone for every name")]
    NotAbsolute,
    /// A rule of names, which holds for the literal parts of a pattern too.
    #[error(transparent)]
    Name(NameRule),
    /// The pattern is longer than [`MAX_PATTERN_BYTES`].
    #[error("the pattern grows longer than {MAX_PATTERN_BYTES} bytes here; shorten it")]
    TooLong,
    /// The compiled form of a label is too large.
    #[error("the label is too complex for a pattern; use several patterns")]
    TooComplex,
    /// `**` with something beside it.
    #[error("`**` must be a label of its own; write `*` inside a label or put slashes around `**`")]
    MixedDoubleStar,
    /// `[` without `]` in the same label.
    #[error("`[` is not closed before the end of the label; add `]`")]
    UnclosedClass,
    /// `[]` or `[!]`.
    #[error("the class is empty; list characters between `[` and `]`")]
    EmptyClass,
    /// `[^`, which other tools take for a negation.
    #[error("a class is negated by `!`; write `[!` for `[^`, or put `^` behind another character")]
    CaretClass,
    /// A range whose end comes before its beginning.
    #[error("the range `{0}-{1}` runs backwards; write the lower character first")]
    ReversedRange(char, char),
    /// A class lists a character that no name holds.
    #[error("no name holds `{0}`; leave it out of the class")]
    WildcardInClass(char),
    /// `{` without `}` in the same label.
    #[error("`{{` is not closed before the end of the label; add `}}` (a choice cannot hold `/`)")]
    UnclosedChoice,
    /// `{}`.
    #[error("the choice is empty; list parts between `{{` and `}}`, with commas")]
    EmptyChoice,
    /// A choice inside a choice.
    #[error("a choice cannot hold another one; list all parts between one `{{` and `}}`")]
    NestedChoice,
    /// `]` or `}` without its beginning.
    #[error("`{0}` closes nothing; remove it")]
    StrayClose(char),
}

/// A text that is not a pattern: the rule it breaks, where, and (as `Display`) what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid pattern at byte {position}: {rule}")]
pub struct PatternError {
    /// The rule that is broken.
    pub rule: PatternRule,
    /// The byte in the given text, counted from 0, where it is broken; the beginning of the label for rules
    /// about a whole label, and for any rule in a label that was not in NFC.
    pub position: usize,
}

impl PatternError {
    fn new(rule: PatternRule, position: usize) -> Self {
        Self { rule, position }
    }
}

impl From<NameError> for PatternError {
    fn from(error: NameError) -> Self {
        Self::new(PatternRule::Name(error.rule), error.position)
    }
}

/// Equal if the texts are; patterns that select the same names in different words are not.
impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.0.text)
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn names_and_their_patterns() {
        for (text, yes, no) in [
            ("*", &["/", "/a", "/a/b/c"][..], &[][..]),
            ("/**", &["/", "/a", "/a/b/c"], &[]),
            ("/", &["/"], &["/a"]),
            ("/...", &["/"], &["/a"]),
            ("/*", &["/a", "/b"], &["/", "/a/b"]),
            ("/BVODS/QS", &["/bvods/qs", "/BVODS/QS"], &["/BVODS", "/BVODS/QS/a", "/BVODS/QS1"]),
            ("/.../BVODS/*", &["/bvods/qs"], &["/BVODS"]),
            ("/BVODS/*", &["/bvods/QS", "/BVODS/VFS1"], &["/BVODS", "/BVODS/VFS1/CMS", "/CMS/QS"]),
            ("/a/**", &["/a", "/A/b", "/a/b/c"], &["/", "/ab", "/b/a"]),
            ("/**/CMS", &["/CMS", "/a/cms", "/a/b/CMS"], &["/", "/CMS/a"]),
            ("/a/**/z", &["/a/z", "/a/b/z", "/a/z/z"], &["/a", "/z", "/a/z/b"]),
            ("/a/**/m/**/z", &["/a/m/z", "/a/x/m/y/z", "/a/m/m/z/z"], &["/a/z", "/a/m", "/a/x/z"]),
            ("/**/**", &["/", "/a/b"], &[]),
            ("/**/*", &["/a", "/a/b"], &["/"]),
            ("/*/*", &["/a/b"], &["/a", "/a/b/c"]),
            ("/{BVODS,CMS}/Host[0-9]", &["/cms/host1", "/BVODS/Host9"], &["/CMS/Host10", "/a/Host1"]),
            ("/CAFE\u{301}/*", &["/caf\u{e9}/x"], &["/cafe/x"]),
            ("/Σ*", &["/ς", "/σa"], &["/s"]),
        ] {
            for selected in yes {
                assert!(pattern(text).matches(&name(selected)), "{text} {selected}");
                assert!(pattern(text).matches_key(&name(selected).key()), "{text} {selected}");
            }
            for other in no {
                assert!(!pattern(text).matches(&name(other)), "{text} {other}");
            }
        }
    }

    #[test]
    fn mistakes_are_found_in_their_place() {
        use PatternRule::{Empty, Name, NotAbsolute, TooLong, UnclosedChoice};
        let long = format!("/{}", "a/".repeat(511));
        let deep = "/*".repeat(65);
        for (text, rule, position) in [
            ("", Empty, 0),
            ("a*", NotAbsolute, 0),
            ("**", NotAbsolute, 0),
            ("/a//*", Name(NameRule::EmptyLabel), 3),
            ("/a/*/", Name(NameRule::TrailingSlash), 4),
            ("/a/../*", Name(NameRule::DotLabel), 3),
            ("/*/..", Name(NameRule::DotLabel), 3),
            ("/*/a /b", Name(NameRule::TrailingSpace), 4),
            ("/.../.../*", Name(NameRule::OutermostLabel), 5),
            ("/{a/b}", UnclosedChoice, 1),
            ("/e\u{301}x{", UnclosedChoice, 1),
            (&format!("{long}bc*"), Name(NameRule::TooManyLabels), 129),
            (&format!("/*{}", "?".repeat(1_022)), TooLong, 1),
            (&format!("/**{}", "/x".repeat(511)), Name(NameRule::TooManyLabels), 132),
            (&deep, Name(NameRule::TooManyLabels), 129),
            (&format!("/*/{}", "a".repeat(64)), Name(NameRule::LabelTooLong), 3),
            (&format!("/{}", "e\u{301}".repeat(100_000)), TooLong, 1),
        ] {
            let error = Pattern::parse(text).expect_err(text);
            assert_eq!((error.rule, error.position), (rule, position), "{text}");
        }
        assert_eq!(
            Pattern::parse("/a/[b").expect_err("an open class").to_string(),
            "invalid pattern at byte 3: `[` is not closed before the end of the label; add `]`"
        );
        assert_eq!(
            Pattern::parse("/{a/b}").expect_err("an open choice").to_string(),
            "invalid pattern at byte 1: `{` is not closed before the end of the label; add `}` (a choice cannot \
             hold `/`)"
        );
    }

    #[test]
    fn relative_patterns_are_read_against_the_context() {
        let context = name("/BVODS");
        let resolve = |text| Pattern::resolve(&context, text).map(|pattern| pattern.to_string());
        assert_eq!(resolve("QS*"), Ok("/BVODS/QS*".to_owned()));
        assert_eq!(resolve("**"), Ok("/BVODS/**".to_owned()));
        assert_eq!(resolve("*"), Ok("*".to_owned()));
        assert_eq!(resolve("/CMS/*"), Ok("/CMS/*".to_owned()));
        assert_eq!(resolve("QS["), Err(PatternError::new(PatternRule::UnclosedClass, 2)));
        assert_eq!(resolve(""), Err(PatternError::new(PatternRule::Empty, 0)));
        assert_eq!(Pattern::resolve(&Name::root(), "a*").map(|pattern| pattern.to_string()), Ok("/a*".to_owned()));
    }

    #[test]
    fn a_pattern_tells_where_to_look() {
        for (text, prefix, exact, depth) in [
            ("*", "/", false, None),
            ("/", "/", true, Some(0)),
            ("/BVODS/QS", "/BVODS/QS", true, Some(2)),
            ("/BVODS/QS*", "/BVODS", false, Some(2)),
            ("/BVODS/*/CMS", "/BVODS", false, Some(3)),
            ("/BVODS/**", "/BVODS", false, None),
            ("/{a}/b", "/", false, Some(2)),
        ] {
            let pattern = pattern(text);
            assert_eq!(pattern.literal_prefix().as_str(), prefix, "{text}");
            assert_eq!(pattern.as_exact().map(|name| name.to_string()), exact.then(|| prefix.to_owned()), "{text}");
            assert_eq!(pattern.max_depth(), depth, "{text}");
        }
    }

    #[test]
    fn the_key_range_is_as_narrow_as_the_literal_beginning() {
        use std::collections::BTreeSet;
        let all: BTreeSet<NameKey> =
            ["/", "/a", "/a/q", "/a/qs", "/a/qs/x", "/a/qs1", "/a/r", "/b"].map(|text| name(text).key()).into();
        for (text, expected) in [("*", 8), ("/a/QS*", 3), ("/a/QS", 1), ("/a/**", 6), ("/a/*", 6), ("/a/**/x", 6)] {
            assert_eq!(all.range::<NameKey, _>(pattern(text).key_range()).count(), expected, "{text}");
        }
    }

    /// The work is counted in automaton states visited, not in time.
    #[test]
    fn hostile_patterns_cost_no_more_than_length_times_length() {
        let label = "a".repeat(62);
        let deep = "/a".repeat(64);
        let wide = format!("/{label}").repeat(16);
        let hostile = [
            "/*a".to_owned() + &"*a".repeat(500) + "*b",
            "/**".repeat(340),
            format!("{}/b", "/**/a".repeat(63)),
            format!("{}/**/b", "/**/*a*a*a*b".repeat(60)),
            format!("/**/*{}b", "{a,a,a}".repeat(140)),
            format!("/**/*{}b", "{a*,*a,a}".repeat(110)),
            format!("/**/{}", "{,a}".repeat(250)),
            format!("/**/{}b", "[a-z]".repeat(200)),
        ];
        for text in &hostile {
            let pattern = pattern(text);
            for name in [name(&deep), name(&wide)] {
                let mut work = 0;
                pattern.matches_text(name.key().as_str(), &mut work);
                // At most two states a byte of the pattern, each visited once a character or end of label.
                let bound = 2 * (text.len() + 1) * (name.as_str().len() + 1);
                assert!(work <= bound as u64, "{text}: {work} > {bound}");
            }
        }
    }
}
