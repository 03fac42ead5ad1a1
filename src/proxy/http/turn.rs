//! Ends an HTTP/2 answer whose client takes nothing of it.
//!
//! hyper asks a body for more only when the stream's window has room, so a body alone cannot tell
//! that its client has stopped reading. The task of the stream can: it learns from the body whose
//! turn it is, and drops the stream when its client is at it for too long. The connection and its
//! other streams stay.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::Instant;
use tokio::time::sleep_until;

thread_local! {
    /// Of the stream that is being polled.
    static TURN: Cell<Turn> = const { Cell::new(Turn::Ours) };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// We wait for the client's request, or for a backend.
    Ours,
    /// The client has to take this piece of the answer, by number.
    Clients(u64),
    /// It did not.
    Over,
}

/// There is something for the client to take; what there was before has been taken.
pub fn pass_to_client() {
    let next = match TURN.get() {
        Turn::Clients(piece) => piece.wrapping_add(1),
        Turn::Ours | Turn::Over => 0,
    };
    TURN.set(Turn::Clients(next));
}

/// The client has taken everything that there is.
pub fn take_back() {
    TURN.set(Turn::Ours);
}

/// Whether the answer that is being dropped was not taken in time.
pub fn is_over() -> bool {
    TURN.get() == Turn::Over
}

/// Runs the streams of an HTTP/2 connection.
#[derive(Debug, Clone)]
pub struct StreamExecutor {
    /// How long a client may leave a piece of an answer untaken.
    pub timeout: Duration,
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // Boxed: a future that is moved into another takes its place there twice.
        tokio::spawn(bounded(Box::pin(stream), self.timeout));
    }
}

async fn bounded(stream: Pin<Box<impl Future<Output = ()>>>, timeout: Duration) {
    {
        let mut stream = stream;
        let mut turn = Turn::Ours;
        let mut timer = None;
        poll_fn(|cx| {
            TURN.set(turn);
            if stream.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let before = std::mem::replace(&mut turn, TURN.get());
            if turn == Turn::Ours {
                timer = None;
                return Poll::Pending;
            }
            if turn != before {
                timer = None;
            }
            let deadline = || Box::pin(sleep_until(Instant::now() + timeout));
            let elapsed = timer.get_or_insert_with(deadline).as_mut().poll(cx);
            if elapsed.is_ready() {
                TURN.set(Turn::Over);
            }
            elapsed
        })
        .await;
        // The stream ends here, and its body asks why.
    }
    TURN.set(Turn::Ours);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::Ordering;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    /// Notes whether it was dropped because its time was over.
    struct Witness(Arc<AtomicBool>);

    impl Drop for Witness {
        fn drop(&mut self) {
            self.0.store(is_over(), Ordering::Relaxed);
        }
    }

    /// Runs a stream that says something so many times, with pauses, and then ends by itself;
    /// whether it was ended earlier.
    async fn is_ended(says: fn(), pause: Duration, times: u32) -> bool {
        let is_over = Arc::<AtomicBool>::default();
        let witness = Witness(Arc::clone(&is_over));
        let stream = async move {
            let _witness = witness;
            for _ in 0..times {
                says();
                tokio::time::sleep(pause).await;
            }
        };
        bounded(Box::pin(stream), TIMEOUT).await;
        assert_eq!(TURN.get(), Turn::Ours);
        is_over.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_loses_its_answer() {
        assert!(is_ended(pass_to_client, 1000 * TIMEOUT, 1).await);
    }

    #[tokio::test]
    async fn a_client_that_takes_slowly_keeps_it() {
        assert!(!is_ended(pass_to_client, TIMEOUT / 4, 6).await);
    }

    #[tokio::test]
    async fn a_backend_may_take_its_time() {
        assert!(!is_ended(take_back, 2 * TIMEOUT, 1).await);
    }
}
