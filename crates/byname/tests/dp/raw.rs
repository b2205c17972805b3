//! A client that sends bytes and reads bytes, and knows nothing of the code it tests.

use std::io::{Read, Write};
use std::net::TcpStream;

use byname_testkit::{Options, PATIENCE, Server};

/// `byname dev` that speaks the protocol.
pub(crate) fn server() -> Server {
    let arguments = vec!["--dp".into(), "127.0.0.1:0".into()];
    Server::start_with(env!("CARGO_BIN_EXE_byname"), Options { arguments, ..Options::default() })
}

/// A connection.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
}

impl Peer {
    /// Connects, and has read the greeting.
    pub(crate) fn connect(server: &Server) -> Peer {
        let mut peer = Peer::to(&server.dp());
        assert_eq!(peer.line(), "Connection accepted\n");
        peer
    }

    /// Connects, and has read nothing.
    pub(crate) fn to(address: &str) -> Peer {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Peer { stream }
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        while !line.ends_with('\n') {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap();
            line.push(char::from(byte[0]));
        }
        line
    }

    pub(crate) fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).unwrap();
    }

    /// Exactly these bytes come next.
    #[track_caller]
    pub(crate) fn expect(&mut self, bytes: &str) {
        let mut got = vec![0; bytes.len()];
        self.stream.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8_lossy(&got), bytes);
    }

    /// The next frame: its token, its id, its message.
    pub(crate) fn frame(&mut self) -> (char, u32, String) {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header).unwrap();
        let header = std::str::from_utf8(&header).unwrap();
        let length: usize = header[..6].trim_start().parse().unwrap();
        let mut message = vec![0; length - 16];
        self.stream.read_exact(&mut message).unwrap();
        (header.as_bytes()[7].into(), header[9..15].trim_start().parse().unwrap(), String::from_utf8(message).unwrap())
    }

    /// Asks, and gives the result.
    #[track_caller]
    pub(crate) fn ask(&mut self, message: &str) -> String {
        match self.try_ask(message) {
            Ok(result) => result,
            Err(error) => panic!("{message}: {error}"),
        }
    }

    /// Asks, and gives the result or the message of an error.
    #[track_caller]
    pub(crate) fn try_ask(&mut self, message: &str) -> Result<String, String> {
        self.send(&format!("{:>6} e {:>6} {message}", message.len() + 16, 7));
        let (token, id, text) = self.frame();
        assert_eq!(id, 7);
        match token {
            'r' => Ok(text),
            'x' => Err(text),
            other => panic!("an answer with the token {other}: {text}"),
        }
    }

    /// The peer has closed the connection.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}
