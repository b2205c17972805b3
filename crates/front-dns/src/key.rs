//! Keys of the zone image: names as labels in small letters, relative to the zone, short ones in place.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, Hasher};

const INLINE: usize = 38;

/// The labels of a name in front of the zone's own, in small letters; empty for the zone's.
#[derive(Clone)]
pub(crate) struct Key(Form);

#[derive(Clone)]
enum Form {
    Short(u8, [u8; INLINE]),
    Long(Box<[u8]>),
}

impl Key {
    /// The key of these labels.
    pub(crate) fn new(labels: &[u8]) -> Key {
        let mut bytes = [0; INLINE];
        match bytes.get_mut(..labels.len()) {
            Some(place) => {
                place.copy_from_slice(labels);
                Key(Form::Short(labels.len() as u8, bytes))
            }
            None => Key(Form::Long(labels.into())),
        }
    }

    /// The labels.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Form::Short(len, bytes) => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Form::Long(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.as_bytes().escape_ascii().to_string())
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

/// What is above: the labels without the first; `None` above the zone.
pub(crate) fn above(labels: &[u8]) -> Option<&[u8]> {
    let size = usize::from(*labels.first()?);
    labels.get(size + 1..)
}

/// A hash of short keys: folded multiplications of 8 bytes at a time, from a seed that is chosen at random. What is kept
/// in the map is chosen by those who may write to the tree; whoever asks adds nothing to it.
#[derive(Clone)]
pub(crate) struct Seed(u64);

impl Default for Seed {
    fn default() -> Self {
        Seed(rand::random())
    }
}

impl BuildHasher for Seed {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded(self.0)
    }
}

/// A hash that is being made.
pub(crate) struct Folded(u64);

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide as u64) ^ ((wide >> 64) as u64)
}

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        fold(self.0 ^ 0xa076_1d64_78bd_642f, FACTOR)
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let word = chunk.try_into().map_or(0, u64::from_le_bytes);
            self.0 = fold(self.0 ^ word, FACTOR);
        }
        let mut last = [0; 8];
        for (place, byte) in last.iter_mut().zip(chunks.remainder()) {
            *place = *byte;
        }
        self.0 = fold(self.0 ^ u64::from_le_bytes(last), 0xe703_7ed1_a0b4_28db);
    }

    fn write_usize(&mut self, length: usize) {
        self.0 ^= (length as u64).rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_bytes_however_it_is_kept() {
        let seed = Seed::default();
        for length in [0, 1, INLINE - 1, INLINE, INLINE + 1, 250] {
            let labels = vec![7; length];
            let key = Key::new(&labels);
            assert_eq!(key.as_bytes(), labels);
            assert_eq!(seed.hash_one(&key), seed.hash_one(labels.as_slice()));
        }
        assert_ne!(Key::new(&[1]), Key::new(&[1, 0]));
        assert_eq!(above(b"\x01a\x02bc"), Some(&b"\x02bc"[..]));
        assert_eq!((above(b"\x02bc"), above(b"")), (Some(&b""[..]), None));
    }
}
