//! Names, patterns and their forms in other worlds.
//!
//! Every service, machine, person and record of a fleet has one name in one tree. This crate says what a
//! name is, when two names are the same, how names are sorted, which patterns select them, and how a name
//! is written in a DNS question or in a URL. It is pure: no files, sockets, clocks or randomness.
//!
//! # Grammar
//!
//! ```text
//! name     = "/" | 1*( "/" label )
//! label    = 1..63 bytes of UTF-8 after NFC; no "/", no control character (Unicode category Cc),
//!            none of * ? [ ] { }, not "." or "..", no white space at either end
//! limits   : 1,023 bytes and 64 labels a name, measured after NFC
//! relative : no "/" in front; read against a context, see Name::resolve
//! outermost: a first label "..." always means the outermost root that is known and is not kept,
//!            so no name below the root is called "..."
//!
//! pattern  = "*"                            every name
//!          | 1*( "/" ( "**" | glob ) )      "**" is zero or more labels
//! glob     = 1*( literal | "*" | "?" | class | choice )
//! class    = "[" [ "!" ] 1*( char | char "-" char ) "]"
//! choice   = "{" part *( "," part ) "}"     a part is a glob without a choice, or nothing
//! ```
//!
//! # When two names are the same
//!
//! Names keep the case they were created with but are compared by their **key**: each label goes through
//! NFC (done once, when the name is made), Unicode *simple* case folding, and NFC again. Simple folding maps
//! one character to one character, so `ẞ` equals `ß` but not `ss`, `Σ`, `σ` and `ς` are one letter, and `İ`
//! is neither `i` nor `ı` (no locale is consulted). Full folding was rejected because it lengthens labels
//! and makes `?` match different things in different spellings.
//!
//! The tables are those compiled into the pinned `icu_casemap` and `icu_normalizer` crates, Unicode
//! [`UNICODE_VERSION`]. Keys are stored, so a newer table is a new feature level of the cluster: a test
//! takes the fingerprint of the whole table and fails when an update of those crates changes any key of an
//! assigned or unassigned character.
//!
//! ASCII names, nearly all of them, never reach the Unicode tables.
//!
//! # Order
//!
//! A [`NameKey`] ends every folded label with a NUL. No label holds one, so a parent sorts directly before
//! everything beneath it, every subtree is one contiguous range, and "is beneath" is "starts with".
//!
//! # Modules
//!
//! [`dns`] and [`http`] hold the forms of a name in those worlds. They are partial where the other world
//! cannot say what a name can, and then give the reason.

#![forbid(unsafe_code)]

pub mod dns;
mod error;
mod fold;
pub mod http;
mod key;
mod label;
mod name;
mod pattern;
#[cfg(feature = "serde")]
mod serde_form;

pub use error::{NameError, NameRule};
pub use fold::folded;
pub use key::NameKey;
pub use label::{MAX_DEPTH, MAX_LABEL_BYTES, MAX_NAME_BYTES};
pub use name::{Labels, Name};
pub use pattern::{MAX_PATTERN_BYTES, Pattern, PatternError, PatternRule};

/// The Unicode version behind normalisation and case folding: that of the pinned crates.
pub const UNICODE_VERSION: &str = "18.0.0";
