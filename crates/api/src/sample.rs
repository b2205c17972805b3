//! What a primary tells its backups of copies and hosts beyond the log, as JSON, so that fields may be added.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// One word of the primary.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Word {
    /// Copies of which something is known.
    pub instances: Vec<OfInstance>,
    /// Hosts that were heard.
    pub hosts: Vec<OfHost>,
}

/// What is known of a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OfInstance {
    /// Which.
    pub id: u64,
    /// The load it reports.
    pub load: Option<f64>,
    /// Its connections, as its agent saw them.
    pub connections: Option<u32>,
    /// How long its last probe took, in microseconds.
    pub latency_us: Option<u64>,
    /// When it was last heard of, by the primary's wall clock, in milliseconds.
    pub seen: Option<u64>,
}

/// What is known of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OfHost {
    /// Its name.
    pub name: String,
    /// Its load average.
    pub load: Option<f64>,
    /// Free memory, in bytes.
    pub memory_free: Option<u64>,
    /// When it was last heard, by the primary's wall clock, in milliseconds.
    pub seen: Option<u64>,
}

impl Word {
    /// As it travels.
    pub fn encode(&self) -> Vec<u8> {
        // Plain data: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// `invalid-argument` for what is none.
    pub fn decode(bytes: &[u8]) -> Result<Word> {
        serde_json::from_slice(bytes).map_err(|error| Error::invalid("word", error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_travels_and_one_with_more_in_it_is_understood() {
        let of = OfInstance { id: u64::MAX, load: Some(0.5), connections: Some(3), ..OfInstance::default() };
        let host = OfHost { name: "/computers/mojave".into(), load: Some(1.5), ..OfHost::default() };
        let word = Word { instances: vec![of], hosts: vec![host] };
        assert_eq!(Word::decode(&word.encode()).unwrap(), word);
        let newer = br#"{"instances": [{"id": 7, "colour": "red"}], "zones": []}"#;
        assert_eq!(Word::decode(newer).unwrap().instances[0].id, 7);
        assert!(Word::decode(b"[").is_err());
    }
}
