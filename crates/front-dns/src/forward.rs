//! Names of others: asked of resolvers elsewhere, where that is configured, for clients of networks that are named.
//!
//! A question goes out from a port of its own with a number of its own, so that answers cannot be guessed (RFC 5452), and
//! without the client's options, which are between the client and this server. Its answer comes back under the client's
//! number, with the question as the client spelled it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::answer::{self, Asker};
use crate::wire::{self, Asked, HEADER, Query, Rcode, flag, rtype};

/// How long one resolver may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions on their way at once.
const MAX_UNDER_WAY: usize = 512;

/// A network: an address and how many of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether an address is in it.
    pub fn holds(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let rest = 32 - u32::from(self.bits.min(32));
                (u64::from(own.to_bits() ^ other.to_bits()) >> rest) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let rest = 128 - u32::from(self.bits.min(128));
                (own.to_bits() ^ other.to_bits()).checked_shr(rest).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// This host and the networks that are nobody's (RFC 1918, RFC 4193, RFC 3927, RFC 4291).
    pub fn private() -> Vec<Network> {
        let four = |a, b, c, d, bits| Network { address: Ipv4Addr::new(a, b, c, d).into(), bits };
        let six = |first, bits| Network { address: Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0).into(), bits };
        vec![
            four(127, 0, 0, 0, 8),
            four(10, 0, 0, 0, 8),
            four(172, 16, 0, 0, 12),
            four(192, 168, 0, 0, 16),
            four(169, 254, 0, 0, 16),
            Network { address: Ipv6Addr::LOCALHOST.into(), bits: 128 },
            six(0xfc00, 7),
            six(0xfe80, 10),
        ]
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is no network: write ADDRESS/BITS, such as 10.0.0.0/8", text.escape_debug());
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| wrong())?;
        if bits > most { Err(wrong()) } else { Ok(Network { address, bits }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Asks resolvers elsewhere.
pub(crate) struct Forward {
    to: Vec<SocketAddr>,
    clients: Vec<Network>,
    room: Semaphore,
}

impl Forward {
    pub(crate) fn new(to: Vec<SocketAddr>, clients: Vec<Network>) -> Forward {
        Forward { to, clients, room: Semaphore::new(MAX_UNDER_WAY) }
    }

    /// Whether this client's questions are passed on.
    pub(crate) fn is_for(&self, client: IpAddr) -> bool {
        !self.to.is_empty() && self.clients.iter().any(|network| network.holds(client))
    }

    /// Passes a question on; the answer for the client is in `out`. Nothing when too many are under way.
    pub(crate) async fn ask(&self, message: &[u8], asker: &Asker, largest: usize, out: &mut Vec<u8>) -> bool {
        let Ok(_place) = self.room.try_acquire() else { return false };
        let mut name = Asked::default();
        let Ok(query) = Query::read(message, &mut name) else { return false };
        let outcome = self.ask_each(message, &query, asker).await;
        let outcome_word = match outcome {
            Some(answer) => {
                give(answer, message, &query, largest, out);
                "answered"
            }
            None => {
                answer::refuse(message, Rcode::ServFail, out);
                "failed"
            }
        };
        metrics::counter!("byname_dns_forwarded_total", "outcome" => outcome_word).increment(1);
        true
    }

    /// Each resolver in turn, until one says more than that it cannot.
    async fn ask_each(&self, message: &[u8], query: &Query, asker: &Asker) -> Option<Vec<u8>> {
        let mut last = None;
        for to in &self.to {
            let question = question(message, query);
            let Ok(Some(mut answer)) = tokio::time::timeout(PATIENCE, over_udp(*to, &question)).await else { continue };
            // Who asked over TCP can take all of it.
            if asker.tcp && answer.get(2).is_some_and(|bits| bits & 0x02 != 0) {
                match tokio::time::timeout(PATIENCE, over_tcp(*to, &question)).await {
                    Ok(Some(whole)) => answer = whole,
                    Ok(None) | Err(_) => continue,
                }
            }
            let code = answer.get(3).map_or(0, |bits| bits & 0xf);
            if code != Rcode::ServFail as u8 && code != Rcode::Refused as u8 {
                return Some(answer);
            }
            last = Some(answer);
        }
        last
    }
}

/// The client's question as this server asks it.
fn question(message: &[u8], query: &Query) -> Vec<u8> {
    let mut question = Vec::with_capacity(query.end + 11);
    question.extend_from_slice(&rand::random::<u16>().to_be_bytes());
    // RFC 6840 section 5.7: that the client understands AD is passed on, too.
    question.extend_from_slice(&(query.flags & (flag::RD | flag::CD | 0x0020)).to_be_bytes());
    question.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(query.edns.is_some())]);
    question.extend_from_slice(message.get(HEADER..query.end).unwrap_or_default());
    if let Some(edns) = query.edns {
        question.push(0);
        question.extend_from_slice(&rtype::OPT.to_be_bytes());
        question.extend_from_slice(&crate::UDP_BYTES.to_be_bytes());
        question.extend_from_slice(&[0, 0, u8::from(edns.dnssec_ok) << 7, 0, 0, 0]);
    }
    question
}

/// Whether a message answers this question.
fn answers(message: &[u8], question: &[u8]) -> bool {
    let (mut asked, mut answered) = (Asked::default(), Asked::default());
    let (Some(end), Some(same_end)) = (asked.read(question, HEADER), answered.read(message, HEADER)) else {
        return false;
    };
    message.get(..2) == question.get(..2)
        && message.get(2).is_some_and(|bits| bits & 0x80 != 0)
        && message.get(4..6) == Some(&[0, 1])
        && asked.wire() == answered.wire()
        && message.get(same_end..same_end + 4) == question.get(end..end + 4)
}

async fn over_udp(to: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(to).await.ok()?;
    socket.send(question).await.ok()?;
    let mut room = vec![0; 4_096];
    loop {
        let count = socket.recv(&mut room).await.ok()?;
        let message = room.get(..count).unwrap_or_default();
        // Anything else may be somebody who guesses.
        if answers(message, question) {
            return Some(message.to_vec());
        }
    }
}

async fn over_tcp(to: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(to).await.ok()?;
    let length = u16::try_from(question.len()).ok()?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await.ok()?;
    let length = stream.read_u16().await.ok()?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await.ok()?;
    answers(&message, question).then_some(message)
}

/// Makes an answer the client's own: its number and spelling, and no more than it takes.
fn give(mut answer: Vec<u8>, message: &[u8], query: &Query, largest: usize, out: &mut Vec<u8>) {
    let end = query.end;
    let same = answer.get(HEADER..end).map(<[u8]>::len) == Some(end - HEADER);
    if !same {
        answer::refuse(message, Rcode::ServFail, out);
        return;
    }
    answer[..2].copy_from_slice(&query.id.to_be_bytes());
    answer[HEADER..end].copy_from_slice(message.get(HEADER..end).unwrap_or_default());
    // Never in charge of what others said; and here is where to ask them.
    answer[2] &= !0x04;
    answer[3] |= flag::RA as u8;
    if answer.len() > largest {
        answer.truncate(end);
        answer[2] |= 0x02;
        answer[6..HEADER].fill(0);
    }
    *out = answer;
}

/// The largest answer that a client takes.
pub(crate) fn largest(query_edns: Option<wire::Edns>, tcp: bool, own: u16) -> usize {
    match query_edns {
        _ if tcp => usize::from(u16::MAX),
        Some(edns) => usize::from(edns.size.clamp(wire::PLAIN_UDP as u16, own)),
        None => wire::PLAIN_UDP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_what_begins_as_they_do() {
        let holds = |network: &str, address: &str| network.parse::<Network>().unwrap().holds(address.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("0.0.0.0/0", "192.0.2.1") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("::/0", "2001:db8::1") && holds("2001:db8::/32", "2001:db8:1::1"));
        assert!(holds("192.0.2.1", "192.0.2.1") && !holds("192.0.2.1", "192.0.2.2"));
        assert!(holds("127.0.0.0/8", "::ffff:127.0.0.1"));
        for wrong in ["10.0.0.0/33", "::/129", "ten/8", "10.0.0.0/", "/8"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
        assert!(Network::private().iter().any(|n| n.holds("::1".parse().unwrap())));
        assert!(!Network::private().iter().any(|n| n.holds("192.0.2.1".parse().unwrap())));
    }

    #[test]
    fn only_what_answers_the_question_is_taken() {
        let question = [&[7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x01a\x07example\0\0\x01\0\x01"].concat();
        let mut answer = question.clone();
        answer[2] = 0x81;
        answer[13] = b'A';
        assert!(answers(&answer, &question), "the spelling does not matter");
        for at in [0, 2, 5, 13, answer.len() - 3] {
            let mut other = answer.clone();
            other[at] ^= if at == 2 { 0x80 } else { 3 };
            assert!(!answers(&other, &question), "byte {at}");
        }
        assert!(!answers(&answer[..20], &question));
    }
}
