//! Consistent hashing by what a PostgreSQL client says of itself: all sessions of one key share a
//! server, whatever else they say, wherever they come from and whichever worker has them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpStream;

use crate::postgres::cases::file;
use crate::postgres::sessions::saying;
use crate::postgres::wire::Wire;
use crate::support::PATIENCE;
use crate::support::evergate::Evergate;
use crate::support::ports::free_addr;
use crate::support::postgres::Postgres;
use crate::support::talk::connect_from;
use crate::support::wait_until;

const KEYS: u8 = 20;
/// Of one key, at once: more than workers, which share them.
const SESSIONS: u8 = 6;

fn hashed_by(backends: &[SocketAddr], key: &str) -> (Evergate, SocketAddr) {
    let listens = free_addr();
    let balance = format!("balance: {{policy: consistent_hash, hash: {{key: \"{key}\"}}}}");
    let text = file(listens, backends, &[&balance], &[]) + "workers: 3\n";
    (Evergate::start(&text), listens)
}

/// A session from another address each time; all addresses of 127.0.0.0/8 are ours.
fn session_from(number: u8, listens: SocketAddr, login: &[(&str, &str)]) -> Wire<TcpStream> {
    let address = Ipv4Addr::new(127, 0, 1, number + 1);
    let mut wire = Wire::over(connect_from(address, listens));
    wire.begin(login);
    wire
}

#[test]
fn sessions_with_one_key_share_a_server_whatever_else_they_say() {
    let servers = [b"a", b"b", b"c"].map(saying);
    for key in ["user", "database", "startup:application_name"] {
        let (evergate, listens) = hashed_by(&servers, key);
        let mut held = Vec::new();
        let mut used = BTreeSet::new();
        for value in 0..KEYS {
            let value = format!("value{value}");
            let sessions = (0..SESSIONS).map(|number| {
                let other = format!("other{number}");
                let login = ["user", "database", "application_name"].map(|name| {
                    let is_key = key.ends_with(name);
                    (name, if is_key { &*value } else { &*other })
                });
                session_from(number, listens, &login)
            });
            let sessions: Vec<_> = sessions.collect();
            let names: BTreeSet<_> = sessions.iter().map(Wire::server_name).collect();
            assert_eq!(names.len(), 1, "{key} {value}: {names:?}");
            used.extend(names);
            held.extend(sessions);
        }
        assert_eq!(used.len(), servers.len(), "{key}: {used:?}");
        let active = f64::from(KEYS) * f64::from(SESSIONS);
        evergate.wait_for_metric("evergate_listener_connections_active", &[], active);
    }
}

/// Without what is hashed, the address is.
#[test]
fn a_session_without_the_hashed_setting_goes_by_its_address() {
    let servers = [b"a", b"b", b"c"].map(saying);
    let (_evergate, listens) = hashed_by(&servers, "startup:application_name");
    let mut used = BTreeSet::new();
    for number in 0..KEYS {
        let names = (0..SESSIONS).map(|other| {
            let user = format!("other{other}");
            session_from(number, listens, &[("user", &user)]).server_name()
        });
        let names: BTreeSet<_> = names.collect();
        assert_eq!(names.len(), 1, "{number}: {names:?}");
        used.extend(names);
    }
    assert_eq!(used.len(), servers.len(), "{used:?}");
}

#[test]
fn keys_of_a_killed_server_go_elsewhere_and_come_back_with_it() {
    let mut servers = [Postgres::start(), Postgres::start()];
    let databases: Vec<_> = (0..8).map(|number| format!("d{number}")).collect();
    for server in &servers {
        for database in &databases {
            server.sql(&format!("create database {database} strategy wal_log"));
        }
    }
    let addrs = servers.each_ref().map(Postgres::addr);
    let (evergate, listens) = hashed_by(&addrs, "database");
    let homes = || -> BTreeMap<&str, String> {
        let home = |(number, database): (u8, &'_ String)| {
            let login = [("user", "postgres"), ("database", database)];
            let mut wire = session_from(number, listens, &login);
            let rows = wire.query("select inet_server_port()").rows;
            // One column: its count and length come first.
            String::from_utf8(rows[0][6..].to_vec()).unwrap()
        };
        let numbered = (0..).zip(&databases);
        numbered.map(|it| (it.1.as_str(), home(it))).collect()
    };
    let before = homes();
    assert_eq!(homes(), before, "from other addresses, too");
    let ports: BTreeSet<_> = before.values().cloned().collect();
    assert_eq!(ports.len(), 2, "{before:?}");

    servers[0].kill9();
    let survivor = addrs[1].port().to_string();
    assert!(homes().values().all(|port| *port == survivor));
    servers[0].start_again();
    let up = [("backend", "a")];
    evergate.wait_for_metric("evergate_backend_up", &up, 1.0);
    // Its weight comes back over slow_start.
    wait_until(PATIENCE, "every key is at home", || homes() == before);
}
