//! What a client's part of the tree should be: the rules of changes, as plainly as they can be said.

use std::collections::BTreeMap;

use byname_api::error::Code;
use byname_api::object::Version;
use byname_api::request::{Op, OpResult, Outcome};

/// An object as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) name: String,
    /// A record's; `None` for a directory.
    pub(crate) value: Option<String>,
    pub(crate) version: u64,
    pub(crate) id: u64,
}

/// The objects of one client, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    objects: BTreeMap<String, Known>,
}

#[derive(Clone, Debug)]
struct Known {
    value: Option<String>,
    /// `None`: that of the change whose revision is not known yet.
    version: Option<u64>,
    /// `None` until it was read.
    id: Option<u64>,
}

impl Model {
    /// The version of an object that is there.
    pub(crate) fn version(&self, name: &str) -> Option<u64> {
        self.objects.get(name)?.version
    }

    /// Makes changes, all or none, and says what came of each or why none was made.
    pub(crate) fn apply(&mut self, ops: &[Op]) -> Result<Vec<Outcome>, Code> {
        let mut next = self.clone();
        let outcomes = ops.iter().map(|op| next.apply_one(op)).collect::<Result<_, _>>()?;
        *self = next;
        Ok(outcomes)
    }

    fn apply_one(&mut self, op: &Op) -> Result<Outcome, Code> {
        let name = op.name().as_str();
        let known = self.objects.get(name).cloned();
        let fits = |if_version: &Option<Version>, known: &Known| match if_version {
            Some(version) if known.version != Some(version.0) => Err(Code::Conflict),
            _ => Ok(()),
        };
        match op {
            Op::Add { spec, .. } if known.is_none() => Ok(self.create(name, spec.value.clone())),
            Op::Add { .. } => Err(Code::AlreadyExists),
            Op::Put { spec, if_version, .. } => match known {
                None if if_version.is_some() => Err(Code::NotFound),
                None => Ok(self.create(name, spec.value.clone())),
                Some(known) => {
                    fits(if_version, &known)?;
                    // A directory cannot become a record.
                    known.value.as_ref().ok_or(Code::Conflict)?;
                    Ok(self.set(name, spec.value.clone()))
                }
            },
            Op::Modify { spec, if_version, .. } => {
                let known = known.ok_or(Code::NotFound)?;
                fits(if_version, &known)?;
                // A directory has no value.
                known.value.as_ref().ok_or(Code::InvalidArgument)?;
                Ok(self.set(name, spec.value.clone()))
            }
            Op::Delete { recursive, if_version, .. } => {
                fits(if_version, &known.ok_or(Code::NotFound)?)?;
                let beneath = format!("{name}/");
                if !recursive && self.objects.keys().any(|other| other.starts_with(&beneath)) {
                    return Err(Code::Conflict);
                }
                self.objects.retain(|other, _| other != name && !other.starts_with(&beneath));
                Ok(Outcome::Deleted)
            }
            Op::Check { exists, .. } if exists.is_none_or(|exists| exists == known.is_some()) => Ok(Outcome::Checked),
            Op::Check { .. } => Err(Code::Conflict),
            Op::Declare { .. } => panic!("clients do not declare"),
        }
    }

    fn create(&mut self, name: &str, value: Option<String>) -> Outcome {
        let new = |value| Known { value, version: None, id: None };
        // Missing parents become directories. The client's own is not looked at.
        for (at, _) in name.match_indices('/').skip(2) {
            self.objects.entry(name[..at].to_owned()).or_insert_with(|| new(None));
        }
        self.objects.insert(name.to_owned(), new(value));
        Outcome::Created
    }

    fn set(&mut self, name: &str, value: Option<String>) -> Outcome {
        let Some(known) = self.objects.get_mut(name) else { panic!("{name} is there") };
        if known.value == value {
            return Outcome::Unchanged;
        }
        known.value = value;
        known.version = None;
        Outcome::Changed
    }

    /// Gives what has just changed the revision of its change.
    pub(crate) fn date(&mut self, revision: u64) {
        self.objects.values_mut().for_each(|known| {
            known.version.get_or_insert(revision);
        });
    }

    /// Whether what was found is this.
    pub(crate) fn fits(&self, found: &[Object]) -> bool {
        found.len() == self.objects.len()
            && found.iter().all(|object| {
                self.objects.get(&object.name).is_some_and(|known| {
                    known.value == object.value
                        && known.version.is_none_or(|version| version == object.version)
                        && known.id.is_none_or(|id| id == object.id)
                })
            })
    }

    /// Takes the versions and ids over from what was found and fits.
    pub(crate) fn learn(&mut self, found: &[Object]) {
        for object in found {
            if let Some(known) = self.objects.get_mut(&object.name) {
                known.version = Some(object.version);
                known.id = Some(object.id);
            }
        }
    }

    /// The highest version and the highest id that are known.
    pub(crate) fn highest(&self) -> (Option<u64>, Option<u64>) {
        let versions = self.objects.values().filter_map(|known| known.version);
        let ids = self.objects.values().filter_map(|known| known.id);
        (versions.max(), ids.max())
    }

    /// Whether all that differs from `before` has a version above `highest`, and what is new an id above it.
    pub(crate) fn fresh_since(&self, before: &Model, highest: (Option<u64>, Option<u64>)) -> bool {
        self.objects.iter().all(|(name, known)| match before.objects.get(name) {
            Some(old) if old.version == known.version => true,
            Some(old) if old.id.is_none() || old.id == known.id => known.version > highest.0,
            _ => known.version > highest.0 && known.id > highest.1,
        })
    }

    /// Whether the results name the versions that are known. One object may have been changed and then removed.
    pub(crate) fn holds(&self, results: &[OpResult]) -> bool {
        results.iter().all(|result| {
            let known = self.objects.get(result.name.as_str()).and_then(|known| known.version);
            let made = matches!(result.outcome, Outcome::Created | Outcome::Changed);
            !made || known.is_none_or(|version| version == result.version.0)
        })
    }
}
