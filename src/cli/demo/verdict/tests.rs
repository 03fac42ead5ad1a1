//! For each promise, measurements that break it.

use super::*;
use crate::cli::demo::measure::BadFile;
use crate::cli::demo::measure::Drain;
use crate::cli::demo::measure::End;
use crate::cli::demo::measure::Kill;
use crate::cli::demo::measure::Kind;
use crate::cli::demo::measure::Opening;
use crate::cli::demo::measure::Recovery;
use crate::cli::demo::measure::Reload;
use crate::cli::demo::measure::Return;
use crate::cli::demo::wire::WrongAnswer;

fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A run in which everything went as promised: db-2 dies at 1,000 ms with session 1 on it.
fn kept() -> Measured {
    let mut measured = Measured {
        kill: Some(Kill {
            backend: "db-2",
            sessions: 1,
            began: at(1000),
            done: at(1002),
            detected: Some(at(1005)),
        }),
        back: Some(Return {
            began: at(2000),
            up: Some(at(3000)),
            first_session: Some(at(3100)),
        }),
        drain: Some(Drain {
            backend: "db-3",
            began: at(4000),
            in_force: at(4001),
            emptied: Some(at(4500)),
            over: at(4600),
            first_session: Some(at(4610)),
        }),
        reload: Some(Reload {
            began: at(5000),
            in_force: Some(at(5060)),
            first_session: Some(at(5070)),
        }),
        bad_file: Some(BadFile {
            refused: true,
            changed: Vec::new(),
        }),
        end: Some(End {
            severed: 0,
            load_finished: true,
        }),
        ..Measured::default()
    };
    let records = &mut measured.records;
    records.answered = [10; Phase::ALL.len()];
    let starts = [100, 1100, 2100, 3900, 5100];
    for (phase, begun) in Phase::ALL.into_iter().zip(starts) {
        records.openings.push(opening(phase, "db-1", begun));
    }
    records.failures.push(killed_session());
    records.recoveries.push(Recovery {
        session: 1,
        at: at(1010),
    });
    measured
}

fn opening(phase: Phase, backend: &'static str, begun: u64) -> Opening {
    Opening {
        phase,
        backend,
        begun: at(begun),
        greeted: at(begun + 1),
    }
}

/// What a kill may cost: one request of a session that lived on the backend.
fn killed_session() -> Failure {
    Failure {
        phase: Phase::Kill,
        session: 1,
        kind: Kind::Kept,
        backend: Some("db-2"),
        begun: at(500),
        at: at(1001),
        what: What::Unanswered,
    }
}

#[track_caller]
fn assert_broken(measured: &Measured, promise: Promise) {
    let broken = broken(measured);
    assert!(!broken.is_empty(), "nothing is broken");
    for one in broken {
        assert_eq!(one.promise, promise, "{one:?}");
    }
}

fn with_failure(failure: Failure) -> Measured {
    let mut measured = kept();
    measured.records.failures.push(failure);
    measured
}

#[test]
fn a_good_run_breaks_nothing() {
    assert_eq!(broken(&kept()), []);
}

#[test]
fn a_connection_that_was_not_greeted_when_its_backend_died_may_fail() {
    let measured = with_failure(Failure {
        session: 2,
        kind: Kind::Short,
        backend: None,
        begun: at(1001),
        at: at(1003),
        what: What::NotGreeted,
        ..killed_session()
    });
    assert_eq!(broken(&measured), []);
}

#[test]
fn a_connection_that_began_after_the_death_must_not_fail() {
    let failure = Failure {
        session: 2,
        kind: Kind::Short,
        backend: None,
        begun: at(1003),
        at: at(1004),
        what: What::NotGreeted,
        ..killed_session()
    };
    assert_broken(&with_failure(failure), Promise::NewConnections);
}

#[test]
fn a_session_on_another_backend_must_not_fail() {
    for what in [What::Unanswered, What::Cut] {
        let failure = Failure {
            session: 2,
            backend: Some("db-1"),
            what,
            ..killed_session()
        };
        assert_broken(&with_failure(failure), Promise::KilledSessionsOnly);
    }
}

#[test]
fn a_session_that_failed_before_the_death_is_not_excused_by_it() {
    let failure = Failure {
        session: 2,
        at: at(999),
        ..killed_session()
    };
    assert_broken(&with_failure(failure), Promise::KilledSessionsOnly);
}

#[test]
fn a_session_must_not_fail_twice() {
    assert_broken(&with_failure(killed_session()), Promise::OnceEach);
}

#[test]
fn a_wrong_answer_is_excused_by_nothing() {
    for wrong in [WrongAnswer::Duplicated, WrongAnswer::Corrupted] {
        let failure = Failure {
            what: What::Wrong(wrong),
            ..killed_session()
        };
        assert_broken(&with_failure(failure), Promise::Answers);
    }
}

#[test]
fn a_drained_backend_must_get_no_new_session() {
    let mut measured = kept();
    let late = opening(Phase::Drain, "db-3", 4300);
    measured.records.openings.push(late);
    assert_broken(&measured, Promise::Drain);
}

#[test]
fn a_session_that_raced_with_the_drain_is_no_breach() {
    let mut measured = kept();
    for begun in [4000, 4600] {
        let early_or_after = opening(Phase::Drain, "db-3", begun);
        measured.records.openings.push(early_or_after);
    }
    assert_eq!(broken(&measured), []);
}

#[test]
fn a_drained_backends_old_sessions_must_finish() {
    let failure = Failure {
        phase: Phase::Drain,
        session: 2,
        backend: Some("db-3"),
        at: at(4200),
        ..killed_session()
    };
    assert_broken(&with_failure(failure), Promise::Drain);
}

#[test]
fn a_reload_must_drop_no_session() {
    let failure = Failure {
        phase: Phase::Reload,
        session: 2,
        backend: Some("db-1"),
        at: at(5100),
        what: What::Cut,
        ..killed_session()
    };
    assert_broken(&with_failure(failure), Promise::Reload);
}

#[test]
fn a_bad_file_must_be_refused() {
    let mut measured = kept();
    measured.bad_file = Some(BadFile {
        refused: false,
        changed: vec!["the configuration"],
    });
    assert_broken(&measured, Promise::BadFile);
}

#[test]
fn a_refused_file_must_change_nothing() {
    let mut measured = kept();
    measured.bad_file = Some(BadFile {
        refused: true,
        changed: vec!["the routing table"],
    });
    assert_broken(&measured, Promise::BadFile);
}

#[test]
fn the_end_must_sever_nobody_and_leave_nobody_waiting() {
    for (severed, load_finished) in [(1, true), (0, false)] {
        let mut measured = kept();
        measured.end = Some(End {
            severed,
            load_finished,
        });
        assert_broken(&measured, Promise::End);
    }
    let failure = Failure {
        phase: Phase::End,
        session: 2,
        backend: Some("db-1"),
        at: at(6000),
        ..killed_session()
    };
    assert_broken(&with_failure(failure), Promise::End);
}

#[test]
fn a_step_that_takes_for_ever_breaks_its_bound() {
    let changes: [fn(&mut Measured); 7] = [
        |run| {
            run.kill = run.kill.map(|kill| Kill {
                detected: None,
                ..kill
            })
        },
        |run| run.records.recoveries.clear(),
        |run| run.back = run.back.map(|back| Return { up: None, ..back }),
        |run| {
            run.back = run.back.map(|back| Return {
                first_session: None,
                ..back
            })
        },
        |run| {
            run.drain = run.drain.map(|drain| Drain {
                emptied: None,
                ..drain
            })
        },
        |run| {
            run.reload = run.reload.map(|reload| Reload {
                in_force: None,
                ..reload
            })
        },
        |run| {
            run.reload = run.reload.map(|reload| Reload {
                first_session: None,
                ..reload
            })
        },
    ];
    for change in changes {
        let mut measured = kept();
        change(&mut measured);
        assert_broken(&measured, Promise::Time);
    }
}

#[test]
fn a_death_must_be_seen_in_time() {
    let mut measured = kept();
    let late = Some(at(1001) + MAX_DETECTION);
    measured.kill = measured.kill.map(|kill| Kill {
        detected: late,
        ..kill
    });
    assert_broken(&measured, Promise::Time);
}

#[test]
fn a_step_that_was_not_taken_keeps_no_promise() {
    let changes: [fn(&mut Measured); 8] = [
        |run| run.kill = None,
        |run| run.back = None,
        |run| run.drain = None,
        |run| run.reload = None,
        |run| run.bad_file = None,
        |run| run.end = None,
        |run| run.records.answered[Phase::Reload as usize] = 0,
        |run| run.records.openings.clear(),
    ];
    for change in changes {
        let mut measured = kept();
        // Without its kill, nothing would excuse what it cost.
        measured.records.failures.clear();
        change(&mut measured);
        assert_broken(&measured, Promise::Tested);
    }
}

#[test]
fn killing_a_backend_without_sessions_shows_nothing() {
    let mut measured = kept();
    measured.kill = measured.kill.map(|kill| Kill {
        sessions: 0,
        ..kill
    });
    assert_broken(&measured, Promise::Tested);
}
