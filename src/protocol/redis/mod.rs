//! The Redis protocol (RESP2 and RESP3): what probes say, and what a relay must understand.
//!
//! Source: "Redis serialization protocol specification" (redis.io/docs/latest/develop/reference/protocol-spec).

pub mod command;
pub mod follower;
pub mod opening;
pub mod refusal;
pub mod replication;
pub mod resp;
pub mod sentinel;

/// Body of the fuzz target: the first byte chooses what the rest is fed to.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    match choice % 3 {
        0 => resp::fuzz(rest),
        1 => follower::fuzz(rest),
        _ => opening::fuzz(rest),
    }
}

#[cfg(test)]
mod tests;
