//! The form of a name in a URL path: `/BVODS/VFS1/CMS` is `BVODS/VFS1/CMS` behind `/v1/names/`.
//!
//! The form is the name without its first slash, each label percent-encoded; every name has one, the root's is
//! empty. Kept as they are: letters, digits and `-._~=@,`. Everything else is encoded byte by byte,
//! above all `:`, which begins a verb behind a name (`/v1/services/BVODS/QS:launch`): split the verb off at
//! the only raw `:` before reading the name.
//!
//! Reading wants the path as it was sent, before any other layer decoded it, and decodes it exactly once.

use crate::error::{NameError, NameRule};
use crate::{Name, name};

/// What stands in front of a name in the URL of its object.
pub const NAMES: &str = "/v1/names/";

const KEPT: &[u8] = b"-._~=@,";
const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// The form of a name, to be put behind a prefix such as [`NAMES`].
pub fn to_path(name: &Name) -> String {
    let mut path = String::with_capacity(name.as_str().len());
    for label in name.labels() {
        if !path.is_empty() {
            path.push('/');
        }
        for byte in label.bytes() {
            push_encoded(byte, &mut path);
        }
    }
    path
}

/// The whole path of the object's URL: `/v1/names/BVODS/VFS1/CMS`.
pub fn to_names_path(name: &Name) -> String {
    format!("{NAMES}{}", to_path(name))
}

/// The name whose form is `path`, which is still percent-encoded.
///
/// # Errors
///
/// A bad escape, a raw `:`, an encoded slash, or a rule of names that the decoded text breaks.
pub fn from_path(path: &str) -> Result<Name, PathError> {
    if path.is_empty() {
        return Ok(Name::root());
    }
    let mut decoded = Vec::with_capacity(path.len() + 1);
    decoded.push(b'/');
    let mut bytes = path.bytes().enumerate();
    while let Some((position, byte)) = bytes.next() {
        match byte {
            b':' => return Err(PathError::RawColon { position }),
            b'%' => {
                let high = bytes.next().and_then(|(_, digit)| hex_value(digit));
                let low = bytes.next().and_then(|(_, digit)| hex_value(digit));
                match (high, low) {
                    (Some(high), Some(low)) if high << 4 | low == b'/' => {
                        return Err(PathError::EncodedSlash { position });
                    }
                    (Some(high), Some(low)) => decoded.push(high << 4 | low),
                    _ => return Err(PathError::BadEscape { position }),
                }
            }
            _ => decoded.push(byte),
        }
    }
    name::utf8(&decoded).and_then(Name::parse).map_err(|NameError { rule, position }| PathError::Name {
        rule,
        position: encoded_position(path, position.saturating_sub(1)),
    })
}

/// Why a path is not the form of a name. Positions are bytes in the path, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// `%` without two hexadecimal digits behind it.
    #[error("bad escape at byte {position} of the path: write `%` and two hexadecimal digits, or `%25` for `%`")]
    BadEscape {
        /// Where the `%` is.
        position: usize,
    },
    /// `%2F`: no label holds a slash.
    #[error("encoded slash at byte {position} of the path: a label cannot hold `/`")]
    EncodedSlash {
        /// Where the `%` is.
        position: usize,
    },
    /// `:` as itself, which would begin a verb.
    #[error("`:` at byte {position} of the path: inside a label write `%3A`")]
    RawColon {
        /// Where the `:` is.
        position: usize,
    },
    /// The decoded text breaks a rule of names.
    #[error("invalid name at byte {position} of the path: {rule}")]
    Name {
        /// The rule that is broken.
        rule: NameRule,
        /// Where it is broken, in the encoded path.
        position: usize,
    },
}

fn push_encoded(byte: u8, path: &mut String) {
    if byte.is_ascii_alphanumeric() || KEPT.contains(&byte) {
        path.push(char::from(byte));
        return;
    }
    path.push('%');
    for digit in [byte >> 4, byte & 15] {
        path.push(HEX.get(usize::from(digit)).copied().map_or('0', char::from));
    }
}

fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Where the `decoded`th byte of a path with good escapes stands in the encoded path.
fn encoded_position(path: &str, decoded: usize) -> usize {
    let mut at = 0;
    for _ in 0..decoded {
        at += if path.as_bytes().get(at) == Some(&b'%') { 3 } else { 1 };
    }
    at.min(path.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_their_forms() {
        for (name, path) in [
            ("/", ""),
            ("/BVODS/VFS1/CMS", "BVODS/VFS1/CMS"),
            ("/a:b/c d", "a%3Ab/c%20d"),
            ("/C=US/O=Berkeley", "C=US/O=Berkeley"),
            ("/100%/a+b", "100%25/a%2Bb"),
            ("/é", "%C3%A9"),
            ("/a#b;c&d\"e\\f", "a%23b%3Bc%26d%22e%5Cf"),
            ("/v1.2-x_y~z@h,i", "v1.2-x_y~z@h,i"),
        ] {
            let name = Name::parse(name).expect("a name");
            assert_eq!(to_path(&name), path);
            let back = from_path(path).expect("a name");
            assert_eq!(back.as_str(), name.as_str());
        }
        assert_eq!(to_names_path(&Name::parse("/BVODS/QS").expect("a name")), "/v1/names/BVODS/QS");
    }

    #[test]
    fn escapes_are_decoded_exactly_once() {
        assert_eq!(from_path("a%252Fb").map(|name| name.to_string()), Ok("/a%2Fb".to_owned()));
        assert_eq!(from_path("%41/%c3%a9").map(|name| name.to_string()), Ok("/A/é".to_owned()));
        assert_eq!(from_path("é").map(|name| name.to_string()), Ok("/é".to_owned()));
        assert_eq!(from_path(".../a").map(|name| name.to_string()), Ok("/a".to_owned()));
    }

    #[test]
    fn what_is_not_a_form_is_refused() {
        use NameRule::*;
        let name = |rule, position| PathError::Name { rule, position };
        for (path, expected) in [
            ("a%", PathError::BadEscape { position: 1 }),
            ("a%4", PathError::BadEscape { position: 1 }),
            ("a%g0", PathError::BadEscape { position: 1 }),
            ("a%+1", PathError::BadEscape { position: 1 }),
            ("a%%41", PathError::BadEscape { position: 1 }),
            ("a%2Fb", PathError::EncodedSlash { position: 1 }),
            ("a%2fb", PathError::EncodedSlash { position: 1 }),
            ("QS:launch", PathError::RawColon { position: 2 }),
            ("/a", name(EmptyLabel, 0)),
            ("a//b", name(EmptyLabel, 2)),
            ("a/", name(TrailingSlash, 1)),
            ("%41/%2e%2e", name(DotLabel, 4)),
            ("%41/..", name(DotLabel, 4)),
            ("%41%2A", name(PatternCharacter('*'), 3)),
            ("%41%00", name(ControlCharacter('\0'), 3)),
            ("%41%FF", name(NotUtf8, 3)),
            ("%20a", name(LeadingSpace, 0)),
        ] {
            assert_eq!(from_path(path), Err(expected), "{path}");
        }
    }
}
