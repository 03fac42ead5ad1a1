//! How a client logs in, as a state machine over whole messages
//! (protocol chapter, "Start-up" and "SASL Authentication").
//!
//! The server is not trusted: it has not proved who it is, and by the time it has it may be broken.

use crate::protocol::postgres::CancelKey;
use crate::protocol::postgres::cursor::Cursor;
use crate::protocol::postgres::cursor::printable;
use crate::protocol::postgres::error::ServerError;
use crate::protocol::postgres::frontend;
use crate::protocol::postgres::scram::Scram;
use crate::protocol::postgres::sqlstate::SqlState;

/// A server sends about 25, and a notice from a login trigger now and then.
pub const MAX_LOGIN_MESSAGES: u32 = 200;
/// `18.1 (Debian 18.1-1.pgdg13+2)` and the like.
const MAX_VERSION_BYTES: usize = 64;

const METHOD_OK: u32 = 0;
const METHOD_CLEARTEXT: u32 = 3;
const METHOD_MD5: u32 = 5;
const METHOD_SASL: u32 = 10;
const METHOD_SASL_CONTINUE: u32 = 11;
const METHOD_SASL_FINAL: u32 = 12;

/// As whom to log in, and what to show to the server on the way.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    pub user: &'a str,
    pub database: &'a str,
    pub password: Option<&'a str>,
    /// What `pg_stat_activity` will show.
    pub application_name: &'a str,
    pub cleartext: Cleartext,
    pub binding: ChannelBinding<'a>,
}

/// What to do when the server asks for the password itself and not for a proof of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleartext {
    /// Send it: the connection is encrypted to a server that was verified, or somebody decided so.
    Send,
    /// Fail: whoever answers at the backend's address could just ask for it.
    Refuse,
}

/// Whether SCRAM can prove that both sides speak of the same TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding<'a> {
    /// No TLS, or no certificate hash at hand.
    Unavailable,
    /// RFC 5929 §4: the hash of the server's certificate, SHA-256 unless its signature uses a better
    /// one.
    ServerEndPoint(&'a [u8]),
}

/// What to do after a message.
#[derive(Debug, PartialEq, Eq)]
pub enum LoginStep {
    /// Nothing: read the next message.
    Wait,
    /// Send these bytes, then read the next message.
    Send(Vec<u8>),
    /// The session is ready for its first query.
    Ready(LoggedIn),
}

/// What a server tells whoever has logged in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoggedIn {
    pub parameters: ServerParameters,
    /// `None` from servers that cannot cancel.
    pub key: Option<CancelKey>,
}

/// The parameters that a server reports by itself, also when they change, and that say something
/// about its role. `None`: not reported (`in_hot_standby` exists since version 14).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerParameters {
    pub server_version: Option<String>,
    pub in_hot_standby: Option<bool>,
    pub default_transaction_read_only: Option<bool>,
}

/// The login has failed; the connection is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    #[error("{0}")]
    Server(ServerError),
    #[error("the server asks for a password and none is configured")]
    NoPassword,
    #[error("the server asks for the password in clear text")]
    CleartextRefused,
    #[error("the server asks for an authentication method that is not supported ({0})")]
    Method(u32),
    #[error("the server offers no SASL mechanism that is supported")]
    Mechanism,
    #[error("SCRAM: {0}")]
    Scram(&'static str),
    #[error("malformed {0} message")]
    Malformed(&'static str),
    #[error("unexpected message {0:?} during login")]
    Unexpected(char),
    #[error("more than {MAX_LOGIN_MESSAGES} messages during login")]
    TooManyMessages,
}

impl LoginError {
    /// What the server said, if it was the server that refused and it said why.
    #[must_use]
    pub fn sqlstate(&self) -> Option<SqlState> {
        match self {
            Self::Server(error) => error.sqlstate,
            _ => None,
        }
    }
}

/// A login under way.
pub struct Login {
    state: State,
    user: String,
    password: Option<String>,
    cleartext: Cleartext,
    server_end_point: Option<Vec<u8>>,
    messages: u32,
    logged_in: LoggedIn,
}

enum State {
    /// The StartupMessage was sent.
    Started,
    ScramBegun(Scram),
    ScramProved(Scram),
    /// The server has had all that it may ask for.
    Answered,
    Accepted,
    Over,
}

impl Login {
    /// A login and the StartupMessage that begins it.
    #[must_use]
    pub fn new(credentials: &Credentials<'_>) -> (Self, Vec<u8>) {
        let startup = frontend::startup_message(&[
            ("user", credentials.user),
            ("database", credentials.database),
            ("application_name", credentials.application_name),
            ("client_encoding", "UTF8"),
        ]);
        let login = Self {
            state: State::Started,
            user: credentials.user.to_owned(),
            password: credentials.password.map(str::to_owned),
            cleartext: credentials.cleartext,
            server_end_point: match credentials.binding {
                ChannelBinding::Unavailable => None,
                ChannelBinding::ServerEndPoint(hash) => Some(hash.to_vec()),
            },
            messages: 0,
            logged_in: LoggedIn::default(),
        };
        (login, startup)
    }

    /// Takes the next message of the server.
    ///
    /// # Errors
    /// The server refuses, asks for what it may not have, or does not follow the protocol.
    pub fn on_message(&mut self, tag: u8, body: &[u8]) -> Result<LoginStep, LoginError> {
        self.messages += 1;
        if self.messages > MAX_LOGIN_MESSAGES {
            return Err(LoginError::TooManyMessages);
        }
        // An error ends the login; every way on sets the state again.
        let state = std::mem::replace(&mut self.state, State::Over);
        match (state, tag) {
            (State::Over, _) => Err(LoginError::Unexpected(char::from(tag))),
            (_, b'E') => Err(LoginError::Server(ServerError::parse(body))),
            // NoticeResponse, NegotiateProtocolVersion: we asked for nothing that can be negotiated.
            (state, b'N' | b'v') => Ok(self.goes_on(state)),
            (State::Accepted, b'S') => {
                self.logged_in.parameters.note(body);
                Ok(self.goes_on(State::Accepted))
            }
            (State::Accepted, b'K') => {
                let mut body = Cursor(body);
                let process_id = body.u32();
                self.logged_in.key = process_id.and_then(|id| CancelKey::new(id, body.0));
                Ok(self.goes_on(State::Accepted))
            }
            (State::Accepted, b'Z') if body == b"I" => {
                Ok(LoginStep::Ready(std::mem::take(&mut self.logged_in)))
            }
            (State::Accepted, b'Z') => Err(LoginError::Malformed("ReadyForQuery")),
            (state, b'R') => self.authenticate(state, body),
            (_, tag) => Err(LoginError::Unexpected(char::from(tag))),
        }
    }

    fn authenticate(&mut self, state: State, body: &[u8]) -> Result<LoginStep, LoginError> {
        let mut body = Cursor(body);
        let method = body.u32().ok_or(LoginError::Malformed("Authentication"))?;
        match (state, method) {
            (State::Started | State::Answered, METHOD_OK) => Ok(self.goes_on(State::Accepted)),
            (State::Started, METHOD_CLEARTEXT) => {
                let password = self.password()?;
                if self.cleartext == Cleartext::Refuse {
                    return Err(LoginError::CleartextRefused);
                }
                let answer = frontend::password_message(password);
                Ok(self.answers(State::Answered, answer))
            }
            (State::Started, METHOD_MD5) => {
                let salt = <[u8; 4]>::try_from(body.0)
                    .map_err(|_| LoginError::Malformed("AuthenticationMD5Password"))?;
                let (user, password) = (self.user.as_bytes(), self.password()?.as_bytes());
                let hash = postgres_protocol::authentication::md5_hash(user, password, salt);
                let answer = frontend::password_message(&hash);
                Ok(self.answers(State::Answered, answer))
            }
            (State::Started, METHOD_SASL) => {
                let binding = self.server_end_point.as_deref();
                let (scram, answer) = Scram::begin(body.0, self.password()?, binding)?;
                Ok(self.answers(State::ScramBegun(scram), answer))
            }
            (State::ScramBegun(mut scram), METHOD_SASL_CONTINUE) => {
                let answer = scram.prove(body.0)?;
                Ok(self.answers(State::ScramProved(scram), answer))
            }
            (State::ScramProved(scram), METHOD_SASL_FINAL) => {
                scram.verify_server(body.0)?;
                Ok(self.goes_on(State::Answered))
            }
            // A server that lets us in before it has proved that it knows the password, too.
            (State::ScramBegun(_) | State::ScramProved(_), METHOD_OK) => {
                Err(LoginError::Scram("the server has not proved who it is"))
            }
            (State::Started, method) => Err(LoginError::Method(method)),
            (_, _) => Err(LoginError::Unexpected('R')),
        }
    }

    fn password(&self) -> Result<&str, LoginError> {
        self.password.as_deref().ok_or(LoginError::NoPassword)
    }

    fn goes_on(&mut self, state: State) -> LoginStep {
        self.state = state;
        LoginStep::Wait
    }

    fn answers(&mut self, state: State, answer: Vec<u8>) -> LoginStep {
        self.state = state;
        LoginStep::Send(answer)
    }
}

impl ServerParameters {
    /// Takes the body of a ParameterStatus, which a server may send at any time: a standby that is
    /// promoted tells its sessions so. Others than the known ones, and bad ones, are ignored.
    pub fn note(&mut self, body: &[u8]) {
        let mut body = Cursor(body);
        let Some((name, value)) = body.c_string().zip(body.c_string()) else {
            return;
        };
        match name {
            b"server_version" => {
                self.server_version = Some(printable(value, MAX_VERSION_BYTES));
            }
            b"in_hot_standby" => self.in_hot_standby = on_or_off(value),
            b"default_transaction_read_only" => {
                self.default_transaction_read_only = on_or_off(value);
            }
            _ => {}
        }
    }
}

fn on_or_off(value: &[u8]) -> Option<bool> {
    match value {
        b"on" => Some(true),
        b"off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
