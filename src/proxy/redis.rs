//! Redis in session mode: the first bytes of a client are judged before a server sees them, the
//! replies are followed for proof that the server is not what it was. Nothing is changed.

use crate::cluster::Cause;
use crate::cluster::SessionEnd;
use crate::cluster::WantedRole;
use crate::protocol::redis::follower::Proof;
use crate::protocol::redis::follower::ServerFollower;
use crate::protocol::redis::opening;
use crate::protocol::redis::opening::Opening;
use crate::protocol::redis::refusal::Code;
use crate::proxy::dialect::Peer;
use crate::proxy::dialect::Verdict;
use crate::proxy::witness::Witness;
use crate::report::Reporter;

/// Follows one session.
#[derive(Debug)]
pub struct Follow {
    /// What the client has said until it is known to be Redis; `None` from then on.
    opening: Option<Vec<u8>>,
    server: ServerFollower,
    witness: Witness,
}

impl Follow {
    /// `has_begun`: the client's first bytes were judged, and went to another server in vain.
    pub fn new(peer: Peer, reporter: Reporter, has_begun: bool) -> Self {
        Self {
            opening: (!has_begun).then(Vec::new),
            server: ServerFollower::new(),
            witness: Witness::new(peer, reporter),
        }
    }

    pub fn see_request(&mut self, bytes: &[u8]) -> Verdict {
        let Some(held) = &mut self.opening else {
            return Verdict::Pass;
        };
        held.extend_from_slice(bytes);
        match opening::judge(held) {
            Ok(Opening::Incomplete) => Verdict::Hold,
            Ok(Opening::Redis) => {
                let held = self.opening.take().unwrap_or_default();
                match held.len() == bytes.len() {
                    true => Verdict::Pass,
                    false => Verdict::Replace(held),
                }
            }
            Err(error) => Verdict::Refuse(words(Code::Err, &error.to_string())),
        }
    }

    pub fn watches_requests(&self) -> bool {
        self.opening.is_some()
    }

    /// Bytes of the client are here that nobody has judged.
    pub fn holds_back(&self) -> bool {
        self.opening.as_ref().is_some_and(|held| !held.is_empty())
    }

    pub fn see_answer(&mut self, bytes: &[u8]) {
        if self.server.is_transparent() {
            return;
        }
        for proof in self.server.on_server(bytes) {
            let cause = match proof {
                Proof::ReadOnly if self.witness.came_to_write() => Cause::ReadOnly,
                Proof::Loading => Cause::StartingUp,
                Proof::PrimaryDown => Cause::LostPrimary,
                // It is what it was: replicas or slots are missing, or a reader tried to write.
                Proof::ReadOnly | Proof::TooFewReplicas | Proof::ClusterDown => continue,
            };
            self.witness.report(cause);
        }
    }
}

/// To a client that has not heard anything from a server; `None` where a close says it all.
pub fn refusal(end: SessionEnd, role: WantedRole) -> Option<Vec<u8>> {
    let nobody = match role {
        WantedRole::Any => "no server is available",
        WantedRole::Primary => "no primary is available",
        WantedRole::Replica => "no replica is available",
    };
    let unavailable = |detail: &str| words(Code::Loading, &format!("{nobody}: {detail}"));
    // Redis' own words for a full server, with the reason behind them.
    let busy = |detail: &str| {
        words(
            Code::Err,
            &format!("max number of clients reached: {detail}"),
        )
    };
    Some(match end.cause {
        Cause::HoldTimeout => unavailable("none became available in the time allowed for waiting"),
        Cause::HoldFull => unavailable("as many clients as allowed are waiting for one"),
        Cause::QueueTimeout => busy("none became free in the time allowed for waiting"),
        Cause::QueueFull => busy("as many clients as allowed are waiting"),
        Cause::ListenerFull => busy("the listener's connections are all taken"),
        Cause::ProcessFull => busy("the proxy's connections are all taken"),
        Cause::TooManyConnections => busy("the server's connections are all taken"),
        Cause::StartingUp => unavailable("the server is loading its data"),
        Cause::ConnectRefused => unavailable("the server refused the connection"),
        Cause::ConnectTimeout => unavailable("the server did not answer in time"),
        Cause::Unreachable => unavailable("the server cannot be reached"),
        Cause::Reset | Cause::EarlyClose => unavailable("the server closed the connection"),
        Cause::TlsFailed => unavailable("the encrypted connection to the server failed"),
        Cause::OutOfResources => unavailable("the proxy is out of resources"),
        Cause::Denied => words(Code::Err, "connections from this address are not permitted"),
        Cause::NoRoute => words(Code::Err, "no route leads to a cluster"),
        Cause::Closed | Cause::HandshakeTimeout | Cause::BadProtocol | Cause::BadProxyHeader => {
            return None;
        }
        _ => words(Code::Err, "the connection is closed by an administrator"),
    })
}

fn words(code: Code, text: &str) -> Vec<u8> {
    crate::protocol::redis::refusal::refusal(code, text)
}
