//! Asks who must know which backend is primary: Patroni or the Sentinels.
//!
//! One poll asks every node at once and makes one answer of what they say. When it is due,
//! and how long an answer counts, is said in `polls`.

mod ballot;
mod patroni;
mod polls;
mod sentinel;

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio::time::timeout_at;

use crate::cluster::Cause;
use crate::control::evidence::Authority;

pub use polls::Authorities;

/// When a majority agrees, the others have this long to finish: a connection that is cut off
/// leaves a trace in their log. One that hangs must not delay the answer noticeably.
const SETTLED_GRACE: Duration = Duration::from_millis(20);
/// Without a majority, Patroni's other nodes have this long after the first answer. They read
/// the same store at the same time; who is later than that hangs, as a frozen machine does,
/// and until then nobody would be written to.
const OPEN_GRACE: Duration = Duration::from_millis(100);

/// Who is asked, and what.
#[derive(Debug, Clone)]
pub enum Question {
    Patroni {
        nodes: Vec<patroni::Node>,
        /// The timeline of the last leader that was believed.
        floor: Option<u32>,
    },
    Sentinel(Vec<sentinel::Node>),
}

/// Why an authority has said nothing that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    #[error("nobody answers: {0}")]
    Unanswered(Cause),
    #[error("only {answers} of {asked} answer")]
    TooFew { answers: usize, asked: usize },
    #[error("its nodes name different leaders")]
    Disagreement,
    #[error("only an answer that is out of date")]
    Outdated,
}

/// Asks every node at once.
///
/// # Errors
/// Too few have given a usable answer by the deadline, or they do not agree.
pub async fn ask(question: Question, deadline: Instant) -> Result<Authority, Silence> {
    let mut tasks = JoinSet::new();
    match question {
        Question::Patroni { nodes, floor } => {
            let asked = nodes.len();
            for node in nodes {
                tasks.spawn(async move { patroni::view(&node, deadline).await });
            }
            let views = collect(tasks, Some(OPEN_GRACE), deadline).await?;
            ballot::patroni(&views, asked, floor)
        }
        Question::Sentinel(nodes) => {
            let asked = nodes.len();
            for node in nodes {
                tasks.spawn(async move { sentinel::view(&node, deadline).await });
            }
            let views = collect(tasks, None, deadline).await?;
            ballot::sentinel(&views, asked)
        }
    }
}

/// What the nodes say, until more of it would change nothing. `open_grace`: the patience with
/// the others after the first answer.
///
/// # Errors
/// Not one usable answer.
async fn collect(
    mut tasks: JoinSet<Result<Authority, Cause>>,
    open_grace: Option<Duration>,
    deadline: Instant,
) -> Result<Vec<Authority>, Silence> {
    let asked = tasks.len();
    let (mut views, mut end) = (Vec::new(), deadline);
    let mut failure = Cause::CheckTimeout;
    // Who has not answered when this ends is cut off with the set.
    while let Ok(Some(ended)) = timeout_at(end, tasks.join_next()).await {
        // A panic is our failure.
        match ended.unwrap_or(Err(Cause::OutOfResources)) {
            Ok(view) => views.push(view),
            Err(cause) => {
                failure = cause;
                continue;
            }
        }
        let grace = match ballot::majority(&views, asked) {
            Some(_) => Some(SETTLED_GRACE),
            None => open_grace,
        };
        end = grace.map_or(end, |grace| end.min(Instant::now() + grace));
    }
    match views.is_empty() {
        true => Err(Silence::Unanswered(failure)),
        false => Ok(views),
    }
}

#[cfg(test)]
mod tests;
