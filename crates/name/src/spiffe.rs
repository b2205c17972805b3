//! The form of a name in SPIFFE: `/BVODS/VFS1/CMS` is `spiffe://corp.example/BVODS/VFS1/CMS` in the trust domain
//! `corp.example`.
//!
//! The form is the trust domain and the name as created; the root's is the trust domain alone. A name has no form if a
//! label holds anything but `A-Z`, `a-z`, `0-9`, `.`, `-` and `_`: SPIFFE knows no escapes (SPIFFE-ID section 2.2).
//!
//! Paths there are compared byte by byte and names here by key. So read an id and compare names, as everywhere; an id
//! that was given to somebody else to compare must come from [`to_id`].
//!
//! Rules and limits are those of the SPIFFE-ID standard, sections 2.1 to 2.3, the scheme and the trust domain in lower
//! case only, as the makers' own libraries read them. No name is too long: the limit of an id is 2,048 bytes.

use crate::error::{NameError, NameRule};
use crate::{MAX_NAME_BYTES, Name};

/// The most bytes a trust domain has.
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// The most bytes an id has.
pub const MAX_ID_BYTES: usize = 2_048;

const SCHEME: &str = "spiffe://";

const _: () = assert!(SCHEME.len() + MAX_TRUST_DOMAIN_BYTES + MAX_NAME_BYTES <= MAX_ID_BYTES);

/// The form of `name` in `trust_domain`.
///
/// # Errors
///
/// The reason why there is none.
pub fn to_id(name: &Name, trust_domain: &str) -> Result<String, NoForm> {
    if !is_trust_domain(trust_domain) {
        return Err(NoForm::TrustDomain { trust_domain: trust_domain.to_owned() });
    }
    for label in name.labels() {
        if let Some(character) = label.chars().find(|c| !is_kept(*c)) {
            return Err(NoForm::Character { label: label.to_owned(), character });
        }
    }
    let path = if name.is_root() { "" } else { name.as_str() };
    Ok(format!("{SCHEME}{trust_domain}{path}"))
}

/// The name whose form in `trust_domain` is `id`, spelled as there.
///
/// # Errors
///
/// `id` is not the form of any name, and why.
pub fn from_id(id: &str, trust_domain: &str) -> Result<Name, NotAForm> {
    if id.len() > MAX_ID_BYTES {
        return Err(NotAForm::TooLong { bytes: id.len() });
    }
    let rest = id.strip_prefix(SCHEME).ok_or(NotAForm::OtherScheme)?;
    let (domain, path) = rest.find('/').and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, ""));
    if !is_trust_domain(domain) {
        return Err(NotAForm::BadTrustDomain);
    }
    if domain != trust_domain {
        return Err(NotAForm::OtherTrustDomain);
    }
    if let Some(character) = path.chars().find(|c| *c != '/' && !is_kept(*c)) {
        return Err(NotAForm::Character { character });
    }
    match path {
        "" => Ok(Name::root()),
        // A path of one slash ends with it, which no id may; `/...` would be the root by another name.
        "/" => Err(NotAForm::NotAName(NameRule::TrailingSlash)),
        path if path == "/..." || path.starts_with("/.../") => Err(NotAForm::NotAName(NameRule::OutermostLabel)),
        path => Name::parse(path).map_err(|NameError { rule, .. }| NotAForm::NotAName(rule)),
    }
}

/// Whether a text may be a trust domain: 1 to 255 bytes of `a-z`, `0-9`, `.`, `-` and `_`.
pub fn is_trust_domain(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    (1..=MAX_TRUST_DOMAIN_BYTES).contains(&text.len()) && text.bytes().all(allowed)
}

fn is_kept(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

/// Why a name has no form in SPIFFE. `Display` gives a sentence for `show`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoForm {
    /// A label holds a character that SPIFFE has no way to write.
    #[error(
        "no SPIFFE id: the label `{label}` holds `{character}`; there are only letters of ASCII, digits, `.`, `-` and `_`"
    )]
    Character {
        /// The label as created.
        label: String,
        /// The first such character.
        character: char,
    },
    /// What was configured is not a trust domain.
    #[error(
        "no SPIFFE id: `{trust_domain}` is not a trust domain, which is 1 to {MAX_TRUST_DOMAIN_BYTES} of a-z, 0-9, `.`, `-` and `_`"
    )]
    TrustDomain {
        /// What was given.
        trust_domain: String,
    },
}

/// Why an id is not the form of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAForm {
    /// It is longer than any id.
    #[error("the SPIFFE id is {bytes} bytes long, more than {MAX_ID_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It does not begin with `spiffe://`.
    #[error("a SPIFFE id begins with `spiffe://`")]
    OtherScheme,
    /// The trust domain is empty, too long, or holds a port, a user or another character that it may not.
    #[error("the trust domain of the SPIFFE id is not 1 to {MAX_TRUST_DOMAIN_BYTES} of a-z, 0-9, `.`, `-` and `_`")]
    BadTrustDomain,
    /// It belongs to others.
    #[error("the SPIFFE id is of another trust domain")]
    OtherTrustDomain,
    /// The path holds a character that it may not, such as `%`, `?` or `#`.
    #[error("the path of a SPIFFE id cannot hold `{}`", .character.escape_default())]
    Character {
        /// The first such character.
        character: char,
    },
    /// The path breaks a rule of names.
    #[error("the path of the SPIFFE id is not a name: {0}")]
    NotAName(NameRule),
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "corp.example";

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    #[test]
    fn names_and_their_forms() {
        for (text, expected) in [
            ("/", "spiffe://corp.example"),
            ("/BVODS/VFS1/CMS", "spiffe://corp.example/BVODS/VFS1/CMS"),
            ("/v1.2/a_b/-/a/...", "spiffe://corp.example/v1.2/a_b/-/a/..."),
        ] {
            assert_eq!(to_id(&name(text), DOMAIN).as_deref(), Ok(expected));
            assert_eq!(from_id(expected, DOMAIN).map(|name| name.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn names_without_a_form_say_why() {
        let holds = |label: &str, character| Err(NoForm::Character { label: label.to_owned(), character });
        assert_eq!(to_id(&name("/a/b c"), DOMAIN), holds("b c", ' '));
        assert_eq!(to_id(&name("/C=US/x"), DOMAIN), holds("C=US", '='));
        assert_eq!(to_id(&name("/a/Bücher"), DOMAIN), holds("Bücher", 'ü'));
        assert_eq!(to_id(&name("/50%"), DOMAIN), holds("50%", '%'));
        let long = "a".repeat(256);
        for domain in ["", "Corp.Example", "corp.example:7600", "a b", "ü", &long] {
            let expected = NoForm::TrustDomain { trust_domain: domain.to_owned() };
            assert_eq!(to_id(&Name::root(), domain), Err(expected));
        }
    }

    #[test]
    fn the_longest_name_in_the_longest_trust_domain_has_a_form() {
        let longest = name(&format!("{}/{}", format!("/{}", "a".repeat(63)).repeat(15), "b".repeat(62)));
        let domain = "d".repeat(255);
        let id = to_id(&longest, &domain).expect("a form");
        assert_eq!(from_id(&id, &domain), Ok(longest));
    }

    #[test]
    fn what_is_not_a_form_is_refused() {
        use NameRule::*;
        let long = format!("spiffe://corp.example/{}", "a/".repeat(1_014));
        let deep = format!("spiffe://corp.example{}", "/a".repeat(65));
        for (id, expected) in [
            ("", NotAForm::OtherScheme),
            ("https://corp.example/a", NotAForm::OtherScheme),
            ("SPIFFE://corp.example/a", NotAForm::OtherScheme),
            ("spiffe:/corp.example/a", NotAForm::OtherScheme),
            ("spiffe://", NotAForm::BadTrustDomain),
            ("spiffe:///a", NotAForm::BadTrustDomain),
            ("spiffe://Corp.example/a", NotAForm::BadTrustDomain),
            ("spiffe://corp.example:7600/a", NotAForm::BadTrustDomain),
            ("spiffe://me@corp.example/a", NotAForm::BadTrustDomain),
            ("spiffe://corp.example?a", NotAForm::BadTrustDomain),
            ("spiffe://corp.example.org/a", NotAForm::OtherTrustDomain),
            ("spiffe://corp/a", NotAForm::OtherTrustDomain),
            ("spiffe://corp.example/", NotAForm::NotAName(TrailingSlash)),
            ("spiffe://corp.example/a/", NotAForm::NotAName(TrailingSlash)),
            ("spiffe://corp.example//a", NotAForm::NotAName(EmptyLabel)),
            ("spiffe://corp.example/a/../b", NotAForm::NotAName(DotLabel)),
            ("spiffe://corp.example/.../a", NotAForm::NotAName(OutermostLabel)),
            ("spiffe://corp.example/...", NotAForm::NotAName(OutermostLabel)),
            ("spiffe://corp.example/a%20b", NotAForm::Character { character: '%' }),
            ("spiffe://corp.example/a?b", NotAForm::Character { character: '?' }),
            ("spiffe://corp.example/a#b", NotAForm::Character { character: '#' }),
            ("spiffe://corp.example/ü", NotAForm::Character { character: 'ü' }),
            (&long, NotAForm::TooLong { bytes: 2_050 }),
            (&deep, NotAForm::NotAName(TooManyLabels)),
        ] {
            assert_eq!(from_id(id, DOMAIN), Err(expected), "{id}");
        }
    }
}
