//! Frames: `printf("%6d %c %6d %s", length, token, id, message)`, one after the other without anything between.
//!
//! The length counts the whole frame, in bytes of UTF-8. Numbers are padded with spaces: the original would read zeros
//! in front as octal.

/// What stands before the message, in bytes.
const HEADER: usize = 16;
/// A frame is shorter than this, in bytes: its length has six digits.
pub const MAX_FRAME: usize = 1_000_000;
/// The longest message, in bytes.
pub const MAX_MESSAGE: usize = MAX_FRAME - 1 - HEADER;
/// The greatest id.
const MAX_ID: u32 = 999_999;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// `e`: a request that wants a reply.
    Request,
    /// `d`: a request that wants none.
    Notice,
    /// `r`: a result.
    Result,
    /// `x`: an error, as a list of its message and its story.
    Error,
}

impl Token {
    const fn letter(self) -> char {
        match self {
            Token::Request => 'e',
            Token::Notice => 'd',
            Token::Result => 'r',
            Token::Error => 'x',
        }
    }

    const fn of(letter: u8) -> Option<Token> {
        match letter {
            b'e' => Some(Token::Request),
            b'd' => Some(Token::Notice),
            b'r' => Some(Token::Result),
            b'x' => Some(Token::Error),
            _ => None,
        }
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub token: Token,
    /// Which request it belongs to.
    pub id: u32,
    /// The message, as sent: it should be UTF-8 without NUL, and need not be.
    pub message: Vec<u8>,
}

/// What is no frame. Where the next one begins cannot be known then, so the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAFrame(
    /// What is wrong with it.
    pub &'static str,
);

impl Frame {
    /// A frame with this text.
    pub fn new(token: Token, id: u32, message: impl Into<Vec<u8>>) -> Frame {
        Frame { token, id, message: message.into() }
    }

    /// Its bytes; none for a message that is too long for a frame.
    pub fn encode(&self) -> Option<Vec<u8>> {
        if self.message.len() > MAX_MESSAGE || self.id > MAX_ID {
            return None;
        }
        let length = HEADER + self.message.len();
        let mut bytes = format!("{length:>6} {} {:>6} ", self.token.letter(), self.id).into_bytes();
        bytes.extend_from_slice(&self.message);
        Some(bytes)
    }

    /// Reads the frame at the beginning of `bytes`, and how long it is; none when there is only a part of it.
    ///
    /// # Errors
    ///
    /// For what cannot be the beginning of a frame, as soon as that is seen.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Frame, usize)>, NotAFrame> {
        let Some(header) = bytes.get(..HEADER) else {
            return check_beginning(bytes).map(|()| None);
        };
        check_beginning(header)?;
        let length = header.get(..6).and_then(number).ok_or(NotAFrame("its length is no number"))? as usize;
        let token = header.get(7).copied().and_then(Token::of).ok_or(NotAFrame("its token is none of e, d, r, x"))?;
        let id = header.get(9..15).and_then(number).ok_or(NotAFrame("its id is no number"))?;
        if length < HEADER {
            return Err(NotAFrame("it is shorter than its header"));
        }
        let Some(message) = bytes.get(HEADER..length) else { return Ok(None) };
        Ok(Some((Frame { token, id, message: message.to_vec() }, length)))
    }
}

/// Turns away what is no frame before much of it has come: an HTTP request, or a TLS handshake.
fn check_beginning(bytes: &[u8]) -> Result<(), NotAFrame> {
    for (at, byte) in bytes.iter().enumerate().take(HEADER) {
        let fits = match at {
            6 | 8 | 15 => *byte == b' ',
            7 => Token::of(*byte).is_some(),
            _ => *byte == b' ' || byte.is_ascii_digit(),
        };
        if !fits {
            return Err(NotAFrame("it does not begin as a frame does"));
        }
    }
    Ok(())
}

/// Six digits, with spaces around them.
fn number(field: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(field).ok()?.trim_matches(' ');
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_bytes_of_the_original() {
        for (frame, bytes) in [
            (Frame::new(Token::Request, 0, "set mike rules"), "    30 e      0 set mike rules"),
            (Frame::new(Token::Result, 0, "rules"), "    21 r      0 rules"),
            (Frame::new(Token::Request, 2, "set nonexistent"), "    31 e      2 set nonexistent"),
            (Frame::new(Token::Notice, 0, "dp_CloseRPCFile"), "    31 d      0 dp_CloseRPCFile"),
            (Frame::new(Token::Result, 999_999, ""), "    16 r 999999 "),
            (Frame::new(Token::Error, 7, "é"), "    18 x      7 é"),
        ] {
            assert_eq!(frame.encode().unwrap(), bytes.as_bytes());
            let long = [bytes.as_bytes(), b"    16"].concat();
            assert_eq!(Frame::decode(&long).unwrap(), Some((frame, bytes.len())));
            for end in 0..bytes.len() {
                assert_eq!(Frame::decode(&bytes.as_bytes()[..end]), Ok(None), "{bytes} {end}");
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_at_its_first_wrong_byte() {
        for bytes in [
            "G",
            "GET / HTTP/1.1",
            "    3x",
            "999999 /",
            "    30 q",
            "    30e",
            "       e      0 ",
            "    15 e      0 ",
            "    20 e        abcd",
            "    20 e    1 2 abcd",
            "\x16\x03\x01",
            "-    5 e      0 ",
        ] {
            assert!(Frame::decode(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_message_that_is_too_long_has_no_frame() {
        let fits = Frame::new(Token::Result, 1, vec![b'a'; MAX_MESSAGE]);
        assert_eq!(fits.encode().unwrap().len(), MAX_FRAME - 1);
        assert_eq!(Frame::new(Token::Result, 1, vec![b'a'; MAX_MESSAGE + 1]).encode(), None);
        assert_eq!(Frame::new(Token::Result, 1_000_000, "").encode(), None);
    }
}
