//! A connection to a database that is kept between two probes.
//!
//! One login serves many probes, so that the database's log stays empty and its
//! slots free. While it rests it is watched: a server that dies or shuts down says
//! so there, long before the next probe is due.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::cluster::Cause;
use crate::control::probe::Failure;
use crate::control::probe::Target;
use crate::control::probe::mysql::MySqlLink;
use crate::control::probe::postgres::PostgresLink;
use crate::control::probe::redis::RedisLink;
use crate::control::probe::within;

/// A logged-in connection.
#[derive(Debug)]
pub enum Link {
    Postgres(PostgresLink),
    MySql(MySqlLink),
    Redis(RedisLink),
}

impl Link {
    /// Resolves when the server closes, or says what is worth a probe at once: with what it
    /// means. Cancel safe.
    pub async fn disturbed(&mut self) -> Cause {
        match self {
            Self::Postgres(link) => link.disturbed().await,
            Self::MySql(link) => link.disturbed().await,
            Self::Redis(link) => link.disturbed().await,
        }
    }

    /// Says goodbye as the protocol has it.
    pub async fn close(self) {
        match self {
            Self::Postgres(link) => link.close().await,
            Self::MySql(link) => link.close().await,
            Self::Redis(link) => link.close().await,
        }
    }
}

/// A resting link, with what it was logged in to.
#[derive(Debug)]
pub struct Resting {
    pub link: Link,
    pub target: Arc<Target>,
}

/// Calls a resting link back; dropping it closes the link.
#[derive(Debug)]
pub struct Recall(oneshot::Sender<oneshot::Sender<Resting>>);

/// What ended a rest.
#[derive(Debug)]
pub enum Rest {
    Recalled,
    /// By the server. The link is still to be closed.
    Disturbed {
        cause: Cause,
        link: Link,
    },
}

/// The task's end of a [`Recall`].
#[derive(Debug)]
pub struct Recalled(oneshot::Receiver<oneshot::Sender<Resting>>);

/// A link that is about to rest, and the way to call it back.
pub fn recall() -> (Recall, Recalled) {
    let (sender, receiver) = oneshot::channel();
    (Recall(sender), Recalled(receiver))
}

impl Recall {
    /// The link, if it still rests and a new one would be opened in the same way.
    pub async fn take(self, target: &Target) -> Option<Link> {
        let (give, taken) = oneshot::channel();
        self.0.send(give).ok()?;
        let resting: Resting = taken.await.ok()?;
        if resting.target.connects_like(target) {
            return Some(resting.link);
        }
        // Another address, user, password or certificate: the old one proves nothing about it.
        resting.link.close().await;
        None
    }
}

impl Resting {
    /// Rests until it is called back or disturbed.
    pub async fn rest(mut self, recalled: Recalled) -> Rest {
        tokio::select! {
            biased;
            asked = recalled.0 => {
                match asked {
                    // Whoever asked may have gone; then the link just closes.
                    Ok(give) => drop(give.send(self)),
                    Err(_) => self.link.close().await,
                }
                Rest::Recalled
            }
            cause = self.link.disturbed() => Rest::Disturbed { cause, link: self.link },
        }
    }
}

/// The answer over a kept link. `None`: it has died, and who listens there now, and whether at
/// all, is still to be asked.
pub(super) async fn over_kept<T>(
    deadline: Instant,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<Option<T>, Failure> {
    match within(deadline, Cause::CheckTimeout, answer).await {
        Ok(answer) => Ok(Some(answer)),
        Err(failure) if failure.cause == Cause::CheckTimeout => Err(failure),
        Err(_) => Ok(None),
    }
}
