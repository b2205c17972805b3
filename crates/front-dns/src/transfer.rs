//! The whole zone to another server (AXFR, RFC 5936), over TCP.
//!
//! A transfer is of one revision of the tree: all records of the zone are written down while no change is under way, once
//! a revision, however many ask for it. From that copy each client is sent messages as it takes them. Nobody gets it who
//! is not named in the configuration, by address or by key.
//!
//! A secondary answers what is written down, so what is composed of a question here is spelled out there (`compose` has
//! the table). What lies beneath an alias is not: it has no end where aliases lead into each other.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use crate::answer::{self, Asker};
use crate::forward::Network;
use crate::key::above;
use crate::render::{SERVICE_TTL, USUAL_TTL};
use crate::tsig::Session;
use crate::wire::{
    Asked, CLASS_IN, Edns, HEADER, Opt, Owner, Query, Rcode, Section, Writer, flag, rtype, skip_name, u16_at,
};
use crate::zone::{Entry, Image, NEGATIVE_TTL, SOA_TIMES, Service, Set};

/// Transfers at once: each may hold a copy of the zone of its own.
const MAX_AT_ONCE: usize = 4;
/// About how long a message is, in bytes.
const MESSAGE: usize = 16 << 10;
/// How long one is at most, a signature not counted.
const LONGEST: usize = 65_000;
/// Services of a kind in one directory at most, as in `compose`.
const MAX_LISTED: usize = 1_000;

/// Who gets the zone, and copies of it.
pub(crate) struct Transfers {
    clients: Vec<Network>,
    room: Semaphore,
    last: Mutex<Option<Arc<Copy>>>,
}

/// All records of one revision but the SOA.
struct Copy {
    serial: u32,
    records: Vec<u8>,
}

impl Transfers {
    pub(crate) fn new(clients: Vec<Network>) -> Transfers {
        Transfers { clients, room: Semaphore::new(MAX_AT_ONCE), last: Mutex::new(None) }
    }

    fn allows(&self, address: IpAddr, session: Option<&Session>) -> bool {
        session.is_some_and(|session| session.key().may_transfer())
            || self.clients.iter().any(|network| network.holds(address))
    }

    /// Answers a query for AXFR or IXFR over TCP with as many messages as it takes.
    pub(crate) async fn serve(
        &self,
        image: &Arc<Image>,
        message: &[u8],
        asker: Asker,
        mut session: Option<Session>,
        answers: &mpsc::Sender<Vec<u8>>,
    ) {
        let now = u64::from(asker.now);
        let mut out = Vec::new();
        let mut name = Asked::default();
        let Ok(query) = Query::read(message, &mut name) else { return };
        let outcome = 'refused: {
            // A zone is asked for by its own name (RFC 5936 section 2.2.1: else NOTAUTH).
            if name.wire() != image.zone {
                break 'refused Err(Rcode::NotAuth);
            }
            if !self.allows(asker.address, session.as_ref()) {
                break 'refused Err(Rcode::Refused);
            }
            let Ok(place) = self.room.acquire().await else { return };
            self.copy(image).await.map(|copy| (copy, place)).ok_or(Rcode::ServFail)
        };
        let word = match &outcome {
            Ok(_) => "sent",
            Err(Rcode::ServFail) => "not-ready",
            Err(_) => "refused",
        };
        metrics::counter!("byname_dns_transfers_total", "outcome" => word).increment(1);
        let (copy, _place) = match outcome {
            Ok(done) => done,
            Err(rcode) => {
                answer::refuse(message, rcode, &mut out);
                if let Some(session) = &mut session {
                    session.sign(&mut out, now);
                }
                let _ = answers.send(out).await;
                return;
            }
        };
        tracing::info!(client = %asker.address, serial = copy.serial, "a secondary takes the zone");
        let soa = soa(image, copy.serial);
        // RFC 1995 section 2: whoever has this serial, or a later one, is told so. There are no differences, so others
        // get the whole (section 4).
        let current = query.qtype == rtype::IXFR
            && serial_of(message, &query).is_some_and(|theirs| !is_before(theirs, copy.serial));
        let mut records: Vec<&[u8]> = vec![&soa];
        let mut rest = if current { &[][..] } else { &copy.records[..] };
        let mut after = usize::from(!current);
        let mut next = || {
            if let Some(record) = records.pop() {
                return Some(record);
            }
            if let Some(record) = take_record(&mut rest) {
                return Some(record);
            }
            (after > 0).then(|| {
                after -= 1;
                &soa[..]
            })
        };
        let mut record = next();
        while record.is_some() {
            let mut limit = MESSAGE;
            loop {
                let mut writer = Writer::begin(&mut out, message, query.end, limit);
                let mut count = 0;
                while let Some(data) = record {
                    if !write(&mut writer, data) {
                        break;
                    }
                    count += 1;
                    record = next();
                }
                if count == 0 && limit == MESSAGE {
                    limit = LONGEST;
                    continue;
                }
                if count == 0 {
                    tracing::error!("a record does not fit into any message: the transfer is broken off");
                    return;
                }
                let opt = query.edns.map(|edns: Edns| Opt {
                    size: crate::UDP_BYTES,
                    dnssec_ok: edns.dnssec_ok,
                    ..Opt::default()
                });
                writer.finish(query.id, flag::QR | flag::AA, true, Rcode::NoError, opt.as_ref());
                break;
            }
            if let Some(session) = &mut session {
                session.sign(&mut out, now);
            }
            // The connection is gone, or takes nothing.
            if answers.send(std::mem::take(&mut out)).await.is_err() {
                return;
            }
        }
    }

    /// The records of the revision that is there now. `None` while a change is half done.
    async fn copy(&self, image: &Arc<Image>) -> Option<Arc<Copy>> {
        if let Some(copy) = self.last.lock().as_ref().filter(|copy| copy.serial == image.serial()) {
            return Some(copy.clone());
        }
        let image = image.clone();
        let copy = tokio::task::spawn_blocking(move || {
            let whole = image.whole.blocking_read();
            whole.then(|| Arc::new(Copy { serial: image.serial(), records: write_down(&image) }))
        });
        let copy = copy.await.ok().flatten()?;
        // Only as long as somebody is likely to ask for it again: the next revision replaces it.
        *self.last.lock() = Some(copy.clone());
        Some(copy)
    }
}

/// Whether a serial is before another (RFC 1982 section 3.2).
fn is_before(one: u32, other: u32) -> bool {
    (other.wrapping_sub(one) as i32) > 0
}

/// The serial in the authority section of a query for IXFR (RFC 1995 section 3).
pub(crate) fn serial_of(message: &[u8], query: &Query) -> Option<u32> {
    let at = skip_name(message, query.end)?;
    if u16_at(message, 8)? == 0 || u16_at(message, at)? != rtype::SOA || u16_at(message, at + 2)? != CLASS_IN {
        return None;
    }
    let at = skip_name(message, skip_name(message, at + 10)?)?;
    Some(u32::from_be_bytes(message.get(at..at + 4)?.try_into().ok()?))
}

/// One record, written down: the length of the labels in front of the zone, these, type, TTL, length and data.
fn push(out: &mut Vec<u8>, labels: &[&[u8]], rtype: u16, ttl: u32, data: &[&[u8]]) {
    let length: usize = labels.iter().map(|part| part.len()).sum();
    let size: usize = data.iter().map(|part| part.len()).sum();
    let (Ok(length), Ok(size)) = (u8::try_from(length), u16::try_from(size)) else { return };
    out.push(length);
    labels.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(&rtype.to_be_bytes());
    out.extend_from_slice(&ttl.to_be_bytes());
    out.extend_from_slice(&size.to_be_bytes());
    data.iter().for_each(|part| out.extend_from_slice(part));
}

fn take_record<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let labels = usize::from(*rest.first()?);
    let size = usize::from(u16_at(rest, labels + 7)?);
    let (record, behind) = rest.split_at_checked(labels + 9 + size)?;
    *rest = behind;
    Some(record)
}

fn write(writer: &mut Writer<'_>, record: &[u8]) -> bool {
    let Some((length, rest)) = record.split_first() else { return false };
    let Some((labels, rest)) = rest.split_at_checked(usize::from(*length)) else { return false };
    let Some((head, data)) = rest.split_first_chunk::<8>() else { return false };
    let rtype = u16::from_be_bytes([head[0], head[1]]);
    let ttl = u32::from_be_bytes([head[2], head[3], head[4], head[5]]);
    // The question is the zone's own name.
    writer.record(Section::Answer, Owner::Labels(labels, HEADER), rtype, ttl, data)
}

fn soa(image: &Image, serial: u32) -> Vec<u8> {
    let [refresh, retry, expire] = SOA_TIMES;
    let numbers = [serial, refresh, retry, expire, NEGATIVE_TTL].map(u32::to_be_bytes).concat();
    let mut out = Vec::new();
    let data: [&[u8]; 5] = [crate::follow::SERVERS, &image.zone, b"\x0ahostmaster", &image.zone, &numbers];
    push(&mut out, &[], rtype::SOA, USUAL_TTL, &data);
    out
}

/// All records of the zone but the SOA, each once.
fn write_down(image: &Image) -> Vec<u8> {
    let guard = image.guard();
    let mut out = Vec::with_capacity(image.len() * 48);
    push(&mut out, &[], rtype::NS, USUAL_TTL, &[crate::follow::SERVERS, &image.zone]);
    image.for_each(|labels, entry| {
        let shown = |set: &Set<'_>| {
            if labels.is_empty() && matches!(set.rtype, rtype::SOA | rtype::NS | rtype::CNAME) {
                return false;
            }
            match entry.sets.get(rtype::CNAME).and_then(Set::first) {
                // RFC 1034 section 3.6.2: an alias has nothing else; one to what is hidden has nothing at all.
                Some(target) => {
                    let there = image.inside(target).and_then(|at| image.get(at, &guard)).is_some_and(|e| e.own);
                    set.rtype == rtype::CNAME && there
                }
                None => true,
            }
        };
        entry.sets.iter().filter(shown).for_each(|set| push_set(&mut out, &[labels], entry.ttl, set));
        if entry.sets.get(rtype::CNAME).is_some() {
            return;
        }
        let mut composed = Composed { image, guard: &guard, out: &mut out, base: labels };
        if let Some(service) = &entry.service {
            composed.service(service, entry.ttl);
        }
        composed.listed();
    });
    out
}

fn push_set(out: &mut Vec<u8>, labels: &[&[u8]], ttl: u32, set: Set<'_>) {
    set.data(0).for_each(|data| push(out, labels, set.rtype, ttl, &[data]));
}

/// What has no entry of its own beneath a name: see `compose`.
struct Composed<'a> {
    image: &'a Image,
    guard: &'a papaya::LocalGuard<'a>,
    out: &'a mut Vec<u8>,
    base: &'a [u8],
}

impl Composed<'_> {
    /// Whether a name has an entry, which then goes before what would be composed.
    fn is_taken(&self, front: &[u8]) -> bool {
        front.len() + self.base.len() > 253 - self.image.zone.len().min(253)
            || self.image.get(&[front, self.base].concat(), self.guard).is_some()
    }

    fn service(&mut self, service: &Service, ttl: u32) {
        let mut bare: HashSet<&[u8]> = HashSet::new();
        for offered in &service.kinds {
            self.offered(&offered.prefix, service, &offered.prefix, ttl);
            // `_http.NAME`: the protocol without its transport.
            let Some(transport) = above(&offered.prefix) else { continue };
            let front = offered.prefix.get(..offered.prefix.len() - transport.len()).unwrap_or_default();
            if bare.insert(front)
                && !self.is_taken(front)
                && let Some(set) = offered.sets.get(rtype::SVCB)
            {
                push_set(self.out, &[front, self.base], ttl, set);
            }
        }
        for (label, address) in service.copies.iter().filter(|(label, _)| !self.is_taken(label)).collect::<Vec<_>>() {
            match address {
                IpAddr::V4(a) => push(self.out, &[label, self.base], rtype::A, ttl, &[&a.octets()]),
                IpAddr::V6(a) => push(self.out, &[label, self.base], rtype::AAAA, ttl, &[&a.octets()]),
            }
        }
    }

    /// A service's endpoints of a kind, at this place.
    fn offered(&mut self, front: &[u8], service: &Service, kind: &[u8], ttl: u32) {
        let Some(offered) = service.kinds.iter().find(|offered| *offered.prefix == *kind) else { return };
        if self.is_taken(front) {
            return;
        }
        let text = service.text.as_deref().unwrap_or(&[0]);
        push(self.out, &[front, self.base], rtype::TXT, ttl, &[text]);
        offered.sets.iter().for_each(|set| push_set(self.out, &[front, self.base], ttl, set));
    }

    /// What a directory lists (RFC 6763).
    fn listed(&mut self) {
        let kinds = self.image.kinds(self.base);
        for kind in &kinds {
            for label in self.image.listed(self.base, kind, MAX_LISTED) {
                let own = [&[label.len() as u8], &label[..]].concat();
                let name = [&own, &kind[..]].concat();
                if !self.is_taken(kind) {
                    let data: [&[u8]; 3] = [&name, self.base, &self.image.zone];
                    push(self.out, &[kind, self.base], rtype::PTR, SERVICE_TTL, &data);
                }
                let entry: Option<&Entry> = self.image.get(&[&own, self.base].concat(), self.guard);
                if let Some((service, ttl)) = entry.and_then(|entry| Some((entry.service.as_ref()?, entry.ttl))) {
                    self.offered(&name, service, kind, ttl);
                }
            }
            let data: [&[u8]; 3] = [kind, self.base, &self.image.zone];
            push(self.out, &[b"\x09_services\x07_dns-sd\x04_udp", self.base], rtype::PTR, SERVICE_TTL, &data);
        }
        if !kinds.is_empty() {
            for front in [&b"\x01b\x07_dns-sd\x04_udp"[..], b"\x02lb\x07_dns-sd\x04_udp"] {
                push(self.out, &[front, self.base], rtype::PTR, SERVICE_TTL, &[self.base, &self.image.zone]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_go_round() {
        // RFC 1982 section 5.
        for (one, other, before) in
            [(1, 2, true), (2, 1, false), (7, 7, false), (u32::MAX, 0, true), (0, u32::MAX, false), (0, 1 << 30, true)]
        {
            assert_eq!(is_before(one, other), before, "{one} {other}");
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let mut all = Vec::new();
        push(&mut all, &[b"\x01a", b"\x01b"], 1, 60, &[&[1, 2], &[3, 4]]);
        push(&mut all, &[], 16, 5, &[&[0]]);
        let mut rest = &all[..];
        let records: Vec<&[u8]> = std::iter::from_fn(|| take_record(&mut rest)).collect();
        assert_eq!((records.len(), rest.len()), (2, 0));
        assert_eq!(records[0], b"\x04\x01a\x01b\x00\x01\x00\x00\x00\x3c\x00\x04\x01\x02\x03\x04");
        assert!(take_record(&mut &all[..10]).is_none());
    }
}
