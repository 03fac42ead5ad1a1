//! An answer that comes before its request has ended: both go on side by side.
//!
//! The client may take nothing of the answer until it has sent everything, so whoever reads the
//! answer cannot be who sends the request.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cluster::Cause;
use crate::proxy::http::upstream::Arriving;
use crate::proxy::http::wire::Wire;

/// A request whose answer is over may stand still for so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads the rest of the answer while the rest of the request is sent. The connection is not used
/// again.
pub fn read(wire: Wire) -> Arriving {
    let (pieces, receiver) = mpsc::channel(1);
    tokio::spawn(run(wire, pieces));
    Arriving::Early(receiver)
}

async fn run(mut wire: Wire, pieces: mpsc::Sender<Result<Frame<Bytes>, Cause>>) {
    loop {
        // Whoever wants the next piece has taken the last one.
        let mut free = pin!(pieces.reserve());
        let permit = poll_fn(|cx| {
            // Whoever is gone has sent no whole request.
            let is_over = pieces.is_closed() || wire.poll_severed(cx).is_ready();
            if !is_over {
                // A request that fails ends the answer, too.
                let _ = wire.poll_upload(cx);
            }
            free.as_mut().poll(cx)
        });
        let Ok(permit) = permit.await else {
            return;
        };
        let next = poll_fn(|cx| {
            if pieces.is_closed() {
                return Poll::Ready(None);
            }
            let _ = wire.poll_upload(cx);
            wire.poll_frame(cx)
        });
        let next = tokio::select! {
            biased;
            () = pieces.closed() => return,
            next = next => next,
        };
        let Some(next) = next else {
            break;
        };
        permit.send(next);
    }
    if pieces.is_closed() {
        return;
    }
    drop(pieces);
    send_rest(wire).await;
}

/// An answer may end before its request, of which the backend wants all the same.
async fn send_rest(mut wire: Wire) {
    loop {
        let before = wire.sent_bytes();
        let rest = poll_fn(|cx| match wire.poll_severed(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => wire.poll_upload(cx).map(drop),
        });
        let is_over = timeout(PATIENCE, rest).await.is_ok();
        if is_over || wire.sent_bytes() == before {
            return;
        }
    }
}
