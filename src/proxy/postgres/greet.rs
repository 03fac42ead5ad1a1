//! What a PostgreSQL client says before its session begins: encryption, a cancel, or its startup.

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::cluster::Cause;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::protocol::postgres::CancelKey;
use crate::protocol::postgres::error::ErrorResponse;
use crate::protocol::postgres::sqlstate::SqlState;
use crate::protocol::postgres::startup;
use crate::protocol::postgres::startup::MAX_STARTUP_BYTES;
use crate::protocol::postgres::startup::Negotiation;
use crate::protocol::postgres::startup::Opening;
use crate::protocol::postgres::startup::Request;
use crate::protocol::postgres::startup::StartupError;
use crate::protocol::postgres::startup::StartupMessage;
use crate::proxy::access::permits;
use crate::proxy::dialect::Dialect;
use crate::proxy::handshake::Errand;
use crate::proxy::handshake::Greeted;
use crate::proxy::handshake::Login;
use crate::proxy::handshake::Origin;
use crate::proxy::handshake::client_failed;
use crate::proxy::handshake::refused;
use crate::proxy::handshake::tls_failed;
use crate::proxy::postgres::cancel::CancelErrand;
use crate::proxy::transport::Transport;
use crate::routing::ListenerEntry;
use crate::tls::ClientHandshake;
use crate::tls::TlsAcceptor;

/// The first byte of a TLS handshake, and of no message of PostgreSQL's.
const TLS_HANDSHAKE: u8 = 0x16;
/// What direct TLS has to agree on, so that another protocol's bytes are never taken for it.
const ALPN: &[u8] = b"postgresql";
/// Drivers' startup messages have about a hundred bytes.
const USUAL_STARTUP_BYTES: usize = 512;

/// One client in its negotiation.
struct Guest<'a> {
    client: Transport,
    negotiation: Negotiation,
    /// Received and not answered yet.
    bytes: Vec<u8>,
    origin: Origin,
    entry: &'a ListenerEntry,
}

/// Answers until the client begins its session, or seals it.
///
/// # Errors
/// Who failed and how; the client was told.
pub async fn greet(
    tcp: TcpStream,
    origin: Origin,
    entry: &ListenerEntry,
) -> Result<Errand, SessionEnd> {
    let guest = |client, negotiation, origin| Guest {
        client,
        negotiation,
        bytes: Vec::with_capacity(USUAL_STARTUP_BYTES),
        origin,
        entry,
    };
    // Looked at and left where it is: the TLS handshake reads it.
    let mut first = [0];
    let peeked = tcp.peek(&mut first).await;
    if peeked.map_err(|error| client_failed(&error))? == 0 {
        return Err(refused(Side::Client, Cause::Closed));
    }
    if first[0] != TLS_HANDSHAKE {
        let guest = guest(Transport::Plain(tcp), Negotiation::new(), origin);
        return guest.negotiate().await;
    }
    match &entry.tls {
        Some(acceptor) => {
            let (client, origin) = accept_direct(acceptor, tcp, origin).await?;
            let guest = guest(client, Negotiation::encrypted(), origin);
            guest.negotiate().await
        }
        None if entry.config.tls_passthrough => Ok(Errand::Session(Greeted {
            client: Transport::Plain(tcp),
            first_bytes: Vec::new(),
            origin,
            dialect: Dialect::SealedPostgres,
        })),
        None => Err(refused(Side::Client, Cause::BadProtocol)),
    }
}

/// The setting `name` in a startup message.
pub fn parameter(startup: &[u8], name: &str) -> Option<String> {
    let Ok(Opening::Complete { request, .. }) = startup::parse(startup) else {
        return None;
    };
    let Request::Startup(message) = request else {
        return None;
    };
    String::from_utf8(message.option(name)?.into_owned()).ok()
}

async fn accept_direct(
    acceptor: &TlsAcceptor,
    tcp: TcpStream,
    mut origin: Origin,
) -> Result<(Transport, Origin), SessionEnd> {
    let tls = acceptor.accept(tcp).await.map_err(tls_failed)?;
    if tls.alpn() != Some(ALPN) {
        return Err(refused(Side::Client, Cause::BadProtocol));
    }
    origin.sni = tls.sni().map(str::to_ascii_lowercase);
    Ok((Transport::Client(Box::new(tls)), origin))
}

impl Guest<'_> {
    /// A loop that ends: each kind of encryption may be asked for once.
    async fn negotiate(mut self) -> Result<Errand, SessionEnd> {
        loop {
            match self.next_request().await? {
                Request::Ssl if self.entry.config.tls_passthrough => {
                    return Ok(Errand::Session(self.seal()));
                }
                Request::Ssl => self = self.encrypt().await?,
                Request::GssEnc => self.answer(b"N").await?,
                Request::Cancel(key) => return self.cancel(key),
                Request::Startup(message) => {
                    return self.begin(&message).await.map(Errand::Session);
                }
            }
            self.bytes.clear();
        }
    }

    async fn next_request(&mut self) -> Result<Request, SessionEnd> {
        loop {
            let missing = match self.negotiation.next(&self.bytes) {
                Ok(Opening::Complete { request, .. }) => return Ok(request),
                Ok(Opening::Incomplete { needed }) => needed.saturating_sub(self.bytes.len()),
                // A ClientHello that did not come first.
                Ok(Opening::Tls) => return Err(self.reject(StartupError::Length).await),
                Err(error) => return Err(self.reject(error).await),
            };
            // More than is missing may come, so that what follows an SSLRequest is noticed.
            self.bytes.reserve(missing.max(USUAL_STARTUP_BYTES));
            let read = self.client.read_buf(&mut self.bytes).await;
            if read.map_err(|error| client_failed(&error))? == 0 {
                return Err(refused(Side::Client, Cause::Closed));
            }
            debug_assert!(self.bytes.len() <= 4 * MAX_STARTUP_BYTES);
        }
    }

    async fn encrypt(mut self) -> Result<Self, SessionEnd> {
        let Some(acceptor) = &self.entry.tls else {
            self.answer(b"N").await?;
            return Ok(self);
        };
        self.answer(b"S").await?;
        // It is not TLS yet: a second request for it was refused.
        let Transport::Plain(tcp) = self.client else {
            return Err(refused(Side::Client, Cause::BadProtocol));
        };
        let tls = acceptor.accept(tcp).await.map_err(tls_failed)?;
        self.origin.sni = tls.sni().map(str::to_ascii_lowercase);
        Ok(Self {
            client: Transport::Client(Box::new(tls)),
            negotiation: Negotiation::encrypted(),
            ..self
        })
    }

    /// The backend answers the SSLRequest.
    fn seal(self) -> Greeted {
        Greeted {
            client: self.client,
            first_bytes: self.bytes,
            origin: self.origin,
            dialect: Dialect::SealedPostgres,
        }
    }

    async fn begin(mut self, message: &StartupMessage) -> Result<Greeted, SessionEnd> {
        let config = &self.entry.config;
        let needs_tls = config.tls.as_ref().is_some_and(|tls| !tls.optional);
        if needs_tls && self.client.plain().is_some() {
            let error = ErrorResponse::fatal(
                SqlState::INVALID_AUTHORIZATION,
                "connection requires SSL encryption",
            );
            let error = error.with_hint("Connect with sslmode=require or better.");
            self.client.say_last(&error.encode()).await;
            return Err(refused(Side::Proxy, Cause::Denied));
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        self.origin.login = Login {
            user: text(message.user()),
            database: text(message.database()),
        };
        Ok(Greeted {
            client: self.client,
            first_bytes: self.bytes,
            origin: self.origin,
            dialect: Dialect::Postgres,
        })
    }

    fn cancel(self, key: CancelKey) -> Result<Errand, SessionEnd> {
        if !permits(self.entry, self.origin.client.ip()) {
            return Err(refused(Side::Client, Cause::Denied));
        }
        Ok(Errand::Cancel(CancelErrand {
            key,
            origin: self.origin,
            client: self.client,
        }))
    }

    async fn answer(&mut self, bytes: &[u8]) -> Result<(), SessionEnd> {
        let answered = async {
            self.client.write_all(bytes).await?;
            self.client.flush().await
        };
        answered.await.map_err(|error| client_failed(&error))
    }

    async fn reject(&mut self, error: StartupError) -> SessionEnd {
        // Like PostgreSQL: what is hardly a client of ours gets no answer.
        if error != StartupError::Length {
            let text = error.to_string();
            let response = ErrorResponse::fatal(error.sqlstate(), &text);
            self.client.say_last(&response.encode()).await;
        }
        refused(Side::Client, Cause::BadProtocol)
    }
}
