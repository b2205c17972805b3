//! Names that have no entry of their own and are there all the same: what is asked for beneath a service, what a
//! directory lists, and what lies beneath an alias.
//!
//! | name | records |
//! |---|---|
//! | `_http._tcp.NAME` | SRV and SVCB of the service's endpoints of that kind, TXT |
//! | `_http.NAME` | SVCB |
//! | `INSTANCE.NAME` | A and AAAA of that copy |
//! | `_http._tcp.DIRECTORY` | PTR to each service in it of that kind (RFC 6763 section 4.1) |
//! | `LABEL._http._tcp.DIRECTORY` | SRV and TXT of that service (RFC 6763 section 4.1.1) |
//! | `_services._dns-sd._udp.DIRECTORY` | PTR to each kind (RFC 6763 section 9) |
//! | `b._dns-sd._udp.DIRECTORY`, `lb.…` | PTR to the directory: it can be browsed (RFC 6763 section 11) |
//! | `x.ALIAS` | CNAME to `x.TARGET`, and what that has |

use std::net::IpAddr;

use crate::answer::{Composing, Found, fits};
use crate::key::above;
use crate::render::SERVICE_TTL;
use crate::wire::{MAX_NAME, rtype};
use crate::zone::{Service, Set};

/// Services in one list at most.
const MAX_LISTED: usize = 1_000;

const BROWSE: &[u8] = b"\x07_dns-sd\x04_udp";
const KINDS: &[u8] = b"\x09_services\x07_dns-sd\x04_udp";

/// A name with labels that begin with `_`.
struct Asked<'n> {
    /// One label in front of them.
    label: Option<&'n [u8]>,
    /// These labels.
    kind: &'n [u8],
    /// What is behind them.
    base: &'n [u8],
}

/// Takes a name apart. `None` for one without such labels, or with more than one label in front of them.
fn take_apart(labels: &[u8]) -> Option<Asked<'_>> {
    let first = |at: &[u8]| at.get(1) == Some(&b'_') && at.first().is_some_and(|size| *size > 1);
    let mut rest = labels;
    let mut label = None;
    if !first(labels) {
        rest = above(labels)?;
        label = labels.get(..labels.len() - rest.len());
    }
    let begin = rest;
    while first(rest) {
        rest = above(rest)?;
    }
    let kind = begin.get(..begin.len() - rest.len()).filter(|kind| !kind.is_empty())?;
    Some(Asked { label, kind, base: rest })
}

impl Composing<'_> {
    /// A name without an entry.
    pub(crate) fn composed(&mut self, labels: &[u8], owner: usize, links: usize) -> Found {
        if let Some(asked) = take_apart(labels)
            && let Some(found) = self.beneath_a_name(&asked, labels, owner)
        {
            return found;
        }
        let mut at = labels;
        while let Some(next) = above(at) {
            let Some(entry) = self.entry(next) else {
                at = next;
                continue;
            };
            let front = labels.get(..labels.len() - next.len()).unwrap_or_default();
            if let Some(target) = entry.sets.get(rtype::CNAME).and_then(Set::first) {
                return self.beneath_an_alias(front, entry.ttl, target, owner, links);
            }
            if let Some(service) = &entry.service {
                return self.copy(service, front, entry.ttl, owner);
            }
            return Found::NoName;
        }
        Found::NoName
    }

    /// `x.ALIAS` is `x.TARGET`, if that is there; else nothing tells of the alias.
    fn beneath_an_alias(&mut self, front: &[u8], ttl: u32, target: &[u8], owner: usize, links: usize) -> Found {
        let mut whole = [0; MAX_NAME];
        let length = front.len() + target.len();
        let Some(place) = whole.get_mut(..length) else { return Found::NoName };
        let (first, second) = place.split_at_mut(front.len());
        first.copy_from_slice(front);
        second.copy_from_slice(target);
        let name = &*place;
        let Some(labels) = self.image().inside(name).filter(|_| links < 8) else { return Found::NoName };
        let Some(at) = self.cname(owner, ttl, name) else { return Found::Full };
        match self.name(labels, at, links + 1) {
            Found::NoName => {
                self.take_back();
                Found::NoName
            }
            // The question was for the link itself.
            found if self.qtype() == rtype::CNAME => {
                if found == Found::Full {
                    Found::Full
                } else {
                    Found::Records
                }
            }
            found => found,
        }
    }

    /// The address of one copy.
    fn copy(&mut self, service: &Service, label: &[u8], ttl: u32, owner: usize) -> Found {
        let mut found = Found::NoName;
        for (_, address) in service.copies.iter().filter(|(own, _)| **own == *label) {
            let written = match (address, self.qtype()) {
                (IpAddr::V4(a), rtype::A) => self.push(rtype::A, owner, ttl, &a.octets()),
                (IpAddr::V6(a), rtype::AAAA) => self.push(rtype::AAAA, owner, ttl, &a.octets()),
                _ => {
                    if found == Found::NoName {
                        found = Found::Nothing;
                    }
                    continue;
                }
            };
            if !written {
                return Found::Full;
            }
            found = Found::Records;
        }
        found
    }

    /// What is asked for beneath a name by labels with `_`; `None` if that name is not there or stands for another.
    fn beneath_a_name(&mut self, asked: &Asked<'_>, labels: &[u8], owner: usize) -> Option<Found> {
        let base = self.entry(asked.base)?;
        if base.sets.get(rtype::CNAME).is_some() {
            return None;
        }
        let base_at = owner + (labels.len() - asked.base.len());
        if let Some(label) = asked.label {
            if asked.kind == BROWSE && matches!(label, b"\x01b" | b"\x02lb") {
                let lists = !self.image().kinds(asked.base).is_empty();
                return lists.then(|| match self.qtype() {
                    rtype::PTR => fits(self.push_pointer(rtype::PTR, owner, SERVICE_TTL, &[], base_at)),
                    _ => Found::Nothing,
                });
            }
            if !self.image().lists(asked.base, asked.kind, label.get(1..)?) {
                return None;
            }
            let mut whole = [0; MAX_NAME];
            let place = whole.get_mut(..label.len() + asked.base.len())?;
            let (first, second) = place.split_at_mut(label.len());
            first.copy_from_slice(label);
            second.copy_from_slice(asked.base);
            let entry = self.entry(place)?;
            return Some(self.offered(entry.service.as_ref()?, asked.kind, entry.ttl, owner, None));
        }
        if asked.kind == KINDS {
            let kinds = self.image().kinds(asked.base);
            return (!kinds.is_empty()).then(|| match self.qtype() {
                rtype::PTR => self.list(&kinds, owner, base_at),
                _ => Found::Nothing,
            });
        }
        let service = base.service.as_ref();
        let offers = service.is_some_and(|service| service.kinds.iter().any(|kind| *kind.prefix == *asked.kind));
        let listed = self.image().listed(asked.base, asked.kind, MAX_LISTED);
        if self.qtype() == rtype::PTR && !listed.is_empty() {
            return Some(self.list_services(&listed, owner));
        }
        if let Some(service) = service.filter(|_| offers) {
            return Some(self.offered(service, asked.kind, base.ttl, owner, Some(base_at)));
        }
        if !listed.is_empty() {
            return Some(Found::Nothing);
        }
        // What is only on the way to one of these is there, too (RFC 8020).
        let kinds = self.image().kinds(asked.base);
        let own = service.iter().flat_map(|service| service.kinds.iter()).map(|kind| &kind.prefix);
        let mut all = own.chain(kinds.iter());
        let on_the_way = all.any(|kind| above(kind) == Some(asked.kind));
        let browsed = !kinds.is_empty() && (asked.kind == BROWSE || above(BROWSE) == Some(asked.kind));
        if on_the_way || browsed {
            return Some(Found::Nothing);
        }
        let service = service?;
        if service.copies.is_empty() && matches!(above(asked.kind), Some(b"\x04_tcp" | b"\x04_udp")) {
            // What it will offer is not known before it runs, so it is not said that this is not there.
            if matches!(self.qtype(), rtype::SRV | rtype::SVCB) {
                self.waits(service);
            }
            return Some(Found::Nothing);
        }
        // `_http.NAME`: the protocol without its transport (RFC 9460 section 2.3).
        let kind =
            service.kinds.iter().find(|kind| kind.prefix.starts_with(asked.kind) && above(asked.kind) == Some(&[]));
        let kind = kind?;
        if self.qtype() == rtype::SVCB && self.waits(service) {
            return Some(Found::Nothing);
        }
        Some(match kind.sets.get(rtype::SVCB).filter(|set| set.rtype == self.qtype()) {
            Some(set) => self.set(set, owner, base.ttl),
            None => Found::Nothing,
        })
    }

    /// A service's endpoints of one kind. `name_at` is where the service's own name is in the message.
    fn offered(&mut self, service: &Service, kind: &[u8], ttl: u32, owner: usize, name_at: Option<usize>) -> Found {
        let Some(offered) = service.kinds.iter().find(|offered| *offered.prefix == *kind) else {
            return Found::NoName;
        };
        match self.qtype() {
            // RFC 6763 section 6.1: there is always such a record, even an empty one.
            rtype::TXT => fits(self.push(rtype::TXT, owner, ttl, service.text.as_deref().unwrap_or(&[0]))),
            rtype::ANY => fits(self.push(rtype::HINFO, owner, 3600, b"\x07RFC8482\0")),
            // Resolvers that ask for a name label by label (RFC 9156) ask for other types on the way.
            qtype => {
                if matches!(qtype, rtype::SRV | rtype::SVCB) && self.waits(service) {
                    return Found::Nothing;
                }
                match offered.sets.get(qtype) {
                    Some(set) => {
                        let found = self.set(set, owner, ttl);
                        if let (rtype::SRV, Found::Records, Some(at)) = (qtype, found, name_at) {
                            self.add_copies(service, at, ttl);
                        }
                        found
                    }
                    None => Found::Nothing,
                }
            }
        }
    }

    /// Pointers to kinds: `_http._tcp` and the name at `base_at`.
    fn list(&mut self, kinds: &[Box<[u8]>], owner: usize, base_at: usize) -> Found {
        for kind in kinds {
            if !self.push_pointer(rtype::PTR, owner, SERVICE_TTL, kind, base_at) {
                return Found::Full;
            }
        }
        Found::Records
    }

    /// Pointers to services: a label and the name that was asked for.
    fn list_services(&mut self, labels: &[Box<[u8]>], owner: usize) -> Found {
        for label in labels {
            let mut whole = [0; 64];
            let Some(place) = whole.get_mut(..=label.len()) else { continue };
            if let Some((size, text)) = place.split_first_mut() {
                *size = label.len() as u8;
                text.copy_from_slice(label);
            }
            let place = &*place;
            if !self.push_pointer(rtype::PTR, owner, SERVICE_TTL, place, owner) {
                return Found::Full;
            }
        }
        Found::Records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_at_their_underscores() {
        let labels = |text: &str| crate::wire::labels_of(text).unwrap();
        let apart = |text: &str| {
            let labels = labels(text);
            take_apart(&labels).map(|a| (a.label.map(<[u8]>::to_vec), a.kind.to_vec(), a.base.to_vec()))
        };
        assert_eq!(apart("_http._tcp.qs.bvods"), Some((None, labels("_http._tcp"), labels("qs.bvods"))));
        assert_eq!(apart("qs._http._tcp.bvods"), Some((Some(labels("qs")), labels("_http._tcp"), labels("bvods"))));
        assert_eq!(apart("_services._dns-sd._udp"), Some((None, KINDS.to_vec(), Vec::new())));
        for none in ["qs.bvods", "a.b._tcp.c", "a"] {
            assert_eq!(apart(none), None, "{none}");
        }
    }
}
