//! Which cluster a client's session is for.

use crate::cluster::Cause;
use crate::cluster::Name;
use crate::cluster::Phase;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::config::ListenerConfig;
use crate::proxy::handshake::Origin;
use crate::routing;
use crate::routing::Wish;

/// The cluster for what a client asks for.
///
/// # Errors
/// No route matches and there is no default.
pub fn route<'a>(config: &'a ListenerConfig, origin: &Origin) -> Result<&'a Name, SessionEnd> {
    let wish = Wish {
        sni: origin.sni.as_deref(),
        database: origin.login.database.as_deref(),
        user: origin.login.user.as_deref(),
    };
    routing::route(config, wish)
        .map(|routed| routed.cluster)
        .ok_or(SessionEnd {
            side: Side::Proxy,
            phase: Phase::Handshake,
            cause: Cause::NoRoute,
        })
}
