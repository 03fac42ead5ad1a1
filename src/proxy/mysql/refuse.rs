//! What a client is told when there is no session for it, or no longer one.

use crate::cluster::Cause;
use crate::cluster::SessionEnd;
use crate::cluster::WantedRole;
use crate::protocol::mysql::packet::message;
use crate::protocol::mysql::response::ER_CON_COUNT;
use crate::protocol::mysql::response::ER_SERVER_SHUTDOWN;
use crate::protocol::mysql::response::ServerError;

/// "Host '%s' is not allowed to connect to this server".
const ER_HOST_NOT_PRIVILEGED: u16 = 1130;
/// "Got an error reading communication packets": clients take it for a lost connection.
const ER_NET_READ_ERROR: u16 = 1158;
/// "Connections using insecure transport are prohibited".
const ER_SECURE_TRANSPORT_REQUIRED: u16 = 3159;
/// "Loading local data is disabled".
const ER_CLIENT_LOCAL_FILES_DISABLED: u16 = 3948;
/// A communication link failed: drivers connect again.
const LINK_FAILURE: [u8; 5] = *b"08S01";
const GENERAL: [u8; 5] = *b"HY000";
/// Of the answer to a command. A client that has sent none yet reads it when it has.
const ANSWER_SEQUENCE: u8 = 1;

/// Instead of a greeting; `None` where a close says it all.
pub fn refusal(end: SessionEnd, role: WantedRole) -> Option<Vec<u8>> {
    let error = reason(end, role)?;
    Some(message(0, &error.encode_as_first_packet()))
}

/// To a client that has been greeted; `sequence` is that of its last packet.
pub fn late_refusal(end: SessionEnd, role: WantedRole, sequence: u8) -> Option<Vec<u8>> {
    let error = reason(end, role)?;
    Some(message(sequence.wrapping_add(1), &error.encode()))
}

/// To a client that begins to log in without TLS where that is not allowed.
pub fn needs_tls(sequence: u8) -> Vec<u8> {
    let text = "Connections using insecure transport are prohibited";
    let error = ServerError::new(ER_SECURE_TRANSPORT_REQUIRED, GENERAL, text);
    message(sequence.wrapping_add(1), &error.encode())
}

/// To a client whose server has asked for a file that was not offered to it.
pub fn robbery() -> Vec<u8> {
    let text = "The connection ends: its server asked for a local file that was not offered";
    let error = ServerError::new(ER_CLIENT_LOCAL_FILES_DISABLED, GENERAL, text);
    message(ANSWER_SEQUENCE, &error.encode())
}

/// To a client that waits for nothing, whose session we end.
pub fn farewell(cause: Cause) -> Vec<u8> {
    let text = match cause {
        Cause::IdleTimeout => "The connection was idle for too long",
        Cause::BackendDead => "The connection ends: its server has failed",
        Cause::BackendDemoted => "The connection ends: its server is no longer the primary",
        Cause::BackendFenced => "The connection ends: its server is fenced",
        Cause::BackendLagging => "The connection ends: its server lags behind",
        _ => "The connection is closed by an administrator",
    };
    let error = ServerError::new(ER_SERVER_SHUTDOWN, LINK_FAILURE, text);
    message(ANSWER_SEQUENCE, &error.encode())
}

fn reason(end: SessionEnd, role: WantedRole) -> Option<ServerError> {
    let nobody = match role {
        WantedRole::Any => "No server is available",
        WantedRole::Primary => "No primary is available",
        WantedRole::Replica => "No replica is available",
    };
    let unavailable = |detail: &str| {
        let text = format!("{nobody}: {detail}");
        ServerError::new(ER_NET_READ_ERROR, LINK_FAILURE, &text)
    };
    let busy = |detail: &str| {
        let text = format!("Too many connections: {detail}");
        ServerError::new(ER_CON_COUNT, *b"08004", &text)
    };
    Some(match end.cause {
        Cause::HoldTimeout => unavailable("none became available in the time allowed for waiting"),
        Cause::HoldFull => unavailable("as many clients as allowed are waiting for one"),
        Cause::QueueTimeout => busy("none became free in the time allowed for waiting"),
        Cause::QueueFull => busy("as many clients as allowed are waiting"),
        Cause::ListenerFull => busy("the listener's are all taken"),
        Cause::ProcessFull => busy("the proxy's are all taken"),
        Cause::TooManyConnections => busy("the server's are all taken"),
        Cause::StartingUp => unavailable("the server is starting up"),
        Cause::ShuttingDown => unavailable("the server is shutting down"),
        Cause::ConnectRefused => unavailable("the server refused the connection"),
        Cause::ConnectTimeout => unavailable("the server did not answer in time"),
        Cause::Unreachable => unavailable("the server cannot be reached"),
        Cause::Reset | Cause::EarlyClose => unavailable("the server closed the connection"),
        Cause::TlsFailed => unavailable("the encrypted connection to the server failed"),
        Cause::OutOfResources => unavailable("the proxy is out of resources"),
        Cause::Denied => {
            let text = "Connections from this address are not permitted";
            ServerError::new(ER_HOST_NOT_PRIVILEGED, GENERAL, text)
        }
        // The client has gone, or was never one.
        Cause::Closed | Cause::HandshakeTimeout | Cause::BadProtocol | Cause::BadProxyHeader => {
            return None;
        }
        _ => {
            let text = "The connection is closed by an administrator";
            ServerError::new(ER_SERVER_SHUTDOWN, LINK_FAILURE, text)
        }
    })
}
