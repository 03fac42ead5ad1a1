//! What is measured.

use std::net::SocketAddr;

use crate::load;
use crate::shared::echo_backend;
use crate::shared::proxy::Cost;
use crate::support::postgres::Postgres;
use crate::support::postgres::pgbench;
use crate::support::postgres::pgbench_tables;
use crate::support::redis::Redis;
use crate::support::redis::redis_benchmark;

pub struct Case {
    pub name: &'static str,
    pub cost: Cost,
    pub backend: fn() -> Backend,
    /// Runs the load through the proxy at the address; returns the operations.
    pub load: fn(SocketAddr) -> f64,
    pub splice: bool,
    /// What Evergate follows; the others know nothing but bytes.
    pub protocol: &'static str,
}

/// Whatever stands behind the proxies, for as long as the case runs.
pub enum Backend {
    Thread(SocketAddr),
    Redis(Redis),
    Postgres(Postgres),
}

impl Backend {
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Thread(address) => *address,
            Self::Redis(redis) => redis.addr(),
            Self::Postgres(postgres) => postgres.addr(),
        }
    }
}

pub fn all() -> Vec<Case> {
    let case = |name, backend, load| Case {
        name,
        cost: Cost::CpuMicroseconds,
        backend,
        load,
        splice: false,
        protocol: "tcp",
    };
    let session = |case: Case, name| Case {
        name,
        protocol: "postgres",
        ..case
    };
    let prepared = || {
        case("pgbench -S prepared, 16 clients, us", postgres, |proxy| {
            let result = pgbench(proxy, &["-S", "-M", "prepared", "-c16", "-t1500"]);
            assert!(result.complete, "{}", result.output);
            result.transactions as f64
        })
    };
    let rows = || Case {
        cost: Cost::CpuMilliseconds,
        ..case("large results, 4 clients, ms/GB", postgres, large_results)
    };
    let bulk = |name, load| Case {
        cost: Cost::CpuMilliseconds,
        splice: true,
        ..case(name, || Backend::Thread(load::bulk_backend()), load)
    };
    let echo = || Backend::Thread(echo_backend());
    vec![
        case("100 B round trip, 50 clients, us", echo, |proxy| {
            load::ping_pong(proxy, 50, 100_000)
        }),
        case("redis GET, 50 clients, us", redis, |proxy| {
            let requests = 100_000;
            let arguments = ["-t", "get", "-c", "50", "-n", &requests.to_string()];
            let result = redis_benchmark(proxy, &arguments);
            assert!(result.complete, "{}", result.output);
            f64::from(requests)
        }),
        prepared(),
        session(prepared(), "the same, protocol: postgres, us"),
        rows(),
        session(rows(), "the same, protocol: postgres, ms/GB"),
        case("connection churn, us", echo, |proxy| {
            load::churn(proxy, 8_000)
        }),
        bulk("bulk, 1 connection, ms/GB", |proxy| load::bulk(proxy, 1, 3)),
        bulk("bulk, 8 connections, ms/GB", |proxy| {
            load::bulk(proxy, 8, 3)
        }),
        Case {
            cost: Cost::MemoryKib,
            ..case("idle connection, KiB", echo, |proxy| load::idle(proxy, 500))
        },
    ]
}

/// Gigabytes of rows.
fn large_results(proxy: SocketAddr) -> f64 {
    const TRANSACTIONS: u64 = 5;
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("rows.sql");
    let query = "SELECT repeat('x', 8000) FROM generate_series(1, 2500);\n";
    std::fs::write(&script, query).unwrap();
    let count = TRANSACTIONS.to_string();
    let result = pgbench(
        proxy,
        &["-c4", "-t", &count, "-f", script.to_str().unwrap()],
    );
    assert!(result.complete, "{}", result.output);
    result.transactions as f64 * 2500.0 * 8000.0 / 1e9
}

fn redis() -> Backend {
    Backend::Redis(Redis::start())
}

fn postgres() -> Backend {
    let postgres = Postgres::start();
    pgbench_tables(postgres.addr());
    Backend::Postgres(postgres)
}
