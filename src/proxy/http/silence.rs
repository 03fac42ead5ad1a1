//! The timer behind HTTP/2's PING: it runs only while a client is silent.
//!
//! hyper ends a connection whose PING has no answer in time, whatever else its client sends. But the
//! answer waits behind a body that is on its way through a slow line, in either direction; or it
//! has come, and nobody has read it because this process had no time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;
use std::time::Instant;

use hyper::rt::Sleep;
use hyper::rt::Timer;

use crate::proxy::http::link::Link;

/// A silence is as many pauses in a row. Who was stopped for long finds one of them over, and hears
/// what has come meanwhile before the next.
const LOOKS: u32 = 4;

/// Measures the silence of one client.
#[derive(Debug)]
pub struct SilenceTimer {
    pub link: Arc<Link>,
}

/// Ends when nothing has been heard for as long as it takes.
struct Silence<F> {
    /// Whether anything was heard since the last look.
    has_heard: F,
    left: u32,
    pause: Duration,
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl Timer for SilenceTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        let link = Arc::clone(&self.link);
        let mut heard = link.cell.received_bytes();
        let has_heard = move || {
            let before = std::mem::replace(&mut heard, link.cell.received_bytes());
            // Who takes nothing has a limit of its own; a PING would not even reach it.
            before != heard || link.is_blocked()
        };
        Box::pin(Silence::new(duration, has_heard))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(Instant::now()))
    }
}

impl<F> Silence<F> {
    fn new(duration: Duration, has_heard: F) -> Self {
        let pause = duration / LOOKS;
        Self {
            has_heard,
            left: LOOKS,
            pause,
            sleep: Box::pin(tokio::time::sleep(pause)),
        }
    }
}

impl<F> Future for Silence<F>
where
    F: FnMut() -> bool + Unpin,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        // hyper asks again after the end.
        while this.left > 0 {
            ready!(this.sleep.as_mut().poll(cx));
            this.left = match (this.has_heard)() {
                true => LOOKS,
                false => this.left - 1,
            };
            let next = tokio::time::Instant::now() + this.pause;
            this.sleep.as_mut().reset(next);
        }
        Poll::Ready(())
    }
}

impl<F> Sleep for Silence<F> where F: FnMut() -> bool + Unpin + Send + Sync {}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const PAUSE: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_silence_takes_its_time_and_is_over_for_good() {
        let began = Instant::now();
        let mut silence = Silence::new(LOOKS * PAUSE, || false);
        (&mut silence).await;
        assert!(began.elapsed() >= LOOKS * PAUSE);
        (&mut silence).await;
    }

    /// Answers to a PING came too late behind the body of a slow upload, and it was cut off.
    #[tokio::test]
    async fn who_says_something_now_and_then_is_never_silent() {
        let looks = Cell::new(0_u32);
        let silence = Silence::new(LOOKS * PAUSE, || {
            looks.set(looks.get() + 1);
            // The last moment before it would be over, each time.
            looks.get().is_multiple_of(LOOKS)
        });
        let many = async {
            while looks.get() < 5 * LOOKS {
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            biased;
            () = silence => panic!("over after {} looks", looks.get()),
            () = many => {}
        }
    }

    /// A machine that stood still for longer than the silence may be.
    #[tokio::test]
    async fn time_in_which_nobody_listened_is_no_silence() {
        let looks = Cell::new(0_u32);
        let silence = Silence::new(LOOKS * PAUSE, || {
            looks.set(looks.get() + 1);
            false
        });
        let standstill = async {
            std::thread::sleep(2 * LOOKS * PAUSE);
            while looks.get() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = silence => panic!("over after {} looks", looks.get()),
            () = standstill => assert_eq!(looks.get(), 1),
        }
    }
}
