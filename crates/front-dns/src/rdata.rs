//! Records that a public attribute names: `mx = "10 mail.corp.example"`, in the form of zone files. Pure.
//!
//! An attribute whose name is that of a type (in any case) is a record of it; `type4711` is one of a type without a name
//! here, written as RFC 3597 section 5 says: `\# LENGTH HEX`. Every type may be written so. A value that cannot be read
//! is no record.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::wire::{self, rtype};

/// The type that an attribute names.
pub(crate) fn type_named(attribute: &str) -> Option<u16> {
    let name = attribute.to_ascii_lowercase();
    Some(match name.as_str() {
        "a" => rtype::A,
        "aaaa" => rtype::AAAA,
        "mx" => rtype::MX,
        "txt" => rtype::TXT,
        "loc" => rtype::LOC,
        "caa" => rtype::CAA,
        "sshfp" => rtype::SSHFP,
        "tlsa" => rtype::TLSA,
        "naptr" => rtype::NAPTR,
        "hinfo" => rtype::HINFO,
        "rp" => rtype::RP,
        "uri" => rtype::URI,
        _ => {
            let number = name.strip_prefix("type")?.parse().ok()?;
            return is_free(number).then_some(number);
        }
    })
}

/// Whether anybody may publish records of this type: not those that the server makes itself, nor what is no data
/// (RFC 6895 section 3.1).
fn is_free(number: u16) -> bool {
    let made = [rtype::NS, rtype::CNAME, rtype::SOA, rtype::PTR, rtype::SRV, rtype::SVCB, rtype::HTTPS, 39];
    // DNSSEC's own: DS, SIG, KEY, NXT, RRSIG, NSEC, DNSKEY, NSEC3, NSEC3PARAM, CDS, CDNSKEY.
    let signed = [43, 24, 25, 30, 46, 47, 48, 50, 51, 59, 60];
    let meta = number == 0 || number == rtype::OPT || (128..=255).contains(&number) || number == u16::MAX;
    !made.contains(&number) && !signed.contains(&number) && !meta
}

/// The data of a record of this type, written as in a zone file. Names are whole, with or without a dot at the end; a name
/// that begins with `/` is one of the tree.
pub(crate) fn read(rtype: u16, text: &str, suffix: &str) -> Option<Vec<u8>> {
    if let Some(rest) = text.trim_start().strip_prefix("\\#") {
        return read_unknown(rest);
    }
    if rtype == rtype::TXT {
        let mut data = Vec::new();
        push_strings(&mut data, text.as_bytes());
        return Some(data);
    }
    if rtype == rtype::LOC {
        return read_loc(text);
    }
    let words = words(text)?;
    let word = |at: usize| words.get(at).map(String::as_str);
    let number16 = |at: usize| word(at)?.parse::<u16>().ok().map(u16::to_be_bytes);
    let number8 = |at: usize| word(at)?.parse::<u8>().ok();
    let string = |at: usize| {
        let text = word(at)?.as_bytes();
        Some([&[u8::try_from(text.len()).ok()?], text].concat())
    };
    let name = |at: usize| {
        let text = word(at)?;
        if text.starts_with('/') {
            return crate::render::wire_of(&byname_name::Name::parse(text).ok()?, suffix);
        }
        if text == "." { Some(vec![0]) } else { wire::wire_of(text) }
    };
    let exactly = |count: usize| (words.len() == count).then_some(());
    Some(match rtype {
        rtype::A => text.trim().parse::<Ipv4Addr>().ok()?.octets().to_vec(),
        rtype::AAAA => text.trim().parse::<Ipv6Addr>().ok()?.octets().to_vec(),
        rtype::MX => {
            exactly(2)?;
            [&number16(0)?[..], &name(1)?].concat()
        }
        rtype::HINFO => {
            exactly(2)?;
            [string(0)?, string(1)?].concat()
        }
        rtype::RP => {
            exactly(2)?;
            [name(0)?, name(1)?].concat()
        }
        // RFC 8659 section 4.1.
        rtype::CAA => {
            exactly(3)?;
            let tag = word(1)?;
            let good = (1..=15).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_alphanumeric());
            good.then(|| Some([&[number8(0)?], &string(1)?[..], word(2)?.as_bytes()].concat()))??
        }
        rtype::SSHFP => [&[number8(0)?, number8(1)?][..], &hex(words.get(2..)?)?].concat(),
        rtype::TLSA => [&[number8(0)?, number8(1)?, number8(2)?][..], &hex(words.get(3..)?)?].concat(),
        rtype::NAPTR => {
            exactly(6)?;
            [&number16(0)?[..], &number16(1)?, &string(2)?, &string(3)?, &string(4)?, &name(5)?].concat()
        }
        // RFC 7553 section 4.5.
        rtype::URI => {
            exactly(3)?;
            let target = word(2).filter(|target| !target.is_empty())?;
            [&number16(0)?[..], &number16(1)?, target.as_bytes()].concat()
        }
        _ => return None,
    })
}

/// Strings of 255 bytes at most, one after the other, that make up this text.
pub(crate) fn push_strings(data: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    loop {
        let (now, later) = rest.split_at(rest.len().min(255));
        data.push(now.len() as u8);
        data.extend_from_slice(now);
        if later.is_empty() {
            return;
        }
        rest = later;
    }
}

/// RFC 3597 section 5: a length and hexadecimal digits.
fn read_unknown(rest: &str) -> Option<Vec<u8>> {
    let words = words(rest)?;
    let length: usize = words.first()?.parse().ok()?;
    let data = hex(words.get(1..)?).or_else(|| (length == 0).then(Vec::new))?;
    (data.len() == length && length <= 4096).then_some(data)
}

fn hex(words: &[String]) -> Option<Vec<u8>> {
    let text: String = words.concat();
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    (pairs.remainder().is_empty() && !digits.is_empty()).then(|| pairs.map(|p| p[0] << 4 | p[1]).collect())
}

/// Words between blanks; one in quotes may hold blanks, and `\` takes the next character as it is.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut chars = text.trim().chars().peekable();
    while let Some(first) = chars.peek().copied() {
        if first.is_whitespace() {
            chars.next();
            continue;
        }
        let quoted = first == '"';
        if quoted {
            chars.next();
        }
        let mut word = String::new();
        loop {
            match chars.next() {
                None if quoted => return None,
                None => break,
                Some('"') if quoted => break,
                Some(c) if c.is_whitespace() && !quoted => break,
                Some('\\') => word.push(chars.next()?),
                Some(c) => word.push(c),
            }
        }
        words.push(word);
    }
    Some(words)
}

/// RFC 1876 section 3: `52 22 23.000 N 4 53 32.000 E -2.00m 1m 10000m 10m`.
fn read_loc(text: &str) -> Option<Vec<u8>> {
    let words = words(text)?;
    let mut at = words.iter().map(String::as_str).peekable();
    let latitude = angle(&mut at, 90, ["N", "S"])?;
    let longitude = angle(&mut at, 180, ["E", "W"])?;
    let altitude = centimetres(at.next()?)? + 10_000_000;
    let mut size = |usual: i64| at.next().map_or(Some(usual), centimetres).and_then(precision);
    let (size, horizontal, vertical) = (size(100)?, size(1_000_000)?, size(1_000)?);
    if at.next().is_some() {
        return None;
    }
    let mut data = vec![0, size, horizontal, vertical];
    data.extend_from_slice(&latitude.to_be_bytes());
    data.extend_from_slice(&longitude.to_be_bytes());
    data.extend_from_slice(&u32::try_from(altitude).ok()?.to_be_bytes());
    Some(data)
}

/// Degrees, minutes and seconds, the last two of which may be left out, as thousandths of a second from 2^31.
fn angle<'a>(
    words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
    most: u32,
    sides: [&str; 2],
) -> Option<u32> {
    let degrees: u32 = words.next()?.parse().ok().filter(|d| *d <= most)?;
    let mut thousandths = degrees * 3_600_000;
    let mut seen = 0;
    loop {
        let word = words.next()?;
        let side = sides.iter().position(|side| side.eq_ignore_ascii_case(word));
        match (side, seen) {
            (Some(side), _) => {
                let within = thousandths <= most * 3_600_000;
                let middle = 1u32 << 31;
                return within.then_some(if side == 0 { middle + thousandths } else { middle - thousandths });
            }
            (None, 0) => thousandths += word.parse::<u32>().ok().filter(|m| *m < 60)? * 60_000,
            (None, 1) => {
                let seconds: f64 = word.parse().ok().filter(|s| (0.0..60.0).contains(s))?;
                thousandths += (seconds * 1000.0).round() as u32;
            }
            _ => return None,
        }
        seen += 1;
    }
}

fn centimetres(word: &str) -> Option<i64> {
    let metres: f64 = word.strip_suffix(['m', 'M']).unwrap_or(word).parse().ok()?;
    (metres.is_finite() && metres.abs() < 43_000_000.0).then_some((metres * 100.0).round() as i64)
}

/// A size as one digit and a power of ten.
fn precision(centimetres: i64) -> Option<u8> {
    let mut digit = u64::try_from(centimetres).ok()?;
    let mut power = 0u8;
    while digit > 9 {
        (digit, power) = (digit / 10, power + 1);
    }
    (power <= 9).then_some((digit as u8) << 4 | power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(attribute: &str, text: &str) -> Option<Vec<u8>> {
        read(type_named(attribute).unwrap(), text, "corp.example")
    }

    #[test]
    fn records_are_written_as_in_zone_files() {
        assert_eq!(of("MX", "10 mail.example.").unwrap(), b"\0\x0a\x04mail\x07example\0");
        assert_eq!(of("mx", "10 /mail").unwrap(), b"\0\x0a\x04mail\x04corp\x07example\0");
        assert_eq!(of("caa", "0 issue \"ca.example; a=b\"").unwrap(), b"\0\x05issueca.example; a=b");
        assert_eq!(of("sshfp", "4 2 ab cd").unwrap(), b"\x04\x02\xab\xcd");
        assert_eq!(of("txt", "a b").unwrap(), b"\x03a b");
        assert_eq!(of("txt", &"x".repeat(300)).unwrap().len(), 302);
        assert_eq!(of("uri", "10 1 \"ftp://x/\"").unwrap(), b"\0\x0a\0\x01ftp://x/");
        // RFC 3597 section 5's example.
        assert_eq!(
            of("type731", "\\# 6 abcd ( ef 01 23 45".replace("( ", "").as_str()).unwrap(),
            b"\xab\xcd\xef\x01\x23\x45"
        );
        assert_eq!(of("a", "\\# 4 0a000001").unwrap(), [10, 0, 0, 1]);
    }

    #[test]
    fn a_place_is_read_as_rfc_1876_writes_it() {
        let data = of("loc", "42 21 54 N 71 06 18 W -24m 30m").unwrap();
        assert_eq!(data[..4], [0, 0x33, 0x16, 0x13]);
        assert_eq!(u32::from_be_bytes(data[4..8].try_into().unwrap()), (1 << 31) + 152_514_000);
        assert_eq!(u32::from_be_bytes(data[8..12].try_into().unwrap()), (1u32 << 31) - 255_978_000);
        assert_eq!(u32::from_be_bytes(data[12..].try_into().unwrap()), 10_000_000 - 2_400);
    }

    #[test]
    fn what_cannot_be_read_is_no_record() {
        for (attribute, text) in [
            ("mx", "ten mail"),
            ("mx", "10"),
            ("mx", "10 a..b"),
            ("mx", &format!("10 {}.example", "x".repeat(64))),
            ("caa", "0 issue"),
            ("loc", "91 N 0 E 0m"),
            ("loc", "1 2 3 4 N 0 E 0m"),
            ("loc", ""),
            ("sshfp", "4 2 abc"),
            ("type731", "\\# 3 abcd"),
            ("type731", "text"),
            ("naptr", "100 10 \"u"),
        ] {
            assert_eq!(of(attribute, text), None, "{attribute} {text}");
        }
        for made in ["type6", "type5", "type41", "type255", "type46", "type0", "title"] {
            assert_eq!(type_named(made), None, "{made}");
        }
    }
}
