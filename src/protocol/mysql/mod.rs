//! The MySQL and MariaDB client/server protocol: what a probe says, and what a relay must understand.
//!
//! Sources: "MySQL Internals, Client/Server Protocol" (dev.mysql.com/doc/dev/mysql-server) and
//! "Client/Server Protocol" of the MariaDB documentation.

pub mod auth;
pub mod capabilities;
pub mod follower;
pub mod greeting;
pub mod gtid;
pub mod handshake_response;
pub mod login;
pub mod packet;
pub mod query;
pub mod response;
pub mod sequence;
mod wire;

pub use self::capabilities::Capabilities;
pub use self::capabilities::Status;
pub use self::wire::Malformed;

/// Body of the fuzz target: the first byte chooses what the rest is fed to.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    match choice % 5 {
        0 => packet::fuzz(rest),
        1 => fuzz_payloads(rest),
        2 => login::fuzz(rest),
        3 => follower::fuzz(rest),
        _ => gtid::fuzz(rest),
    }
}

/// Whatever parses is written and parsed again to the same value.
fn fuzz_payloads(payload: &[u8]) {
    // Written out in full, a value may take a few bytes more than its parser allows.
    let payload = &payload[..payload.len().min(greeting::MAX_GREETING_BYTES - 32)];
    if let Ok(greeting) = greeting::Greeting::parse(payload) {
        assert_eq!(greeting::Greeting::parse(&greeting.encode()), Ok(greeting));
    }
    if let Ok(response) = handshake_response::HandshakeResponse::parse(payload) {
        let again = handshake_response::HandshakeResponse::parse(&response.encode());
        assert_eq!(again, Ok(response));
    }
    let _ = handshake_response::FirstMessage::parse(payload);
    let _ = response::OkPacket::parse(payload);
    let _ = response::ServerError::parse(payload);
    let _ = response::EofPacket::parse(payload);
    query::fuzz(payload);
}

#[cfg(test)]
mod tests;
