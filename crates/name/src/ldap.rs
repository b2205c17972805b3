//! The form of a name in LDAP and X.500: a distinguished name. `/BVODS/VFS1/CMS` is
//! `cn=CMS,ou=VFS1,ou=BVODS,dc=corp,dc=example` under the suffix `corp.example`.
//!
//! Names there are written from the leaf up, and each label has a type. Ours become:
//!
//! ```text
//! plain name: its first label has no type, or is OU=… or CN=…
//!   a label without a type    ou=LABEL; the leaf's is that of its LeafType, fixed by its kind when it is created
//!   C=US, O=…, L=…, ST=…, STREET=…, DC=…, UID=…      that type and value
//!   OU=…, CN=…                none: LABEL without the type has this form
//! typed name: its first label is C=…, O=…, L=…, ST=…, STREET=…, DC=… or UID=…
//!   TYPE=…, OU=… and CN=… among them                 that type and value
//!   a label without a type    none: OU=LABEL or CN=LABEL has this form
//! ```
//!
//! So no two names share a form, and reading a form gives a name equal to the one it was made of: in a form whose
//! outermost type is `ou` or `cn` these two types are dropped, in all others every type is kept. A label has a type when
//! a word of the table in RFC 4514 section 3 and `=` stand in front of something; case does not matter.
//!
//! Writing follows RFC 4514, types in lower case, values as created. Reading takes what RFC 4514 section 3 allows, types
//! as numbers too, in any case, and blanks around `,` and `=` as readers of RFC 2253 do. Refused are values written
//! `#hex`, which are BER and not text, and steps of several values (`cn=a+uid=b`), which no name has. Values are not held
//! against a schema (`C` of two letters, `DC` in ASCII). The suffix is ASCII, without a dot at either end; it may be empty.

use crate::error::{NameError, NameRule};
use crate::{Name, fold, name};

/// The types that a label may have: the table of RFC 4514 section 3, with their numbers from RFC 4519.
const TYPES: [(&str, &str); 9] = [
    ("cn", "2.5.4.3"),
    ("ou", "2.5.4.11"),
    ("o", "2.5.4.10"),
    ("c", "2.5.4.6"),
    ("l", "2.5.4.7"),
    ("st", "2.5.4.8"),
    ("street", "2.5.4.9"),
    ("dc", "0.9.2342.19200300.100.1.25"),
    ("uid", "0.9.2342.19200300.100.1.1"),
];

const CN: &str = "cn";
const OU: &str = "ou";
const DC: &str = "dc";

/// The longest word for a type in a label: `street`, in which `ſ` may stand for `s`.
const MAX_TYPE_BYTES: usize = 12;

/// The type of a last label that names none itself. It goes by what the name stands for when that is created, and stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeafType {
    /// `ou`: a directory.
    OrganizationalUnit,
    /// `cn`: everything else.
    CommonName,
}

/// The form of `name` under `suffix`, whose labels become `dc`. The root's is the suffix.
///
/// # Errors
///
/// The reason why there is none.
pub fn to_dn(name: &Name, leaf: LeafType, suffix: &str) -> Result<String, NoForm> {
    let typed_name = is_typed(name);
    let mut form = String::with_capacity(name.as_str().len() * 2 + suffix.len() * 2);
    for (above, label) in name.labels().rev().enumerate() {
        let (label_type, value) = match split(label) {
            Some((OU | CN, value)) if !typed_name => {
                return Err(NoForm::Shared { label: label.to_owned(), untyped: value.to_owned() });
            }
            Some(typed) => typed,
            None if typed_name => return Err(NoForm::Untyped { label: label.to_owned() }),
            None if above == 0 && leaf == LeafType::CommonName => (CN, label),
            None => (OU, label),
        };
        push_rdn(label_type, value, &mut form);
    }
    for label in suffix.split('.').filter(|label| !label.is_empty()) {
        push_rdn(DC, &label.to_ascii_lowercase(), &mut form);
    }
    Ok(form)
}

/// The name whose form under `suffix` is `text`.
///
/// The name is spelled as in the text, so it equals the name that was created but may differ from it in case. In a plain
/// name `ou` and `cn` are the same here, so it equals it whatever kinds of objects stand under it and above it.
///
/// # Errors
///
/// `text` is not the form of any name, and why.
pub fn from_dn(text: &str, suffix: &str) -> Result<Name, NotAForm> {
    let mut rdns = parse(text)?;
    for label in suffix.rsplit('.').filter(|label| !label.is_empty()) {
        match rdns.pop() {
            Some(rdn) if rdn.rdn_type == DC && rdn.value.eq_ignore_ascii_case(label.as_bytes()) => {}
            _ => return Err(NotAForm::OutsideSuffix),
        }
    }
    let plain = rdns.last().is_some_and(|rdn| matches!(rdn.rdn_type, OU | CN));
    let mut name = Name::root();
    for rdn in rdns.iter().rev() {
        let value = name::utf8(&rdn.value).map_err(not_a_name)?;
        let label_type = Some(rdn.rdn_type).filter(|known| !plain || !matches!(*known, OU | CN));
        let label = match label_type {
            Some(label_type) => format!("{}={value}", label_type.to_ascii_uppercase()),
            None => value.to_owned(),
        };
        name = name.child(&label).map_err(not_a_name)?;
        // A value may look typed (`ou=C=US`), and NFC may draw `=` and what follows it together.
        if name.leaf().and_then(split).map(|(found, _)| found) != label_type {
            return Err(NotAForm::OtherType { label });
        }
    }
    Ok(name)
}

/// Why a name has no form in LDAP. `Display` gives a sentence for `show`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoForm {
    /// A label of a plain name begins with `OU=` or `CN=`.
    #[error(
        "no LDAP name: the label `{label}` has the type that `{untyped}` is given there, and would be the same name"
    )]
    Shared {
        /// The label as created.
        label: String,
        /// The label that has this form.
        untyped: String,
    },
    /// A label of a typed name has no type.
    #[error(
        "no LDAP name: the label `{label}` has no type and stands beneath labels that have one; `CN={label}` has one too"
    )]
    Untyped {
        /// The label as created.
        label: String,
    },
}

/// Why a distinguished name is not the form of a name. Positions are bytes in the text, counted from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAForm {
    /// It does not end in the suffix.
    #[error("the LDAP name is outside the suffix")]
    OutsideSuffix,
    /// No type and `=` where a step begins.
    #[error("a type and `=` are expected at byte {position} of the LDAP name, as in `cn=`")]
    NoType {
        /// Where the step begins.
        position: usize,
    },
    /// A type that labels cannot have.
    #[error("the type `{found}` is none of cn, ou, o, c, l, st, street, dc, uid")]
    UnknownType {
        /// The type as sent.
        found: String,
    },
    /// A value written as `#` and hexadecimal digits.
    #[error(
        "the value at byte {position} of the LDAP name is in BER (`#…`); write it as text, and a `#` in front as `\\#`"
    )]
    Ber {
        /// Where the `#` is.
        position: usize,
    },
    /// A step of several values.
    #[error("the `+` at byte {position} of the LDAP name joins two values; no name has such a step")]
    Joined {
        /// Where the `+` is.
        position: usize,
    },
    /// A backslash without a character that may be escaped or two hexadecimal digits.
    #[error(
        "bad escape at byte {position} of the LDAP name: `\\` stands before one of `\"+,;<>\\ #=` or two hexadecimal digits"
    )]
    BadEscape {
        /// Where the `\` is.
        position: usize,
    },
    /// A character that must be escaped.
    #[error("`{found}` at byte {position} of the LDAP name must be escaped: write `\\{found}`")]
    NotEscaped {
        /// The character.
        found: char,
        /// Where it is.
        position: usize,
    },
    /// The label has another type than its step.
    #[error("the label `{label}` would not have this LDAP name")]
    OtherType {
        /// The label.
        label: String,
    },
    /// The labels break a rule of names.
    #[error("the LDAP name is not a name: {0}")]
    NotAName(NameRule),
}

/// One step of a distinguished name.
struct Rdn {
    /// A word of [`TYPES`].
    rdn_type: &'static str,
    value: Vec<u8>,
}

fn not_a_name(error: NameError) -> NotAForm {
    NotAForm::NotAName(error.rule)
}

/// Whether the types of all labels are kept, `OU` and `CN` too.
fn is_typed(name: &Name) -> bool {
    name.labels().next().and_then(split).is_some_and(|(label_type, _)| !matches!(label_type, OU | CN))
}

/// The type and the value of a label that has a type.
fn split(label: &str) -> Option<(&'static str, &str)> {
    let (word, value) = label.split_once('=')?;
    if word.len() > MAX_TYPE_BYTES || value.is_empty() {
        return None;
    }
    // By key as names are compared: `ſt=x` is the same name as `ST=x`.
    let mut folded = String::new();
    fold::push_folded(word, &mut folded);
    TYPES.iter().find(|(known, _)| *known == folded).map(|(known, _)| (*known, value))
}

/// Appends a step, RFC 4514 section 2.4, and a comma in front when it is not the first.
fn push_rdn(rdn_type: &str, value: &str, form: &mut String) {
    if !form.is_empty() {
        form.push(',');
    }
    form.push_str(rdn_type);
    form.push('=');
    let last = value.char_indices().next_back().map_or(0, |(at, _)| at);
    for (at, c) in value.char_indices() {
        let escaped = match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => true,
            ' ' => at == 0 || at == last,
            '#' => at == 0,
            _ => false,
        };
        if escaped {
            form.push('\\');
        }
        form.push(c);
    }
}

/// The steps, leaf first.
fn parse(text: &str) -> Result<Vec<Rdn>, NotAForm> {
    let mut rdns = Vec::new();
    if text.trim_matches(' ').is_empty() {
        return Ok(rdns);
    }
    let mut at = 0;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let Some((word, _)) = rest.split_once('=').filter(|(word, _)| !word.contains([',', '+', '\\'])) else {
            return Err(NotAForm::NoType { position: at });
        };
        let rdn_type = known_type(word.trim_matches(' '), at)?;
        let (value, end) = parse_value(text, at + word.len() + 1)?;
        rdns.push(Rdn { rdn_type, value });
        if end >= text.len() {
            return Ok(rdns);
        }
        at = end + 1;
    }
}

fn known_type(word: &str, position: usize) -> Result<&'static str, NotAForm> {
    if word.is_empty() {
        return Err(NotAForm::NoType { position });
    }
    TYPES
        .iter()
        .find(|(known, number)| known.eq_ignore_ascii_case(word) || *number == word)
        .map(|(known, _)| *known)
        .ok_or_else(|| NotAForm::UnknownType { found: word.to_owned() })
}

/// The value that begins at `at`, and where the comma behind it is, or the end.
fn parse_value(text: &str, at: usize) -> Result<(Vec<u8>, usize), NotAForm> {
    let bytes = text.as_bytes();
    let blanks = bytes.iter().skip(at).take_while(|byte| **byte == b' ').count();
    let mut at = at + blanks;
    let mut value = Vec::new();
    // How much of the value stands before the blanks at its end.
    let mut solid = 0;
    if bytes.get(at) == Some(&b'#') {
        return Err(NotAForm::Ber { position: at });
    }
    while let Some(&byte) = bytes.get(at) {
        let position = at;
        at += 1;
        match byte {
            b',' => {
                at = position;
                break;
            }
            b'+' => return Err(NotAForm::Joined { position }),
            b'"' | b';' | b'<' | b'>' => return Err(NotAForm::NotEscaped { found: char::from(byte), position }),
            b' ' => {
                value.push(byte);
                continue;
            }
            b'\\' => {
                let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
                match (bytes.get(at), digit(at), digit(at + 1)) {
                    (_, Some(high), Some(low)) => {
                        value.push(u8::try_from(high << 4 | low).unwrap_or_default());
                        at += 2;
                    }
                    (Some(&byte), ..) if b"\"+,;<>\\ #=".contains(&byte) => {
                        value.push(byte);
                        at += 1;
                    }
                    _ => return Err(NotAForm::BadEscape { position }),
                }
            }
            byte => value.push(byte),
        }
        solid = value.len();
    }
    value.truncate(solid);
    Ok((value, at))
}

#[cfg(test)]
mod tests {
    use super::LeafType::{CommonName, OrganizationalUnit};
    use super::*;

    const SUFFIX: &str = "corp.example";

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    fn form(text: &str) -> Result<String, NoForm> {
        to_dn(&name(text), CommonName, SUFFIX)
    }

    #[test]
    fn names_and_their_forms() {
        for (text, expected) in [
            ("/", ""),
            ("/BVODS/VFS1/CMS", "cn=CMS,ou=VFS1,ou=BVODS,"),
            ("/a b/c", "cn=c,ou=a b,"),
            ("/Bücher", "cn=Bücher,"),
            ("/a,b/c+d/\"e\"", r#"cn=\"e\",ou=c\+d,ou=a\,b,"#),
            (r"/a\b/<c>;/#d/e#", r"cn=e#,ou=\#d,ou=\<c\>\;,ou=a\\b,"),
            ("/a=b/X=y/C=", "cn=C=,ou=X=y,ou=a=b,"),
            ("/C=US/O=Berkeley", "o=Berkeley,c=US,"),
            ("/c=US/o=Berkeley/ou=EECS/cn=Lawrence Rowe", "cn=Lawrence Rowe,ou=EECS,o=Berkeley,c=US,"),
            ("/O=a=b/CN=c/CN=d", "cn=d,cn=c,o=a=b,"),
            ("/DC=lab/UID=ann", "uid=ann,dc=lab,"),
            ("/people/UID=ann", "uid=ann,ou=people,"),
            ("/sites/L=Köln/ST=NRW/STREET=1 a/x", "cn=x,street=1 a,st=NRW,l=Köln,ou=sites,"),
            ("/O= a", r"o=\ a,"),
            ("/ſt=x", "st=x,"),
        ] {
            let name = name(text);
            let expected = format!("{expected}dc=corp,dc=example");
            assert_eq!(to_dn(&name, CommonName, SUFFIX).as_deref(), Ok(&*expected), "{text}");
            assert_eq!(from_dn(&expected, SUFFIX), Ok(name), "{text}");
        }
    }

    #[test]
    fn the_leaf_of_a_directory_is_an_organizational_unit() {
        let dn = to_dn(&name("/BVODS/VFS1"), OrganizationalUnit, SUFFIX);
        assert_eq!(dn.as_deref(), Ok("ou=VFS1,ou=BVODS,dc=corp,dc=example"));
        assert_eq!(from_dn("ou=VFS1,ou=BVODS,dc=corp,dc=example", SUFFIX), Ok(name("/BVODS/VFS1")));
        let typed = to_dn(&name("/people/UID=ann"), OrganizationalUnit, SUFFIX);
        assert_eq!(typed.as_deref(), Ok("uid=ann,ou=people,dc=corp,dc=example"));
    }

    #[test]
    fn names_without_a_form_say_why() {
        let shared =
            |label: &str, untyped: &str| Err(NoForm::Shared { label: label.to_owned(), untyped: untyped.to_owned() });
        assert_eq!(form("/OU=x"), shared("OU=x", "x"));
        assert_eq!(form("/a/cn=b/c"), shared("cn=b", "b"));
        assert_eq!(form("/C=US/x"), Err(NoForm::Untyped { label: "x".to_owned() }));
        assert_eq!(form("/UID=ann/x/CN=y"), Err(NoForm::Untyped { label: "x".to_owned() }));
    }

    #[test]
    fn what_other_writers_write_is_read() {
        for (text, expected) in [
            ("CN=cms, OU=Vfs1 , ou = BVODS,DC=Corp,dc=EXAMPLE", "/BVODS/VFS1/CMS"),
            (r"cn=\43\4d\53,dc=corp,dc=example", "/CMS"),
            (r"cn=B\c3\bccher,dc=corp,dc=example", "/Bücher"),
            (r"cn=a\2cb,ou=x  ,dc=corp,dc=example", "/x/a,b"),
            (r"cn=a\=b,ou=\#c,dc=corp,dc=example", "/#c/a=b"),
            ("2.5.4.3=a,2.5.4.11=b,0.9.2342.19200300.100.1.25=corp,dc=example", "/b/a"),
            ("cn=a,cn=b,dc=corp,dc=example", "/b/a"),
            ("dc=lab,dc=corp,dc=example", "/DC=lab"),
            (" dc=corp , dc=example ", "/"),
        ] {
            assert_eq!(from_dn(text, SUFFIX), Ok(name(expected)), "{text}");
        }
        assert_eq!(from_dn("cn=a,ou=b", ""), Ok(name("/b/a")));
        assert_eq!(from_dn("", ""), Ok(Name::root()));
        assert_eq!(to_dn(&name("/b/a"), CommonName, ""), Ok("cn=a,ou=b".to_owned()));
        assert_eq!(to_dn(&Name::root(), CommonName, ""), Ok(String::new()));
    }

    #[test]
    fn what_is_not_a_form_is_refused() {
        use NameRule::*;
        let deep = format!("{}ou=x", "ou=x,".repeat(64));
        for (text, expected) in [
            ("dc=example", NotAForm::OutsideSuffix),
            ("", NotAForm::OutsideSuffix),
            ("cn=corp,dc=example", NotAForm::OutsideSuffix),
            ("cn=a,dc=corp,dc=example,c=US", NotAForm::OutsideSuffix),
            ("a", NotAForm::NoType { position: 0 }),
            ("cn=a,", NotAForm::NoType { position: 5 }),
            ("cn=a,,dc=corp,dc=example", NotAForm::NoType { position: 5 }),
            ("=a,dc=corp,dc=example", NotAForm::NoType { position: 0 }),
            ("mail=a,dc=corp,dc=example", NotAForm::UnknownType { found: "mail".to_owned() }),
            ("cn;binary=a,dc=corp,dc=example", NotAForm::UnknownType { found: "cn;binary".to_owned() }),
            ("cn= #04024869,dc=corp,dc=example", NotAForm::Ber { position: 4 }),
            ("cn=a+uid=b,dc=corp,dc=example", NotAForm::Joined { position: 4 }),
            (r"cn=a\,dc=corp,dc=example\", NotAForm::BadEscape { position: 24 }),
            (r"cn=a\4,dc=corp,dc=example", NotAForm::BadEscape { position: 4 }),
            (r"cn=a\+4\x,dc=corp,dc=example", NotAForm::BadEscape { position: 7 }),
            ("cn=\"a\",dc=corp,dc=example", NotAForm::NotEscaped { found: '"', position: 3 }),
            ("cn=a;dc=corp,dc=example", NotAForm::NotEscaped { found: ';', position: 4 }),
            ("cn=,dc=corp,dc=example", NotAForm::NotAName(EmptyLabel)),
            (r"cn=\00,dc=corp,dc=example", NotAForm::NotAName(ControlCharacter('\0'))),
            (r"cn=\ff,dc=corp,dc=example", NotAForm::NotAName(NotUtf8)),
            (r"cn=a\ ,dc=corp,dc=example", NotAForm::NotAName(TrailingSpace)),
            (r"cn=a\20,dc=corp,dc=example", NotAForm::NotAName(TrailingSpace)),
            (r"cn=\2f,dc=corp,dc=example", NotAForm::NotAName(SlashInLabel)),
            ("cn=*,dc=corp,dc=example", NotAForm::NotAName(PatternCharacter('*'))),
            ("cn=..,dc=corp,dc=example", NotAForm::NotAName(DotLabel)),
            ("cn=...,dc=corp,dc=example", NotAForm::NotAName(OutermostLabel)),
            ("ou=C=US,dc=corp,dc=example", NotAForm::OtherType { label: "C=US".to_owned() }),
            ("c=,dc=corp,dc=example", NotAForm::OtherType { label: "C=".to_owned() }),
            ("c=\u{338}x,dc=corp,dc=example", NotAForm::OtherType { label: "C=\u{338}x".to_owned() }),
        ] {
            assert_eq!(from_dn(text, SUFFIX), Err(expected), "{text}");
        }
        assert_eq!(from_dn(&deep, ""), Err(NotAForm::NotAName(TooManyLabels)));
    }
}
