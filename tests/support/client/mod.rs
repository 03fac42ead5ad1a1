//! Clients of databases that are as simple as an application's, and that tell failures apart.
//!
//! They share nothing with the proxy's own codecs: a misunderstanding must not agree with itself.

mod mariadb;
mod postgres;
mod redis;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::io::BufReader;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::StreamOwned;

/// Who logs in, everywhere, without a password.
pub const USER: &str = "app";

/// Which language to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Postgres,
    MariaDb,
    Redis,
}

/// A row of text; NULL is empty.
pub type Row = Vec<String>;

/// What a client saw instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No connection: refused, reset, nobody answered.
    Connect(ErrorKind),
    /// Connected, but not let in: the server's code, or `closed` or `timeout`.
    Login(String),
    /// The server's answer to the statement: an SQLSTATE, an error number, or Redis' first word.
    Refused { code: String, end: SessionEnd },
    /// The connection ended and the statement's outcome is unknown.
    Lost,
    /// No answer within the client's patience; the outcome is unknown.
    TimedOut,
}

/// Whether the server said that an error ends the session (PostgreSQL's FATAL).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    Goes,
    Stays,
}

impl Failure {
    /// A short name to count by: `25006`, `lost`, `connect: ConnectionRefused`.
    pub fn class(&self) -> String {
        match self {
            Self::Connect(kind) => format!("connect: {kind:?}"),
            Self::Login(code) => format!("login: {code}"),
            Self::Refused { code, .. } => code.clone(),
            Self::Lost => "lost".to_owned(),
            Self::TimedOut => "timeout".to_owned(),
        }
    }

    /// A statement reached a server that is not the primary, or not any more.
    pub fn is_read_only(&self) -> bool {
        // PostgreSQL; MariaDB and MySQL; Redis.
        const CODES: [&str; 5] = ["25006", "1290", "1792", "1836", "READONLY"];
        matches!(self, Self::Refused { code, .. } if CODES.contains(&code.as_str()))
    }

    /// A new connection that came to nothing.
    pub fn is_connect(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Login(_))
    }
}

/// One session of `USER`.
#[derive(Debug)]
pub struct Session {
    dialect: Dialect,
    stream: Stream,
}

/// The server's words, and the way to answer them.
type Stream = BufReader<Box<dyn Wire>>;

/// In the clear or not.
trait Wire: Read + Write + Send + fmt::Debug {}

impl<T: Read + Write + Send + fmt::Debug> Wire for T {}

/// Why a login or a statement has no answer, before it is known which of both it was.
enum Stop {
    Io(io::Error),
    Server { code: String, end: SessionEnd },
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Session {
    /// Connects and logs in; `patience` bounds the connection and each answer.
    pub fn open(
        dialect: Dialect,
        addr: SocketAddr,
        user: &str,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let stream = connect(addr, patience)?;
        Self::log_in(dialect, Box::new(stream), user)
    }

    /// As [`Self::open`], within TLS from the first byte on.
    pub fn open_tls(
        dialect: Dialect,
        addr: SocketAddr,
        user: &str,
        patience: Duration,
        config: &Arc<ClientConfig>,
    ) -> Result<Self, Failure> {
        let stream = connect(addr, patience)?;
        let tls = ClientConnection::new(Arc::clone(config), addr.ip().into()).unwrap();
        Self::log_in(dialect, Box::new(StreamOwned::new(tls, stream)), user)
    }

    fn log_in(dialect: Dialect, stream: Box<dyn Wire>, user: &str) -> Result<Self, Failure> {
        let mut stream = BufReader::new(stream);
        let login = match dialect {
            Dialect::Postgres => postgres::login(&mut stream, user),
            Dialect::MariaDb => mariadb::login(&mut stream, user),
            Dialect::Redis => redis::login(&mut stream),
        };
        match login {
            Ok(()) => Ok(Self { dialect, stream }),
            Err(Stop::Server { code, .. }) => Err(Failure::Login(code)),
            Err(Stop::Io(error)) if is_timeout(&error) => Err(Failure::Login("timeout".into())),
            Err(Stop::Io(_)) => Err(Failure::Login("closed".into())),
        }
    }

    /// Runs one statement outside a transaction. Redis: words separated by spaces.
    pub fn query(&mut self, statement: &str) -> Result<Vec<Row>, Failure> {
        let answer = match self.dialect {
            Dialect::Postgres => postgres::query(&mut self.stream, statement),
            Dialect::MariaDb => mariadb::query(&mut self.stream, statement),
            Dialect::Redis => redis::command(&mut self.stream, statement),
        };
        answer.map_err(|stop| match stop {
            Stop::Server { code, end } => Failure::Refused { code, end },
            Stop::Io(error) if is_timeout(&error) => Failure::TimedOut,
            Stop::Io(_) => Failure::Lost,
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A server that is told goodbye keeps its log empty. Frozen servers do not read: no matter.
        let goodbye: &[u8] = match self.dialect {
            Dialect::Postgres => postgres::TERMINATE,
            Dialect::MariaDb => mariadb::QUIT,
            Dialect::Redis => b"",
        };
        let _ = self.stream.get_mut().write_all(goodbye);
    }
}

fn connect(addr: SocketAddr, patience: Duration) -> Result<TcpStream, Failure> {
    TcpStream::connect_timeout(&addr, patience)
        .and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))?;
            Ok(stream)
        })
        .map_err(|error| Failure::Connect(error.kind()))
}

/// How often each class occurred.
pub fn by_class<'a>(failures: impl IntoIterator<Item = &'a Failure>) -> BTreeMap<String, usize> {
    let mut classes = BTreeMap::new();
    for failure in failures {
        *classes.entry(failure.class()).or_insert(0) += 1;
    }
    classes
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn nonsense(what: impl Into<String>) -> Stop {
    Stop::Io(io::Error::new(ErrorKind::InvalidData, what.into()))
}
