//! Format 1: before apply sets. Read only, and turned into format 2. What is not here is as in format 2.

use serde::{Deserialize, Serialize};

use super::v2;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub at: u64,
    pub by: String,
    pub request: Option<(u128, u64)>,
    pub ops: Vec<v2::Op>,
}

impl From<Entry> for v2::Entry {
    fn from(old: Entry) -> Self {
        let command = v2::Command::Batch { ops: old.ops, set: None };
        v2::Entry { at: old.at, by: old.by, request: old.request, command }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Object {
    pub id: u64,
    pub name: String,
    pub version: u64,
    pub spec: v2::Json,
    pub created: (u64, String),
    pub modified: (u64, String),
    pub service: Option<v2::Service>,
    pub unregistered: bool,
}

impl From<Object> for v2::Object {
    fn from(old: Object) -> Self {
        v2::Object {
            id: old.id,
            name: old.name,
            version: old.version,
            spec: old.spec,
            set: None,
            created: old.created,
            modified: old.modified,
            service: old.service,
            unregistered: old.unregistered,
        }
    }
}

#[cfg(test)]
mod tests {
    //! How the fixtures of `tests/fixtures` were made, with the structures of format 1. They are checked in and never
    //! made again: what was written once must be read for ever.

    use super::*;

    fn object(id: u64, name: &str, spec: &str) -> Object {
        let stamp = (1_000, "liu".to_owned());
        let spec = v2::Json(spec.as_bytes().to_vec());
        let (created, modified) = (stamp.clone(), stamp);
        Object { id, name: name.into(), version: id, spec, created, modified, service: None, unregistered: false }
    }

    #[test]
    fn the_fixture_is_what_format_1_wrote() {
        let directory = r#"{"kind":"directory","owner":"liu"}"#;
        let objects = [
            object(0, "/", directory),
            object(1, "/BVODS", directory),
            object(2, "/BVODS/QS", r#"{"kind":"record","owner":"liu","value":"x"}"#),
            object(3, "/CMS", directory),
            object(4, "/CMS/Host1", r#"{"kind":"record","owner":"liu","value":"y"}"#),
            object(5, "/CMS/current", r#"{"kind":"alias","owner":"liu","target":"/CMS/Host1"}"#),
            object(6, "/note", r#"{"kind":"record","owner":"liu","value":"seven"}"#),
        ];
        let mut bytes = b"byname-snapshot\x01".to_vec();
        let mut put = |record: Vec<u8>| {
            bytes.extend((record.len() as u32).to_le_bytes());
            bytes.extend(record);
        };
        // revision, logged time, next id, objects, replies, floors, used keys
        put(postcard::to_stdvec(&(6u64, 1_000u64, 7u64, 7u64, 0u64, 0u64, 0u64)).unwrap());
        for object in &objects {
            put(postcard::to_stdvec(object).unwrap());
        }
        let op = v2::Op::Add { name: "/note".into(), spec: v2::Json(br#"{"kind":"record","value":"seven"}"#.to_vec()) };
        let entry = Entry { at: 1_000, by: "liu".into(), request: Some((5, 1)), ops: vec![op] };
        let command = postcard::to_extend(&entry, vec![1]).unwrap();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
        assert_eq!(std::fs::read(format!("{folder}/snapshot-v1")).unwrap(), bytes);
        assert_eq!(std::fs::read(format!("{folder}/command-v1")).unwrap(), command);
    }
}
