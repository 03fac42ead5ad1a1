//! TLS from the client to Evergate and from there to the servers, with users and passwords.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::version::TLS13;

use super::LIMIT;
use super::PATIENCE;
use super::stage::Plan;
use super::stage::SOME;
use super::stage::Stage;
use super::stage::WRITERS;
use super::stage::expect_an_error_each_at_most;
use crate::pki::Authority;
use crate::support::Watchdog;
use crate::support::client::Dialect;
use crate::support::redis::redis_cli;
use crate::support::redis_node::ACL_PASSWORD;
use crate::support::redis_node::ACL_USER;
use crate::support::redis_node::Options;
use crate::support::redis_node::RedisPair;
use crate::support::wait_until;
use crate::support::workload::Workload;

const CHECK: &str = "interval: 400ms, timeout: 400ms";
/// In the servers' certificate, which has no other.
const NAME: &str = "redis.internal";

/// Both legs encrypted; the check logs in with this password, and servers have to show this name.
fn plan(authority: &Authority, password: &str, server_name: &str) -> Plan {
    let pair = authority.issue("evergate", &["127.0.0.1"]);
    let (cert, key) = (pair.cert_file.display(), pair.key_file.display());
    let ca = authority.ca_file.display();
    Plan {
        check: format!("user: {ACL_USER}, password: \"{password}\", {CHECK}"),
        cluster: format!(
            "tls: {{mode: verify_full, ca_file: \"{ca}\", server_name: \"{server_name}\"}}"
        ),
        listeners: format!(", tls: {{cert_file: \"{cert}\", key_file: \"{key}\"}}"),
        ..Plan::default()
    }
}

fn stage(authority: &Authority) -> Stage {
    let server = authority.issue("redis", &[NAME]);
    let pair = RedisPair::start_with(&Options {
        acl: true,
        tls: Some((server.cert_file, server.key_file, authority.ca_file.clone())),
        ..Options::default()
    });
    plan(authority, ACL_PASSWORD, NAME).start(pair)
}

/// What a client that verifies Evergate and logs in by itself gets.
fn says(authority: &Authority, addr: SocketAddr, command: &[&str]) -> String {
    let ca = authority.ca_file.to_str().unwrap();
    let tls = ["--tls", "--cacert", ca];
    let user = [
        "--user",
        ACL_USER,
        "--pass",
        ACL_PASSWORD,
        "--no-auth-warning",
    ];
    let output = redis_cli(addr, &[&tls[..], &user, command].concat());
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_user_reads_and_writes_by_role_and_everything_is_encrypted() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("databases");
    let stage = stage(&authority);
    assert_eq!(says(&authority, stage.write, &["SET", "k", "v"]), "OK");
    assert_eq!(says(&authority, stage.write, &["ACL", "WHOAMI"]), ACL_USER);
    assert!(says(&authority, stage.write, &["ROLE"]).starts_with("master"));
    assert!(says(&authority, stage.read, &["ROLE"]).starts_with("slave"));
    wait_until(PATIENCE, "the replica has it", || {
        says(&authority, stage.read, &["GET", "k"]) == "v"
    });
    for index in [0, 1] {
        let node = stage.pair.node(index);
        // The check's own connection: over the port that knows no other way, and logged in.
        let own = format!("laddr={}", node.tls_addr());
        let clients = node.command("CLIENT LIST").concat();
        let mut checks = clients
            .lines()
            .filter(|line| line.contains("name=evergate"));
        let check = checks.next().unwrap_or_else(|| panic!("{clients}"));
        assert!(check.contains(&own), "{check}");
        assert!(check.contains(&format!("user={ACL_USER}")), "{check}");
    }
    let plain = redis_cli(stage.write, &["PING"]);
    assert!(!plain.stdout.starts_with(b"PONG"), "{plain:?}");
}

#[test]
fn encrypted_writers_follow_a_promotion_and_never_the_old_primary() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("databases");
    let stage = stage(&authority);
    let (old, new) = (stage.pair.node(0), stage.pair.node(1));
    let trusting = Arc::new(authority.trusting(&[&TLS13]));
    let load = stage.start(Workload::through(Dialect::Redis, stage.write).tls(&trusting));
    new.wait_until_it_caught_up_with(old);

    old.kill_9();
    stage.wait_until_held(WRITERS);
    new.promote();
    let known = stage.wait_for_primary("r2");
    load.wait_for_every_writer();
    // It is back as a primary without data.
    old.start();
    stage.wait_for("r1", &[("role", "fenced"), ("role_cause", "diverged")]);
    load.wait_for_writes(SOME);
    assert_eq!(old.command("DBSIZE"), ["0"], "it got a write");

    let record = load.finish();
    let verdict = record.verdict(new.addr());
    expect_an_error_each_at_most(&verdict);
    verdict.expect_none_doubled();
    record.expect_none_lost_after(&verdict, known);
    old.follow(new.addr());
    stage.wait_for("r1", &[("role", "replica")]);
    assert_eq!(says(&authority, stage.write, &["SET", "k", "w"]), "OK");
    wait_until(PATIENCE, "the new replica has it", || {
        says(&authority, stage.read, &["GET", "k"]) == "w"
    });
}

#[test]
fn servers_with_another_name_or_another_password_are_not_served_from() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("databases");
    let stage = stage(&authority);
    for (plan, cause) in [
        (
            plan(&authority, ACL_PASSWORD, "redis.example"),
            "tls_failed",
        ),
        (plan(&authority, "wrong", NAME), "login_failed"),
    ] {
        stage.reload(&plan);
        for backend in ["r1", "r2"] {
            stage.wait_for(backend, &[("health", "down"), ("cause", cause)]);
        }
        stage.reload(&self::plan(&authority, ACL_PASSWORD, NAME));
        stage.wait_for("r1", &[("role", "primary")]);
        assert_eq!(says(&authority, stage.write, &["SET", "k", "v"]), "OK");
    }
    assert!(!stage.evergate.stderr().contains(ACL_PASSWORD));
}
