//! How far a client's body has come, and whether its backend takes it.
//!
//! hyper asks a body for more only when the backend has room, so a body alone cannot tell that its
//! backend has stopped reading. The exchange that waits for the answer can: it learns from here
//! since when a piece has been the last one.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// Looked at so many times in each `body_timeout` while the client is the one who is waited for.
const LOOKS: u32 = 4;

/// Shared by the body and its exchange.
#[derive(Debug, Default)]
pub struct Upload {
    bytes: AtomicU64,
    /// When the backend got the piece after which it has asked for no more, in milliseconds after
    /// the client's connection began; see [`Upload::NEVER`].
    given: AtomicU64,
}

impl Upload {
    /// It is not the backend's turn.
    const NEVER: u64 = 0;

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The backend was given a piece; `age`: of the client's connection.
    pub fn give(&self, bytes: u64, age: Duration) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let now = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.given.store(now.max(1), Ordering::Relaxed);
    }

    /// The backend asks for more, or there is no more.
    pub fn take_back(&self) {
        self.given.store(Self::NEVER, Ordering::Relaxed);
    }

    fn given(&self) -> Option<Duration> {
        match self.given.load(Ordering::Relaxed) {
            Self::NEVER => None,
            millis => Some(Duration::from_millis(millis)),
        }
    }

    /// Resolves when the backend has left a piece untaken for so long. `began`: the client's
    /// connection.
    pub async fn stalled(&self, began: Instant, timeout: Duration) {
        loop {
            let now = Instant::now();
            let due = match self.given() {
                Some(given) => began + given + timeout,
                None => now + timeout / LOOKS,
            };
            if due <= now {
                return;
            }
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(200);

    /// Whether an upload is given up in the time that ten limits take.
    async fn is_given_up(upload: &Upload, began: Instant) -> bool {
        let stalled = upload.stalled(began, TIMEOUT);
        tokio::time::timeout(10 * TIMEOUT, stalled).await.is_ok()
    }

    #[tokio::test]
    async fn a_backend_that_takes_no_more_is_given_up() {
        let (upload, began) = (Upload::default(), Instant::now());
        upload.give(10, began.elapsed());
        assert!(is_given_up(&upload, began).await);
        assert!(began.elapsed() >= TIMEOUT);
        assert_eq!(upload.bytes(), 10);
    }

    #[tokio::test]
    async fn a_backend_that_waits_for_the_client_is_not() {
        let (upload, began) = (Upload::default(), Instant::now());
        assert!(!is_given_up(&upload, began).await);
        upload.give(10, began.elapsed());
        upload.take_back();
        assert!(!is_given_up(&upload, began).await);
    }

    #[tokio::test]
    async fn a_backend_that_takes_slowly_is_not() {
        let (upload, began) = (Upload::default(), Instant::now());
        let taking = async {
            for _ in 0..20 {
                upload.give(1, began.elapsed());
                tokio::time::sleep(TIMEOUT / 4).await;
                upload.take_back();
            }
        };
        tokio::select! {
            () = upload.stalled(began, TIMEOUT) => panic!("given up after {} pieces", upload.bytes()),
            () = taking => {}
        }
    }
}
