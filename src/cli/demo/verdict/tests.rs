//! For each promise, measurements that break it.

use super::*;
use crate::cli::demo::client::Trouble;
use crate::cli::demo::ledger::Counts;
use crate::cli::demo::ledger::Opening;
use crate::cli::demo::ledger::Write;

fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A run in which everything went as promised: 2 was acknowledged and never replicated.
fn kept() -> Measured {
    let outage = |phase, began| Outage {
        phase,
        began: at(began),
        done: at(began + 2),
        detected: Some(at(began + 5)),
        promoted: at(began + 500),
        seen: Some(at(began + 520)),
        first_write: Some(at(began + 530)),
    };
    let write = |id, milliseconds| Write {
        id,
        at: at(milliseconds),
    };
    let busy = Counts {
        writes: 1,
        reads: 1,
        ..Counts::default()
    };
    Measured {
        records: Records {
            counts: [busy; Phase::ALL.len()],
            writes: vec![write(1, 100), write(2, 999), write(3, 1600)],
            openings: Vec::new(),
            failures: vec![cut()],
        },
        outages: vec![outage(Phase::Kill, 1000), outage(Phase::Switch, 4000)],
        back: Some(Return {
            fenced: Some(at(2010)),
            rows: [1, 2].into(),
            rows_written: 2,
        }),
        drain: Some(Drain {
            port: 5,
            in_force: at(5000),
            over: at(6000),
        }),
        reload: Some(Reload {
            is_in_force: true,
            is_bad_refused: true,
        }),
        end: Some(End {
            severed: 0,
            load_finished: true,
        }),
        rows: [(1, 1), (3, 1)].into(),
    }
}

/// What a kill may cost: a session on the primary.
fn cut() -> Failure {
    Failure {
        phase: Phase::Kill,
        purpose: Purpose::Write,
        doing: Doing::Asking,
        trouble: Trouble::Lost,
        begun: at(999),
        at: at(1001),
    }
}

#[track_caller]
fn assert_broken(promise: Promise, change: impl FnOnce(&mut Measured)) {
    let mut measured = kept();
    change(&mut measured);
    let broken = broken(&measured);
    assert!(!broken.is_empty(), "nothing is broken");
    for one in broken {
        assert_eq!(one.promise, promise, "{one:?}");
    }
}

#[test]
fn a_good_run_breaks_nothing_and_tells_what_was_not_replicated() {
    assert_eq!(broken(&kept()), []);
    let fate = kept().fate();
    assert_eq!((fate.acknowledged, fate.unreplicated, fate.lost), (3, 1, 0));
}

#[test]
fn an_acknowledged_write_must_be_there_exactly_once() {
    assert_broken(Promise::Writes, |run| {
        run.rows.remove(&3);
    });
    assert_broken(Promise::Writes, |run| {
        run.rows.insert(1, 2);
    });
}

#[test]
fn a_write_that_the_killed_primary_did_not_have_is_lost_by_no_replication() {
    assert_broken(Promise::Writes, |run| {
        run.rows.remove(&1);
        if let Some(back) = &mut run.back {
            back.rows.remove(&1);
            back.rows_written -= 1;
        }
    });
}

#[test]
fn a_read_only_error_is_excused_by_nothing() {
    let error = crate::protocol::postgres::error::ServerError {
        severity: crate::protocol::postgres::Severity::Error,
        sqlstate: Some(crate::protocol::postgres::sqlstate::SqlState::READ_ONLY_SQL_TRANSACTION),
        message: String::new(),
        detail: None,
        hint: None,
        routine: None,
    };
    assert_broken(Promise::ReadOnly, |run| {
        run.records.failures[0].trouble = Trouble::Refused(error);
    });
}

#[test]
fn a_connection_that_began_after_the_death_must_not_fail() {
    assert_broken(Promise::Connections, |run| {
        run.records.failures.push(Failure {
            doing: Doing::Connecting,
            begun: at(1003),
            at: at(1004),
            ..cut()
        });
    });
}

#[test]
fn readers_and_sessions_at_other_times_must_not_be_cut() {
    assert_broken(Promise::Sessions, |run| {
        run.records.failures[0].purpose = Purpose::Read;
    });
    assert_broken(Promise::Sessions, |run| {
        run.records.failures[0].at = at(998);
    });
    assert_broken(Promise::Sessions, |run| {
        run.records.failures[0].begun = at(3000);
        run.records.failures[0].at = at(3001);
    });
}

#[test]
fn the_old_primary_must_be_fenced_and_get_no_write() {
    assert_broken(Promise::Fence, |run| {
        run.back.as_mut().unwrap().fenced = None;
    });
    assert_broken(Promise::Fence, |run| {
        run.back.as_mut().unwrap().rows_written = 3;
    });
}

#[test]
fn writes_must_go_on_soon_after_each_promotion() {
    assert_broken(Promise::Time, |run| run.outages[0].first_write = None);
    assert_broken(Promise::Time, |run| {
        run.outages[1].first_write = Some(at(4501) + MAX_ADDED_OUTAGE);
    });
}

#[test]
fn a_drained_replica_must_get_no_new_session() {
    assert_broken(Promise::Drain, |run| {
        run.records.openings.push(Opening {
            purpose: Purpose::Read,
            port: 5,
            begun: at(5001),
            greeted: at(5002),
        });
    });
}

#[test]
fn files_and_the_end_must_be_as_promised() {
    assert_broken(Promise::Reload, |run| {
        run.reload.as_mut().unwrap().is_bad_refused = false;
    });
    assert_broken(Promise::End, |run| run.end.as_mut().unwrap().severed = 1);
}

#[test]
fn a_step_that_was_not_taken_keeps_no_promise() {
    assert_broken(Promise::Tested, |run| {
        run.outages.pop();
    });
    assert_broken(Promise::Tested, |run| run.drain = None);
    assert_broken(Promise::Tested, |run| {
        run.records.counts[Phase::Switch as usize].writes = 0;
    });
}
