//! Messages of the DNS as bytes (RFC 1035 section 4, RFC 6891): what a query says, and how an answer is written. Pure.
//!
//! A query is read by hand, in one pass, from the datagram: nothing is copied but the name, in small letters, into a
//! buffer of fixed size. An answer is written into a buffer that is used again; names in it point back at the question
//! where that is possible (compression, RFC 1035 section 4.1.4), which also keeps the question's own spelling.

/// The length of a header.
pub(crate) const HEADER: usize = 12;
/// The most bytes of a name, its root label included (RFC 1035 section 3.1).
pub(crate) const MAX_NAME: usize = 255;
/// The most labels of a name, the root not counted.
pub(crate) const MAX_LABELS: usize = 127;
/// What every UDP client takes (RFC 1035 section 4.2.1).
pub(crate) const PLAIN_UDP: usize = 512;

/// Types of records.
pub(crate) mod rtype {
    #![allow(missing_docs)]
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const HINFO: u16 = 13;
    pub(crate) const MX: u16 = 15;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const RP: u16 = 17;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const LOC: u16 = 29;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const NAPTR: u16 = 35;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const SSHFP: u16 = 44;
    pub(crate) const TLSA: u16 = 52;
    pub(crate) const SVCB: u16 = 64;
    pub(crate) const HTTPS: u16 = 65;
    pub(crate) const TKEY: u16 = 249;
    pub(crate) const TSIG: u16 = 250;
    pub(crate) const IXFR: u16 = 251;
    pub(crate) const AXFR: u16 = 252;
    pub(crate) const MAILB: u16 = 253;
    pub(crate) const MAILA: u16 = 254;
    pub(crate) const ANY: u16 = 255;
    pub(crate) const URI: u16 = 256;
    pub(crate) const CAA: u16 = 257;
}

/// The Internet's class.
pub(crate) const CLASS_IN: u16 = 1;

/// Response codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub(crate) enum Rcode {
    /// No error.
    NoError = 0,
    /// The query cannot be read.
    FormErr = 1,
    /// The server cannot answer now.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// The server does not know this kind of query.
    NotImp = 4,
    /// The server does not answer this to this client.
    Refused = 5,
    /// The server is not in charge of the zone, or the signature does not count (RFC 8945 section 5.2).
    NotAuth = 9,
    /// A version of EDNS that the server does not know (RFC 6891 section 6.1.3).
    BadVers = 16,
    /// The cookie is missing or wrong (RFC 7873 section 8).
    BadCookie = 23,
}

impl Rcode {
    /// The word for it, for metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Rcode::NoError => "noerror",
            Rcode::FormErr => "formerr",
            Rcode::ServFail => "servfail",
            Rcode::NxDomain => "nxdomain",
            Rcode::NotImp => "notimp",
            Rcode::Refused => "refused",
            Rcode::NotAuth => "notauth",
            Rcode::BadVers => "badvers",
            Rcode::BadCookie => "badcookie",
        }
    }
}

/// The header's bits.
pub(crate) mod flag {
    #![allow(missing_docs)]
    pub(crate) const QR: u16 = 0x8000;
    pub(crate) const OPCODE: u16 = 0x7800;
    pub(crate) const AA: u16 = 0x0400;
    pub(crate) const TC: u16 = 0x0200;
    pub(crate) const RD: u16 = 0x0100;
    pub(crate) const RA: u16 = 0x0080;
    pub(crate) const CD: u16 = 0x0010;
}

/// Reads two bytes.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// A name as it was asked for: its labels in small letters, with where each begins.
#[derive(Clone)]
pub(crate) struct Asked {
    bytes: [u8; MAX_NAME],
    len: u8,
    starts: [u8; MAX_LABELS + 1],
    labels: u8,
}

impl Default for Asked {
    fn default() -> Self {
        Asked { bytes: [0; MAX_NAME], len: 0, starts: [0; MAX_LABELS + 1], labels: 0 }
    }
}

impl Asked {
    /// Reads an uncompressed name at `at` and puts it into small letters; gives where it ends.
    ///
    /// A pointer within the first name of a message could only lead into itself or the header, so it is refused as what
    /// breaks the form (RFC 1035 section 4.1.4: "a pointer to a prior occurance"); so are the label types that were never
    /// used (RFC 6891 section 5).
    pub(crate) fn read(&mut self, message: &[u8], at: usize) -> Option<usize> {
        let (mut from, mut len, mut labels) = (at, 0usize, 0usize);
        loop {
            let size = usize::from(*message.get(from)?);
            if size == 0 {
                *self.bytes.get_mut(len)? = 0;
                self.len = u8::try_from(len + 1).ok()?;
                *self.starts.get_mut(labels)? = len as u8;
                self.labels = labels as u8;
                return Some(from + 1);
            }
            if size > 63 || labels >= MAX_LABELS {
                return None;
            }
            let label = message.get(from..from + size + 1)?;
            *self.starts.get_mut(labels)? = u8::try_from(len).ok()?;
            let to = self.bytes.get_mut(len..len + size + 1)?;
            // The length is below the letters.
            for (to, byte) in to.iter_mut().zip(label) {
                *to = byte.to_ascii_lowercase();
            }
            (from, len, labels) = (from + size + 1, len + size + 1, labels + 1);
        }
    }

    /// The whole name, its root label included.
    pub(crate) fn wire(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// How many labels it has, the root not counted.
    pub(crate) fn labels(&self) -> usize {
        usize::from(self.labels)
    }

    /// Where a label begins; that of the root for the number of labels.
    pub(crate) fn start(&self, label: usize) -> usize {
        usize::from(self.starts.get(label).copied().unwrap_or_default())
    }

    /// How many labels are in front of `zone`, if the name is the zone's or beneath it. `zone` is a whole name of
    /// `labels` labels in small letters.
    pub(crate) fn beneath(&self, zone: &[u8], labels: usize) -> Option<usize> {
        let front = self.labels().checked_sub(labels)?;
        (self.wire().get(self.start(front)..)? == zone).then_some(front)
    }
}

/// Options and sizes of EDNS (RFC 6891), as a query has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edns {
    /// The largest datagram that the client takes.
    pub(crate) size: u16,
    /// The version.
    pub(crate) version: u8,
    /// The client wants signatures (RFC 3225).
    pub(crate) dnssec_ok: bool,
    /// The cookie (RFC 7873): where its content is in the message, and its length.
    pub(crate) cookie: Option<(usize, usize)>,
}

/// A query, read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query {
    /// Echoed.
    pub(crate) id: u16,
    /// The second word of the header.
    pub(crate) flags: u16,
    /// Whether there is a question; without one only cookies can be asked for (RFC 7873 section 5.4).
    pub(crate) asked: bool,
    /// What is asked for.
    pub(crate) qtype: u16,
    /// In which class.
    pub(crate) qclass: u16,
    /// Where the question ends.
    pub(crate) end: usize,
    /// Extensions, if the client speaks them.
    pub(crate) edns: Option<Edns>,
    /// Where the record of a signature (TSIG) begins, which is then the last one.
    pub(crate) tsig: Option<usize>,
}

/// Why a message gets no answer or an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// Nobody waits for an answer: too short, or itself an answer.
    Silent,
    /// Another operation than a query: `NOTIMP` unless somebody knows it.
    Opcode {
        /// Which.
        opcode: u8,
    },
    /// It breaks the form: `FORMERR`.
    Form,
}

impl Query {
    /// Reads a message. The name that is asked for goes into `name`.
    ///
    /// # Errors
    ///
    /// How the message is to be answered instead.
    pub(crate) fn read(message: &[u8], name: &mut Asked) -> Result<Query, Bad> {
        let header = message.get(..HEADER).ok_or(Bad::Silent)?;
        let word = |at: usize| u16_at(header, at).unwrap_or_default();
        let flags = word(2);
        // Two servers that answered each other's answers would never end.
        if flags & flag::QR != 0 {
            return Err(Bad::Silent);
        }
        let opcode = ((flags & flag::OPCODE) >> 11) as u8;
        if opcode != 0 {
            return Err(Bad::Opcode { opcode });
        }
        let counts = [word(4), word(6), word(8), word(10)];
        let mut query = Query {
            id: word(0),
            flags,
            asked: counts[0] == 1,
            qtype: 0,
            qclass: CLASS_IN,
            end: HEADER,
            edns: None,
            tsig: None,
        };
        // RFC 9619: a query has one question, or none.
        if counts[0] > 1 {
            return Err(Bad::Form);
        }
        if query.asked {
            let end = name.read(message, HEADER).ok_or(Bad::Form)?;
            query.qtype = u16_at(message, end).ok_or(Bad::Form)?;
            query.qclass = u16_at(message, end + 2).ok_or(Bad::Form)?;
            query.end = end + 4;
        }
        query.records(message, counts)?;
        // Without a question only a cookie makes sense.
        if !query.asked && query.edns.is_none_or(|edns| edns.cookie.is_none()) {
            return Err(Bad::Form);
        }
        Ok(query)
    }

    /// Reads what follows the question: only OPT and TSIG mean anything in a query, and SOA in one for IXFR.
    fn records(&mut self, message: &[u8], counts: [u16; 4]) -> Result<(), Bad> {
        let mut at = self.end;
        let before = u32::from(counts[1]) + u32::from(counts[2]);
        let all = before + u32::from(counts[3]);
        for number in 0..all {
            let begin = at;
            at = skip_name(message, at).ok_or(Bad::Form)?;
            let rtype = u16_at(message, at).ok_or(Bad::Form)?;
            let length = usize::from(u16_at(message, at + 8).ok_or(Bad::Form)?);
            let data = at + 10;
            let end = data + length;
            let content = message.get(data..end).ok_or(Bad::Form)?;
            let additional = number >= before;
            match rtype {
                rtype::OPT if additional => {
                    // RFC 6891 section 6.1.1: one at most, of the root's name.
                    if self.edns.is_some() || message.get(begin) != Some(&0) {
                        return Err(Bad::Form);
                    }
                    self.edns = Some(read_opt(message, at, content, data)?);
                }
                // RFC 8945 section 5.1: it is the last.
                rtype::TSIG if additional && number + 1 == all => self.tsig = Some(begin),
                rtype::OPT | rtype::TSIG => return Err(Bad::Form),
                _ => {}
            }
            at = end;
        }
        Ok(())
    }
}

/// Reads the fixed part of an OPT at `at` and its options.
fn read_opt(message: &[u8], at: usize, content: &[u8], data: usize) -> Result<Edns, Bad> {
    let size = u16_at(message, at + 2).ok_or(Bad::Form)?;
    let version = *message.get(at + 5).ok_or(Bad::Form)?;
    let bits = u16_at(message, at + 6).ok_or(Bad::Form)?;
    let mut edns = Edns { size, version, dnssec_ok: bits & 0x8000 != 0, cookie: None };
    let mut from = 0;
    while from < content.len() {
        let code = u16_at(content, from).ok_or(Bad::Form)?;
        let length = usize::from(u16_at(content, from + 2).ok_or(Bad::Form)?);
        if content.len() < from + 4 + length {
            return Err(Bad::Form);
        }
        // RFC 7873 section 5.2: 8 bytes of the client's, or these and 8 to 32 of the server's. The first one counts.
        if code == OPTION_COOKIE && edns.cookie.is_none() {
            if !(length == 8 || (16..=40).contains(&length)) {
                return Err(Bad::Form);
            }
            edns.cookie = Some((data + from + 4, length));
        }
        from += 4 + length;
    }
    Ok(edns)
}

/// The option of cookies (RFC 7873).
pub(crate) const OPTION_COOKIE: u16 = 10;
/// The option of extended errors (RFC 8914).
pub(crate) const OPTION_ERROR: u16 = 15;

/// Passes over a name without following it; a pointer ends it.
pub(crate) fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    let begin = at;
    loop {
        let size = *message.get(at)?;
        match size {
            0 => return Some(at + 1),
            1..=63 => at += usize::from(size) + 1,
            0xc0.. => return message.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
        if at - begin > MAX_NAME {
            return None;
        }
    }
}

/// An answer that is being written. What does not fit is not written, and the caller learns of it.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
    counts: [u16; 3],
}

/// The sections of an answer behind the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    /// What was asked for.
    Answer = 0,
    /// Who is in charge.
    Authority = 1,
    /// What will be asked for next.
    Additional = 2,
}

impl<'a> Writer<'a> {
    /// Begins an answer: the header's room and the question as it was sent. `limit` counts from the header on, and what
    /// [`Writer::finish`] will add is to be kept out of it by the caller.
    pub(crate) fn begin(out: &'a mut Vec<u8>, message: &[u8], end: usize, limit: usize) -> Writer<'a> {
        out.clear();
        out.extend_from_slice(&[0; HEADER]);
        out.extend_from_slice(message.get(HEADER..end).unwrap_or_default());
        Writer { out, limit, counts: [0; 3] }
    }

    /// Where the next byte goes.
    pub(crate) fn at(&self) -> usize {
        self.out.len()
    }

    /// A record with data that is ready. `owner` is where its name is in the message.
    #[must_use]
    pub(crate) fn record(&mut self, section: Section, owner: Owner<'_>, rtype: u16, ttl: u32, data: &[u8]) -> bool {
        let begin = self.out.len();
        owner.write(self.out);
        self.out.extend_from_slice(&rtype.to_be_bytes());
        self.out.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.out.extend_from_slice(&ttl.to_be_bytes());
        self.out.extend_from_slice(&(data.len() as u16).to_be_bytes());
        self.out.extend_from_slice(data);
        self.keep(begin, section)
    }

    /// A record whose data is `front`, a name, and `behind`: the name ends in a pointer where `tail` (in small letters,
    /// with the root label) is what it ends in. Only for the types of RFC 1035, in which names may be compressed.
    #[must_use]
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn record_with_name(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        rtype: u16,
        ttl: u32,
        front: &[u8],
        name: &[u8],
        tail: (&[u8], usize),
    ) -> bool {
        let begin = self.out.len();
        owner.write(self.out);
        self.out.extend_from_slice(&rtype.to_be_bytes());
        self.out.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.out.extend_from_slice(&ttl.to_be_bytes());
        let length_at = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        self.out.extend_from_slice(front);
        write_name(self.out, name, tail);
        let length = (self.out.len() - length_at - 2) as u16;
        if let Some(place) = self.out.get_mut(length_at..length_at + 2) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        self.keep(begin, section)
    }

    /// Keeps what was written since `begin` as a record of this section, or takes it back when it does not fit.
    fn keep(&mut self, begin: usize, section: Section) -> bool {
        if self.out.len() > self.limit {
            self.out.truncate(begin);
            return false;
        }
        if let Some(count) = self.counts.get_mut(section as usize) {
            *count += 1;
        }
        true
    }

    /// Takes everything back but the question.
    pub(crate) fn clear(&mut self, end: usize) {
        self.out.truncate(end);
        self.counts = [0; 3];
    }

    /// Writes OPT, if `opt` is given, and the header. `flags` are complete but for the code.
    pub(crate) fn finish(mut self, id: u16, flags: u16, asked: bool, rcode: Rcode, opt: Option<&Opt<'_>>) {
        let code = rcode as u16;
        if let Some(opt) = opt {
            opt.write(self.out, code);
            self.counts[2] += 1;
        }
        let mut header = [0u8; HEADER];
        header[..2].copy_from_slice(&id.to_be_bytes());
        header[2..4].copy_from_slice(&(flags | (code & 0xf)).to_be_bytes());
        header[5] = u8::from(asked);
        for (count, place) in self.counts.iter().zip(header[6..].chunks_exact_mut(2)) {
            place.copy_from_slice(&count.to_be_bytes());
        }
        if let Some(place) = self.out.get_mut(..HEADER) {
            place.copy_from_slice(&header);
        }
    }
}

/// The name of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner<'a> {
    /// It is at this place in the message.
    At(usize),
    /// These labels, and then the name at this place.
    Labels(&'a [u8], usize),
}

impl Owner<'_> {
    fn write(self, out: &mut Vec<u8>) {
        let at = match self {
            Owner::At(at) => at,
            Owner::Labels(labels, at) => {
                out.extend_from_slice(labels);
                at
            }
        };
        // What is beyond the reach of a pointer (14 bits) is never pointed at: see `write_name`.
        out.extend_from_slice(&(0xc000 | at as u16 & 0x3fff).to_be_bytes());
    }
}

/// Writes a whole name, with a pointer for `tail.0` when it ends in that, which is at `tail.1` in the message.
pub(crate) fn write_name(out: &mut Vec<u8>, name: &[u8], tail: (&[u8], usize)) {
    let (end, at) = tail;
    match name.strip_suffix(end) {
        // A name ends in another only at the beginning of a label; both are in small letters and lengths are below
        // them, but a label's text may look like one: so labels are counted.
        Some(front) if end.len() > 2 && is_labels(front) && at < 0x4000 => {
            out.extend_from_slice(front);
            out.extend_from_slice(&(0xc000 | at as u16).to_be_bytes());
        }
        _ => out.extend_from_slice(name),
    }
}

/// Whether bytes are whole labels.
fn is_labels(mut bytes: &[u8]) -> bool {
    while let Some((size, rest)) = bytes.split_first() {
        let Some(rest) = rest.get(usize::from(*size)..) else { return false };
        bytes = rest;
    }
    true
}

/// What the OPT of an answer says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Opt<'a> {
    /// The largest datagram that the server takes.
    pub(crate) size: u16,
    /// Echoed (RFC 3225 section 3).
    pub(crate) dnssec_ok: bool,
    /// A whole cookie, 24 bytes.
    pub(crate) cookie: Option<&'a [u8; 24]>,
    /// An extended error (RFC 8914), without text.
    pub(crate) error: Option<u16>,
}

impl Opt<'_> {
    /// How many bytes it takes.
    pub(crate) fn len(&self) -> usize {
        11 + self.cookie.map_or(0, |_| 28) + self.error.map_or(0, |_| 6)
    }

    fn write(&self, out: &mut Vec<u8>, code: u16) {
        out.push(0);
        out.extend_from_slice(&rtype::OPT.to_be_bytes());
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&[(code >> 4) as u8, 0]);
        out.extend_from_slice(&(u16::from(self.dnssec_ok) << 15).to_be_bytes());
        out.extend_from_slice(&((self.len() - 11) as u16).to_be_bytes());
        if let Some(cookie) = self.cookie {
            out.extend_from_slice(&OPTION_COOKIE.to_be_bytes());
            out.extend_from_slice(&24u16.to_be_bytes());
            out.extend_from_slice(cookie);
        }
        if let Some(error) = self.error {
            out.extend_from_slice(&OPTION_ERROR.to_be_bytes());
            out.extend_from_slice(&2u16.to_be_bytes());
            out.extend_from_slice(&error.to_be_bytes());
        }
    }
}

/// A name in text, without a dot at the end, as labels; the root label is not written. `None` for what is no name.
pub(crate) fn labels_of(text: &str) -> Option<Vec<u8>> {
    let mut labels = Vec::with_capacity(text.len() + 1);
    for label in text.split('.').filter(|_| !text.is_empty()) {
        if label.is_empty() || label.len() > 63 {
            return None;
        }
        labels.push(label.len() as u8);
        labels.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    (labels.len() < MAX_NAME).then_some(labels)
}

/// A whole name of a text; a dot at the end does not matter.
pub(crate) fn wire_of(text: &str) -> Option<Vec<u8>> {
    let mut labels = labels_of(text.strip_suffix('.').unwrap_or(text))?;
    labels.push(0);
    Some(labels)
}

/// How many labels a whole name has, the root not counted.
pub(crate) fn count_labels(wire: &[u8]) -> usize {
    let (mut at, mut count) = (0, 0);
    while let Some(size) = wire.get(at).copied().filter(|size| *size > 0) {
        (at, count) = (at + usize::from(size) + 1, count + 1);
    }
    count
}
