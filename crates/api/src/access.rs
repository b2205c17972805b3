//! Access control lists: who may do what with an object and what is beneath it (DESIGN section 6).
//!
//! Whether a caller may do something is decided by the nearest object, from the one asked for up to the root, whose
//! list says something about this caller and this right. Within one list an entry that names the caller goes before one
//! that names a group, and that before `authenticated` and `anyone`; among equals a refusal goes before a grant. Whoever
//! has the right `admin` has every right. The owner of an object has every right to it and to what is beneath it, unless
//! a list nearer to what is asked for refuses the owner by name. When no list says anything, authenticated callers may
//! find, list and read, and members of `/byname/admins` may do everything.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use byname_name::Name;

use crate::caller::Right;
use crate::error::{Error, Result};
use crate::object::ObjectId;

/// The group whose members may do everything.
pub const ADMINS: &str = "/byname/admins";
/// The most entries of one list.
pub const MAX_ENTRIES: usize = 256;

/// One line of an access control list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AclEntry {
    /// Whom it is about.
    pub who: Subject,
    /// The immutable id of the principal or group that `who` named when the entry was made. Set by the server: a name
    /// that is used again inherits nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ObjectId>,
    /// Which rights.
    pub rights: Rights,
    /// Whether it grants them or refuses them.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub allow: bool,
    /// Only what an authority off line has signed counts: the group's members, or the principal, as certified.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub certified: bool,
}

fn yes() -> bool {
    true
}

fn is_true(allow: &bool) -> bool {
    *allow
}

impl AclEntry {
    /// An entry that grants.
    pub fn allow(who: Subject, rights: impl Into<Rights>) -> Self {
        AclEntry { who, id: None, rights: rights.into(), allow: true, certified: false }
    }

    /// Whether two entries say the same, whatever the ids that the server has noted.
    pub fn says_the_same(&self, other: &AclEntry) -> bool {
        AclEntry { id: None, ..self.clone() } == AclEntry { id: None, ..other.clone() }
    }
}

/// Whom an entry, an owner or `start_by` is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// Everybody, also those who have not said who they are: `anyone`.
    Anyone,
    /// Everybody who has proved who it is: `authenticated`.
    Authenticated,
    /// A local user of the server's host: `uid:1000`.
    User(u32),
    /// A principal, a service, a computer or a group, by name.
    Named(Name),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Anyone => f.write_str("anyone"),
            Subject::Authenticated => f.write_str("authenticated"),
            Subject::User(uid) => write!(f, "uid:{uid}"),
            Subject::Named(name) => f.write_str(name.as_str()),
        }
    }
}

impl FromStr for Subject {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "anyone" => return Ok(Subject::Anyone),
            "authenticated" => return Ok(Subject::Authenticated),
            _ => {}
        }
        if let Some(uid) = text.strip_prefix("uid:") {
            let uid = uid.parse().map_err(|_| Error::invalid("who", "a local user is `uid:` and a number"))?;
            return Ok(Subject::User(uid));
        }
        if !text.starts_with('/') {
            return Err(Error::invalid(
                "who",
                format!(
                    "`{}` is nobody: write the name of a principal, service, computer or group (`/people/liu`), \
                     `authenticated`, `anyone` or `uid:NUMBER`",
                    text.chars().take(80).collect::<String>().escape_debug()
                ),
            ));
        }
        Name::parse(text).map(Subject::Named).map_err(|e| Error::from(e).field("who"))
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        <std::borrow::Cow<'_, str>>::deserialize(d)?.parse().map_err(|e: Error| de::Error::custom(e.message()))
    }
}

/// A set of rights. Written as a list of words; `all` stands for every right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rights(u16);

impl Rights {
    /// Every right.
    pub const ALL: Rights = Rights((1 << Right::ALL.len()) - 1);

    /// Whether this right is among them.
    pub const fn has(self, right: Right) -> bool {
        self.0 & (1 << right as u16) != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }

    /// These without those.
    #[must_use]
    pub const fn without(self, other: Rights) -> Rights {
        Rights(self.0 & !other.0)
    }

    /// Each of them, in the order of [`Right::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.has(*right))
    }

    /// Reads a list of words.
    ///
    /// # Errors
    ///
    /// `invalid-argument` for a word that is no right.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Rights> {
        let mut rights = Rights::default();
        for word in words {
            rights = rights.and(match word {
                "all" => Rights::ALL,
                _ => word.parse::<Right>()?.into(),
            });
        }
        Ok(rights)
    }
}

impl From<Right> for Rights {
    fn from(right: Right) -> Self {
        Rights(1 << right as u16)
    }
}

impl<const N: usize> From<[Right; N]> for Rights {
    fn from(rights: [Right; N]) -> Self {
        rights.into_iter().fold(Rights::default(), |all, right| all.and(right.into()))
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Rights::ALL {
            return f.write_str("all");
        }
        let words: Vec<String> = self.iter().map(|right| right.to_string()).collect();
        f.write_str(&words.join(","))
    }
}

impl Serialize for Rights {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        if *self == Rights::ALL {
            return s.collect_seq(["all"]);
        }
        s.collect_seq(self.iter().map(|right| right.to_string()))
    }
}

impl<'de> Deserialize<'de> for Rights {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Many(Vec<String>),
            One(String),
        }
        let parsed = match Either::deserialize(d)? {
            Either::Many(words) => Rights::parse(words.iter().map(String::as_str)),
            Either::One(words) => Rights::parse(words.split([',', ' ']).filter(|w| !w.is_empty())),
        };
        parsed.map_err(|e| de::Error::custom(e.message()))
    }
}

/// Who may do what with a name, and why: the request behind `acl show` and `acl explain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessRequest {
    /// The name. It need not exist: what would be made there inherits.
    pub name: Name,
    /// Who would ask; the caller when unsaid. Asking about others needs the right `admin` to the name.
    #[serde(default)]
    pub who: Option<Subject>,
    /// Which right; all of them when unsaid.
    #[serde(default)]
    pub right: Option<Right>,
}

/// The answer to [`AccessRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessReply {
    /// The name that the question was about, aliases followed.
    pub name: Name,
    /// About whom.
    pub who: Subject,
    /// One decision a right.
    pub decisions: Vec<Decision>,
    /// The lists that were looked at, the nearest first: of the object and of those above it.
    pub lists: Vec<Listed>,
}

/// One object's list on the way to the root.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    /// The object.
    pub name: Name,
    /// Its owner.
    pub owner: String,
    /// Its own entries, in order.
    pub acl: Vec<AclEntry>,
}

/// Whether somebody has a right, and what decides it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The right.
    pub right: Right,
    /// Yes or no.
    pub allowed: bool,
    /// The object whose list or owner decides; none when the default does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Name>,
    /// The entry that decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<AclEntry>,
    /// Through which groups the entry is about the caller, the outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub through: Vec<Name>,
    /// The reason in a sentence.
    pub because: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_in_every_form_people_write() {
        let read = |text: &str| toml::from_str::<AclEntry>(text);
        let full = read("who = '/people/liu'\nrights = ['find', 'read']").unwrap();
        assert_eq!(full.who, Subject::Named(Name::parse("/people/liu").unwrap()));
        assert_eq!((full.rights.to_string().as_str(), full.allow), ("find,read", true));
        assert_eq!(read("who = 'anyone'\nrights = 'all'").unwrap().rights, Rights::ALL);
        assert_eq!(read("who = 'uid:7'\nrights = 'add, delete'").unwrap().rights.to_string(), "add,delete");
        for bad in [
            "who = 'liu'\nrights = 'read'",
            "who = 'uid:x'\nrights = 'read'",
            "who = 'anyone'\nrights = 'fly'",
            "who = 'anyone'",
            "who = 'anyone'\nrights = 'read'\nmore = 1",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rights_are_a_set() {
        let some = Rights::from([Right::Find, Right::Admin]);
        assert!(some.has(Right::Find) && some.has(Right::Admin) && !some.has(Right::List));
        assert_eq!(some.without(Right::Find.into()), Right::Admin.into());
        assert_eq!(Rights::ALL.iter().count(), Right::ALL.len());
        let json = serde_json::to_string(&Rights::ALL).unwrap();
        assert_eq!((json.as_str(), serde_json::from_str::<Rights>(&json).unwrap()), (r#"["all"]"#, Rights::ALL));
    }
}
