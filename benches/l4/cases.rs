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
        case("pgbench -S prepared, 16 clients, us", postgres, |proxy| {
            let result = pgbench(proxy, &["-S", "-M", "prepared", "-c16", "-t1500"]);
            assert!(result.complete, "{}", result.output);
            result.transactions as f64
        }),
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

fn redis() -> Backend {
    Backend::Redis(Redis::start())
}

fn postgres() -> Backend {
    let postgres = Postgres::start();
    pgbench_tables(postgres.addr());
    Backend::Postgres(postgres)
}
