//! What a client is told when there is no session for it, or no longer one.

use crate::cluster::Cause;
use crate::cluster::SessionEnd;
use crate::cluster::WantedRole;
use crate::protocol::postgres::error::ErrorResponse;
use crate::protocol::postgres::sqlstate::SqlState;

const TOO_MANY_CLIENTS: &str = "sorry, too many clients already";
const BY_ADMINISTRATOR: &str = "terminating connection due to administrator command";

/// To a client that has not heard anything from a backend; `None` where a close says it all.
pub fn refusal(end: SessionEnd, role: WantedRole) -> Option<Vec<u8>> {
    let nobody = match role {
        WantedRole::Any => "no server is available",
        WantedRole::Primary => "no primary is available",
        WantedRole::Replica => "no replica is available",
    };
    let unavailable = |detail| {
        ErrorResponse::fatal(SqlState::CANNOT_CONNECT_NOW, nobody)
            .with_detail(detail)
            .with_hint("Try again in a moment.")
    };
    let busy = |detail| {
        ErrorResponse::fatal(SqlState::TOO_MANY_CONNECTIONS, TOO_MANY_CLIENTS).with_detail(detail)
    };
    let response = match end.cause {
        Cause::HoldTimeout => unavailable("None became available in the time allowed for waiting."),
        Cause::HoldFull => unavailable("As many clients as allowed are waiting for one."),
        Cause::QueueTimeout => busy("No connection became free in the time allowed for waiting."),
        Cause::QueueFull => busy("As many clients as allowed are waiting for a connection."),
        Cause::ListenerFull => busy("The listener's connections are all taken."),
        Cause::ProcessFull => busy("The proxy's connections are all taken."),
        Cause::TooManyConnections => busy("The server's connections are all taken."),
        Cause::StartingUp => unavailable("The server is starting up, shutting down or recovering."),
        Cause::ShuttingDown => unavailable("The server is shutting down."),
        Cause::ConnectRefused => unavailable("The server refused the connection."),
        Cause::ConnectTimeout => unavailable("The server did not answer in time."),
        Cause::Unreachable => unavailable("The server cannot be reached."),
        Cause::Reset | Cause::EarlyClose => unavailable("The server closed the connection."),
        Cause::TlsFailed => unavailable("The encrypted connection to the server failed."),
        Cause::OutOfResources => unavailable("The proxy is out of resources."),
        Cause::Denied => ErrorResponse::fatal(
            SqlState::INVALID_AUTHORIZATION,
            "connections from this address are not permitted",
        ),
        Cause::NoRoute => ErrorResponse::fatal(
            SqlState::INVALID_CATALOG_NAME,
            "no route leads to this database",
        )
        .with_detail("No route of the listener takes this user and database."),
        // The client has gone, or was never one.
        Cause::Closed | Cause::HandshakeTimeout | Cause::BadProtocol | Cause::BadProxyHeader => {
            return None;
        }
        cause => return Some(farewell(cause)),
    };
    Some(response.encode())
}

/// To a client whose server is gone without a word.
pub fn epitaph() -> Vec<u8> {
    let error = ErrorResponse::fatal(
        SqlState::CONNECTION_FAILURE,
        "the server closed the connection without a word",
    );
    error
        .with_detail("Whether a statement in progress was executed is unknown.")
        .encode()
}

/// To a client whose session we end.
pub fn farewell(cause: Cause) -> Vec<u8> {
    let (sqlstate, message) = match cause {
        Cause::IdleTimeout => (
            SqlState::IDLE_SESSION_TIMEOUT,
            "terminating connection due to idle-session timeout",
        ),
        Cause::BackendDead => (
            SqlState::ADMIN_SHUTDOWN,
            "terminating connection due to the failure of its server",
        ),
        Cause::BackendDemoted => (
            SqlState::ADMIN_SHUTDOWN,
            "terminating connection due to the end of its server's time as primary",
        ),
        Cause::BackendFenced => (
            SqlState::ADMIN_SHUTDOWN,
            "terminating connection due to the fencing of its server",
        ),
        Cause::BackendLagging => (
            SqlState::ADMIN_SHUTDOWN,
            "terminating connection due to the replication lag of its server",
        ),
        _ => (SqlState::ADMIN_SHUTDOWN, BY_ADMINISTRATOR),
    };
    ErrorResponse::fatal(sqlstate, message).encode()
}
