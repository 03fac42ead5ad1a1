//! Results in, transitions out.

use super::*;
use Health::*;

const SECOND: Duration = Duration::from_secs(1);

fn tracker(rise: u32, fall: u32, max_damping: Duration, now: Instant) -> Tracker {
    let nz = |n| NonZeroU32::new(n).unwrap();
    let rules = Rules {
        rise: nz(rise),
        fall: nz(fall),
        interval: SECOND,
        max_damping,
    };
    Tracker::new(rules, now)
}

/// One character a second: `+` passed, `-` timed out, `!` refused, `?` out of
/// resources, `f` full, `r` reported refused by a session, `t` reported timed out.
fn step(tracker: &mut Tracker, event: char, now: Instant) -> Option<Transition> {
    let result = match event {
        '+' => Ok(()),
        '-' => Err(Cause::CheckTimeout),
        '!' => Err(Cause::ConnectRefused),
        '?' => Err(Cause::OutOfResources),
        'f' => Err(Cause::TooManyConnections),
        'r' => {
            tracker.suspect(Cause::ConnectRefused);
            return None;
        }
        't' => {
            tracker.suspect(Cause::EarlyClose);
            return None;
        }
        other => panic!("{other:?}"),
    };
    tracker.observe(result, Damping::Apply, now)
}

fn walk(rise: u32, fall: u32, events: &str) -> Vec<Health> {
    let start = Instant::now();
    let mut tracker = tracker(rise, fall, Duration::ZERO, start);
    (0..)
        .zip(events.chars())
        .map(|(second, event)| {
            step(&mut tracker, event, start + SECOND * second);
            tracker.health()
        })
        .collect()
}

#[test]
fn the_first_result_decides() {
    assert_eq!(walk(3, 3, "+"), [Up]);
    assert_eq!(walk(3, 3, "-"), [Down]);
    assert_eq!(walk(3, 3, "!"), [Down]);
}

#[test]
fn it_falls_after_fall_failures_in_a_row() {
    assert_eq!(walk(1, 3, "+---"), [Up, Up, Up, Down]);
}

#[test]
fn a_pass_resets_the_failure_streak() {
    assert_eq!(walk(1, 3, "+--+--"), [Up, Up, Up, Up, Up, Up]);
}

#[test]
fn it_rises_after_rise_passes_in_a_row() {
    assert_eq!(walk(2, 1, "-++"), [Down, Down, Up]);
    assert_eq!(walk(2, 1, "-+-++"), [Down, Down, Down, Down, Up]);
}

#[test]
fn our_own_shortage_says_nothing() {
    assert_eq!(walk(1, 1, "?+???"), [Unknown, Up, Up, Up, Up]);
    assert_eq!(walk(1, 2, "+-?-"), [Up, Up, Up, Down]);
}

#[test]
fn a_full_server_stays_up_and_does_not_come_up() {
    assert_eq!(walk(1, 2, "+ffff"), [Up; 5]);
    assert_eq!(walk(1, 2, "+-f-"), [Up; 4], "it has answered in between");
    assert_eq!(walk(1, 2, "f"), [Down], "its role is not known");
    assert_eq!(walk(1, 2, "-f"), [Down; 2]);
}

/// Went wrong once: one missed check took the word back, and with it all sessions that it had.
#[test]
fn who_is_down_and_says_that_it_lives_is_dead_after_fall_missed_checks() {
    let causes = |events: &str| -> Vec<Cause> {
        let start = Instant::now();
        let mut tracker = tracker(1, 3, Duration::ZERO, start);
        let walked = (0..).zip(events.chars()).map(|(second, event)| {
            step(&mut tracker, event, start + SECOND * second);
            assert_eq!(tracker.health(), Down, "{events}");
            tracker.cause()
        });
        walked.collect()
    };
    let (full, missed) = (Cause::TooManyConnections, Cause::CheckTimeout);
    assert_eq!(causes("f--"), [full; 3]);
    assert_eq!(causes("f---"), [full, full, full, missed]);
    assert_eq!(causes("f--f--"), [full; 6], "it has answered in between");
    assert_eq!(causes("f!"), [full, Cause::ConnectRefused]);
    assert_eq!(causes("f-!"), [full, full, Cause::ConnectRefused]);
    assert_eq!(causes("---f-"), [missed, missed, missed, full, full]);
}

#[test]
fn a_probe_that_confirms_hard_evidence_counts_for_the_whole_of_fall() {
    assert_eq!(walk(1, 9, "+r!"), [Up, Up, Down]);
    assert_eq!(walk(1, 9, "+!!"), [Up, Up, Down]);
}

/// A Redis that loads, or that has lost its primary, refuses every command of every session.
#[test]
fn one_word_of_a_server_that_serves_nobody_needs_one_confirmation() {
    for cause in [Cause::StartingUp, Cause::LostPrimary] {
        let now = Instant::now();
        let mut tracker = tracker(1, 9, Duration::ZERO, now);
        tracker.observe(Ok(()), Damping::Apply, now);
        tracker.suspect(cause);
        let down = tracker.observe(Err(cause), Damping::Apply, now).unwrap();
        assert_eq!((down.to, down.cause), (Down, cause));
    }
}

#[test]
fn a_timeout_does_not_confirm_hard_evidence() {
    assert_eq!(walk(1, 3, "+r-"), [Up, Up, Up]);
    assert_eq!(walk(1, 9, "+r-!"), [Up, Up, Up, Down]);
}

#[test]
fn a_pass_refutes_hard_evidence() {
    assert_eq!(walk(1, 9, "+r+!"), [Up, Up, Up, Up]);
}

#[test]
fn soft_evidence_from_sessions_decides_nothing() {
    assert_eq!(walk(1, 9, "+t!"), [Up, Up, Up]);
}

#[test]
fn every_change_says_why_and_after_how_long() {
    let start = Instant::now();
    let mut tracker = tracker(1, 1, Duration::ZERO, start);
    let up = tracker.observe(Ok(()), Damping::Apply, start).unwrap();
    assert_eq!(
        (up.from, up.to, up.cause),
        (Unknown, Up, Cause::CheckPassed)
    );
    let later = start + SECOND * 5;
    let down = tracker.observe(Err(Cause::Reset), Damping::Apply, later);
    let expected = Transition {
        from: Up,
        to: Down,
        cause: Cause::Reset,
        after: SECOND * 5,
    };
    assert_eq!(down, Some(expected));
    assert_eq!(tracker.cause(), Cause::Reset);
}

/// Fails once whenever it is up, then passes every second; returns how many
/// seconds each return took.
fn returns(tracker: &mut Tracker, start: Instant, count: usize, stay: u32) -> Vec<u32> {
    let mut second = 1;
    let mut waits = Vec::new();
    step(tracker, '+', start);
    while waits.len() < count {
        step(tracker, '-', start + SECOND * second);
        assert_eq!(tracker.health(), Down);
        let fell = second;
        while tracker.health() == Down {
            second += 1;
            step(tracker, '+', start + SECOND * second);
        }
        waits.push(second - fell);
        second += stay;
    }
    waits
}

#[test]
fn each_return_of_a_flapping_backend_waits_twice_as_long_up_to_the_limit() {
    let start = Instant::now();
    let mut tracker = tracker(1, 1, SECOND * 10, start);
    assert_eq!(
        returns(&mut tracker, start, 6, 1),
        [1, 2, 4, 8, 10, 10],
        "seconds away at each return"
    );
}

#[test]
fn a_backend_that_stays_up_is_forgiven() {
    let start = Instant::now();
    let mut tracker = tracker(1, 1, SECOND * 10, start);
    assert_eq!(returns(&mut tracker, start, 4, 30), [1, 1, 1, 1]);
}

#[test]
fn without_damping_a_flapping_backend_returns_at_once() {
    let start = Instant::now();
    let mut tracker = tracker(1, 1, Duration::ZERO, start);
    assert_eq!(returns(&mut tracker, start, 4, 1), [1, 1, 1, 1]);
}

#[test]
fn a_flapping_backend_returns_at_once_when_nobody_else_is_eligible() {
    let start = Instant::now();
    let mut tracker = tracker(1, 1, SECOND * 100, start);
    returns(&mut tracker, start, 5, 1);
    let now = start + SECOND * 1000;
    tracker.observe(Ok(()), Damping::Apply, now);
    tracker.observe(Err(Cause::Reset), Damping::Apply, now + SECOND);
    let back = tracker.observe(Ok(()), Damping::Skip, now + SECOND * 2);
    assert_eq!(back.map(|change| change.to), Some(Up));
}

#[test]
fn a_reset_forgets_the_verdict_once() {
    let start = Instant::now();
    let mut tracker = tracker(3, 3, Duration::ZERO, start);
    assert_eq!(tracker.reset(Cause::AdminCommand, start), None);
    step(&mut tracker, '-', start);
    let change = tracker.reset(Cause::AdminCommand, start).unwrap();
    assert_eq!((change.from, change.to), (Down, Unknown));
    step(&mut tracker, '+', start);
    assert_eq!(tracker.health(), Up);
}
