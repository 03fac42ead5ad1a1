//! What one exchange occupies of a backend.

use std::sync::Arc;

use bytes::Bytes;

use crate::cluster::Cause;
use crate::config::ClusterConfig;
use crate::proxy::http::pool::Pool;
use crate::proxy::http::upstream::Sender;
use crate::proxy::http::upstream::Upstream;
use crate::proxy::http::wire::Wire;
use crate::proxy::place::Place;
use crate::proxy::transport::Transport;

/// A place on a backend and a connection to it.
#[derive(Debug)]
pub struct Lease {
    upstream: Option<Upstream>,
    made_by: Arc<ClusterConfig>,
    pool: Arc<Pool>,
    /// Given back when the exchange is over.
    place: Option<Place>,
}

impl Lease {
    pub fn new(
        upstream: Upstream,
        made_by: Arc<ClusterConfig>,
        pool: Arc<Pool>,
        place: Place,
    ) -> Self {
        upstream.cell.take();
        Self {
            upstream: Some(upstream),
            made_by,
            pool,
            place: Some(place),
        }
    }

    pub fn upstream(&mut self) -> Option<&mut Upstream> {
        self.upstream.as_mut()
    }

    /// The answer has ended: the connection may be used again.
    pub fn give_back(&mut self) {
        if let Some(upstream) = self.upstream.take() {
            upstream.cell.rest();
            self.pool.give_back(upstream, Arc::clone(&self.made_by));
        }
    }

    /// Why the sweep has ended the exchange, if it has.
    pub fn severed(&self) -> Option<Cause> {
        self.upstream.as_ref()?.cell.severed()
    }

    /// What is left of an answer on the connection, if its length is known.
    pub fn left(&self) -> Option<u64> {
        match self.upstream.as_ref().map(|upstream| &upstream.sender) {
            Some(Sender::One(Some(wire))) => wire.left(),
            _ => Some(0),
        }
    }

    pub fn wire(&mut self) -> Option<&mut Wire> {
        match &mut self.upstream.as_mut()?.sender {
            Sender::One(wire) => wire.as_deref_mut(),
            Sender::Two(_) => None,
        }
    }

    /// Takes the connection out of HTTP, with what the backend has said already, and the place.
    pub fn into_tunnel(mut self) -> (Option<(Transport, Bytes)>, Option<Place>) {
        let wire = match self.upstream.as_mut().map(|upstream| &mut upstream.sender) {
            Some(Sender::One(wire)) => wire.take(),
            _ => None,
        };
        let tunnel = wire.and_then(|wire| wire.into_transport());
        (tunnel, self.place.take())
    }

    /// Takes the place out: the connection does not come back.
    pub fn into_place(mut self) -> Option<Place> {
        self.place.take()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Half an answer is on it: it cannot be used again.
        if let Some(upstream) = self.upstream.take() {
            upstream.cell.rest();
        }
    }
}
