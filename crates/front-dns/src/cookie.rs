//! Cookies (RFC 7873, RFC 9018): whoever shows one that was made here for its address receives what is sent there.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

/// How long a cookie is good, in seconds (RFC 9018 section 4.3).
const GOOD: u32 = 3_600;
/// How far its time may be ahead of ours, in seconds.
const AHEAD: u32 = 300;

/// Makes and checks cookies.
pub(crate) struct Cookies {
    secret: [u8; 16],
}

/// What a query's cookie proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// There is none.
    Nothing,
    /// The client's half alone, or one that was not made here or is too old. What to answer with.
    Stranger([u8; 24]),
    /// The client receives what is sent to its address. What to answer with.
    Known([u8; 24]),
}

impl Shown {
    /// What to answer with.
    pub(crate) fn answer(&self) -> Option<&[u8; 24]> {
        match self {
            Shown::Nothing => None,
            Shown::Stranger(cookie) | Shown::Known(cookie) => Some(cookie),
        }
    }
}

impl Default for Cookies {
    fn default() -> Self {
        Cookies { secret: rand::random() }
    }
}

impl Cookies {
    #[cfg(any(test, fuzzing))]
    pub(crate) fn with_secret(secret: [u8; 16]) -> Cookies {
        Cookies { secret }
    }

    /// What a cookie proves, `now` in seconds since 1970. `shown` has 8 bytes, or 16 to 40.
    pub(crate) fn check(&self, shown: &[u8], from: IpAddr, now: u32) -> Shown {
        let Some((client, server)) = shown.split_first_chunk::<8>() else { return Shown::Nothing };
        let made_at = self.made_at(client, server, from);
        // RFC 9018 section 4.3: serial number arithmetic; one that is half through is made anew.
        let age = made_at.map(|made| now.wrapping_sub(made));
        let known = age.is_some_and(|age| age <= GOOD || age.wrapping_neg() <= AHEAD);
        let keep = known && age.is_some_and(|age| age <= GOOD / 2 || age.wrapping_neg() <= AHEAD);
        let time = made_at.filter(|_| keep).unwrap_or(now);
        let mut cookie = [0; 24];
        cookie[..8].copy_from_slice(client);
        cookie[8..].copy_from_slice(&self.make(client, from, time));
        if known { Shown::Known(cookie) } else { Shown::Stranger(cookie) }
    }

    /// When a server's half was made, if it was made here for this client.
    fn made_at(&self, client: &[u8; 8], server: &[u8], from: IpAddr) -> Option<u32> {
        let server: &[u8; 16] = server.try_into().ok()?;
        let time = u32::from_be_bytes([server[4], server[5], server[6], server[7]]);
        let right = self.make(client, from, time);
        byname_api::caller::same_secret(&right, server).then_some(time)
    }

    /// RFC 9018 section 4: version 1, three bytes of zero, the time, and SipHash-2-4 of all that and the address.
    fn make(&self, client: &[u8; 8], from: IpAddr, time: u32) -> [u8; 16] {
        let mut half = [0; 16];
        half[0] = 1;
        half[4..8].copy_from_slice(&time.to_be_bytes());
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        let mut text = [0; 32];
        text[..8].copy_from_slice(client);
        text[8..16].copy_from_slice(&half[..8]);
        let used = match from {
            IpAddr::V4(address) => {
                text[16..20].copy_from_slice(&address.octets());
                20
            }
            IpAddr::V6(address) => {
                text[16..].copy_from_slice(&address.octets());
                32
            }
        };
        hasher.write(text.get(..used).unwrap_or_default());
        half[8..].copy_from_slice(&hasher.finish().to_le_bytes());
        half
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    // RFC 9018 appendix A.1 to A.3: the same secret, clients and times give the same cookies.
    #[test]
    fn cookies_are_those_of_rfc_9018() {
        let cookies = Cookies::with_secret(bytes("e5e973e5a6b2a43f48e7dc849e37bfcf").try_into().unwrap());
        let first = cookies.check(&bytes("2464c4abcf10c957"), "198.51.100.100".parse().unwrap(), 1559731985);
        let expected = bytes("2464c4abcf10c957010000005cf79f111f8130c3eee29480");
        assert_eq!(first, Shown::Stranger(expected.clone().try_into().unwrap()));
        // A.2: the same client, some 40 minutes later, gets a new one.
        let later = cookies.check(&expected, "198.51.100.100".parse().unwrap(), 1559734385);
        let renewed = bytes("2464c4abcf10c957010000005cf7a871d4a564a1442aca77");
        assert_eq!(later, Shown::Known(renewed.try_into().unwrap()));
        // A.3: one by another version of the reserved bytes is not one of ours, and is answered with one that is.
        let other = cookies.check(
            &bytes("fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5"),
            "203.0.113.203".parse().unwrap(),
            1559734700,
        );
        assert!(matches!(other, Shown::Stranger(_)));
    }

    #[test]
    fn a_cookie_proves_one_address_for_a_time() {
        let cookies = Cookies::default();
        let (here, there) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let Shown::Stranger(cookie) = cookies.check(&[7; 8], here, 1_000_000) else { panic!("a stranger is known") };
        assert!(matches!(cookies.check(&cookie, here, 1_000_000 + GOOD), Shown::Known(_)));
        assert!(matches!(cookies.check(&cookie, here, 1_000_000 + GOOD + 1), Shown::Stranger(_)));
        assert!(matches!(cookies.check(&cookie, here, 1_000_000 - AHEAD), Shown::Known(_)));
        assert!(matches!(cookies.check(&cookie, there, 1_000_000), Shown::Stranger(_)));
        assert!(matches!(Cookies::default().check(&cookie, here, 1_000_000), Shown::Stranger(_)));
        let mut wrong = cookie;
        wrong[20] ^= 1;
        assert!(matches!(cookies.check(&wrong, here, 1_000_000), Shown::Stranger(_)));
    }
}
