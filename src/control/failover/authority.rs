//! Finds the leader that an authority names among the candidates.

use std::net::IpAddr;

use crate::control::failover::Candidate;

/// `None`: it is none of them.
pub(super) fn leader(candidates: &[Candidate], host: &str, port: u16) -> Option<usize> {
    candidates
        .iter()
        .position(|candidate| candidate.port == port && is_at(candidate, host))
}

/// The authority may know a backend by its address and the file by its name: the
/// address that the name has now counts, too.
fn is_at(candidate: &Candidate, host: &str) -> bool {
    match ip(host) {
        Some(address) => {
            let known = candidate.address.map(|address| address.to_canonical());
            [known, ip(candidate.host)].contains(&Some(address))
        }
        None => name(candidate.host).eq_ignore_ascii_case(name(host)),
    }
}

fn ip(host: &str) -> Option<IpAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse()
        .ok()
        .map(|address: IpAddr| address.to_canonical())
}

/// A trailing dot only says that the name is complete.
fn name(host: &str) -> &str {
    host.trim_end_matches('.')
}
