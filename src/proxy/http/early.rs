//! An answer that comes before its request has ended: both go on side by side.
//!
//! The client may take nothing of the answer until it has sent everything, so whoever reads the
//! answer cannot be who sends the request.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cluster::Cause;
use crate::proxy::http::upstream::Arriving;
use crate::proxy::http::wire::Wire;

/// A request whose answer is over has so much time to end.
const MORE_TIME: Duration = Duration::from_secs(5);

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
            // A request that fails ends the answer, too.
            let _ = wire.poll_upload(cx);
            free.as_mut().poll(cx)
        });
        let Ok(permit) = permit.await else {
            return;
        };
        let next = poll_fn(|cx| {
            let _ = wire.poll_upload(cx);
            wire.poll_frame(cx)
        });
        let next = tokio::select! {
            next = next => next,
            () = pieces.closed() => return,
        };
        let Some(next) = next else {
            break;
        };
        permit.send(next);
    }
    drop(pieces);
    let rest = poll_fn(|cx| wire.poll_upload(cx).map(drop));
    let _ = timeout(MORE_TIME, rest).await;
}
