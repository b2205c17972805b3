//! From a message to its answer: what comes first is looked at first. Nothing here waits or allocates; what has to be
//! waited for is said, and composed again when it is there.
//!
//! 1. The form: what cannot be read, other operations, other versions of EDNS.
//! 2. The cookie: who receives what is sent to its address.
//! 3. Whose name it is: the zone's, that of an address, or nobody's here (`REFUSED`, or forwarded).
//! 4. The name: there, an alias, only on the way to others, composed (`compose`), or not there.
//! 5. The type: its records, with what will be asked for next, or the SOA that says how long nothing is there.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use byname_name::Name;

use crate::cookie::{Cookies, Shown};
use crate::forward::{self, Forward};
use crate::wire::{self, Asked, Bad, CLASS_IN, HEADER, Opt, Owner, Query, Rcode, Section, Writer, flag, rtype};
use crate::zone::{Entry, Image, NEGATIVE_TTL, SOA_TIMES, Service, Set};

/// The longest chain of aliases that is followed within one answer.
const MAX_CHAIN: usize = 8;
/// Extended errors (RFC 8914 section 4).
const NOT_READY: u16 = 14;
const NOT_AUTHORITATIVE: u16 = 20;
const NETWORK_ERROR: u16 = 23;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    /// Where from.
    pub(crate) address: IpAddr,
    /// Over TCP: what is sent to the address arrives there.
    pub(crate) tcp: bool,
    /// A number that differs from query to query.
    pub(crate) turn: u32,
    /// The time, in seconds since 1970.
    pub(crate) now: u32,
    /// It was waited for: what is not there now is not waited for again.
    pub(crate) waited: bool,
}

/// What is to be done with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send what was composed.
    Answer(Answered),
    /// Nobody is to be answered.
    Silent,
    /// Wait for a service.
    Wait(Awaited),
    /// Ask somebody else.
    Forward,
    /// Look at its signature first (TSIG).
    Signed,
    /// The sections of the zone go by, over TCP (AXFR, IXFR).
    Transfer,
    /// Another operation than a query.
    Operation(u8),
}

/// What an answer is, for limits and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    /// The type that was asked for; 0 if none could be read.
    pub(crate) qtype: u16,
    /// The code.
    pub(crate) rcode: Rcode,
    /// Whether it is known that the client receives what is sent to it.
    pub(crate) known: bool,
}

/// A service that has to be waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Awaited {
    /// Its name.
    pub(crate) name: Name,
    /// Whether it may be started.
    pub(crate) start: bool,
}

/// What answers need to know that is no name.
pub(crate) struct Settings {
    /// The largest datagram that is sent, whatever a client takes.
    pub(crate) udp_bytes: u16,
    /// Who asks for names of others elsewhere.
    pub(crate) forward: Forward,
}

/// Answers from the image.
pub(crate) struct Answers {
    /// The image.
    pub(crate) image: Arc<Image>,
    /// Cookies.
    pub(crate) cookies: Cookies,
    /// The rest.
    pub(crate) settings: Settings,
    /// Services of which a use is to be noted, without anybody waiting for it.
    pub(crate) uses: tokio::sync::mpsc::Sender<Name>,
}

/// What is used again from message to message.
#[derive(Default)]
pub(crate) struct Scratch {
    name: Asked,
}

impl Scratch {
    /// The name that was asked for last, in small letters.
    pub(crate) fn name(&self) -> &[u8] {
        self.name.wire()
    }
}

/// A message on its way through the stages.
struct Stage<'a> {
    message: &'a [u8],
    query: Query,
    asker: Asker,
    flags: u16,
    cookie: Shown,
    edns: Option<u16>,
    limit: usize,
}

impl Answers {
    /// What is to be done with this message; an answer is in `out`.
    pub(crate) fn answer(&self, message: &[u8], asker: Asker, scratch: &mut Scratch, out: &mut Vec<u8>) -> Verdict {
        let query = match Query::read(message, &mut scratch.name) {
            Ok(query) => query,
            Err(Bad::Silent) => return Verdict::Silent,
            Err(Bad::Opcode { opcode }) => return Verdict::Operation(opcode),
            Err(Bad::Form) => return bare(message, Rcode::FormErr, out),
        };
        if query.tsig.is_some() {
            return Verdict::Signed;
        }
        let cookie = match query.edns.and_then(|edns| edns.cookie) {
            Some((at, length)) => {
                self.cookies.check(message.get(at..at + length).unwrap_or_default(), asker.address, asker.now)
            }
            None => Shown::Nothing,
        };
        let mut flags = flag::QR | (query.flags & (flag::OPCODE | flag::RD | flag::CD));
        let forwards = self.settings.forward.is_for(asker.address);
        if forwards {
            flags |= flag::RA;
        }
        let size = forward::largest(query.edns, asker.tcp, self.settings.udp_bytes);
        let mut stage = Stage { message, query, asker, flags, cookie, edns: None, limit: size };
        if let Some(edns) = query.edns {
            stage.edns = Some(self.settings.udp_bytes);
            // An extended error is written where there is room for it.
            let opt = Opt { cookie: stage.cookie.answer(), error: Some(0), size: 0, dnssec_ok: false };
            stage.limit -= opt.len();
            if edns.version != 0 {
                return stage.fail(Rcode::BadVers, None, out);
            }
        }
        if !query.asked {
            // RFC 7873 section 5.4: a query for a cookie alone.
            let rcode = if matches!(stage.cookie, Shown::Stranger(_)) { Rcode::BadCookie } else { Rcode::NoError };
            return stage.fail(rcode, None, out);
        }
        match query.qtype {
            // RFC 6895 section 3.1: these are no data, and stand for nothing that can be asked for.
            rtype::OPT | rtype::TSIG => return stage.fail(Rcode::FormErr, None, out),
            rtype::TKEY | rtype::MAILA | rtype::MAILB => return stage.fail(Rcode::NotImp, None, out),
            _ => {}
        }
        if query.qclass != CLASS_IN {
            return stage.fail(Rcode::Refused, None, out);
        }
        let name = &scratch.name;
        if let Some(front) = name.beneath(&self.image.zone, self.image.zone_labels) {
            if !self.image.is_complete() {
                return stage.fail(Rcode::ServFail, Some(NOT_READY), out);
            }
            if matches!(query.qtype, rtype::AXFR | rtype::IXFR) {
                return Verdict::Transfer;
            }
            let start = name.start(front);
            let labels = name.wire().get(..start).unwrap_or_default();
            return self.inside(&stage, labels, HEADER + start, out);
        }
        let labels = name.wire().split_last().map(|(_, labels)| labels).unwrap_or_default();
        self.outside(&stage, labels, out)
    }

    /// A name of the zone: `labels` are those in front of the zone's own name, which is at `zone_at` in the message.
    fn inside(&self, stage: &Stage<'_>, labels: &[u8], zone_at: usize, out: &mut Vec<u8>) -> Verdict {
        let guard = self.image.guard();
        let writer = Writer::begin(out, stage.message, stage.query.end, stage.limit);
        let mut composing = Composing { answers: self, stage, writer, zone_at, guard: &guard, must_wait: None };
        let found = composing.name(labels, HEADER, 0);
        let Composing { mut writer, must_wait, .. } = composing;
        if let Some(awaited) = must_wait {
            if awaited.start && !stage.may_start() {
                writer.clear(stage.query.end);
                // Whoever speaks cookies shows one the next time; others come over TCP.
                return match stage.cookie {
                    Shown::Stranger(_) => stage.finish(writer, flag::AA, Rcode::BadCookie, None),
                    Shown::Nothing | Shown::Known(_) => stage.finish(writer, flag::AA | flag::TC, Rcode::NoError, None),
                };
            }
            if !stage.asker.waited {
                return Verdict::Wait(awaited);
            }
            writer.clear(stage.query.end);
            return stage.finish(writer, 0, Rcode::ServFail, Some(NETWORK_ERROR));
        }
        let (rcode, full) = match found {
            Found::Records => (Rcode::NoError, false),
            Found::Full => (Rcode::NoError, true),
            Found::Nothing => (Rcode::NoError, !self.soa(&mut writer, Section::Authority, zone_at, NEGATIVE_TTL)),
            Found::NoName => (Rcode::NxDomain, !self.soa(&mut writer, Section::Authority, zone_at, NEGATIVE_TTL)),
        };
        if full {
            // RFC 2181 section 9: what is cut off is not used, so nothing of it is sent.
            writer.clear(stage.query.end);
            return stage.finish(writer, flag::AA | flag::TC, rcode, None);
        }
        stage.finish(writer, flag::AA, rcode, None)
    }

    /// The start of authority (RFC 1035 section 3.3.13).
    fn soa(&self, writer: &mut Writer<'_>, section: Section, zone_at: usize, ttl: u32) -> bool {
        let mut data = [0; 38];
        let pointer = (0xc000 | (zone_at as u16 & 0x3fff)).to_be_bytes();
        let [refresh, retry, expire] = SOA_TIMES;
        let numbers = [self.image.serial(), refresh, retry, expire, NEGATIVE_TTL];
        let names: [&[u8]; 4] = [crate::follow::SERVERS, &pointer, b"\x0ahostmaster", &pointer];
        let mut rest = &mut data[..];
        for piece in names {
            let (now, later) = rest.split_at_mut(piece.len());
            now.copy_from_slice(piece);
            rest = later;
        }
        for (number, place) in numbers.iter().zip(rest.chunks_exact_mut(4)) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        writer.record(section, Owner::At(zone_at), rtype::SOA, ttl, &data)
    }

    /// A name outside the zone: an address that leads back to a name is a zone of its own.
    fn outside(&self, stage: &Stage<'_>, labels: &[u8], out: &mut Vec<u8>) -> Verdict {
        let (guard, outside) = (self.image.guard(), self.image.guard_outside());
        let entry = self.image.get_outside(labels, &outside);
        // What it leads to must be there, or the address is not ours.
        let entry = entry.filter(|entry| {
            let target = entry.sets.get(rtype::PTR).and_then(Set::first);
            target
                .and_then(|t| self.image.inside(t))
                .is_some_and(|at| self.image.get(at, &guard).is_some_and(|e| e.own))
        });
        let Some(entry) = entry else {
            // Whoever does not wish for it (RD) gets no recursion.
            if stage.flags & flag::RA != 0 && stage.flags & flag::RD != 0 {
                return Verdict::Forward;
            }
            return stage.fail(Rcode::Refused, Some(NOT_AUTHORITATIVE), out);
        };
        let mut writer = Writer::begin(out, stage.message, stage.query.end, stage.limit);
        let mut full = false;
        match stage.query.qtype {
            rtype::PTR => {
                for data in entry.sets.get(rtype::PTR).into_iter().flat_map(|set| set.data(0)) {
                    full |= !writer.record(Section::Answer, Owner::At(HEADER), rtype::PTR, entry.ttl, data);
                }
            }
            rtype::SOA => full = !self.soa_outside(&mut writer, Section::Answer),
            rtype::ANY => full = !hinfo(&mut writer, HEADER),
            _ => full = !self.soa_outside(&mut writer, Section::Authority),
        }
        if full {
            writer.clear(stage.query.end);
        }
        stage.finish(writer, if full { flag::AA | flag::TC } else { flag::AA }, Rcode::NoError, None)
    }

    fn soa_outside(&self, writer: &mut Writer<'_>, section: Section) -> bool {
        let mut data = [0; 2 * wire::MAX_NAME + 32];
        let mut at = 0;
        let [refresh, retry, expire] = SOA_TIMES;
        let numbers = [self.image.serial(), refresh, retry, expire, NEGATIVE_TTL].map(u32::to_be_bytes);
        let names: [&[u8]; 4] = [crate::follow::SERVERS, &self.image.zone, b"\x0ahostmaster", &self.image.zone];
        for piece in names.into_iter().chain(numbers.iter().map(|n| &n[..])) {
            let Some(place) = data.get_mut(at..at + piece.len()) else { return false };
            place.copy_from_slice(piece);
            at += piece.len();
        }
        writer.record(section, Owner::At(HEADER), rtype::SOA, NEGATIVE_TTL, data.get(..at).unwrap_or_default())
    }
}

/// RFC 8482 section 4.2: ANY is answered with one small record that says so.
fn hinfo(writer: &mut Writer<'_>, at: usize) -> bool {
    writer.record(Section::Answer, Owner::At(at), rtype::HINFO, 3600, b"\x07RFC8482\0")
}

/// An error to what could not be read: only the header comes back.
pub(crate) fn bare(message: &[u8], rcode: Rcode, out: &mut Vec<u8>) -> Verdict {
    let word = |at: usize| wire::u16_at(message, at).unwrap_or_default();
    let flags = flag::QR | (word(2) & (flag::OPCODE | flag::RD));
    let writer = Writer::begin(out, message, HEADER, usize::from(u16::MAX));
    writer.finish(word(0), flags, false, rcode, None);
    Verdict::Answer(Answered { qtype: 0, rcode, known: false })
}

impl Stage<'_> {
    fn may_start(&self) -> bool {
        self.asker.tcp || matches!(self.cookie, Shown::Known(_))
    }

    /// An answer of a code alone.
    fn fail(&self, rcode: Rcode, error: Option<u16>, out: &mut Vec<u8>) -> Verdict {
        let writer = Writer::begin(out, self.message, self.query.end, self.limit);
        self.finish(writer, 0, rcode, error)
    }

    fn finish(&self, writer: Writer<'_>, more: u16, rcode: Rcode, error: Option<u16>) -> Verdict {
        let opt = self.edns.map(|size| Opt {
            size,
            dnssec_ok: self.query.edns.is_some_and(|edns| edns.dnssec_ok),
            cookie: self.cookie.answer(),
            error,
        });
        writer.finish(self.query.id, self.flags | more, self.query.asked, rcode, opt.as_ref());
        Verdict::Answer(Answered { qtype: self.query.qtype, rcode, known: self.may_start() })
    }
}

/// What was found at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Records, which are written.
    Records,
    /// Records that do not fit.
    Full,
    /// The name is there, and has nothing of this type.
    Nothing,
    /// There is no such name.
    NoName,
}

/// An answer on its way.
pub(crate) struct Composing<'a> {
    answers: &'a Answers,
    stage: &'a Stage<'a>,
    writer: Writer<'a>,
    zone_at: usize,
    guard: &'a papaya::LocalGuard<'a>,
    must_wait: Option<Awaited>,
}

impl<'a> Composing<'a> {
    pub(crate) fn image(&self) -> &'a Image {
        &self.answers.image
    }

    pub(crate) fn qtype(&self) -> u16 {
        self.stage.query.qtype
    }

    pub(crate) fn entry(&self, labels: &[u8]) -> Option<&'a Entry> {
        self.answers.image.get(labels, self.guard)
    }

    fn tail(&self) -> (&'a [u8], usize) {
        (&self.answers.image.zone, self.zone_at)
    }

    /// The records of a name, whose text is at `owner` in the message.
    pub(crate) fn name(&mut self, labels: &[u8], owner: usize, links: usize) -> Found {
        let Some(entry) = self.entry(labels) else {
            if self.image().has_composed() {
                return self.composed(labels, owner, links);
            }
            return Found::NoName;
        };
        if let Some(target) = entry.sets.get(rtype::CNAME).and_then(Set::first) {
            return self.alias(entry.ttl, target, owner, links);
        }
        if entry.own && labels.is_empty() {
            match self.qtype() {
                rtype::SOA => {
                    return fits(self.answers.soa(&mut self.writer, Section::Answer, self.zone_at, entry.ttl));
                }
                rtype::NS => return self.servers(owner),
                _ => {}
            }
        }
        if self.qtype() == rtype::ANY {
            return fits(hinfo(&mut self.writer, owner));
        }
        if let Some(service) = &entry.service
            && self.waits(service)
        {
            return Found::Nothing;
        }
        match entry.sets.get(self.qtype()) {
            Some(set) => {
                let found = self.set(set, owner, entry.ttl);
                if set.rtype == rtype::SRV
                    && found == Found::Records
                    && let Some(service) = &entry.service
                {
                    self.add_copies(service, owner, entry.ttl);
                }
                found
            }
            None => Found::Nothing,
        }
    }

    /// Writes a set of records.
    pub(crate) fn set(&mut self, set: Set<'_>, owner: usize, ttl: u32) -> Found {
        for data in set.data(self.stage.asker.turn) {
            let written = match set.rtype {
                // RFC 3597 section 4: only names in types of RFC 1035 may be compressed.
                rtype::PTR | rtype::NS => self.writer.record_with_name(
                    Section::Answer,
                    Owner::At(owner),
                    set.rtype,
                    ttl,
                    &[],
                    data,
                    self.tail(),
                ),
                rtype::MX if data.len() > 2 => {
                    let (preference, name) = data.split_at(2);
                    let owner = Owner::At(owner);
                    self.writer.record_with_name(Section::Answer, owner, set.rtype, ttl, preference, name, self.tail())
                }
                _ => self.writer.record(Section::Answer, Owner::At(owner), set.rtype, ttl, data),
            };
            if !written {
                return Found::Full;
            }
        }
        Found::Records
    }

    /// A record of the answer with this data.
    pub(crate) fn push(&mut self, rtype: u16, owner: usize, ttl: u32, data: &[u8]) -> bool {
        self.writer.record(Section::Answer, Owner::At(owner), rtype, ttl, data)
    }

    /// A record of the answer that is these labels and the name at `at` in the message.
    pub(crate) fn push_pointer(&mut self, rtype: u16, owner: usize, ttl: u32, labels: &[u8], at: usize) -> bool {
        let pointer = (0xc000 | (at as u16 & 0x3fff)).to_be_bytes();
        self.writer.record_with_name(Section::Answer, Owner::At(owner), rtype, ttl, labels, &pointer, (&[], 0))
    }

    /// The zone's servers, with their addresses.
    fn servers(&mut self, owner: usize) -> Found {
        if !self.push_pointer(rtype::NS, owner, crate::render::USUAL_TTL, crate::follow::SERVERS, self.zone_at) {
            return Found::Full;
        }
        if let Some(entry) = self.entry(crate::follow::SERVERS) {
            for set in entry.sets.iter().filter(|set| matches!(set.rtype, rtype::A | rtype::AAAA)) {
                for data in set.data(self.stage.asker.turn) {
                    let owner = Owner::Labels(crate::follow::SERVERS, self.zone_at);
                    if !self.writer.record(Section::Additional, owner, set.rtype, entry.ttl, data) {
                        return Found::Records;
                    }
                }
            }
        }
        Found::Records
    }

    /// An alias, and what it stands for (RFC 1034 section 3.6.2). What that is must be there: a target that is hidden is
    /// told as little of as one that is not there.
    pub(crate) fn alias(&mut self, ttl: u32, target: &[u8], owner: usize, links: usize) -> Found {
        let image = self.image();
        let Some(labels) = image.inside(target) else { return Found::Nothing };
        if links >= MAX_CHAIN || self.entry(labels).is_none_or(|entry| !entry.own) {
            return Found::Nothing;
        }
        match self.qtype() {
            rtype::CNAME => fits(self.cname(owner, ttl, target).is_some()),
            rtype::ANY => fits(hinfo(&mut self.writer, owner)),
            _ => match self.cname(owner, ttl, target) {
                Some(at) => self.name(labels, at, links + 1),
                None => Found::Full,
            },
        }
    }

    /// Writes that one name stands for another; where that one's text is.
    pub(crate) fn cname(&mut self, owner: usize, ttl: u32, target: &[u8]) -> Option<usize> {
        let tail = self.tail();
        let at = self.writer.at() + 12;
        self.writer
            .record_with_name(Section::Answer, Owner::At(owner), rtype::CNAME, ttl, &[], target, tail)
            .then_some(at)
    }

    /// Takes back what was written.
    pub(crate) fn take_back(&mut self) {
        self.writer.clear(self.stage.query.end);
    }

    /// Whether an answer about this service must wait: for its start, or for the server to take note of its use.
    pub(crate) fn waits(&mut self, service: &Service) -> bool {
        if !matches!(self.qtype(), rtype::A | rtype::AAAA | rtype::SRV | rtype::SVCB | rtype::HTTPS) {
            return false;
        }
        if service.starts {
            self.must_wait = Some(Awaited { name: service.name.clone(), start: true });
            return true;
        }
        let idle = service.used.idle_ms.load(Ordering::Relaxed);
        if idle == 0 || service.copies.is_empty() || self.stage.asker.waited {
            return false;
        }
        // A use that was noted keeps it for as long as `idle_stop`. After a quarter of that the next is noted beside the
        // answers; after three quarters, so that it may be about to stop, before them.
        let now = self.image().now_ms();
        let told = service.used.told_ms.load(Ordering::Relaxed);
        let since = if told == 0 { u64::MAX } else { now.saturating_sub(told) };
        if since < idle / 4 {
            return false;
        }
        if since >= idle / 4 * 3 {
            self.must_wait = Some(Awaited { name: service.name.clone(), start: false });
            return true;
        }
        let asked = service.used.asked_ms.load(Ordering::Relaxed);
        if now.saturating_sub(asked) >= (idle / 8).max(1)
            && service.used.asked_ms.compare_exchange(asked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            // When nobody can note it now, the next answer tries again.
            let _ = self.answers.uses.try_send(service.name.clone());
        }
        false
    }

    /// Addresses of the copies that SRV records name (RFC 2782: "additional"), as far as there is room.
    pub(crate) fn add_copies(&mut self, service: &Service, owner: usize, ttl: u32) {
        for (label, address) in &service.copies {
            let owner = Owner::Labels(label, owner);
            let written = match address {
                IpAddr::V4(a) => self.writer.record(Section::Additional, owner, rtype::A, ttl, &a.octets()),
                IpAddr::V6(a) => self.writer.record(Section::Additional, owner, rtype::AAAA, ttl, &a.octets()),
            };
            if !written {
                return;
            }
        }
    }
}

pub(crate) fn fits(written: bool) -> Found {
    if written { Found::Records } else { Found::Full }
}

/// An error to a question that can be read: it comes back with it.
pub(crate) fn refuse(message: &[u8], rcode: Rcode, out: &mut Vec<u8>) {
    let mut name = Asked::default();
    let Ok(query) = Query::read(message, &mut name) else {
        bare(message, rcode, out);
        return;
    };
    let flags = flag::QR | (query.flags & (flag::OPCODE | flag::RD | flag::CD));
    let opt = query.edns.map(|_| Opt { size: crate::UDP_BYTES, ..Opt::default() });
    Writer::begin(out, message, query.end, usize::from(u16::MAX)).finish(
        query.id,
        flags,
        query.asked,
        rcode,
        opt.as_ref(),
    );
}
