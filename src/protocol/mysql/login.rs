//! A client's login as a state machine: messages in, bytes to write out.

use super::Capabilities;
use super::Malformed;
use super::auth::Plugin;
use super::auth::UnusableKey;
use super::auth::clear_password;
use super::auth::seal_password;
use super::greeting::FirstPacket;
use super::greeting::Greeting;
use super::greeting::NONCE_BYTES;
use super::handshake_response::HandshakeResponse;
use super::handshake_response::SslRequest;
use super::handshake_response::encode_attributes;
use super::packet::Message;
use super::packet::message;
use super::response::EOF_HEADER;
use super::response::ERR_HEADER;
use super::response::OK_HEADER;
use super::response::OkPacket;
use super::response::ServerError;
use super::wire::Reader;

/// The longest honest exchange (a switch of the method, the whole password by RSA) has five.
const MAX_AUTH_MESSAGES: u32 = 8;
/// utf8mb4_general_ci: known to every server since 5.5.
const CHARACTER_SET_UTF8MB4: u8 = 45;
/// What we are ready to read in one message.
const MAX_PACKET_BYTES: u32 = 16 << 20;

const AUTH_MORE_DATA: u8 = 0x01;
const FAST_AUTH_SUCCEEDED: u8 = 0x03;
const FULL_AUTH_NEEDED: u8 = 0x04;
const REQUEST_PUBLIC_KEY: u8 = 0x02;

const ALWAYS: Capabilities = Capabilities(
    Capabilities::LONG_PASSWORD.0
        | Capabilities::LONG_FLAG.0
        | Capabilities::PROTOCOL_41.0
        | Capabilities::TRANSACTIONS.0
        | Capabilities::SECURE_CONNECTION.0,
);
const IF_OFFERED: Capabilities = Capabilities(
    Capabilities::PLUGIN_AUTH.0 | Capabilities::CONNECT_ATTRS.0 | Capabilities::DEPRECATE_EOF.0,
);

/// Who logs in.
#[derive(Clone)]
pub struct Credentials {
    pub user: String,
    pub password: String,
    pub database: Option<String>,
}

/// Whether the login moves to TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsUse {
    Never,
    IfOffered,
    Always,
}

/// Whether a password may be sealed with a key that came over the same unprotected connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKey {
    /// An eavesdropper learns nothing; who can answer in the server's place learns the password.
    Trust,
    Refuse,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write these bytes, then read a message. Empty: only read.
    Send(Vec<u8>),
    /// Write these bytes, do the TLS handshake, then call [`Login::tls_established`].
    ///
    /// Bytes that arrived behind the greeting were not protected: refuse them.
    StartTls(Vec<u8>),
    /// Logged in; the next message is a command with sequence number 0.
    Done(LoggedIn),
}

/// The outcome of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedIn {
    pub greeting: Greeting,
    /// What both sides agreed on: how to read results.
    pub capabilities: Capabilities,
    pub ok: OkPacket,
}

/// Why a login failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    #[error("{0}")]
    Refused(#[from] ServerError),
    #[error("the server does not offer TLS")]
    NoTls,
    #[error("authentication method {0:?} is not supported")]
    UnsupportedPlugin(String),
    #[error("the server asks for the whole password on a connection without TLS")]
    NeedsTls,
    #[error(transparent)]
    UnusableKey(#[from] UnusableKey),
    #[error("more than {MAX_AUTH_MESSAGES} messages in a login")]
    TooManyMessages,
    #[error("MySQL packets out of order")]
    OutOfOrder,
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// A login in progress.
pub struct Login {
    credentials: Credentials,
    tls: TlsUse,
    server_key: ServerKey,
    channel: Channel,
    phase: Phase,
    /// Of the next message, whoever sends it.
    sequence: u8,
    messages: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Channel {
    Clear,
    /// TLS as a step of this login.
    Tls,
    /// Protected from its first byte, of which the server's flags know nothing.
    Protected,
}

enum Phase {
    Greeting,
    TlsHandshake(Box<Greeting>),
    Authentication(Box<Exchange>),
    Over,
}

struct Exchange {
    greeting: Greeting,
    capabilities: Capabilities,
    plugin: Plugin,
    nonce: [u8; NONCE_BYTES],
    key_requested: bool,
}

impl Login {
    pub fn new(credentials: Credentials, tls: TlsUse, server_key: ServerKey) -> Self {
        Self {
            credentials,
            tls,
            server_key,
            channel: Channel::Clear,
            phase: Phase::Greeting,
            sequence: 0,
            messages: 0,
        }
    }

    /// The transport protects its content already (TLS from the first byte, a Unix socket).
    pub fn on_protected_channel(mut self) -> Self {
        self.channel = Channel::Protected;
        self
    }

    /// Takes the server's next message.
    ///
    /// # Errors
    /// The login is over; nothing more is to be sent.
    pub fn on_message(&mut self, message: &Message) -> Result<Step, LoginError> {
        self.messages += 1;
        if self.messages > MAX_AUTH_MESSAGES {
            return Err(LoginError::TooManyMessages);
        }
        // An error may come at any time and from a thread that knows no sequence.
        if message.payload.first() == Some(&ERR_HEADER) {
            return Err(ServerError::parse(&message.payload)?.into());
        }
        if message.sequence != self.sequence {
            return Err(LoginError::OutOfOrder);
        }
        self.sequence = self.sequence.wrapping_add(1);
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Greeting => self.on_greeting(&message.payload),
            Phase::Authentication(exchange) => self.on_auth(exchange, &message.payload),
            Phase::TlsHandshake(_) | Phase::Over => Err(Malformed("unexpected message").into()),
        }
    }

    /// The TLS handshake is done: who we are, to be written inside it.
    ///
    /// # Errors
    /// No handshake was asked for.
    pub fn tls_established(&mut self) -> Result<Step, LoginError> {
        let Phase::TlsHandshake(greeting) = std::mem::replace(&mut self.phase, Phase::Over) else {
            return Err(Malformed("TLS was not asked for").into());
        };
        self.channel = Channel::Tls;
        Ok(self.respond(*greeting))
    }

    fn on_greeting(&mut self, payload: &[u8]) -> Result<Step, LoginError> {
        let greeting = match FirstPacket::parse(payload)? {
            FirstPacket::Greeting(greeting) => greeting,
            FirstPacket::Refused(error) => return Err(error.into()),
        };
        let offered = greeting.capabilities.has(Capabilities::SSL);
        if self.tls == TlsUse::Always && !offered && self.channel == Channel::Clear {
            return Err(LoginError::NoTls);
        }
        let wants_tls = self.tls != TlsUse::Never && self.channel == Channel::Clear;
        if !wants_tls || !offered {
            return Ok(self.respond(greeting));
        }
        let request = SslRequest {
            capabilities: self.capabilities(&greeting) | Capabilities::SSL,
            max_packet_bytes: MAX_PACKET_BYTES,
            character_set: CHARACTER_SET_UTF8MB4,
        };
        self.phase = Phase::TlsHandshake(Box::new(greeting));
        Ok(Step::StartTls(self.frame(&request.encode())))
    }

    fn respond(&mut self, greeting: Greeting) -> Step {
        let mut capabilities = self.capabilities(&greeting);
        // Without a request for TLS before it, the flag would start a handshake.
        if self.channel == Channel::Tls {
            capabilities = capabilities | Capabilities::SSL;
        }
        // An unknown default is answered with a method we know; the server then switches
        // to the one of this user.
        let plugin = Plugin::from_name(greeting.auth_plugin.as_bytes());
        let plugin = plugin.unwrap_or(Plugin::NativePassword);
        let nonce = greeting.nonce;
        let response = HandshakeResponse {
            capabilities,
            max_packet_bytes: MAX_PACKET_BYTES,
            character_set: CHARACTER_SET_UTF8MB4,
            user: self.credentials.user.clone().into_bytes(),
            auth_response: plugin.scramble(&self.credentials.password, &nonce),
            database: self.credentials.database.clone().map(String::into_bytes),
            auth_plugin: Some(plugin.name().as_bytes().to_vec()),
            attributes: encode_attributes(&[("program_name", "evergate")]),
            zstd_level: None,
        };
        self.phase = Phase::Authentication(Box::new(Exchange {
            capabilities: capabilities & greeting.capabilities,
            greeting,
            plugin,
            nonce,
            key_requested: false,
        }));
        Step::Send(self.frame(&response.encode()))
    }

    fn on_auth(&mut self, exchange: Box<Exchange>, payload: &[u8]) -> Result<Step, LoginError> {
        match payload.split_first() {
            Some((&OK_HEADER, _)) => Ok(Step::Done(LoggedIn {
                ok: OkPacket::parse(payload)?,
                greeting: exchange.greeting,
                capabilities: exchange.capabilities,
            })),
            Some((&EOF_HEADER, request)) => self.on_switch(exchange, request),
            Some((&AUTH_MORE_DATA, data)) => self.on_more_data(exchange, data),
            _ => Err(Malformed("unexpected message in a login").into()),
        }
    }

    /// The server wants another method for this user, with a new nonce.
    fn on_switch(
        &mut self,
        mut exchange: Box<Exchange>,
        request: &[u8],
    ) -> Result<Step, LoginError> {
        let mut reader = Reader(request);
        let name = reader.until_nul_or_end();
        let Some(plugin) = Plugin::from_name(name) else {
            let name = if request.is_empty() {
                "mysql_old_password".to_owned()
            } else {
                String::from_utf8_lossy(name).into_owned()
            };
            return Err(LoginError::UnsupportedPlugin(name));
        };
        exchange.nonce.copy_from_slice(reader.take(NONCE_BYTES)?);
        exchange.plugin = plugin;
        exchange.key_requested = false;
        let answer = plugin.scramble(&self.credentials.password, &exchange.nonce);
        self.phase = Phase::Authentication(exchange);
        Ok(Step::Send(self.frame(&answer)))
    }

    fn on_more_data(
        &mut self,
        mut exchange: Box<Exchange>,
        data: &[u8],
    ) -> Result<Step, LoginError> {
        if exchange.plugin != Plugin::CachingSha2Password {
            return Err(Malformed("unexpected authentication data").into());
        }
        let password = &self.credentials.password;
        let answer = match data {
            [FAST_AUTH_SUCCEEDED] => None,
            [FULL_AUTH_NEEDED] if self.channel != Channel::Clear => Some(clear_password(password)),
            [FULL_AUTH_NEEDED] if self.server_key == ServerKey::Refuse => {
                return Err(LoginError::NeedsTls);
            }
            [FULL_AUTH_NEEDED] => {
                exchange.key_requested = true;
                Some(vec![REQUEST_PUBLIC_KEY])
            }
            pem if exchange.key_requested => {
                exchange.key_requested = false;
                Some(seal_password(password, &exchange.nonce, pem)?)
            }
            _ => return Err(Malformed("unexpected authentication data").into()),
        };
        self.phase = Phase::Authentication(exchange);
        Ok(Step::Send(match answer {
            Some(answer) => self.frame(&answer),
            None => Vec::new(),
        }))
    }

    fn capabilities(&self, greeting: &Greeting) -> Capabilities {
        let mut capabilities = ALWAYS | IF_OFFERED & greeting.capabilities;
        if self.credentials.database.is_some() {
            capabilities = capabilities | Capabilities::CONNECT_WITH_DB;
        }
        capabilities
    }

    fn frame(&mut self, payload: &[u8]) -> Vec<u8> {
        let framed = message(self.sequence, payload);
        self.sequence = self.sequence.wrapping_add(1);
        framed
    }
}

/// Feeds `data` as payloads, each behind its length; no password leaves in clear.
pub(super) fn fuzz(data: &[u8]) {
    const PASSWORD: &str = "never in clear";
    let credentials = Credentials {
        user: "u".to_owned(),
        password: PASSWORD.to_owned(),
        database: None,
    };
    let mut login = Login::new(credentials, TlsUse::IfOffered, ServerKey::Trust);
    let mut rest = data;
    while let Some((&length, after)) = rest.split_first() {
        let (payload, after) = after.split_at(usize::from(length).min(after.len()));
        rest = after;
        let message = Message {
            sequence: login.sequence,
            payload: payload.to_vec(),
        };
        match login.on_message(&message) {
            Ok(Step::Send(bytes) | Step::StartTls(bytes)) => {
                let mut windows = bytes.windows(PASSWORD.len());
                assert!(!windows.any(|window| window == PASSWORD.as_bytes()));
            }
            Ok(Step::Done(_)) | Err(_) => return,
        }
    }
}
