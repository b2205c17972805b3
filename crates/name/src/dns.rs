//! The form of a name in the DNS: `/BVODS/VFS1/CMS` is `cms.vfs1.bvods.corp.example` under the suffix
//! `corp.example`.
//!
//! Labels are reversed, folded and, where they are not ASCII, written in punycode (IDNA, UTS-46
//! non-transitional). Equal names have the same form, and reading a form gives a name equal to the one it was
//! made of. A name has no form if a label
//!
//! - holds `.`, which separates labels there,
//! - begins with `_`, which is kept for service labels such as `_tcp`,
//! - changes under UTS-46 beyond case (full-width letters, `İ`, a literal `xn--…`), because two names would
//!   then share a form, or is not valid there (it begins with a combining mark, say),
//! - is longer than 63 bytes in punycode, or if the whole is longer than 253 bytes.
//!
//! Every other character stands for itself, spaces included: the texts here are not in the escaped form of
//! zone files. The suffix is ASCII, without a dot at either end; it may be empty.

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use crate::error::{NameError, NameRule};
use crate::label::MAX_LABEL_BYTES;
use crate::{Name, fold};

/// The most bytes a DNS name has in text, without the dot at the end.
pub const MAX_DNS_NAME_BYTES: usize = 253;

/// The most bytes a DNS label has.
pub const MAX_DNS_LABEL_BYTES: usize = 63;

const PUNYCODE: &str = "xn--";

/// The form of `name` under `suffix`, in lower case, without a dot at the end. The root's is the suffix.
///
/// # Errors
///
/// The reason why there is none.
pub fn to_dns(name: &Name, suffix: &str) -> Result<String, NoForm> {
    let mut form = String::new();
    for label in name.labels().rev() {
        form.push_str(&to_label(label)?);
        form.push('.');
    }
    form.push_str(&suffix.to_ascii_lowercase());
    if suffix.is_empty() {
        form.pop();
    }
    if form.len() > MAX_DNS_NAME_BYTES {
        return Err(NoForm::TooLong { bytes: form.len() });
    }
    Ok(form)
}

/// The name whose form under `suffix` is `text`; case and a dot at the end do not matter.
///
/// The name is spelled as in the text, so it equals the name that was created but may differ from it in case.
///
/// # Errors
///
/// `text` is not the form of any name, and why.
pub fn from_dns(text: &str, suffix: &str) -> Result<Name, NotAForm> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let labels = strip_suffix(text, suffix).ok_or(NotAForm::OutsideSuffix)?;
    if labels.is_empty() {
        return Ok(Name::root());
    }
    let mut path = String::with_capacity(labels.len() + 1);
    for label in labels.rsplit('.') {
        if label.contains('/') {
            return Err(NotAForm::NotAName(NameRule::SlashInLabel));
        }
        path.push('/');
        if has_punycode_prefix(label) {
            path.push_str(&from_punycode(label)?);
        } else {
            path.push_str(label);
        }
    }
    let name = Name::parse(&path).map_err(|NameError { rule, .. }| NotAForm::NotAName(rule))?;
    to_dns(&name, suffix)?;
    Ok(name)
}

/// Why a name has no form in the DNS. `Display` gives a sentence for `show`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoForm {
    /// A label holds a dot.
    #[error("no DNS name: the label `{label}` holds a dot, which separates labels there")]
    Dot {
        /// The label as created.
        label: String,
    },
    /// A label begins with an underscore.
    #[error("no DNS name: the label `{label}` begins with `_`, which the DNS keeps for service labels")]
    Underscore {
        /// The label as created.
        label: String,
    },
    /// UTS-46 refuses a label or makes another one of it.
    #[error("no DNS name: international domain names (UTS-46) cannot hold the label `{label}` as it is")]
    Changes {
        /// The label as created.
        label: String,
    },
    /// A label is too long in punycode.
    #[error("no DNS name: the label `{label}` is {bytes} bytes long in punycode, more than {MAX_DNS_LABEL_BYTES}")]
    LabelTooLong {
        /// The label as created.
        label: String,
        /// Its length in punycode.
        bytes: usize,
    },
    /// The whole is too long.
    #[error("no DNS name: with its suffix it is {bytes} bytes long, more than {MAX_DNS_NAME_BYTES}")]
    TooLong {
        /// Its length in the DNS.
        bytes: usize,
    },
}

/// Why a DNS name is not the form of a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAForm {
    /// It does not end in the suffix.
    #[error("the DNS name is outside the suffix")]
    OutsideSuffix,
    /// A label begins with `xn--` and is not valid punycode.
    #[error("`{0}` is not valid punycode")]
    Punycode(String),
    /// The labels break a rule of names.
    #[error("the DNS name is not a name: {0}")]
    NotAName(NameRule),
    /// The labels make a name, but one without a form in the DNS.
    #[error(transparent)]
    NoForm(#[from] NoForm),
}

fn to_label(label: &str) -> Result<String, NoForm> {
    let own = || label.to_owned();
    let mut folded = String::with_capacity(label.len());
    fold::push_folded(label, &mut folded);
    if folded.contains('.') {
        return Err(NoForm::Dot { label: own() });
    }
    if folded.starts_with('_') {
        return Err(NoForm::Underscore { label: own() });
    }
    if has_punycode_prefix(&folded) {
        return Err(NoForm::Changes { label: own() });
    }
    if folded.is_ascii() {
        return Ok(folded);
    }
    // `Ⱥ` takes two bytes and its small form three: what is read back would be no label.
    if folded.len() > MAX_LABEL_BYTES {
        return Err(NoForm::Changes { label: own() });
    }
    match uts46_unicode(&folded) {
        Some(mapped) if mapped == folded => {}
        _ => return Err(NoForm::Changes { label: own() }),
    }
    let ascii = Uts46::new()
        .to_ascii(folded.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore)
        .map_err(|_| NoForm::Changes { label: own() })?;
    if ascii.len() > MAX_DNS_LABEL_BYTES {
        return Err(NoForm::LabelTooLong { label: own(), bytes: ascii.len() });
    }
    Ok(ascii.into_owned())
}

fn from_punycode(label: &str) -> Result<String, NotAForm> {
    match uts46_unicode(label) {
        Some(decoded) if !decoded.is_ascii() => Ok(decoded),
        _ => Err(NotAForm::Punycode(label.to_owned())),
    }
}

fn uts46_unicode(label: &str) -> Option<String> {
    let (text, valid) = Uts46::new().to_unicode(label.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow);
    valid.ok().map(|()| text.into_owned())
}

fn has_punycode_prefix(label: &str) -> bool {
    label.get(..PUNYCODE.len()).is_some_and(|start| start.eq_ignore_ascii_case(PUNYCODE))
}

/// What stands in front of the suffix, without the dot between; empty for the suffix itself.
fn strip_suffix<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    if suffix.is_empty() {
        return Some(text);
    }
    let at = text.len().checked_sub(suffix.len())?;
    if !text.get(at..)?.eq_ignore_ascii_case(suffix) {
        return None;
    }
    match text.get(..at)? {
        "" => Some(""),
        front => front.strip_suffix('.').filter(|labels| !labels.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUFFIX: &str = "corp.example";

    fn form(name: &str) -> Result<String, NoForm> {
        to_dns(&Name::parse(name).expect("a name"), SUFFIX)
    }

    #[test]
    fn names_and_their_forms() {
        for (name, expected) in [
            ("/", "corp.example"),
            ("/BVODS/VFS1/CMS", "cms.vfs1.bvods.corp.example"),
            ("/a b/c", "c.a b.corp.example"),
            ("/Bücher", "xn--bcher-kva.corp.example"),
            ("/straße", "xn--strae-oqa.corp.example"),
            ("/STRAẞE", "xn--strae-oqa.corp.example"),
            ("/ΣΊΣΥΦΟΣ", "xn--kxa6akbbkh.corp.example"),
            ("/σίσυφος", "xn--kxa6akbbkh.corp.example"),
            ("/ſ", "s.corp.example"),
            ("/a--b", "a--b.corp.example"),
            ("/-a-", "-a-.corp.example"),
            ("/Ꭰ", "xn--58d.corp.example"),
        ] {
            let form = form(name);
            assert_eq!(form.as_deref(), Ok(expected), "{name}");
            let back = from_dns(expected, SUFFIX).expect("a name");
            assert_eq!(back, Name::parse(name).expect("a name"));
        }
    }

    #[test]
    fn a_label_that_grows_too_long_when_it_is_folded_has_no_form() {
        let name = Name::parse(&format!("/{}{}", "n".repeat(59), "ȺȺ")).unwrap();
        assert!(matches!(to_dns(&name, ""), Err(NoForm::Changes { .. })));
        assert!(form(&format!("/{}{}", "n".repeat(40), "ȺȺ")).is_ok());
    }

    #[test]
    fn names_without_a_form_say_why() {
        let label = |label: &str| label.to_owned();
        let deep = "/0123456789".repeat(30);
        // 21 ideographs far apart: 63 bytes here, 67 there.
        let wide: String = (0..21).filter_map(|n| char::from_u32(0x4e00 + n * 977)).collect();
        for (name, expected) in [
            ("/a/v1.2/b", NoForm::Dot { label: label("v1.2") }),
            ("/a/_tcp", NoForm::Underscore { label: label("_tcp") }),
            ("/XN--bcher-kva", NoForm::Changes { label: label("XN--bcher-kva") }),
            ("/xn--", NoForm::Changes { label: label("xn--") }),
            ("/\u{ff21}", NoForm::Changes { label: label("\u{ff21}") }),
            ("/İ", NoForm::Changes { label: label("İ") }),
            ("/a\u{ad}b", NoForm::Changes { label: label("a\u{ad}b") }),
            ("/a\u{3002}b", NoForm::Changes { label: label("a\u{3002}b") }),
            ("/\u{301}a", NoForm::Changes { label: label("\u{301}a") }),
            (&deep, NoForm::TooLong { bytes: 342 }),
        ] {
            assert_eq!(form(name), Err(expected), "{name}");
        }
        assert_eq!(form(&format!("/{wide}")), Err(NoForm::LabelTooLong { label: wide, bytes: 67 }));
    }

    #[test]
    fn the_whole_may_have_253_bytes() {
        let label = "a".repeat(61);
        let name = format!("/{label}/{label}/{label}/{}", "b".repeat(54));
        assert_eq!(form(&name).map(|form| form.len()), Ok(253));
        assert_eq!(form(&format!("{name}b")), Err(NoForm::TooLong { bytes: 254 }));
    }

    #[test]
    fn questions_are_read_whatever_their_case_and_last_dot() {
        for text in ["CMS.vfs1.BVODS.Corp.Example.", "cms.vfs1.bvods.corp.example"] {
            assert_eq!(from_dns(text, SUFFIX), Ok(Name::parse("/bvods/vfs1/cms").expect("a name")));
        }
        assert_eq!(from_dns("XN--BCHER-KVA.corp.example", SUFFIX), Ok(Name::parse("/bücher").expect("a name")));
        assert_eq!(from_dns("corp.example", SUFFIX), Ok(Name::root()));
        assert_eq!(from_dns("b.a.", ""), Ok(Name::parse("/a/b").expect("a name")));
        assert_eq!(from_dns(".", ""), Ok(Name::root()));
        assert_eq!(to_dns(&Name::parse("/a/b").expect("a name"), ""), Ok("b.a".to_owned()));
        assert_eq!(to_dns(&Name::root(), ""), Ok(String::new()));
    }

    #[test]
    fn what_is_not_a_form_is_refused() {
        for (text, expected) in [
            ("example", NotAForm::OutsideSuffix),
            ("acorp.example", NotAForm::OutsideSuffix),
            (".corp.example", NotAForm::OutsideSuffix),
            ("corp.example.org", NotAForm::OutsideSuffix),
            ("a..corp.example", NotAForm::NotAName(NameRule::EmptyLabel)),
            ("a/b.corp.example", NotAForm::NotAName(NameRule::SlashInLabel)),
            ("*.corp.example", NotAForm::NotAName(NameRule::PatternCharacter('*'))),
            ("_tcp.corp.example", NotAForm::NoForm(NoForm::Underscore { label: "_tcp".to_owned() })),
            ("xn--0.corp.example", NotAForm::Punycode("xn--0".to_owned())),
            ("xn--abc-.corp.example", NotAForm::Punycode("xn--abc-".to_owned())),
        ] {
            assert_eq!(from_dns(text, SUFFIX), Err(expected), "{text}");
        }
    }
}
