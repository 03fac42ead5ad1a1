//! Cancel keys: which session of which backend a CancelRequest is for.
//!
//! It comes on a connection of its own, to any listener and any worker, with nothing but the key
//! that its client was given. Those keys are ours: random, good for one session's life, and
//! worth nothing at a backend.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cluster::Cause;
use crate::cluster::Phase;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::config::ListenerConfig;
use crate::config::Protocol;
use crate::protocol::postgres::CancelKey;
use crate::protocol::postgres::follow::IssuedKey;
use crate::protocol::postgres::frontend;
use crate::proxy::Shared;
use crate::proxy::dial;
use crate::proxy::dial::Target;
use crate::proxy::dialect::Peer;
use crate::proxy::handshake::Origin;
use crate::proxy::postgres::guess::GuessLimit;
use crate::proxy::transport::Transport;

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

/// A CancelRequest and who brings it.
#[derive(Debug)]
pub struct CancelErrand {
    pub key: CancelKey,
    pub origin: Origin,
    pub client: Transport,
}

/// Whom a cancel is for.
#[derive(Debug, Clone)]
struct Session {
    peer: Peer,
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
    pub fn register(self: &Arc<Self>, issued: CancelKey, key: CancelKey, peer: Peer) -> Registered {
        let session = Session { peer, key };
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

impl CancelErrand {
    /// Brings it to its backend and waits until that has acted on it; then our close says so. An
    /// unknown key is dropped without a word, as by a server.
    pub async fn run(self, config: &ListenerConfig, shared: &Shared) -> SessionEnd {
        pass_on(&self.key, &self.origin, self.client.tcp(), config, shared).await
    }
}

async fn pass_on(
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
    // Its client learns no more from a server, either: the close is all that it gets.
    let (side, cause) = match sessions.is_empty() {
        true => (Side::Client, Cause::CancelUnknown),
        false => match deliver(sessions, origin, client, shared).await {
            true => (Side::Client, Cause::CancelForwarded),
            false => (Side::Backend, Cause::CancelFailed),
        },
    };
    SessionEnd {
        side,
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
            peer: Peer {
                backend: Arc::clone(&entry.handle),
                address: entry.address?,
                // As the table has it: it has this backend.
                tls: None,
                role: config.intent.role,
            },
            key: key.clone(),
        })
    });
    sessions.filter(|it| it.peer.backend.active() > 0).collect()
}

/// Whether all of them have taken it, within [`MAX_DELIVERY`].
async fn deliver(
    sessions: Vec<Session>,
    origin: &Origin,
    client: &TcpStream,
    shared: &Shared,
) -> bool {
    // At once: one that stands still keeps it from nobody else. Dropped, the rest is given up.
    let mut deliveries = JoinSet::new();
    for session in sessions {
        let target = target(&session.peer, origin, client, shared);
        deliveries.spawn(send(session, target));
    }
    let all = async {
        let mut all_taken = true;
        while let Some(taken) = deliveries.join_next().await {
            all_taken &= taken.unwrap_or(false);
        }
        all_taken
    };
    timeout(MAX_DELIVERY, all).await.unwrap_or_else(|_| {
        tracing::debug!("cancel was not taken in time");
        false
    })
}

/// Whether the backend has taken it.
async fn send(session: Session, target: Target) -> bool {
    let name = &session.peer.backend.name;
    let mut backend = match dial::dial(&target).await {
        Ok(backend) => backend,
        Err(failed) => {
            tracing::debug!(backend = %name, error = %failed.error, "cancel could not be sent");
            return false;
        }
    };
    let request = frontend::cancel_request(&session.key);
    let sent = async {
        backend.write_all(&request).await?;
        backend.flush().await?;
        // Never answered: the close says that it was read.
        backend.read(&mut [0]).await
    };
    match sent.await {
        Ok(0) => true,
        // The end of TCP without that of TLS.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => true,
        Ok(_) => {
            tracing::debug!(backend = %name, "cancel was answered, as by no server");
            false
        }
        Err(error) => {
            tracing::debug!(backend = %name, %error, "cancel was cut off");
            false
        }
    }
}

/// How to reach the session's backend now; once it was removed, as it was reached before.
fn target(peer: &Peer, origin: &Origin, client: &TcpStream, shared: &Shared) -> Target {
    let table = shared.table.load();
    let Some(cluster) = table.clusters.get(&peer.backend.cluster) else {
        return Target {
            address: peer.address,
            source: Arc::default(),
            protocol: Protocol::Postgres,
            tls: peer.tls.clone(),
            timeout: MAX_DELIVERY,
            preamble: Vec::new(),
        };
    };
    let preamble = || origin.preamble(client);
    let mut backends = cluster.backends.iter();
    // Another one may have its name by now.
    match backends.find(|entry| entry.handle.id == peer.backend.id) {
        Some(entry) => Target::new(cluster, &entry.config, peer.address, preamble),
        None => Target::with_tls(cluster, peer.tls.clone(), peer.address, preamble),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::BackendId;
    use crate::cluster::WantedRole;
    use crate::routing::BackendHandle;

    fn key(process_id: u32, secret: &[u8]) -> CancelKey {
        CancelKey::new(process_id, secret).unwrap()
    }

    fn register(keys: &Arc<CancelKeys>, issued: &CancelKey, own: &CancelKey) -> Registered {
        let peer = Peer {
            backend: Arc::new(BackendHandle::new(BackendId(1), "c".into(), "b".into())),
            address: ([127, 0, 0, 1], 5432).into(),
            tls: None,
            role: WantedRole::Any,
        };
        keys.register(issued.clone(), own.clone(), peer)
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

    /// Class 23, without the limit: each guess comes when the address may guess again.
    #[test]
    fn a_million_guesses_that_are_looked_at_find_nothing_and_leave_nothing() {
        let keys = Arc::new(CancelKeys::default());
        let issued: Vec<_> = (0..1000)
            .map(|process_id| key(process_id, &issue().unwrap().random[..4]))
            .collect();
        let own = |process_id| key(process_id, b"real");
        let sessions = (0..).zip(&issued);
        let _sessions: Vec<_> = sessions
            .map(|(id, it)| register(&keys, it, &own(id)))
            .collect();
        let places = keys.lock().capacity();
        let client = IpAddr::from([192, 0, 2, 1]);
        let mut now = Instant::now();
        for guess in 0..1_000_000_u32 {
            let meant = &issued[guess as usize % issued.len()];
            let wrong = key(meant.process_id(), &guess.to_be_bytes());
            if wrong == *meant {
                continue;
            }
            now += Duration::from_millis(100);
            let found = keys.find(&wrong, client, now);
            assert!(matches!(found, Found::Nobody), "{guess}");
        }
        // Whose keys they are finds them as ever.
        for (id, it) in (0..).zip(&issued) {
            assert_eq!(found(&keys, it), Some(own(id)));
        }
        assert_eq!(keys.lock().len(), issued.len());
        assert_eq!(keys.lock().capacity(), places);
    }

    #[test]
    fn keys_are_not_issued_twice() {
        let (one, two) = (issue().unwrap(), issue().unwrap());
        assert_ne!(one.random, two.random);
        assert_ne!(one.random[..4], [0; 4]);
    }
}
