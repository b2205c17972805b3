//! Signatures of messages with a shared secret (RFC 8945, TSIG): who asks for a transfer.
//!
//! A key is configured with its name, and with what it may do. Its secret comes from a file and is shown nowhere.

use std::fmt;
use std::sync::Arc;

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use sha2::{Sha256, Sha384, Sha512};

use crate::wire::{self, Asked, HEADER, rtype, u16_at};

/// How far clocks may be apart, in seconds (RFC 8945 section 10: "a recommended value").
const FUDGE: u16 = 300;
/// The class of the record (RFC 8945 section 4.2).
const CLASS_ANY: u16 = 255;

/// How messages are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// `hmac-sha256`.
    #[default]
    Sha256,
    /// `hmac-sha384`.
    Sha384,
    /// `hmac-sha512`.
    Sha512,
}

impl Algorithm {
    /// The one of this name.
    pub fn named(name: &str) -> Option<Algorithm> {
        [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512].into_iter().find(|a| a.name() == name)
    }

    /// Its name in the DNS.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "hmac-sha256",
            Algorithm::Sha384 => "hmac-sha384",
            Algorithm::Sha512 => "hmac-sha512",
        }
    }

    fn wire(self) -> Vec<u8> {
        wire::wire_of(self.name()).unwrap_or_default()
    }

    /// The bytes of a whole signature.
    fn length(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha384 => 48,
            Algorithm::Sha512 => 64,
        }
    }
}

fn mac_of<M: Mac + KeyInit>(secret: &[u8], data: &[u8]) -> Vec<u8> {
    // A secret of any length is taken.
    let mac = <M as Mac>::new_from_slice(secret).map(|mac| mac.chain_update(data).finalize().into_bytes().to_vec());
    mac.unwrap_or_default()
}

/// Takes as long wherever they differ.
fn is_mac_of<M: Mac + KeyInit>(secret: &[u8], data: &[u8], mac: &[u8]) -> bool {
    <M as Mac>::new_from_slice(secret).is_ok_and(|own| own.chain_update(data).verify_truncated_left(mac).is_ok())
}

/// A key that others sign with.
#[derive(Clone)]
pub struct Key {
    name: Vec<u8>,
    algorithm: Algorithm,
    secret: Vec<u8>,
    transfer: bool,
}

impl Key {
    /// A key of this name and secret; `transfer` lets whoever has it take the whole zone. `None` if that is no name in the
    /// DNS, or the secret is shorter than 16 bytes.
    pub fn new(name: &str, algorithm: Algorithm, secret: &[u8], transfer: bool) -> Option<Key> {
        let name = wire::wire_of(name).filter(|name| name.len() > 1)?;
        (secret.len() >= 16).then(|| Key { name, algorithm, secret: secret.to_vec(), transfer })
    }

    fn mac(&self, data: &[u8]) -> Vec<u8> {
        match self.algorithm {
            Algorithm::Sha256 => mac_of::<Hmac<Sha256>>(&self.secret, data),
            Algorithm::Sha384 => mac_of::<Hmac<Sha384>>(&self.secret, data),
            Algorithm::Sha512 => mac_of::<Hmac<Sha512>>(&self.secret, data),
        }
    }

    /// Whether these bytes are what a signature of this begins with.
    fn is_mac(&self, data: &[u8], mac: &[u8]) -> bool {
        match self.algorithm {
            Algorithm::Sha256 => is_mac_of::<Hmac<Sha256>>(&self.secret, data, mac),
            Algorithm::Sha384 => is_mac_of::<Hmac<Sha384>>(&self.secret, data, mac),
            Algorithm::Sha512 => is_mac_of::<Hmac<Sha512>>(&self.secret, data, mac),
        }
    }

    /// Whether the zone may be taken with it.
    pub(crate) fn may_transfer(&self) -> bool {
        self.transfer
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {})", self.name.escape_ascii(), self.algorithm.name())
    }
}

/// Why a signature does not count. The error is the record's (RFC 8945 section 3); the answer's code is `NOTAUTH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Wrong {
    /// It is another's, or somebody changed the message.
    Sig = 16,
    /// No such key.
    Key = 17,
    /// The clocks are apart, or the message is an old one.
    Time = 18,
    /// It is cut short.
    Trunc = 22,
}

/// A signed message that was not taken.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It breaks the form.
    Form,
    /// It is answered with this record behind the answer.
    Wrong(Answering),
}

/// The record of an answer to a message that was not taken.
#[derive(Debug)]
pub(crate) struct Answering {
    error: Wrong,
    name: Vec<u8>,
    algorithm: Vec<u8>,
    time: u64,
    fudge: u16,
    id: u16,
    now: u64,
    /// RFC 8945 section 5.2: answers to what was known to be the client's are signed, others are not.
    session: Option<Session>,
}

/// What answers to a signed message are signed with.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    key: Arc<Key>,
    id: u16,
    prior: Vec<u8>,
    first: bool,
}

struct Record<'m> {
    name: Vec<u8>,
    algorithm: Vec<u8>,
    time: u64,
    fudge: u16,
    mac: &'m [u8],
    id: u16,
    error: u16,
    other: &'m [u8],
}

impl<'m> Record<'m> {
    /// Reads the record that begins at `at` and is the message's last.
    fn read(message: &'m [u8], at: usize) -> Option<Record<'m>> {
        let mut name = Asked::default();
        let fixed = name.read(message, at)?;
        // RFC 8945 section 4.2: class ANY, and a time to live of 0.
        if u16_at(message, fixed)? != rtype::TSIG
            || u16_at(message, fixed + 2)? != CLASS_ANY
            || message.get(fixed + 4..fixed + 8)? != [0; 4]
        {
            return None;
        }
        let end = fixed + 10 + usize::from(u16_at(message, fixed + 8)?);
        let mut algorithm = Asked::default();
        let at = algorithm.read(message, fixed + 10)?;
        let time = message.get(at..at + 6)?.iter().fold(0, |time, byte| time << 8 | u64::from(*byte));
        let fudge = u16_at(message, at + 6)?;
        let mac_end = at + 10 + usize::from(u16_at(message, at + 8)?);
        let mac = message.get(at + 10..mac_end)?;
        let (id, error) = (u16_at(message, mac_end)?, u16_at(message, mac_end + 2)?);
        let other_end = mac_end + 6 + usize::from(u16_at(message, mac_end + 4)?);
        let other = message.get(mac_end + 6..other_end)?;
        let (name, algorithm) = (name.wire().to_vec(), algorithm.wire().to_vec());
        (other_end == end && end == message.len()).then_some(Record {
            name,
            algorithm,
            time,
            fudge,
            mac,
            id,
            error,
            other,
        })
    }
}

/// Checks the signature that begins at `at`; gives the message without it, and what answers are signed with. `now` is in
/// seconds since 1970.
///
/// # Errors
///
/// What is wrong with it, in the order of RFC 8945 section 5.2: the key, the signature, the time.
pub(crate) fn check(message: &[u8], at: usize, keys: &[Arc<Key>], now: u64) -> Result<(Vec<u8>, Session), Refusal> {
    let record = Record::read(message, at).ok_or(Refusal::Form)?;
    let refuse = |error, session| {
        let (name, algorithm) = (record.name.clone(), record.algorithm.clone());
        let Record { time, fudge, id, .. } = record;
        Refusal::Wrong(Answering { error, name, algorithm, time, fudge, id, now, session })
    };
    let key = keys.iter().find(|key| key.name == record.name && key.algorithm.wire() == record.algorithm);
    let key = key.ok_or_else(|| refuse(Wrong::Key, None))?;
    let whole = key.algorithm.length();
    // RFC 8945 section 5.2.2.1: longer than the hash, or shorter than 10 bytes or half of it.
    if record.mac.len() > whole || (record.mac.len() < whole && record.mac.len() < (whole / 2).max(10)) {
        // An empty one is nobody's signature, and no form of one.
        return Err(if record.mac.is_empty() { refuse(Wrong::Sig, None) } else { Refusal::Form });
    }
    let mut plain = message.get(..at).unwrap_or_default().to_vec();
    let additional = u16_at(&plain, HEADER - 2).unwrap_or_default();
    set_u16(&mut plain, HEADER - 2, additional.saturating_sub(1));
    let sent_id = u16_at(&plain, 0).unwrap_or_default();
    set_u16(&mut plain, 0, record.id);
    let mut signed = plain.clone();
    variables(&mut signed, key, record.time, record.fudge, record.error, record.other);
    set_u16(&mut plain, 0, sent_id);
    let session = Session { key: key.clone(), id: sent_id, prior: record.mac.to_vec(), first: true };
    if !key.is_mac(&signed, record.mac) {
        return Err(refuse(Wrong::Sig, None));
    }
    if record.mac.len() < whole {
        // Nobody needs shorter ones, and they are easier to guess.
        return Err(refuse(Wrong::Trunc, Some(session)));
    }
    if now.abs_diff(record.time) > u64::from(record.fudge) {
        return Err(refuse(Wrong::Time, Some(session)));
    }
    Ok((plain, session))
}

impl Session {
    /// The key.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// How much a signature adds, at most, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.key.name.len() + 10 + 13 + 16 + 64 + 6
    }

    /// Signs the next answer. The first one is bound to the question, each later one to the one before it (RFC 8945
    /// section 5.3.1).
    pub(crate) fn sign(&mut self, answer: &mut Vec<u8>, now: u64) {
        self.sign_as(answer, now, FUDGE, 0, &[]);
    }

    fn sign_as(&mut self, answer: &mut Vec<u8>, time: u64, fudge: u16, error: u16, other: &[u8]) {
        let mut signed = Vec::with_capacity(answer.len() + 256);
        signed.extend_from_slice(&(self.prior.len() as u16).to_be_bytes());
        signed.extend_from_slice(&self.prior);
        signed.extend_from_slice(answer);
        if self.first {
            variables(&mut signed, &self.key, time, fudge, error, other);
        } else {
            timers(&mut signed, time, fudge);
        }
        let mac = self.key.mac(&signed);
        push(answer, &self.key.name, &self.key.algorithm.wire(), time, fudge, &mac, self.id, error, other);
        self.prior = mac;
        self.first = false;
    }
}

impl Answering {
    /// Puts the record behind an answer of the code `NOTAUTH`.
    pub(crate) fn push(self, answer: &mut Vec<u8>) {
        let error = self.error as u16;
        // RFC 8945 section 5.2.3: the client's time comes back, and ours beside it.
        let other = self.now.to_be_bytes();
        let other = if self.error == Wrong::Time { other.get(2..).unwrap_or_default() } else { &[] };
        match self.session {
            Some(mut session) => session.sign_as(answer, self.time, self.fudge, error, other),
            None => push(answer, &self.name, &self.algorithm, self.time, self.fudge, &[], self.id, error, other),
        }
    }
}

fn timers(out: &mut Vec<u8>, time: u64, fudge: u16) {
    out.extend_from_slice(time.to_be_bytes().get(2..).unwrap_or_default());
    out.extend_from_slice(&fudge.to_be_bytes());
}

/// RFC 8945 section 4.3.3.
fn variables(out: &mut Vec<u8>, key: &Key, time: u64, fudge: u16, error: u16, other: &[u8]) {
    out.extend_from_slice(&key.name);
    out.extend_from_slice(&CLASS_ANY.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&key.algorithm.wire());
    timers(out, time, fudge);
    out.extend_from_slice(&error.to_be_bytes());
    out.extend_from_slice(&(other.len() as u16).to_be_bytes());
    out.extend_from_slice(other);
}

#[allow(clippy::too_many_arguments)]
fn push(
    answer: &mut Vec<u8>,
    name: &[u8],
    algorithm: &[u8],
    time: u64,
    fudge: u16,
    mac: &[u8],
    id: u16,
    error: u16,
    other: &[u8],
) {
    answer.extend_from_slice(name);
    answer.extend_from_slice(&rtype::TSIG.to_be_bytes());
    answer.extend_from_slice(&CLASS_ANY.to_be_bytes());
    answer.extend_from_slice(&[0; 4]);
    answer.extend_from_slice(&((algorithm.len() + 16 + mac.len() + other.len()) as u16).to_be_bytes());
    answer.extend_from_slice(algorithm);
    timers(answer, time, fudge);
    answer.extend_from_slice(&(mac.len() as u16).to_be_bytes());
    answer.extend_from_slice(mac);
    answer.extend_from_slice(&id.to_be_bytes());
    answer.extend_from_slice(&error.to_be_bytes());
    answer.extend_from_slice(&(other.len() as u16).to_be_bytes());
    answer.extend_from_slice(other);
    let count = u16_at(answer, HEADER - 2).unwrap_or_default();
    set_u16(answer, HEADER - 2, count.saturating_add(1));
}

fn set_u16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}
