//! A client that speaks PostgreSQL's protocol byte by byte.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;

use evergate::protocol::postgres::CancelKey;
use evergate::protocol::postgres::error::ServerError;
use evergate::protocol::postgres::frame::next_message;
use evergate::protocol::postgres::frontend;

use crate::support::talk::connect;

/// More than any message of these tests.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A connection and what has been read ahead of it.
pub struct Wire<S> {
    pub stream: S,
    ahead: Vec<u8>,
    /// The last ParameterStatus `server`.
    server: String,
}

impl Wire<TcpStream> {
    #[track_caller]
    pub fn connect(addr: SocketAddr) -> Self {
        Self::over(connect(addr))
    }

    /// A session of user and database `postgres`.
    #[track_caller]
    pub fn login(addr: SocketAddr) -> (Self, CancelKey) {
        let mut wire = Self::connect(addr);
        let key = wire.begin(&[("user", "postgres"), ("database", "postgres")]);
        (wire, key.unwrap())
    }
}

impl<S: Read + Write> Wire<S> {
    pub fn over(stream: S) -> Self {
        Self {
            stream,
            ahead: Vec::new(),
            server: String::new(),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    /// Starts a session of a server that trusts everyone.
    #[track_caller]
    pub fn begin(&mut self, parameters: &[(&str, &str)]) -> Option<CancelKey> {
        self.send(&frontend::startup_message(parameters));
        self.until_ready().key
    }

    /// The next message; `None` at the end of the stream.
    #[track_caller]
    pub fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        self.try_message().unwrap()
    }

    pub fn try_message(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        loop {
            let found = next_message(&self.ahead, MAX_MESSAGE_BYTES).unwrap();
            if let Some(message) = found {
                let (tag, body, length) = (message.tag, message.body.to_vec(), message.length);
                self.ahead.drain(..length);
                return Ok(Some((tag, body)));
            }
            let mut chunk = [0; 16 * 1024];
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                assert!(self.ahead.is_empty(), "the end is inside a message");
                return Ok(None);
            }
            self.ahead.extend_from_slice(&chunk[..read]);
        }
    }

    /// What is left of the stream, message or not.
    pub fn read_raw(&mut self, rest: &mut Vec<u8>) -> io::Result<usize> {
        rest.append(&mut self.ahead);
        self.stream.read_to_end(rest)
    }

    /// Who has answered, of the servers that say so.
    pub fn server_name(&self) -> String {
        self.server.clone()
    }

    /// Everything up to ReadyForQuery.
    #[track_caller]
    pub fn until_ready(&mut self) -> Answer {
        let mut answer = Answer::default();
        loop {
            let (tag, body) = self.message().expect("the session goes on");
            match tag {
                b'K' => {
                    let process_id = u32::from_be_bytes(body[..4].try_into().unwrap());
                    answer.key = CancelKey::new(process_id, &body[4..]);
                }
                b'S' if body.starts_with(b"server\0") => {
                    let name = &body["server\0".len()..body.len() - 1];
                    self.server = String::from_utf8(name.to_vec()).unwrap();
                }
                b'E' => answer.error = Some(ServerError::parse(&body)),
                b'D' => answer.rows.push(body),
                b'Z' => {
                    answer.status = body[0];
                    return answer;
                }
                _ => {}
            }
            answer.tags.push(tag);
        }
    }

    #[track_caller]
    pub fn query(&mut self, sql: &str) -> Answer {
        self.send(&frontend::query(sql));
        self.until_ready()
    }

    /// The error that ends the session, and its end.
    #[track_caller]
    pub fn last_words(&mut self) -> ServerError {
        loop {
            let (tag, body) = self.message().expect("an error comes before the end");
            if tag == b'E' {
                // Closed, or reset because we had said more.
                assert!(!matches!(self.try_message(), Ok(Some(_))));
                return ServerError::parse(&body);
            }
        }
    }
}

/// What a server says until it is ready again.
#[derive(Debug, Default)]
pub struct Answer {
    pub tags: Vec<u8>,
    pub rows: Vec<Vec<u8>>,
    pub key: Option<CancelKey>,
    pub error: Option<ServerError>,
    pub status: u8,
}
