//! Why a text is not a name.

use crate::label::{MAX_DEPTH, MAX_LABEL_BYTES, MAX_NAME_BYTES};

/// The rule that a text breaks.
///
/// `Display` gives a clause that says what is wrong and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameRule {
    /// There is no text at all.
    #[error("the name is empty; write `/` for the root or a path such as `/BVODS/QS`")]
    Empty,
    /// A full name starts with a slash.
    #[error("a full name starts with `/`; put one in front")]
    NotAbsolute,
    /// The bytes are not UTF-8.
    #[error("the bytes are not UTF-8; send the name in UTF-8")]
    NotUtf8,
    /// Two slashes follow each other.
    #[error("a label is empty; write one `/` between labels")]
    EmptyLabel,
    /// The text ends with a slash.
    #[error("the name ends with `/`; leave the last slash out")]
    TrailingSlash,
    /// A single label was expected and holds a slash.
    #[error("a label cannot hold `/`; use one label for each step of the path")]
    SlashInLabel,
    /// A label is longer than [`MAX_LABEL_BYTES`].
    #[error("the label is longer than {MAX_LABEL_BYTES} bytes; shorten it")]
    LabelTooLong,
    /// The whole is longer than [`MAX_NAME_BYTES`].
    #[error("the name grows longer than {MAX_NAME_BYTES} bytes here; shorten it")]
    NameTooLong,
    /// There are more than [`MAX_DEPTH`] labels.
    #[error("the name has more than {MAX_DEPTH} labels from here on; use fewer levels")]
    TooManyLabels,
    /// A control character: U+0000 to U+001F and U+007F to U+009F.
    #[error("the control character U+{:04X} is not allowed in a name; remove it", u32::from(*.0))]
    ControlCharacter(char),
    /// One of the characters that patterns use.
    #[error("`{0}` belongs to patterns and is not allowed in a name; choose another character")]
    PatternCharacter(char),
    /// A label `.` or `..`.
    #[error("`.` and `..` are not labels; write the full path")]
    DotLabel,
    /// `...` as the first label where it cannot mean the outermost root.
    #[error("`...` means the outermost root and cannot be the first label itself; choose another label")]
    OutermostLabel,
    /// White space at the beginning of a label.
    #[error("a label cannot begin with white space; remove it")]
    LeadingSpace,
    /// White space at the end of a label.
    #[error("a label cannot end with white space; remove it")]
    TrailingSpace,
}

/// A text that is not a name: the rule it breaks, where, and (as `Display`) what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid name at byte {position}: {rule}")]
pub struct NameError {
    /// The rule that is broken.
    pub rule: NameRule,
    /// The byte in the given text, counted from 0, where it is broken: the offending character, or the
    /// beginning of the offending label for rules about a whole label.
    pub position: usize,
}

impl NameError {
    pub(crate) fn new(rule: NameRule, position: usize) -> Self {
        Self { rule, position }
    }
}
