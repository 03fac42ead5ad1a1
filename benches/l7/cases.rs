//! What is measured.

use std::net::SocketAddr;

use crate::load;
use crate::peers::Speaks;
use crate::pki::Authority;
use crate::shared::proxy::Cost;

pub struct Case {
    pub name: &'static str,
    pub cost: Cost,
    pub speaks: Speaks,
    /// Runs the load through the proxy at the address; returns the operations.
    pub load: fn(SocketAddr, &Authority) -> f64,
}

pub const IDLE_CLIENTS: usize = 5_000;

pub fn all() -> Vec<Case> {
    let case = |name, speaks, load| Case {
        name,
        cost: Cost::CpuMicroseconds,
        speaks,
        load,
    };
    vec![
        case("HTTP/1.1, 50 clients, us", Speaks::One, |proxy, _| {
            load::h2load(proxy, "http", &["--h1", "-c50", "-n100000"])
        }),
        case("HTTP/2, 10 clients, us", Speaks::Two, |proxy, _| {
            load::h2load(proxy, "http", &["-c10", "-m10", "-n100000"])
        }),
        case("TLS 1.3, 50 clients, us", Speaks::Tls, |proxy, _| {
            load::h2load(proxy, "https", &["--h1", "-c50", "-n100000"])
        }),
        case(
            "TLS 1.3 handshake and request, us",
            Speaks::Tls,
            |proxy, authority| load::handshakes(proxy, authority, 4_000),
        ),
        Case {
            cost: Cost::MemoryKib,
            // Not through `load`: memory wants fresh proxies.
            ..case("idle HTTP/1.1 connection, KiB", Speaks::One, |_, _| 0.0)
        },
    ]
}
