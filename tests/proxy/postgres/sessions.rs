//! Sessions through a PostgreSQL listener are what they are without one.

use std::net::SocketAddr;
use std::time::Duration;

use evergate::protocol::postgres::TransactionStatus;
use evergate::protocol::postgres::backend::ready_for_query;

use crate::postgres::cases::LET_IN;
use crate::postgres::cases::answer;
use crate::postgres::cases::answering;
use crate::postgres::cases::before;
use crate::postgres::cases::named;
use crate::postgres::cases::psql_as;
use crate::postgres::wire::Wire;
use crate::support::evergate::Evergate;
use crate::support::ports::free_addr;
use crate::support::postgres::Postgres;
use crate::support::postgres::pgbench;
use crate::support::postgres::pgbench_tables;
use crate::support::relay::Direction;
use crate::support::relay::FaultRelay;
use crate::support::relay::Faults;
use crate::support::talk::CHECKS;

#[test]
fn psql_works_with_every_sslmode_that_a_plain_server_takes() {
    let postgres = Postgres::start();
    let (_evergate, listens) = before(&[postgres.addr()], &[], &[]);
    for mode in ["disable", "allow", "prefer"] {
        let options = format!("sslmode={mode} gssencmode=prefer");
        assert_eq!(answer(psql_as(listens, &options, "select 41 + 1")), "42");
    }
}

#[test]
fn pgbench_runs_prepared_statements_and_new_connections() {
    let postgres = Postgres::start();
    let (_evergate, listens) = before(&[postgres.addr()], &[], &[]);
    pgbench_tables(listens);
    for arguments in [
        &["-S", "-M", "prepared", "-c4", "-t500"][..],
        &["-c4", "-t50"],
        &["-S", "-C", "-c4", "-t50"],
    ] {
        let result = pgbench(listens, arguments);
        assert!(result.complete, "{}", result.output);
        assert_eq!(result.failed, 0);
    }
}

#[test]
fn copy_moves_every_row_in_both_directions() {
    let postgres = Postgres::start();
    let (_evergate, listens) = before(&[postgres.addr()], &[], &[]);
    postgres.sql("create table t (n int, pad text)");
    let copy_in =
        "\\copy t from program 'seq -f \"%.0f\t0123456789abcdef0123456789abcdef\" 1 300000'";
    answer(psql_as(listens, "", copy_in));
    assert_eq!(
        postgres.sql("select count(*), sum(n) from t"),
        "300000|45000150000"
    );
    let copied = answer(psql_as(
        listens,
        "",
        "copy (select n from t order by n) to stdout",
    ));
    assert!(
        copied
            .lines()
            .map(|n| n.parse::<u32>().unwrap())
            .eq(1..=300_000)
    );
    // One message of 32 MB: most of it is a body that nobody looks at.
    let large = answer(psql_as(listens, "", "select repeat('x', 32 << 20)"));
    assert_eq!(large.len(), 32 << 20);
}

#[test]
fn a_notification_reaches_a_session_that_says_nothing() {
    let postgres = Postgres::start();
    let (_evergate, listens) = before(&[postgres.addr()], &[], &[]);
    let (mut listening, _) = Wire::login(listens);
    listening.query("listen news");
    let (mut speaking, _) = Wire::login(listens);
    speaking.query("notify news, 'hello'");
    let (tag, body) = listening.message().unwrap();
    assert_eq!(tag, b'A');
    assert!(body.ends_with(b"news\0hello\0"));
}

#[test]
fn replication_sessions_pass() {
    let postgres = Postgres::start();
    let allow = "copy (select 'host replication all all trust') to program 'cat >> pg_hba.conf'";
    postgres.sql(allow);
    postgres.sql("select pg_reload_conf()");
    let (_evergate, listens) = before(&[postgres.addr()], &[], &[]);
    for mode in ["database", "true"] {
        let options = format!("replication={mode}");
        let identity = answer(psql_as(listens, &options, "IDENTIFY_SYSTEM"));
        assert_eq!(identity.split('|').count(), 4, "{identity}");
    }
}

#[test]
fn segments_of_one_byte_change_nothing() {
    let postgres = Postgres::start();
    let to_server = FaultRelay::to(postgres.addr());
    let (_evergate, listens) = before(&[to_server.addr()], &[], &[]);
    let to_evergate = FaultRelay::to(listens);
    let bytewise = Direction {
        max_segment_bytes: Some(1),
        ..Direction::default()
    };
    for relay in [&to_server, &to_evergate] {
        relay.set(Faults::both(bytewise.clone()));
    }
    let (mut wire, _) = Wire::login(to_evergate.addr());
    for _ in 0..5 {
        let rows = wire.query("select generate_series(1, 50)").rows;
        assert_eq!(rows.len(), 50);
    }
}

/// A server that lets everybody in and says who it is.
pub fn saying(name: &[u8; 1]) -> SocketAddr {
    let ready = ready_for_query(TransactionStatus::Idle);
    answering([named(name), LET_IN.to_vec(), ready].concat())
}

#[test]
fn routes_choose_by_database_and_user() {
    let servers = [b"a", b"b", b"c"].map(saying);
    let listens = free_addr();
    let clusters: String = ["a", "b", "c"]
        .iter()
        .zip(servers)
        .map(|(name, server)| {
            format!(
                "  {name}: {{protocol: postgres, backends: [\"{server}\"], health_check: {{kind: tcp, {}}}\n",
                &CHECKS[1..]
            )
        })
        .collect();
    let _evergate = Evergate::start(&format!(
        "clusters:\n{clusters}listeners:\n  l:\n    bind: \"{listens}\"\n    cluster: c\n    routes:\n\
         \x20     - {{database: orders, user: app, cluster: a}}\n      - {{database: orders, cluster: b}}\n"
    ));
    for (user, database, cluster) in [
        ("app", "orders", "a"),
        ("other", "orders", "b"),
        // As for the server: the database's name is the user's then.
        ("orders", "", "b"),
        ("app", "Orders", "c"),
        ("app", "", "c"),
    ] {
        let mut wire = Wire::connect(listens);
        wire.begin(&[("user", user), ("database", database)]);
        assert_eq!(wire.server_name(), cluster, "{user}/{database}");
    }
}

#[test]
fn a_setting_of_the_startup_message_can_be_hashed() {
    let servers = [b"a", b"b", b"c"].map(saying);
    let balance = "balance: {policy: consistent_hash, hash: {key: \"startup:work_mem\"}}";
    let (_evergate, listens) = before(&servers, &[balance], &[]);
    let server_of = |parameters: &[(&str, &str)]| {
        let mut wire = Wire::connect(listens);
        wire.begin(&[&[("user", "u")], parameters].concat());
        wire.server_name()
    };
    let mut seen = std::collections::BTreeSet::new();
    for size in 1..=30 {
        let size = format!("{size}MB");
        let own = server_of(&[("work_mem", &size)]);
        let in_options = server_of(&[("options", &format!("-c work_mem={size}"))]);
        assert_eq!(own, in_options);
        seen.insert(own);
    }
    assert_eq!(seen.len(), 3);
}

#[test]
fn a_slow_startup_is_cut_off() {
    let postgres = Postgres::start();
    let (evergate, listens) = before(&[postgres.addr()], &[], &["handshake_timeout: 300ms"]);
    let mut wire = Wire::connect(listens);
    wire.stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    wire.send(b"\0\0\0\x20\0\x03");
    assert!(wire.message().is_none());
    let labels = [("reason", "handshake_timeout")];
    evergate.wait_for_metric("evergate_listener_connections_rejected_total", &labels, 1.0);
}
