//! Messages of the DNS, written and read by other code than that which is tested.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

pub(crate) const A: u16 = 1;
pub(crate) const NS: u16 = 2;
pub(crate) const CNAME: u16 = 5;
pub(crate) const SOA: u16 = 6;
pub(crate) const PTR: u16 = 12;
pub(crate) const HINFO: u16 = 13;
pub(crate) const MX: u16 = 15;
pub(crate) const TXT: u16 = 16;
pub(crate) const AAAA: u16 = 28;
pub(crate) const SRV: u16 = 33;
pub(crate) const OPT: u16 = 41;
pub(crate) const SVCB: u16 = 64;
pub(crate) const ANY: u16 = 255;

pub(crate) const NOERROR: u16 = 0;
pub(crate) const FORMERR: u16 = 1;
pub(crate) const SERVFAIL: u16 = 2;
pub(crate) const NXDOMAIN: u16 = 3;
pub(crate) const NOTIMP: u16 = 4;
pub(crate) const REFUSED: u16 = 5;
pub(crate) const BADVERS: u16 = 16;
pub(crate) const BADCOOKIE: u16 = 23;

/// The bytes of a name.
pub(crate) fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

/// A question.
pub(crate) fn query(name: &str, qtype: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(wire(name));
    bytes.extend(qtype.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// The same with EDNS: a size, a version, and options.
pub(crate) fn with_edns(mut bytes: Vec<u8>, size: u16, version: u8, options: &[(u16, &[u8])]) -> Vec<u8> {
    bytes[11] += 1;
    bytes.push(0);
    bytes.extend(OPT.to_be_bytes());
    bytes.extend(size.to_be_bytes());
    bytes.extend([0, version, 0, 0]);
    let content: Vec<u8> = options
        .iter()
        .flat_map(|(code, data)| [&code.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat())
        .collect();
    bytes.extend((content.len() as u16).to_be_bytes());
    bytes.extend(content);
    bytes
}

pub(crate) fn with_cookie(bytes: Vec<u8>, cookie: &[u8]) -> Vec<u8> {
    with_edns(bytes, 1232, 0, &[(10, cookie)])
}

/// A record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) rtype: u16,
    pub(crate) ttl: u32,
    /// In words, as far as this knows the type.
    pub(crate) data: String,
}

/// Options of EDNS, by their codes.
type Options = Vec<(u16, Vec<u8>)>;

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    pub(crate) rcode: u16,
    pub(crate) question: Option<(String, u16)>,
    pub(crate) answer: Vec<Record>,
    pub(crate) authority: Vec<Record>,
    pub(crate) additional: Vec<Record>,
    /// Size, version and options.
    pub(crate) edns: Option<(u16, u8, Options)>,
    pub(crate) bytes: usize,
}

impl Answer {
    pub(crate) fn has_aa(&self) -> bool {
        self.flags & 0x0400 != 0
    }

    pub(crate) fn has_tc(&self) -> bool {
        self.flags & 0x0200 != 0
    }

    /// The data of the answer's records of a type.
    pub(crate) fn of(&self, rtype: u16) -> Vec<&str> {
        self.answer.iter().filter(|r| r.rtype == rtype).map(|r| r.data.as_str()).collect()
    }

    pub(crate) fn cookie(&self) -> Option<Vec<u8>> {
        let (_, _, options) = self.edns.as_ref()?;
        options.iter().find(|(code, _)| *code == 10).map(|(_, data)| data.clone())
    }

    pub(crate) fn read(bytes: &[u8]) -> Answer {
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (mut at, mut question) = (12, None);
        if word(4) == 1 {
            let name = read_name(bytes, &mut at);
            question = Some((name, word(at)));
            at += 4;
        }
        let flags = word(2);
        let mut rcode = flags & 0xf;
        let mut edns = None;
        let mut sections: [Vec<Record>; 3] = Default::default();
        for (section, records) in sections.iter_mut().enumerate() {
            for _ in 0..word(6 + 2 * section) {
                let name = read_name(bytes, &mut at);
                let (rtype, class) = (word(at), word(at + 2));
                let ttl = u32::from(word(at + 4)) << 16 | u32::from(word(at + 6));
                let length = usize::from(word(at + 8));
                at += 10;
                if rtype == OPT {
                    rcode |= ((ttl >> 24) as u16) << 4;
                    let (mut options, mut from) = (Vec::new(), at);
                    while from < at + length {
                        let size = usize::from(word(from + 2));
                        options.push((word(from), bytes[from + 4..from + 4 + size].to_vec()));
                        from += 4 + size;
                    }
                    edns = Some((class, (ttl >> 16) as u8, options));
                } else {
                    records.push(Record { name, rtype, ttl, data: words(bytes, at, length, rtype) });
                }
                at += length;
            }
        }
        assert_eq!(at, bytes.len(), "nothing is left over");
        let [answer, authority, additional] = sections;
        Answer { id: word(0), flags, rcode, question, answer, authority, additional, edns, bytes: bytes.len() }
    }
}

fn words(bytes: &[u8], at: usize, length: usize, rtype: u16) -> String {
    let data = &bytes[at..at + length];
    let word = |at: usize| u16::from_be_bytes([data[at], data[at + 1]]);
    let name = |from: usize| read_name(bytes, &mut (at + from));
    match rtype {
        A => std::net::Ipv4Addr::from(<[u8; 4]>::try_from(data).unwrap()).to_string(),
        AAAA => std::net::Ipv6Addr::from(<[u8; 16]>::try_from(data).unwrap()).to_string(),
        NS | CNAME | PTR => name(0),
        MX => format!("{} {}", word(0), name(2)),
        SRV => format!("{} {} {} {}", word(0), word(2), word(4), name(6)),
        SOA => {
            let mut from = at;
            let (first, second) = (read_name(bytes, &mut from), read_name(bytes, &mut from));
            let numbers: Vec<String> = bytes[from..at + length]
                .chunks(4)
                .map(|c| u32::from_be_bytes(c.try_into().unwrap()).to_string())
                .collect();
            format!("{first} {second} {}", numbers.join(" "))
        }
        TXT | HINFO => {
            let (mut texts, mut from) = (Vec::new(), 0);
            while from < length {
                let size = usize::from(data[from]);
                texts.push(String::from_utf8_lossy(&data[from + 1..from + 1 + size]).into_owned());
                from += 1 + size;
            }
            texts.join("|")
        }
        _ => data.iter().map(|b| format!("{b:02x}")).collect(),
    }
}

/// A name, pointers followed: each leads to what came before (RFC 1035 section 4.1.4).
fn read_name(bytes: &[u8], at: &mut usize) -> String {
    let (mut name, mut from, mut jumped) = (String::new(), *at, false);
    loop {
        let size = usize::from(bytes[from]);
        if size >= 0xc0 {
            let to = (size & 0x3f) << 8 | usize::from(bytes[from + 1]);
            assert!(to < from, "a pointer leads backwards");
            if !jumped {
                *at = from + 2;
            }
            (from, jumped) = (to, true);
            continue;
        }
        from += 1;
        if size == 0 {
            break;
        }
        name.push_str(&String::from_utf8_lossy(&bytes[from..from + size]));
        name.push('.');
        from += size;
    }
    if !jumped {
        *at = from;
    }
    name
}

/// Asks over UDP; `None` when nothing comes.
pub(crate) async fn send(to: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, to).await.unwrap();
    let mut room = [0; 4_096];
    let got = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut room)).await.ok()?.unwrap();
    Some(Answer::read(&room[..got]))
}

pub(crate) async fn ask(to: SocketAddr, name: &str, qtype: u16) -> Answer {
    send(to, &query(name, qtype)).await.expect("an answer")
}

/// A connection.
pub(crate) struct Tcp(TcpStream);

impl Tcp {
    pub(crate) async fn to(address: SocketAddr) -> Tcp {
        Tcp(TcpStream::connect(address).await.unwrap())
    }

    pub(crate) async fn send(&mut self, messages: &[Vec<u8>]) {
        let framed: Vec<u8> =
            messages.iter().flat_map(|m| [&(m.len() as u16).to_be_bytes()[..], m.as_slice()].concat()).collect();
        self.0.write_all(&framed).await.unwrap();
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Sends a byte, if the connection is still there.
    pub(crate) async fn try_byte(&mut self, byte: u8) -> bool {
        self.0.write_all(&[byte]).await.is_ok()
    }

    /// Sends the rest of a frame whose first byte was sent.
    pub(crate) async fn try_bytes(&mut self, message: &[u8]) -> bool {
        self.0.write_all(&[&[message.len() as u8], message].concat()).await.is_ok()
    }

    pub(crate) async fn try_framed(&mut self, message: &[u8]) -> bool {
        self.try_byte(0).await && self.try_bytes(message).await
    }

    /// The next answer; `None` when the connection ends.
    pub(crate) async fn next(&mut self) -> Option<Answer> {
        let length = tokio::time::timeout(Duration::from_secs(20), self.0.read_u16()).await.expect("in time").ok()?;
        let mut bytes = vec![0; usize::from(length)];
        self.0.read_exact(&mut bytes).await.ok()?;
        Some(Answer::read(&bytes))
    }
}

pub(crate) async fn ask_tcp(to: SocketAddr, name: &str, qtype: u16) -> Answer {
    let mut tcp = Tcp::to(to).await;
    tcp.send(&[query(name, qtype)]).await;
    tcp.next().await.expect("an answer")
}
