//! From the backend's greeting to the client's login: who may come in, and TLS on either leg.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::cluster::Cause;
use crate::cluster::Phase;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::cluster::WantedRole;
use crate::net;
use crate::protocol::mysql::Capabilities;
use crate::protocol::mysql::follower::SessionFollower;
use crate::protocol::mysql::greeting::FirstPacket;
use crate::protocol::mysql::greeting::MAX_GREETING_BYTES;
use crate::protocol::mysql::handshake_response::FirstMessage;
use crate::protocol::mysql::handshake_response::HandshakeResponse;
use crate::protocol::mysql::handshake_response::MAX_LOGIN_BYTES;
use crate::protocol::mysql::handshake_response::SSL_REQUEST_BYTES;
use crate::protocol::mysql::packet::HEADER_BYTES;
use crate::protocol::mysql::packet::message;
use crate::protocol::mysql::response::ER_CON_COUNT;
use crate::protocol::mysql::response::ER_SERVER_SHUTDOWN;
use crate::proxy::dial::DialError;
use crate::proxy::dial::TlsToBackend;
use crate::proxy::handshake::tls_failed;
use crate::proxy::mysql::refuse;
use crate::proxy::transport::Transport;
use crate::routing::ListenerEntry;
use crate::tls::TlsAcceptor;

/// The greeting has 0.
const LOGIN_SEQUENCE: u8 = 1;

/// How a listener receives its clients.
#[derive(Debug)]
pub struct Welcome {
    tls: Option<OfferedTls>,
    role: WantedRole,
    /// For the client's part of the login.
    patience: Duration,
}

#[derive(Debug)]
struct OfferedTls {
    acceptor: TlsAcceptor,
    /// Clients may do without.
    optional: bool,
}

/// TLS that begins behind the backend's greeting.
#[derive(Debug)]
pub struct LateTls {
    pub tls: Arc<TlsToBackend>,
    pub address: SocketAddr,
}

/// A login whose first message is with the server.
#[derive(Debug)]
pub struct LoggingIn {
    pub client: Transport,
    pub backend: Transport,
    /// Has seen all so far.
    pub session: SessionFollower,
    /// How many packets more the client's leg has seen.
    pub shift: i8,
    /// Bytes of the client's that the server got.
    pub sent_bytes: usize,
}

impl Welcome {
    pub fn new(entry: &ListenerEntry) -> Self {
        let optional = entry.config.tls.as_ref().is_some_and(|tls| tls.optional);
        let acceptor = entry.tls.clone();
        Self {
            tls: acceptor.map(|acceptor| OfferedTls { acceptor, optional }),
            role: entry.config.intent.role,
            patience: entry.config.handshake_timeout,
        }
    }
}

/// A client's message and its sequence number.
struct Message {
    sequence: u8,
    payload: Vec<u8>,
}

/// Waits for the backend's greeting and returns it, header and all.
///
/// # Errors
/// It is gone, silent for `patience`, says that it takes no session now, or says no greeting.
pub async fn first_answer(
    backend: &mut Transport,
    patience: Duration,
) -> Result<Vec<u8>, DialError> {
    let answer = match timeout(patience, read_message(backend, MAX_GREETING_BYTES)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(backend_failed(error)),
        Err(_) => {
            return Err(DialError {
                cause: Cause::ConnectTimeout,
                error: io::Error::new(io::ErrorKind::TimedOut, "no greeting"),
            });
        }
    };
    let refused = |cause, words: String| DialError {
        cause,
        error: io::Error::other(words),
    };
    match FirstPacket::parse(&answer.payload) {
        Ok(FirstPacket::Greeting(_)) => {}
        Ok(FirstPacket::Refused(error)) => match error.code {
            ER_CON_COUNT => return Err(refused(Cause::TooManyConnections, error.to_string())),
            ER_SERVER_SHUTDOWN => return Err(refused(Cause::ShuttingDown, error.to_string())),
            // The client is to hear it.
            _ => {}
        },
        Err(error) => return Err(refused(Cause::UnexpectedAnswer, error.to_string())),
    }
    Ok(message(answer.sequence, &answer.payload))
}

/// Greets the client, lets either leg begin TLS, and sends the client's login on.
///
/// # Errors
/// Who failed and how; the client was told where it could be.
pub async fn log_in(
    mut client: Transport,
    backend: Transport,
    greeting: &[u8],
    welcome: Welcome,
    late_tls: Option<LateTls>,
) -> Result<LoggingIn, SessionEnd> {
    let greeting = match edit(greeting, welcome.tls.is_some(), late_tls.is_some()) {
        Ok(greeting) => greeting,
        // In the server's own words, if they are any.
        Err(Cause::Denied) => {
            client.say_last(greeting).await;
            return Err(ended(Side::Backend, Cause::Denied));
        }
        Err(cause) => {
            let end = ended(Side::Backend, cause);
            let words = refuse::refusal(end, welcome.role);
            client.say_last(&words.unwrap_or_default()).await;
            return Err(end);
        }
    };
    let reading = read_login(client, &greeting, welcome.tls);
    let Ok(read) = timeout(welcome.patience, reading).await else {
        return Err(ended(Side::Client, Cause::HandshakeTimeout));
    };
    let (mut client, login) = read?;
    let client_shift = i8::from(client.plain().is_none());
    let backend_shift = i8::from(late_tls.is_some());
    let sending = send_login(backend, &login, late_tls);
    let sent = timeout(welcome.patience, sending).await;
    let (backend, sent) = match sent.unwrap_or(Err(Cause::ConnectTimeout)) {
        Ok(sent) => sent,
        Err(cause) => {
            let end = ended(Side::Backend, cause);
            let words = refuse::late_refusal(end, welcome.role, login.sequence);
            client.say_last(&words.unwrap_or_default()).await;
            return Err(end);
        }
    };
    let mut session = SessionFollower::new();
    session.on_server(&greeting);
    session.on_client(&sent);
    Ok(LoggingIn {
        client,
        backend,
        session,
        shift: client_shift - backend_shift,
        sent_bytes: sent.len(),
    })
}

/// The greeting as the client gets it: it offers what the listener has, not what the server has.
fn edit(packet: &[u8], offers_tls: bool, needs_tls: bool) -> Result<Vec<u8>, Cause> {
    let payload = packet.get(HEADER_BYTES..).unwrap_or_default();
    let mut greeting = match FirstPacket::parse(payload) {
        Ok(FirstPacket::Greeting(greeting)) => greeting,
        Ok(FirstPacket::Refused(_)) => return Err(Cause::Denied),
        Err(_) => return Err(Cause::UnexpectedAnswer),
    };
    if needs_tls && !greeting.capabilities.has(Capabilities::SSL) {
        return Err(Cause::TlsFailed);
    }
    greeting.capabilities = match offers_tls {
        true => greeting.capabilities | Capabilities::SSL,
        false => greeting.capabilities.without(Capabilities::SSL),
    };
    Ok(message(0, &greeting.encode()))
}

/// The client's HandshakeResponse, by TLS or not.
async fn read_login(
    mut client: Transport,
    greeting: &[u8],
    tls: Option<OfferedTls>,
) -> Result<(Transport, Message), SessionEnd> {
    write(&mut client, greeting).await.map_err(client_failed)?;
    let first = read_message(&mut client, MAX_LOGIN_BYTES);
    let first = first.await.map_err(client_failed)?;
    let is_plain_allowed = tls.as_ref().is_none_or(|tls| tls.optional);
    match (FirstMessage::parse(&first.payload), client, tls) {
        (Ok(FirstMessage::SslRequest(_)), Transport::Plain(tcp), Some(tls)) => {
            // Exactly the request was read: what a stranger put behind it is for TLS to refuse.
            let accepted = tls.acceptor.accept(tcp).await.map_err(tls_failed)?;
            let mut client = Transport::Client(Box::new(accepted));
            let second = read_message(&mut client, MAX_LOGIN_BYTES);
            let second = second.await.map_err(client_failed)?;
            match HandshakeResponse::parse(&second.payload) {
                Ok(_) => Ok((client, second)),
                Err(_) => Err(ended(Side::Client, Cause::BadProtocol)),
            }
        }
        (Ok(FirstMessage::Response(_)), client, _) if is_plain_allowed => Ok((client, first)),
        (Ok(FirstMessage::Response(_)), mut client, _) => {
            client.say_last(&refuse::needs_tls(first.sequence)).await;
            Err(ended(Side::Proxy, Cause::Denied))
        }
        // TLS that was not offered, or no MySQL.
        _ => Err(ended(Side::Client, Cause::BadProtocol)),
    }
}

/// Sends the login, inside TLS where the cluster asks for it; returns it as it was sent.
async fn send_login(
    mut backend: Transport,
    login: &Message,
    tls: Option<LateTls>,
) -> Result<(Transport, Vec<u8>), Cause> {
    let mut payload = login.payload.clone();
    let Some(flags) = payload.first_chunk_mut::<4>() else {
        return Err(Cause::BadProtocol);
    };
    // Only these: all else, MariaDB's own flags included, stays as the client wrote it.
    let lower = Capabilities(u64::from(u32::from_le_bytes(*flags)));
    let lower = match tls {
        Some(_) => lower | Capabilities::SSL,
        None => lower.without(Capabilities::SSL),
    };
    *flags = (lower.0 as u32).to_le_bytes();
    let mut sequence = LOGIN_SEQUENCE;
    if let Some(LateTls { tls, address }) = tls {
        let request = payload.get(..SSL_REQUEST_BYTES).ok_or(Cause::BadProtocol)?;
        // MySQL goes by the flags of this request, not by those of the login inside TLS.
        let sent = write(&mut backend, &message(sequence, request)).await;
        sent.map_err(|error| net::cause_of(&error))?;
        let Transport::Plain(tcp) = backend else {
            return Err(Cause::TlsFailed);
        };
        let connected = tls.connector.connect(&tls.config, address, tcp).await;
        let connected = connected.map_err(|error| {
            tracing::debug!(%error, "TLS handshake with a backend failed");
            Cause::TlsFailed
        })?;
        backend = Transport::Backend(Box::new(connected));
        sequence += 1;
    }
    let bytes = message(sequence, &payload);
    let sent = write(&mut backend, &bytes).await;
    sent.map_err(|error| net::cause_of(&error))?;
    Ok((backend, bytes))
}

async fn write(to: &mut Transport, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// One packet and not a byte more: what follows may be a TLS handshake.
async fn read_message(from: &mut Transport, max_bytes: usize) -> io::Result<Message> {
    let mut header = [0; HEADER_BYTES];
    from.read_exact(&mut header).await?;
    let [low, middle, high, sequence] = header;
    let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
    if length > max_bytes {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    Ok(Message { sequence, payload })
}

fn backend_failed(error: io::Error) -> DialError {
    let cause = match error.kind() {
        io::ErrorKind::UnexpectedEof => Cause::EarlyClose,
        io::ErrorKind::InvalidData => Cause::UnexpectedAnswer,
        _ => net::cause_of(&error),
    };
    DialError { cause, error }
}

fn client_failed(error: io::Error) -> SessionEnd {
    let cause = match error.kind() {
        io::ErrorKind::UnexpectedEof => Cause::Closed,
        io::ErrorKind::InvalidData => Cause::BadProtocol,
        _ => net::cause_of(&error),
    };
    ended(Side::Client, cause)
}

fn ended(side: Side, cause: Cause) -> SessionEnd {
    SessionEnd {
        side,
        phase: Phase::Handshake,
        cause,
    }
}
