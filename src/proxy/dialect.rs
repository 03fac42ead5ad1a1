//! What a session speaks, as far as this side of the proxy understands it: all that differs
//! between protocols, apart from who speaks first (`handshake.rs`) and how TLS begins (`dial.rs`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Cause;
use crate::cluster::SessionEnd;
use crate::cluster::WantedRole;
use crate::protocol::postgres::binding::without_channel_binding;
use crate::proxy::Shared;
use crate::proxy::dial::DialError;
use crate::proxy::dial::TlsToBackend;
use crate::proxy::mysql;
use crate::proxy::postgres;
use crate::proxy::redis;
use crate::proxy::registry::Transaction;
use crate::proxy::transport::Transport;
use crate::routing::BackendHandle;

/// What is spoken once the client is greeted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Bytes that nobody looks at.
    Opaque,
    /// PostgreSQL, from the StartupMessage on.
    Postgres,
    /// PostgreSQL inside TLS that passes through, from the SSLRequest or the ClientHello on.
    SealedPostgres,
    /// Redis, from the client's first command on.
    Redis,
    /// MySQL and MariaDB, from the server's greeting on.
    MySql,
}

/// The backend that a session is connected to.
#[derive(Debug, Clone)]
pub struct Peer {
    pub backend: Arc<BackendHandle>,
    pub address: SocketAddr,
    /// How it was reached.
    pub tls: Option<Arc<TlsToBackend>>,
    /// What the session came for.
    pub role: WantedRole,
}

/// Follows a session's messages as they pass. Boxed: most sessions are not followed.
#[derive(Debug)]
pub enum Follow {
    Postgres(postgres::Follow),
    Redis(redis::Follow),
    MySql(mysql::Follow),
}

/// What becomes of bytes that one side has sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// Not yet: they are kept, and come back in a later `Replace`.
    Hold,
    /// These go instead: what was held, and the new ones behind it.
    Replace(Vec<u8>),
    /// They do not; the client is told this, and the session ends.
    Refuse(Vec<u8>),
}

impl Dialect {
    /// Sends what the client has said so far and waits for the backend's first word, which is
    /// returned and has not been passed on: nothing has been executed until then, so that
    /// another backend may be asked. `None`: the protocol has no such moment.
    ///
    /// # Errors
    /// The backend is gone, silent for `timeout`, or says that it takes no session now.
    pub async fn first_answer(
        self,
        client: &Transport,
        backend: &mut Transport,
        first_bytes: &[u8],
        timeout: Duration,
    ) -> Option<Result<Vec<u8>, DialError>> {
        match self {
            Self::Opaque | Self::Redis => None,
            // A ClientHello that has not been read yet: the relay brings it.
            Self::SealedPostgres if first_bytes.is_empty() => None,
            Self::Postgres | Self::SealedPostgres => {
                let answer = postgres::first_answer(backend, first_bytes, timeout).await;
                // TLS on the backend's leg only: its offer to bind to it means another channel.
                let only_there = client.plain().is_some() && backend.plain().is_none();
                Some(match only_there {
                    true => answer.map(without_channel_binding),
                    false => answer,
                })
            }
            Self::MySql => Some(mysql::first_answer(backend, timeout).await),
        }
    }

    /// Begins to follow a session whose backend has let it in.
    /// `has_begun`: bytes of the client were sent on already.
    pub fn follow(self, peer: Peer, shared: &Arc<Shared>, has_begun: bool) -> Option<Box<Follow>> {
        match self {
            // MySQL is followed from its login on, see `session.rs`.
            Self::Opaque | Self::SealedPostgres | Self::MySql => None,
            Self::Postgres => {
                let keys = Arc::clone(&shared.cancel_keys);
                let follow = postgres::Follow::new(peer, keys, shared.reporter.clone());
                Some(Box::new(Follow::Postgres(follow)))
            }
            Self::Redis => {
                let follow = redis::Follow::new(peer, shared.reporter.clone(), has_begun);
                Some(Box::new(Follow::Redis(follow)))
            }
        }
    }

    /// What a client is told that has not heard anything from a backend yet.
    pub fn refusal(self, end: SessionEnd, role: WantedRole, first_bytes: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Opaque => None,
            // It has asked for nothing in the clear.
            Self::SealedPostgres if first_bytes.is_empty() => None,
            Self::Postgres | Self::SealedPostgres => postgres::refusal(end, role),
            Self::Redis => redis::refusal(end, role),
            Self::MySql => mysql::refusal(end, role),
        }
    }

    /// Whether a backend's limit shows only in its answer, so that sessions may have to queue
    /// for a place although no limit is written in the file.
    pub fn tells_full(self) -> bool {
        match self {
            Self::Opaque | Self::SealedPostgres | Self::Redis => false,
            Self::Postgres | Self::MySql => true,
        }
    }
}

impl Follow {
    /// Takes note of what the backend says; may overwrite parts of it, and may refuse it.
    pub fn see_answer(&mut self, bytes: &mut [u8]) -> Verdict {
        match self {
            Self::Postgres(follow) => follow.see_answer(bytes),
            Self::Redis(follow) => follow.see_answer(bytes),
            Self::MySql(follow) => return follow.see_answer(bytes),
        }
        Verdict::Pass
    }

    /// Whether [`Self::see_request`] has anything to look at, still.
    pub fn watches_requests(&self) -> bool {
        match self {
            Self::Postgres(_) => false,
            Self::Redis(follow) => follow.watches_requests(),
            Self::MySql(follow) => follow.watches_requests(),
        }
    }

    /// Judges what the client says before it is passed on.
    pub fn see_request(&mut self, bytes: &mut [u8]) -> Verdict {
        match self {
            Self::Postgres(_) => Verdict::Pass,
            Self::Redis(follow) => follow.see_request(bytes),
            Self::MySql(follow) => {
                follow.see_request(bytes);
                Verdict::Pass
            }
        }
    }

    /// Bytes of the client are kept here.
    pub fn holds_back(&self) -> bool {
        match self {
            Self::Postgres(_) | Self::MySql(_) => false,
            Self::Redis(follow) => follow.holds_back(),
        }
    }

    /// Bytes of the client have been passed on.
    pub fn note_request(&mut self) {
        match self {
            Self::Postgres(follow) => follow.note_request(),
            Self::Redis(_) | Self::MySql(_) => {}
        }
    }

    /// The client says no more.
    pub fn note_client_end(&mut self) {
        match self {
            Self::Postgres(follow) => follow.note_client_end(),
            Self::Redis(_) | Self::MySql(_) => {}
        }
    }

    /// What the session's transaction is doing, as of the bytes seen.
    pub fn transaction(&self) -> Transaction {
        match self {
            Self::Postgres(follow) => follow.transaction(),
            Self::Redis(_) => Transaction::Unknown,
            Self::MySql(follow) => follow.transaction(),
        }
    }

    /// The session came to write, and its server has proved that it takes no writes.
    pub fn is_refused(&self) -> bool {
        match self {
            // A restart, and the end of its sessions, comes before PostgreSQL takes no writes; and
            // 25006 is also said to whoever has asked for a read-only transaction.
            Self::Postgres(_) => false,
            // Nobody knows between which commands a session may be cut.
            Self::Redis(_) => false,
            Self::MySql(follow) => follow.is_refused(),
        }
    }

    /// The last words to a client whose session we end; `None` where they would land inside
    /// another message.
    pub fn farewell(&self, cause: Cause) -> Option<Vec<u8>> {
        match self {
            Self::Postgres(follow) => follow.farewell(cause),
            // A close, as after CLIENT KILL: clients connect again by themselves, and would take
            // an error for the answer to a command whose outcome nobody knows.
            Self::Redis(_) => None,
            Self::MySql(follow) => follow.farewell(cause),
        }
    }

    /// The last words to a client whose backend is gone; `None` where the backend has said
    /// why, where nobody listens, or where they would land inside another message.
    pub fn epitaph(&self) -> Option<Vec<u8>> {
        match self {
            Self::Postgres(follow) => follow.epitaph(),
            Self::Redis(_) | Self::MySql(_) => None,
        }
    }
}
