//! Refusals at the door: a listener or process that is full, a client that may not come in.
//!
//! Like a server that is full, we hear the client out first. It would not understand an answer
//! before its startup message, and a cancel must work just then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::cluster::Cause;
use crate::cluster::SessionEnd;
use crate::proxy::Shared;
use crate::proxy::handshake;
use crate::proxy::handshake::Errand;
use crate::proxy::transport::Transport;
use crate::routing::ListenerEntry;

/// Clients that are told at the same moment; more are just closed. Refusals must stay cheaper
/// than sessions.
const MAX_REFUSALS: usize = 64;
/// A client that has something to say says it by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bounds how many refused clients are heard.
#[derive(Debug)]
pub struct DoorRefusals(Arc<Semaphore>);

impl Default for DoorRefusals {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_REFUSALS)))
    }
}

impl DoorRefusals {
    /// Sends the client this, in whatever protocol, if there is room for that.
    pub fn say(&self, client: TcpStream, bytes: Vec<u8>) {
        let Ok(place) = Arc::clone(&self.0).try_acquire_owned() else {
            return;
        };
        tokio::spawn(async move {
            let mut client = Transport::Plain(client);
            let told = async {
                client.say_last(&bytes).await;
                let mut rest = [0; 512];
                while matches!(client.read(&mut rest).await, Ok(1..)) {}
            };
            // Whoever does not close is closed.
            let _ = timeout(PATIENCE, told).await;
            drop(place);
        });
    }

    /// Tells a client of the runtime that this is called on, if there is room for that.
    pub fn tell(
        &self,
        client: TcpStream,
        peer: SocketAddr,
        end: SessionEnd,
        entry: Arc<ListenerEntry>,
        shared: Arc<Shared>,
    ) {
        // Whoever is not a trusted proxy sends no PROXY header to be heard after.
        let is_stranger = end.cause == Cause::Denied && entry.config.proxy_protocol.is_some();
        let Ok(place) = Arc::clone(&self.0).try_acquire_owned() else {
            return;
        };
        if is_stranger {
            return;
        }
        tokio::spawn(async move {
            let heard = async {
                // What is wrong with the client itself has been said to it.
                let negotiated = handshake::negotiate(client, peer, &entry).await;
                let mut greeted = match negotiated {
                    Ok(Errand::Session(greeted)) => greeted,
                    Ok(Errand::Cancel(errand)) => {
                        errand.run(&entry.config, &shared).await;
                        return;
                    }
                    Err(_) => return,
                };
                let role = entry.config.intent.role;
                let words = greeted.dialect.refusal(end, role, &greeted.first_bytes);
                if let Some(words) = words {
                    greeted.client.say_last(&words).await;
                }
            };
            // Whoever is slower is closed.
            let _ = timeout(PATIENCE, heard).await;
            drop(place);
        });
    }
}
