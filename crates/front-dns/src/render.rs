//! From an object of the tree to its entry in the zone image. Pure.
//!
//! | kind | records |
//! |---|---|
//! | service | A and AAAA of the copies that `choose` gives, SRV, HTTPS where it speaks TLS |
//! | computer | A and AAAA |
//! | alias | CNAME |
//! | group | PTR to its members |
//! | every kind | TXT of its public attributes, and what a public attribute names (`mx`, `loc`, …: see `rdata`) |
//!
//! Of a service only copies that answer are named: running, on a host that is up, the best of them by health. `first` and
//! `nearest` give the first of them in the order of their starts, the other rules all of them, which take turns in being
//! the first. SRV names every such copy, each by a name of its own (`INSTANCE.NAME`), with its weight; under `first` the
//! later ones have later priorities.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use byname_api::launch::Start;
use byname_api::object::{Choose, Kind, Object, Value};
use byname_api::service::{Endpoint, Health, Instance, State};
use byname_name::{Name, dns};

use crate::rdata;
use crate::wire::{self, rtype};
use crate::zone::{Entry, Offered, Service, SetsMaker, Used};

/// The time to live of a service's records when nobody says, in seconds: copies come and go.
pub(crate) const SERVICE_TTL: u32 = 5;
/// The time to live of other records when nobody says, in seconds.
pub(crate) const USUAL_TTL: u32 = 60;
/// What a time to live is at most, in seconds (RFC 2181 section 8 lets it be 31 bits).
const MAX_TTL: u64 = 7 * 86_400;

/// What a rendering needs to know beside the object.
pub(crate) struct World<'a> {
    /// The zone, in text.
    pub(crate) suffix: &'a str,
    /// Whether a host is being emptied: its copies are named only where no others are there.
    pub(crate) leaving: &'a dyn Fn(&Name) -> bool,
}

/// The labels of a name in front of the zone; `None` for a name without a form.
pub(crate) fn labels_of(name: &Name, suffix: &str) -> Option<Vec<u8>> {
    let form = dns::to_dns(name, suffix).ok()?;
    let front = form.len().checked_sub(suffix.len())?;
    wire::labels_of(form.get(..front)?.trim_end_matches('.'))
}

/// The whole form of a name.
pub(crate) fn wire_of(name: &Name, suffix: &str) -> Option<Vec<u8>> {
    wire::wire_of(&dns::to_dns(name, suffix).ok()?)
}

/// The entry of an object; `labels` are those of its name in front of the zone.
pub(crate) fn entry(object: &Object, labels: &[u8], world: &World<'_>) -> Entry {
    let kind = object.spec.kind();
    let mut ttl = object.spec.ttl.map_or_else(
        || if kind == Kind::Service { SERVICE_TTL } else { USUAL_TTL },
        |ttl| (ttl.as_millis() / 1000).min(MAX_TTL) as u32,
    );
    let mut maker = SetsMaker::default();
    let mut service = None;
    match kind {
        Kind::Alias => {
            if let Some(target) = object.spec.target.as_ref().and_then(|target| wire_of(target, world.suffix)) {
                maker.push(rtype::CNAME, false, [target]);
            }
            // RFC 2181 section 10.1: an alias has nothing else.
            return Entry { ttl, own: true, sets: maker.done(), ..Entry::default() };
        }
        Kind::Service => {
            let idle = object.spec.launch.as_ref().and_then(|launch| launch.idle_stop);
            if let Some(idle) = idle {
                ttl = ttl.min((idle.as_millis() / 2000).min(MAX_TTL) as u32);
            }
            service = Some(Box::new(render_service(object, labels, world, &mut maker)));
        }
        Kind::Computer => {
            let addresses = object.spec.addresses.iter().flatten().filter_map(|a| a.parse().ok());
            push_addresses(&mut maker, false, &addresses.collect::<Vec<_>>());
        }
        Kind::Group => {
            let members = object.spec.members.iter().flatten().filter_map(|text| Name::parse(text).ok());
            maker.push(rtype::PTR, false, members.filter_map(|name| wire_of(&name, world.suffix)));
        }
        Kind::Directory | Kind::Record | Kind::Junction | Kind::Principal | Kind::Secret => {}
    }
    let text = push_attributes(object, kind, world.suffix, &mut maker);
    if let Some(service) = &mut service {
        service.text = text;
    }
    Entry { ttl, own: true, sets: maker.done(), service, ..Entry::default() }
}

/// Addresses as records, each once.
fn push_addresses(maker: &mut SetsMaker, turns: bool, addresses: &[IpAddr]) {
    let mut four = Vec::new();
    let mut six = Vec::new();
    for address in addresses {
        match address {
            IpAddr::V4(a) if !four.contains(&a.octets()) => four.push(a.octets()),
            IpAddr::V6(a) if !six.contains(&a.octets()) => six.push(a.octets()),
            _ => {}
        }
    }
    maker.push(rtype::A, turns, four);
    maker.push(rtype::AAAA, turns, six);
}

/// The public attributes: what names a type of record is one, and the rest is in TXT as `name=value` (RFC 1464, RFC 6763
/// section 6). Gives the data of that record.
fn push_attributes(object: &Object, kind: Kind, suffix: &str, maker: &mut SetsMaker) -> Option<Box<[u8]>> {
    let mut text = Vec::new();
    let mut typed: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
    for name in object.spec.public.iter().flatten() {
        let Some(values) = object.spec.attributes.as_ref().and_then(|all| all.get(name)) else { continue };
        match rdata::type_named(name) {
            Some(rtype) => {
                let own = matches!(rtype, rtype::A | rtype::AAAA) && matches!(kind, Kind::Service | Kind::Computer);
                let read = values.iter().filter_map(|v| rdata::read(rtype, &v.to_string(), suffix));
                if !own {
                    typed.entry(rtype).or_default().extend(read);
                }
            }
            None => values.iter().for_each(|value| push_text(&mut text, name, value)),
        }
    }
    let texts = typed.remove(&rtype::TXT).unwrap_or_default();
    let own = (!text.is_empty()).then_some(text);
    maker.push(rtype::TXT, false, own.iter().chain(&texts));
    for (rtype, data) in typed {
        maker.push(rtype, false, data);
    }
    own.map(Vec::into_boxed_slice)
}

/// What a record of type TXT holds of attributes at most, in bytes.
const MAX_TEXT: usize = 8_000;

/// One string `name=value`; what does not fit into 255 bytes goes on in the next string.
fn push_text(text: &mut Vec<u8>, name: &str, value: &Value) {
    let whole = match value {
        // RFC 6763 section 6.4: a name alone says that it is so.
        Value::Bool(true) => name.to_owned(),
        value => format!("{name}={value}"),
    };
    if text.len() + whole.len() > MAX_TEXT {
        return;
    }
    rdata::push_strings(text, whole.as_bytes());
}

fn render_service(object: &Object, labels: &[u8], world: &World<'_>, maker: &mut SetsMaker) -> Service {
    let status = object.status.as_ref();
    let launch = object.spec.launch.as_ref();
    let instances = status.map(|s| s.instances.as_slice()).unwrap_or_default();
    let there = answering(instances, world);
    let rule = object.spec.choose.unwrap_or_default();
    let first = matches!(rule, Choose::First | Choose::Nearest);
    let chosen = if first { there.get(..1).unwrap_or_default() } else { &there[..] };
    let addresses: Vec<IpAddr> = chosen.iter().flat_map(|copy| addresses_of(copy)).collect();
    push_addresses(maker, !first, &addresses);
    let whole = |front: &[u8]| {
        let zone = wire::wire_of(world.suffix).unwrap_or_default();
        [front, labels, &zone].concat()
    };
    let mut copies: Vec<(Box<[u8]>, IpAddr)> = Vec::new();
    for copy in &there {
        let label = label_of(copy);
        copies.extend(addresses_of(copy).into_iter().map(|address| (label.clone(), address)));
    }
    // Kinds of endpoints: what is declared, and what the copies have.
    let mut kinds: Vec<String> = Vec::new();
    let declared = launch.map(|launch| launch.endpoints()).unwrap_or_default();
    let words = declared.iter().map(|e| &e.protocol);
    for word in words.chain(there.iter().flat_map(|copy| &copy.endpoints).map(|e| &e.protocol)) {
        if !kinds.contains(word) {
            kinds.push(word.clone());
        }
    }
    let mut all: Vec<Vec<u8>> = Vec::new();
    let mut offered: Vec<Offered> = Vec::new();
    for word in &kinds {
        let Some(prefix) = prefix_of(word) else { continue };
        let mut sets = SetsMaker::default();
        let mut located = Vec::new();
        let mut bound = Vec::new();
        for (at, copy) in there.iter().enumerate() {
            let priority = if first { at as u16 } else { 0 };
            let target = whole(&label_of(copy));
            for endpoint in copy.endpoints.iter().filter(|e| e.protocol == *word && is_reached(e)) {
                located.push(srv(priority, copy.weight, endpoint.port, &target));
                bound.push(svcb(priority.saturating_add(1), word, endpoint, &target));
            }
        }
        all.extend(located.iter().cloned());
        // RFC 9460 section 9.5: a record of type HTTPS says that TLS is spoken, so it is for those that do.
        if matches!(word.as_str(), "https" | "h2" | "h3") {
            maker.push(rtype::HTTPS, false, &bound);
        }
        sets.push(rtype::SRV, false, &located);
        sets.push(rtype::SVCB, false, &bound);
        offered.push(Offered { prefix: prefix.into(), sets: sets.done() });
    }
    // At the name itself every endpoint, for those who ask so.
    maker.push(rtype::SRV, false, &all);
    let held = status.is_some_and(|s| s.held.is_some() || s.state == State::Failed);
    let can = launch.is_some_and(|launch| {
        launch.dns_start == Some(true)
            && launch.start() != Start::Manual
            && (launch.program.is_some() || launch.command.is_some())
    });
    let used = Used::default();
    let idle =
        launch.and_then(|launch| launch.idle_stop).filter(|_| launch.is_some_and(|l| l.start() != Start::Always));
    used.idle_ms.store(idle.map_or(0, |idle| idle.as_millis()), std::sync::atomic::Ordering::Relaxed);
    Service {
        name: object.name.clone(),
        starts: can && !held && there.is_empty(),
        kinds: offered.into(),
        copies: copies.into(),
        text: None,
        used: Arc::new(used),
    }
}

/// The copies that a find would name: those that run, on hosts that stay where there are any, the best by health.
fn answering<'a>(instances: &'a [Instance], world: &World<'_>) -> Vec<&'a Instance> {
    let well = |copy: &&Instance| copy.state == State::Running && copy.health != Some(Health::Critical);
    let mut there: Vec<&Instance> = instances.iter().filter(well).collect();
    let stays = |copy: &&Instance| copy.computer.as_ref().is_none_or(|computer| !(world.leaving)(computer));
    if there.iter().any(stays) {
        there.retain(stays);
    }
    let health = |copy: &Instance| copy.health.unwrap_or(Health::Passing);
    if let Some(best) = there.iter().map(|copy| health(copy)).min() {
        there.retain(|copy| health(copy) == best);
    }
    there
}

/// Whether an endpoint is reached over a network.
fn is_reached(endpoint: &Endpoint) -> bool {
    endpoint.port != 0 && endpoint.address.parse::<IpAddr>().is_ok()
}

fn addresses_of(copy: &Instance) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in copy.endpoints.iter().filter_map(|e| e.address.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// The label of a copy beneath its service.
fn label_of(copy: &Instance) -> Box<[u8]> {
    let text = copy.id.to_string();
    [&[text.len() as u8], text.as_bytes()].concat().into()
}

/// `_http._tcp` for the word `http`, `_dns._udp` for `dns/udp`, as labels. `None` for what cannot be a label, and for
/// unix sockets, which no network reaches.
pub(crate) fn prefix_of(word: &str) -> Option<Vec<u8>> {
    let (protocol, transport) = match word.split_once('/') {
        Some((protocol, transport @ ("tcp" | "udp"))) => (protocol, transport),
        Some(_) => return None,
        None if word == "udp" => (word, "udp"),
        None => (word, "tcp"),
    };
    let good = (1..=62).contains(&protocol.len())
        && protocol.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && protocol != "unix";
    good.then(|| wire::labels_of(&format!("_{protocol}._{transport}"))).flatten()
}

/// RFC 2782; the target is never compressed.
fn srv(priority: u16, weight: Option<u32>, port: u16, target: &[u8]) -> Vec<u8> {
    let weight = weight.unwrap_or(1).min(u32::from(u16::MAX)) as u16;
    [&priority.to_be_bytes()[..], &weight.to_be_bytes(), &port.to_be_bytes(), target].concat()
}

/// RFC 9460: priority, target, and the parameters `alpn` (1), `port` (3), `ipv4hint` (4) or `ipv6hint` (6), in this order.
fn svcb(priority: u16, word: &str, endpoint: &Endpoint, target: &[u8]) -> Vec<u8> {
    let mut data = [&priority.to_be_bytes()[..], target].concat();
    let mut parameter = |key: u16, value: &[u8]| {
        data.extend_from_slice(&key.to_be_bytes());
        data.extend_from_slice(&(value.len() as u16).to_be_bytes());
        data.extend_from_slice(value);
    };
    // `https` speaks HTTP/1.1, which needs no word.
    if let Some(alpn) = Some(word).filter(|word| matches!(*word, "h2" | "h3")) {
        parameter(1, &[&[alpn.len() as u8], alpn.as_bytes()].concat());
    }
    parameter(3, &endpoint.port.to_be_bytes());
    match endpoint.address.parse() {
        Ok(IpAddr::V4(address)) => parameter(4, &address.octets()),
        Ok(IpAddr::V6(address)) => parameter(6, &address.octets()),
        Err(_) => {}
    }
    data
}

/// The labels of an address's name in `in-addr.arpa` (RFC 1035 section 3.5) or `ip6.arpa` (RFC 3596 section 2.5).
pub(crate) fn reverse_of(address: IpAddr) -> Vec<u8> {
    let text = match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let mut text = String::with_capacity(72);
            for byte in address.octets().iter().rev() {
                text.push_str(&format!("{:x}.{:x}.", byte & 0xf, byte >> 4));
            }
            text + "ip6.arpa"
        }
    };
    wire::labels_of(&text).unwrap_or_default()
}

/// The entry of an address that leads to this name.
pub(crate) fn reverse_entry(target: Vec<u8>) -> Entry {
    let mut maker = SetsMaker::default();
    maker.push(rtype::PTR, false, [target]);
    Entry { ttl: USUAL_TTL, own: true, sets: maker.done(), ..Entry::default() }
}

/// The entry of a name that the server is called by, with these addresses.
pub(crate) fn server_entry(addresses: &[IpAddr]) -> Entry {
    let mut maker = SetsMaker::default();
    push_addresses(&mut maker, false, addresses);
    Entry { ttl: USUAL_TTL, own: true, sets: maker.done(), ..Entry::default() }
}

/// Addresses of a service's copies.
pub(crate) fn addresses(object: &Object) -> Vec<IpAddr> {
    let copies = object.status.iter().flat_map(|status| &status.instances);
    copies.flat_map(addresses_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_endpoints_become_service_labels() {
        let text = |word: &str| prefix_of(word).map(|p| String::from_utf8(p).unwrap());
        assert_eq!(text("http").as_deref(), Some("\x05_http\x04_tcp"));
        assert_eq!(text("udp").as_deref(), Some("\x04_udp\x04_udp"));
        assert_eq!(text("dns/udp").as_deref(), Some("\x04_dns\x04_udp"));
        for none in ["unix", "", "a b", "a.b", "x/sctp"] {
            assert_eq!(text(none), None, "{none}");
        }
    }

    #[test]
    fn addresses_are_turned_round() {
        let text = |address: &str| {
            let labels = reverse_of(address.parse().unwrap());
            assert_eq!(wire::count_labels(&[&labels[..], &[0]].concat()), if address.contains(':') { 34 } else { 6 });
            labels
        };
        assert!(text("192.0.2.1").starts_with(b"\x011\x012\x010\x03192\x07in-addr\x04arpa"));
        // RFC 3596 section 2.5's example.
        assert!(text("4321:0:1:2:3:4:567:89ab").starts_with(b"\x01b\x01a\x019\x018\x017\x016\x015\x010\x014"));
    }
}
