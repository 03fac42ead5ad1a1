//! A client and a backend that speak no HTTP with each other any more: WebSocket and the like.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::cluster::Cause;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::net;
use crate::proxy::http::link::Link;
use crate::proxy::http::link::Upgrade;
use crate::proxy::http::serve::LAST_WORDS;
use crate::proxy::http::serve::ended;
use crate::proxy::listener::keepalive;
use crate::proxy::registry::Transaction;
use crate::proxy::relay::Ends;
use crate::proxy::relay::Relay;
use crate::proxy::transport::Transport;

pub struct Upgraded {
    pub client: Transport,
    /// Read ahead from the client.
    pub first_bytes: Vec<u8>,
    pub upgrade: Upgrade,
}

/// Passes bytes on until either side ends.
pub async fn relay(upgraded: Upgraded, link: &Arc<Link>) -> SessionEnd {
    let Upgraded {
        client,
        first_bytes,
        upgrade,
    } = upgraded;
    let Upgrade {
        mut backend,
        answer,
        lease,
    } = upgrade;
    let cell = &link.cell;
    cell.set_keep_alive(Duration::ZERO);
    cell.set_transaction(Transaction::Unknown);
    cell.set_stalled_until(None);
    cell.set_backend(Some(Arc::clone(lease.backend())));
    if !first_bytes.is_empty() {
        let sent = AsyncWriteExt::write_all(&mut backend, &first_bytes);
        match timeout(LAST_WORDS, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return ended(Side::Backend, net::cause_of(&error)),
            Err(_) => return ended(Side::Backend, Cause::SendTimeout),
        }
    }
    let Some(entry) = link.entry() else {
        return ended(Side::Proxy, Cause::ListenerRemoved);
    };
    let keepalive = keepalive(&entry.config.keepalive);
    drop(entry);
    let ends = Ends {
        client,
        backend,
        answer: answer.into(),
        follow: None,
    };
    let mut relay = Relay::new(ends, Arc::clone(cell), keepalive, None);
    (&mut relay).await
}
