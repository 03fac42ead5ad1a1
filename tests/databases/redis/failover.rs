//! Promotions by hand, without Sentinels: the histories of both servers decide who is written to.

use std::time::Instant;

use super::LIMIT;
use super::stage::Plan;
use super::stage::SOME;
use super::stage::WRITERS;
use super::stage::expect_an_error_each_at_most;
use crate::support::Watchdog;
use crate::support::redis_node::Options;
use crate::support::redis_node::RedisPair;

/// As one node whose machine stands still, and goes on as if nothing had happened.
#[test]
fn a_frozen_primary_is_left_and_gets_no_write_when_it_thaws() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let pair = RedisPair::start_with(&Options::default());
    let stage = Plan::checked("interval: 400ms, timeout: 400ms").start(pair);
    let (old, new) = (stage.pair.node(0), stage.pair.node(1));
    let load = stage.load();
    new.wait_until_it_caught_up_with(old);

    old.freeze();
    stage.wait_for("r1", &[("health", "down")]);
    stage.wait_until_held(WRITERS);
    let severed = Instant::now();
    new.promote();
    let known = stage.wait_for_primary("r2");
    load.wait_for_every_writer();
    old.thaw();
    stage.wait_for("r1", &[("role", "fenced"), ("role_cause", "diverged")]);
    assert_eq!(old.role().as_deref(), Some("master"));
    load.wait_for_writes(SOME);

    let record = load.finish();
    let verdict = record.verdict(new.addr());
    expect_an_error_each_at_most(&verdict);
    verdict.expect_none_doubled();
    record.expect_none_lost_after(&verdict, known);
    assert_eq!(record.begun_after(severed, old.addr()), 0, "on the loser");
    assert_eq!(verdict.failed_connections, 0, "{verdict}");
}
