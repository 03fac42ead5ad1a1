//! A session that its backend did not take goes to another.

use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::backend::Behaviour;
use crate::support::backend::End;
use crate::support::evergate::Evergate;
use crate::support::ports::FullBacklog;
use crate::support::ports::RefusingPort;
use crate::support::ports::free_addr;
use crate::support::talk::connect;
use crate::support::talk::file;
use crate::support::talk::name_at;
use crate::support::talk::plain;
use crate::support::talk::rest;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);
const REJECTED: &str = "evergate_listener_connections_rejected_total";
const ENDED: &str = "evergate_sessions_ended_total";

#[test]
fn a_refused_connect_is_redispatched_before_any_check_notices() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let mut first = Backend::named("a");
    let last = Backend::named("c");
    let refusing = RefusingPort::new();
    let listens = free_addr();
    let evergate = redispatching(listens, &[first.addr(), refusing.addr(), last.addr()]);
    assert_eq!(name_at(listens), "a");
    first.kill(End::Rst);
    // Two refuse, the third of three attempts succeeds.
    assert_eq!(name_at(listens), "c");
    let errors = [("reason", "connect_refused")];
    let refused = evergate.metric("evergate_backend_connect_errors_total", &errors);
    assert!(refused >= Some(1.0), "{refused:?}");
}

#[test]
fn a_connect_into_a_black_hole_is_redispatched_after_its_timeout() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (hole, good) = (FullBacklog::new(), Backend::named("b"));
    let listens = free_addr();
    // The checks ask a port that answers: only sessions meet the hole.
    let port = good.addr().port();
    let check = format!("health_check: {{port: {port}, interval: 1s}}");
    let keys = [check.as_str(), "connect: {timeout: 400ms, attempts: 2}"];
    let backends = [(hole.addr(), ""), (good.addr(), "tier: 1")];
    let evergate = Evergate::start(&file(listens, &backends, &keys));
    let started = Instant::now();
    assert_eq!(name_at(listens), "b");
    assert!(started.elapsed() >= Duration::from_millis(390));
    let errors = [("backend", "a"), ("reason", "connect_timeout")];
    evergate.wait_for_metric("evergate_backend_connect_errors_total", &errors, 1.0);
}

/// A dying listener resets what its kernel had accepted: nothing was said, nothing is lost.
#[test]
fn a_reset_before_the_first_byte_is_redispatched() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (resetting, good) = (Backend::start(Behaviour::Reset), Backend::named("b"));
    let listens = free_addr();
    // The checks ask a port that answers: only sessions meet the resets.
    let check = format!("health_check: {{port: {}}}", good.addr().port());
    let keys = ["balance: {policy: round_robin}", check.as_str()];
    let addrs = plain(&[resetting.addr(), good.addr()]);
    let evergate = Evergate::start(&file(listens, &addrs, &keys));
    // Between a reset and the next check it is shunned.
    wait_until(PATIENCE, "many were reset", || {
        assert_eq!(name_at(listens), "b");
        resetting.accepted() >= 10
    });
    assert_eq!(evergate.metric(REJECTED, &[]).unwrap_or(0.0), 0.0);
}

/// … but not for ever: a service that resets everyone is told to the client.
#[test]
fn a_service_that_resets_everyone_is_not_tried_for_ever() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (resetting, healthy) = (Backend::start(Behaviour::Reset), Backend::echo());
    let listens = free_addr();
    let check = format!("health_check: {{port: {}}}", healthy.addr().port());
    let addrs = plain(&[resetting.addr()]);
    let evergate = Evergate::start(&file(listens, &addrs, &[&check]));
    assert_eq!(rest(&mut connect(listens)), b"");
    // A reset that comes while connecting is a failed dial and counts on its own.
    let dials = resetting.accepted();
    assert!((3..=30).contains(&dials), "{dials}");
    let ended = [("side", "backend"), ("cause", "reset")];
    evergate.wait_for_metric(ENDED, &ended, 1.0);
}

#[test]
fn attempts_are_bounded() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let good = Backend::named("z");
    let refusing = [(); 4].map(|()| RefusingPort::new());
    let listens = free_addr();
    let port = good.addr().port();
    let check = format!("health_check: {{port: {port}, interval: 1s}}");
    let keys = [
        check.as_str(),
        "connect: {attempts: 2}",
        "failover: {hold: {for: 0s, max_sessions: 0}}",
    ];
    let addrs = plain(&refusing.each_ref().map(RefusingPort::addr));
    let evergate = Evergate::start(&file(listens, &addrs, &keys));
    assert_eq!(rest(&mut connect(listens)), b"");
    let tries = evergate.metric("evergate_backend_connect_errors_total", &[]);
    assert_eq!(tries, Some(2.0));
    let end = [
        ("side", "backend"),
        ("phase", "connect"),
        ("cause", "connect_refused"),
    ];
    evergate.wait_for_metric(ENDED, &end, 1.0);
}

/// In this order by tier, with checks that pass whatever happens to the backends.
fn redispatching(listens: SocketAddr, addrs: &[SocketAddr]) -> Evergate {
    let tiers = ["tier: 0", "tier: 1", "tier: 2"];
    let backends: Vec<_> = addrs.iter().copied().zip(tiers).collect();
    // The first check decides for an hour: it has its time.
    let checks = "health_check: {kind: exec, command: [\"true\"], interval: 1h, \
                  fast_interval: 1h, timeout: 20s}";
    Evergate::start(&file(listens, &backends, &[checks]))
}
