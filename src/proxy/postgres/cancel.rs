//! Cancel keys: which session of which backend a CancelRequest is for.
//!
//! It comes on a connection of its own, to any listener and any worker, with nothing but the key
//! that its client was given. Those keys are ours: random, good for one session's life, and
//! worth nothing at a backend.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cluster::Cause;
use crate::cluster::Phase;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::config::ListenerConfig;
use crate::protocol::postgres::CancelKey;
use crate::protocol::postgres::follow::IssuedKey;
use crate::protocol::postgres::frontend;
use crate::proxy::Shared;
use crate::proxy::dial;
use crate::proxy::dial::Target;
use crate::proxy::handshake::Origin;
use crate::proxy::postgres::guess::GuessLimit;
use crate::routing::BackendHandle;

/// A server closes as soon as it has signalled the session. A client that waits for longer
/// would rather know that it failed.
const MAX_DELIVERY: Duration = Duration::from_secs(5);

/// The keys of all sessions of the process; as many as there are sessions.
#[derive(Debug, Default)]
pub struct CancelKeys {
    // Looked up by a keyed hash: how long it takes tells nothing about a secret.
    sessions: Mutex<HashMap<CancelKey, Session>>,
    guesses: GuessLimit,
}

/// Whom a cancel is for.
#[derive(Debug, Clone)]
struct Session {
    backend: Arc<BackendHandle>,
    address: SocketAddr,
    /// As the backend gave it.
    key: CancelKey,
}

/// What a key opens.
enum Found {
    One(Session),
    Nobody,
    /// Not even looked at.
    TooManyGuesses,
}

/// Takes a session's key back when it is dropped.
#[derive(Debug)]
pub struct Registered {
    shared: Arc<CancelKeys>,
    key: CancelKey,
}

/// A key that nobody has had before, as far as chance goes; `None` if the system has no
/// random bytes.
pub fn issue() -> Option<IssuedKey> {
    let mut random = [0; 32];
    aws_lc_rs::rand::fill(&mut random).ok()?;
    Some(IssuedKey {
        // Applications compare it with pg_backend_pid().
        process_id: None,
        random,
    })
}

impl CancelKeys {
    /// Makes `issued` good for a session until the result is dropped.
    pub fn register(
        self: &Arc<Self>,
        issued: CancelKey,
        key: CancelKey,
        backend: Arc<BackendHandle>,
        address: SocketAddr,
    ) -> Registered {
        let session = Session {
            backend,
            address,
            key,
        };
        match self.lock().entry(issued.clone()) {
            Entry::Vacant(place) => {
                place.insert(session);
            }
            // Two sessions with one key: better nobody's query is cancelled than another's.
            Entry::Occupied(place) => {
                place.remove();
            }
        }
        Registered {
            shared: Arc::clone(self),
            key: issued,
        }
    }

    /// The session with this key, unless its client's address has guessed too often.
    fn find(&self, key: &CancelKey, client: IpAddr, now: Instant) -> Found {
        if !self.guesses.may_guess(client, now) {
            return Found::TooManyGuesses;
        }
        let found = self.lock().get(key).cloned();
        match found {
            Some(session) => Found::One(session),
            None => {
                self.guesses.note_miss(client, now);
                Found::Nobody
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CancelKey, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.key);
    }
}

/// Brings a CancelRequest to its backend and waits until that has acted on it. An unknown key
/// is dropped without a word, as by a server.
pub async fn pass_on(
    key: &CancelKey,
    origin: &Origin,
    client: &TcpStream,
    config: &ListenerConfig,
    shared: &Shared,
) -> SessionEnd {
    let (ip, now) = (origin.client.ip(), Instant::now());
    let sessions = match shared.cancel_keys.find(key, ip, now) {
        Found::One(session) => vec![session],
        // Its session may be one that nobody here can see into.
        Found::Nobody if config.tls_passthrough => everywhere(key, config, shared),
        Found::Nobody | Found::TooManyGuesses => Vec::new(),
    };
    let cause = match sessions.is_empty() {
        true => Cause::CancelUnknown,
        false => Cause::CancelForwarded,
    };
    let delivery = async {
        for session in sessions {
            // Sent or not: its client learns no more from a server, either.
            deliver(&session, origin, client, shared).await;
        }
    };
    if timeout(MAX_DELIVERY, delivery).await.is_err() {
        tracing::debug!("cancel was not taken in time");
    }
    SessionEnd {
        side: Side::Client,
        phase: Phase::Handshake,
        cause,
    }
}

/// Any backend may have the session of a key that is the backend's own; all others ignore it.
fn everywhere(key: &CancelKey, config: &ListenerConfig, shared: &Shared) -> Vec<Session> {
    let table = shared.table.load();
    let Some(cluster) = config
        .cluster
        .as_ref()
        .and_then(|it| table.clusters.get(it))
    else {
        return Vec::new();
    };
    let sessions = cluster.backends.iter().filter_map(|entry| {
        Some(Session {
            backend: Arc::clone(&entry.handle),
            address: entry.address?,
            key: key.clone(),
        })
    });
    sessions.filter(|it| it.backend.active() > 0).collect()
}

async fn deliver(session: &Session, origin: &Origin, client: &TcpStream, shared: &Shared) {
    let Some(target) = target(session, origin, client, shared) else {
        return;
    };
    let mut backend = match dial::dial(&target).await {
        Ok(backend) => backend,
        Err(failed) => {
            let name = &session.backend.name;
            tracing::debug!(backend = %name, error = %failed.error, "cancel could not be sent");
            return;
        }
    };
    let request = frontend::cancel_request(&session.key);
    let sent = async {
        backend.write_all(&request).await?;
        backend.flush().await?;
        // Never answered: the close says that it was read.
        backend.read(&mut [0]).await
    };
    if let Err(error) = sent.await {
        tracing::debug!(backend = %session.backend.name, %error, "cancel was cut off");
    }
}

/// How to reach the session's backend now; `None` once that is unknown.
fn target(
    session: &Session,
    origin: &Origin,
    client: &TcpStream,
    shared: &Shared,
) -> Option<Target> {
    let table = shared.table.load();
    let cluster = table.clusters.get(&session.backend.cluster)?;
    let mut backends = cluster.backends.iter();
    let named = backends.find(|entry| entry.handle.name == session.backend.name);
    // Its settings only say what name to verify: without TLS any backend's will do for one
    // that was removed and has sessions left.
    let any = || cluster.backends.first().filter(|_| cluster.tls.is_none());
    let config = &named.or_else(any)?.config;
    let preamble = || origin.preamble(client);
    Some(Target::new(cluster, config, session.address, preamble))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::BackendId;

    fn key(process_id: u32, secret: &[u8]) -> CancelKey {
        CancelKey::new(process_id, secret).unwrap()
    }

    fn backend() -> Arc<BackendHandle> {
        Arc::new(BackendHandle::new(BackendId(1), "c".into(), "b".into()))
    }

    fn register(keys: &Arc<CancelKeys>, issued: &CancelKey, own: &CancelKey) -> Registered {
        let address = ([127, 0, 0, 1], 5432).into();
        keys.register(issued.clone(), own.clone(), backend(), address)
    }

    fn found(keys: &CancelKeys, issued: &CancelKey) -> Option<CancelKey> {
        match keys.find(issued, [127, 0, 0, 1].into(), Instant::now()) {
            Found::One(session) => Some(session.key),
            Found::Nobody | Found::TooManyGuesses => None,
        }
    }

    #[test]
    fn a_key_is_good_for_the_life_of_its_session() {
        let keys = Arc::new(CancelKeys::default());
        let (issued, own) = (key(1, b"ours"), key(1, b"real"));
        let registered = register(&keys, &issued, &own);
        assert_eq!(found(&keys, &issued), Some(own.clone()));
        assert_eq!(found(&keys, &own), None);
        assert_eq!(found(&keys, &key(2, b"ours")), None);
        drop(registered);
        assert_eq!(found(&keys, &issued), None);
        assert!(keys.lock().is_empty());
    }

    #[test]
    fn a_key_that_two_sessions_have_is_nobodys() {
        let keys = Arc::new(CancelKeys::default());
        let issued = key(1, b"ours");
        let _one = register(&keys, &issued, &key(1, b"one."));
        let _two = register(&keys, &issued, &key(1, b"two."));
        assert_eq!(found(&keys, &issued), None);
    }

    #[test]
    fn a_hundred_thousand_guesses_find_nothing() {
        let keys = Arc::new(CancelKeys::default());
        let sessions: Vec<_> = (0..1000)
            .map(|process_id| {
                let random = issue().unwrap().random;
                register(&keys, &key(process_id, &random[..4]), &key(0, b"real"))
            })
            .collect();
        assert_eq!(sessions.len(), 1000);
        let (client, now) = (IpAddr::from([192, 0, 2, 1]), Instant::now());
        let mut looked_at = 0;
        for guess in 0..100_000_u32 {
            match keys.find(&key(guess % 1000, &guess.to_be_bytes()), client, now) {
                Found::One(_) => panic!("one in forty million runs"),
                Found::Nobody => looked_at += 1,
                Found::TooManyGuesses => {}
            }
        }
        assert!((90..=100).contains(&looked_at), "{looked_at}");
    }

    #[test]
    fn keys_are_not_issued_twice() {
        let (one, two) = (issue().unwrap(), issue().unwrap());
        assert_ne!(one.random, two.random);
        assert_ne!(one.random[..4], [0; 4]);
    }
}
