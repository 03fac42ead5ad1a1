//! What the fakes of all databases have in common.

use super::*;

/// Says `opening`, then answers each thing that it reads with the next reply, then closes.
pub(super) async fn converses(opening: Vec<u8>, replies: Vec<Vec<u8>>) -> Server {
    let script = Arc::new((opening, replies));
    serve(move |mut stream: TcpStream| {
        let script = Arc::clone(&script);
        async move {
            let (opening, replies) = &*script;
            stream.write_all(opening).await?;
            for reply in replies {
                if read_some(&mut stream).await?.is_empty() {
                    return Ok(());
                }
                stream.write_all(reply).await?;
            }
            stream.shutdown().await?;
            read_some(&mut stream).await.map(drop)
        }
    })
    .await
}

pub(super) async fn outcome_of(kind: CheckKind, server: &Server, link: Option<Link>) -> Outcome {
    let target = target(kind, PATIENT);
    probe(&target, server.address, link, &Semaphore::new(1)).await
}

/// The link that is kept for the next probe.
pub(super) fn kept(outcome: Outcome) -> Link {
    match outcome.leftover {
        Leftover::Kept(link) => link,
        other => panic!("{other:?}"),
    }
}
