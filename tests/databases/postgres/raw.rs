//! A client of PostgreSQL that sees single messages, and cancels.

use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;

use socket2::SockRef;

use crate::support::PATIENCE;

/// Answers are read in pieces; no message of these stories is longer.
const MAX_BYTES: usize = 4096;

/// A client that sees messages: it knows its cancel key and can die without a word.
pub struct Raw {
    pub stream: TcpStream,
    /// Process and secret, as BackendKeyData has them.
    pub key: Vec<u8>,
}

impl Raw {
    #[track_caller]
    pub fn log_in(addr: SocketAddr) -> Self {
        Self::try_log_in(addr, b"").unwrap()
    }

    /// With more parameters of the startup, each ended by a zero.
    ///
    /// # Errors
    /// The SQLSTATE of the refusal, or `lost`.
    pub fn try_log_in(addr: SocketAddr, parameters: &[u8]) -> Result<Self, String> {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let version = b"\0\x03\0\0";
        let usual = b"user\0app\0database\0postgres\0";
        let startup = [version, &usual[..], parameters, b"\0"].concat();
        let length = u32::try_from(startup.len() + 4).unwrap();
        let startup = [&length.to_be_bytes(), &startup[..]].concat();
        stream.write_all(&startup).unwrap();
        let mut raw = Self {
            stream,
            key: Vec::new(),
        };
        loop {
            match raw.message() {
                Some((b'K', body)) => raw.key = body,
                Some((b'Z', _)) => return Ok(raw),
                Some((b'E', body)) => return Err(sqlstate_of(&body)),
                Some(_) => {}
                None => return Err("lost".to_owned()),
            }
        }
    }

    #[track_caller]
    pub fn query(&mut self, statement: &str) {
        self.ask(statement);
        while self.message().unwrap().0 != b'Z' {}
    }

    /// Sends a query whose answer is read by `message`; who has lost its server will be told there.
    pub fn ask(&mut self, statement: &str) {
        let length = u32::try_from(statement.len() + 5).unwrap();
        let message = [b"Q", &length.to_be_bytes()[..], statement.as_bytes(), b"\0"];
        let _ = self.stream.write_all(&message.concat());
    }

    /// Reads messages until one of this type.
    #[track_caller]
    pub fn wait_for(&mut self, tag: u8) {
        while self.message().expect("the session goes on").0 != tag {}
    }

    /// The SQLSTATE that an answer ends with: `None` for one without an error, `Some("lost")` for
    /// a session that ended without a word.
    #[track_caller]
    pub fn outcome(&mut self) -> Option<String> {
        let mut error = None;
        loop {
            match self.message() {
                Some((b'Z', _)) => return error,
                Some((b'E', body)) => error = Some(sqlstate_of(&body)),
                Some(_) => {}
                None => return error.or_else(|| Some("lost".to_owned())),
            }
        }
    }

    /// `None`: the session has ended.
    pub fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 5];
        match self.stream.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("it hangs"),
            Err(_) => return None,
        }
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let length = usize::try_from(length).unwrap() - 4;
        assert!(length < MAX_BYTES);
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        Some((header[0], body))
    }

    /// As by kill -9 of a client whose kernel has unread bytes.
    pub fn die(self) {
        let linger = Some(std::time::Duration::ZERO);
        SockRef::from(&self.stream).set_linger(linger).unwrap();
    }
}

#[track_caller]
pub fn cancel(addr: SocketAddr, key: &[u8]) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = [b"\0\0\0\x10\x04\xd2\x16\x2e", key].concat();
    stream.write_all(&request).unwrap();
    // There is no answer but the end.
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer, b"");
}

fn sqlstate_of(error: &[u8]) -> String {
    let mut fields = error.split(|byte| *byte == 0);
    let code = fields.find_map(|field| field.strip_prefix(b"C"));
    String::from_utf8_lossy(code.expect("an error has a code")).into_owned()
}
