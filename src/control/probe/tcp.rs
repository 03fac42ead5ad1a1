//! Connect; optionally send bytes and expect bytes.

use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::MAX_ANSWER_BYTES;
use super::Target;
use super::cause_of;
use super::connect;
use super::contains;
use super::within;
use crate::cluster::Cause;

pub(super) async fn ask(
    target: &Target,
    address: SocketAddr,
    (send, expect): (&[u8], Option<&[u8]>),
    deadline: Instant,
) -> Result<TcpStream, Cause> {
    let mut stream = connect(target, address, deadline).await?;
    within(deadline, Cause::CheckTimeout, async {
        if !send.is_empty() {
            stream.write_all(send).await.map_err(|e| cause_of(&e))?;
        }
        match expect {
            Some(expect) => read_until(&mut stream, expect).await,
            None => Ok(()),
        }
    })
    .await?;
    Ok(stream)
}

/// Reads until the answer contains `expect`, wherever the segments' borders are.
async fn read_until(stream: &mut TcpStream, expect: &[u8]) -> Result<(), Cause> {
    let mut answer = Vec::new();
    let mut searched = 0;
    loop {
        if contains(&answer[searched..], expect) {
            return Ok(());
        }
        // A match may begin in the bytes that have been searched.
        searched = answer.len().saturating_sub(expect.len());
        if answer.len() >= MAX_ANSWER_BYTES {
            return Err(Cause::UnexpectedAnswer);
        }
        let count = stream
            .read_buf(&mut answer)
            .await
            .map_err(|e| cause_of(&e))?;
        if count == 0 {
            let silent = answer.is_empty();
            return Err(if silent {
                Cause::EarlyClose
            } else {
                Cause::UnexpectedAnswer
            });
        }
    }
}
