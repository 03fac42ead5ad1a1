//! Roles as the core acts on them: fates, lag and memory. What went wrong in the simulation.

use std::pin::pin;
use std::sync::Mutex;
use std::task::Context;
use std::task::Wake;
use std::task::Waker;

use super::*;
use crate::cluster::Role;
use crate::cluster::WantedRole;
use crate::config::CheckKind;
use crate::config::ClusterConfig;
use crate::config::DatabaseCheck;
use crate::config::Fallback;
use crate::config::MaxLag;
use crate::config::OnDead;
use crate::config::SessionPolicy;
use crate::control::evidence::MySqlDialect;
use crate::control::evidence::MySqlEvidence;
use crate::control::evidence::PostgresEvidence;
use crate::control::publish::Publisher;
use crate::routing::Admission;
use crate::routing::SharedTable;

const WRITES: Intent = Intent {
    role: WantedRole::Primary,
    max_lag: None,
    fallback: Fallback::Nobody,
};

fn login() -> DatabaseCheck {
    DatabaseCheck {
        user: None,
        password: None,
        database: None,
    }
}

/// Two servers; what traffic or an operator says of `db1` is each test's business.
fn world(kind: CheckKind) -> World {
    World::new(vec![pair(kind)])
}

fn pair(kind: CheckKind) -> ClusterConfig {
    let mut pair = cluster("a", &["db1", "db2"]);
    pair.health_check.kind = kind;
    pair.failover.on_fenced = SessionPolicy::Sever;
    pair
}

fn postgres(timeline: u32, is_primary: bool) -> Result<Evidence, Cause> {
    Ok(Evidence::Postgres(PostgresEvidence {
        is_in_recovery: !is_primary,
        is_writable: is_primary,
        system_identifier: 7,
        timeline,
        received_lsn: 1000,
        replayed_lsn: 1000,
        connections_used: 1,
        connections_allowed: 97,
    }))
}

fn mysql(is_primary: bool) -> Result<Evidence, Cause> {
    Ok(Evidence::MySql(MySqlEvidence {
        is_read_only: !is_primary,
        is_replica: !is_primary,
        gtid_set: String::new(),
        dialect: MySqlDialect::MySql,
        lag: (!is_primary).then_some(Duration::ZERO),
        connections_used: 1,
        connections_allowed: 151,
    }))
}

impl World {
    /// Answers all probes that are due within a second; the others stay unanswered.
    fn hear(&mut self, answers: &[(&str, Result<Evidence, Cause>)]) {
        self.hear_for(SECOND, answers);
    }

    /// Returns how many were sent.
    fn hear_for(&mut self, time: Duration, answers: &[(&str, Result<Evidence, Cause>)]) -> usize {
        let end = self.now + time;
        let mut sent = 0;
        while let Some(due) = self.core.next_due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            for order in self.orders() {
                sent += 1;
                let name = &*order.target.backend.name;
                let Some((_, result)) = answers.iter().find(|(known, _)| *known == name) else {
                    continue;
                };
                let observation = Observation {
                    result: result.clone(),
                    duration: Duration::from_millis(1),
                };
                let now = self.moment();
                self.core.observe(order.id, order.number, observation, now);
            }
        }
        self.now = end;
        sent
    }

    /// Answers the next probe of this backend, and those of others that come before it.
    fn answers_next(
        &mut self,
        backend: &str,
        result: &Result<Evidence, Cause>,
        others: &[(&str, Result<Evidence, Cause>)],
    ) {
        let mut is_answered = false;
        while !is_answered {
            self.now = self.core.next_due().unwrap().max(self.now);
            for order in self.orders() {
                let name = &*order.target.backend.name;
                let other = others.iter().find(|(known, _)| *known == name);
                is_answered |= name == backend;
                let result = other.map_or(result, |(_, result)| result).clone();
                let duration = Duration::from_millis(1);
                let now = self.moment();
                let observation = Observation { result, duration };
                self.core.observe(order.id, order.number, observation, now);
            }
        }
        self.core.settle();
    }

    fn set_intents(&mut self, intents: &[Intent]) {
        let now = self.moment();
        for cluster in self.core.clusters.values_mut() {
            cluster.set_intents(intents.to_vec(), now);
        }
    }

    fn role(&self, backend: &str) -> Role {
        self.entry(backend).role
    }

    fn fate_of_writes(&self, backend: &str) -> Fate {
        self.entry(backend).handle.fate(WRITES)
    }
}

const FENCED: Fate = Fate::Sever {
    cause: Cause::BackendFenced,
};

/// Went wrong once: in maintenance the old primary went on taking its sessions' writes.
/// Only sessions that had asked for the primary were severed: any other could go on writing.
#[test]
fn nobody_stays_on_a_primary_that_is_astray() {
    let mut world = world(CheckKind::Postgres(login()));
    world.hear(&[("db1", postgres(1, true)), ("db2", postgres(1, false))]);
    assert_eq!(world.entry("db1").handle.fate(Intent::ANY), Fate::Serve);
    world.hear(&[("db1", postgres(1, true)), ("db2", postgres(2, true))]);
    world.core.settle();
    assert_eq!(world.entry("db1").role, Role::Fenced);
    let fate = world.entry("db1").handle.fate(Intent::ANY);
    let cause = Cause::BackendFenced;
    assert_eq!(fate, Fate::Sever { cause });
}

#[test]
fn sessions_of_a_primary_in_maintenance_are_fenced_once_another_is_primary() {
    let mut world = world(CheckKind::Postgres(login()));
    world.hear(&[("db1", postgres(1, true)), ("db2", postgres(1, false))]);
    world.core.settle();
    assert_eq!(world.role("db1"), Role::Primary);
    world.admin("db1", AdminState::Maintenance);
    assert!(matches!(world.fate_of_writes("db1"), Fate::Drain { .. }));
    world.hear(&[("db2", postgres(2, true))]);
    world.core.settle();
    assert_eq!(world.role("db2"), Role::Primary);
    assert_eq!(world.fate_of_writes("db1"), FENCED);
    let reads = world.entry("db1").handle.fate(Intent::ANY);
    assert!(matches!(reads, Fate::Drain { .. }), "{reads:?}");
}

/// Went wrong once: traffic had said that the old primary takes no writes, its next probe
/// hung, and until that failed its sessions wrote beside the new primary's.
#[test]
fn sessions_of_a_quarantined_primary_are_fenced_once_another_is_primary() {
    let mut world = world(CheckKind::Postgres(login()));
    world.hear(&[("db1", postgres(1, true)), ("db2", postgres(1, false))]);
    let id = world.entry("db1").handle.id;
    let now = world.moment();
    world.core.report(id, Cause::ReadOnly, now);
    world.core.settle();
    assert_eq!(
        world.fate_of_writes("db1"),
        Fate::Serve,
        "one client's word"
    );
    world.hear(&[("db2", postgres(2, true))]);
    world.core.settle();
    assert_eq!(world.role("db2"), Role::Primary);
    assert_eq!(world.fate_of_writes("db1"), FENCED);
}

/// Went wrong once: nothing was known of the one that was written to last, nobody else was
/// primary, and what its sessions wrote below the new timeline went on for ever.
#[test]
fn sessions_of_an_unheard_primary_are_fenced_once_a_higher_timeline_is_seen() {
    let mut pair = pair(CheckKind::Postgres(login()));
    pair.failover.on_dead = OnDead::Keep;
    let mut world = World::new(vec![pair]);
    world.hear(&[("db1", postgres(1, true)), ("db2", postgres(1, false))]);
    world.core.settle();
    world.admin("db1", AdminState::Maintenance);
    world.admin("db1", AdminState::Ready);
    let full = || Err(Cause::TooManyConnections);
    world.hear(&[("db1", full()), ("db2", postgres(1, false))]);
    world.core.settle();
    assert_eq!(world.role("db1"), Role::Unknown);
    assert_eq!(world.fate_of_writes("db1"), Fate::Serve, "nothing is new");
    world.hear(&[("db1", full()), ("db2", postgres(2, false))]);
    world.core.settle();
    assert_eq!(world.role("db1"), Role::Unknown);
    assert_eq!(world.fate_of_writes("db1"), FENCED);
    let promoted = [("db1", postgres(2, true)), ("db2", postgres(2, false))];
    world.hear_for(4 * SECOND, &promoted);
    world.core.settle();
    assert_eq!(world.role("db1"), Role::Primary);
    assert_eq!(world.fate_of_writes("db1"), Fate::Serve);
}

/// Went wrong once: an old primary that answers only that it is full was taken for alive, and went
/// on with all sessions of listeners that ask for no role.
#[test]
fn a_full_backend_keeps_its_sessions_unless_it_was_replaced() {
    let mut world = world(CheckKind::Postgres(login()));
    world.hear(&[("db1", postgres(1, true)), ("db2", postgres(1, false))]);
    world.admin("db1", AdminState::Maintenance);
    world.admin("db1", AdminState::Ready);
    let full = || Err(Cause::TooManyConnections);
    world.hear(&[("db1", full()), ("db2", postgres(1, false))]);
    world.core.settle();
    let fate = |world: &World| world.entry("db1").handle.fate(Intent::ANY);
    assert_eq!(world.entry("db1").health, Health::Down);
    assert_eq!(fate(&world), Fate::Serve);
    world.hear(&[("db1", full()), ("db2", postgres(2, true))]);
    world.core.settle();
    assert_eq!(world.role("db2"), Role::Primary);
    let cause = Cause::BackendDead;
    assert_eq!(fate(&world), Fate::Sever { cause });
    assert!(matches!(world.fate_of_writes("db1"), Fate::Sever { .. }));
    // The new primary is lost, too: that brings nobody back.
    world.hear(&[("db1", full()), ("db2", Err(Cause::ConnectRefused))]);
    world.core.settle();
    assert_eq!(fate(&world), Fate::Sever { cause });
    assert!(matches!(world.fate_of_writes("db1"), Fate::Sever { .. }));
}

/// Went wrong once: one check that took too long, and all its sessions were severed.
#[test]
fn a_full_backend_keeps_its_sessions_over_a_missed_check() {
    let mut world = world(CheckKind::Postgres(login()));
    world.hear(&[("db1", postgres(1, true)), ("db2", postgres(1, false))]);
    world.admin("db1", AdminState::Maintenance);
    world.admin("db1", AdminState::Ready);
    assert_eq!(world.entry("db1").health, Health::Unknown);
    let dead = Fate::Sever {
        cause: Cause::BackendDead,
    };
    use Cause::CheckTimeout as Missed;
    use Cause::TooManyConnections as Full;
    for (answer, expected) in [
        (Full, Fate::Serve),
        (Missed, Fate::Serve),
        (Missed, Fate::Serve),
        (Full, Fate::Serve),
        (Missed, Fate::Serve),
        (Missed, Fate::Serve),
        (Missed, dead),
        // It is heard again, and who has connected meanwhile by itself stays.
        (Full, Fate::Serve),
    ] {
        world.now += 2 * SECOND;
        world.answers_next("db1", &Err(answer), &[("db2", postgres(1, false))]);
        assert_eq!(world.entry("db1").health, Health::Down);
        let fate = world.entry("db1").handle.fate(Intent::ANY);
        assert_eq!(fate, expected, "{answer}");
        assert_eq!(world.fate_of_writes("db1"), expected, "{answer}");
    }
}

/// One that was full and is dead now is dead.
#[test]
fn a_full_backend_that_dies_loses_its_sessions() {
    let mut world = world(CheckKind::Postgres(login()));
    world.hear(&[("db1", postgres(1, true)), ("db2", postgres(1, false))]);
    world.admin("db1", AdminState::Maintenance);
    world.admin("db1", AdminState::Ready);
    for (answer, expected) in [
        (Cause::TooManyConnections, Fate::Serve),
        (
            Cause::ConnectRefused,
            Fate::Sever {
                cause: Cause::BackendDead,
            },
        ),
    ] {
        world.hear_for(
            4 * SECOND,
            &[("db1", Err(answer)), ("db2", postgres(1, false))],
        );
        world.core.settle();
        assert_eq!(world.entry("db1").handle.fate(Intent::ANY), expected);
    }
}

/// Went wrong once: nobody's role changed, so that nothing was published and nothing saved.
#[test]
fn a_higher_timeline_is_to_be_saved_although_no_role_changes() {
    let mut world = world(CheckKind::Postgres(login()));
    world.hear(&[
        ("db1", Err(Cause::ConnectRefused)),
        ("db2", postgres(1, false)),
    ]);
    world.core.take_unsaved();
    world.core.settle();
    world.hear(&[("db2", postgres(2, false))]);
    assert_eq!(world.role("db2"), Role::Replica);
    assert!(world.core.has_changed(), "only publishing saves");
    assert_eq!(world.core.take_unsaved().len(), 1);
}

/// Went wrong once: it tells no position, and was over every limit of lag itself.
#[test]
fn a_mysql_primary_is_not_behind_itself() {
    let reads = Intent {
        role: WantedRole::Replica,
        max_lag: Some(MaxLag::Time(SECOND)),
        fallback: Fallback::Primary,
    };
    let mut world = world(CheckKind::MySql(login()));
    world.set_intents(&[reads]);
    for _ in 0..2 {
        world.hear(&[("db1", mysql(true)), ("db2", mysql(false))]);
    }
    assert_eq!(world.role("db1"), Role::Primary);
    assert!(world.entry("db1").over.is_empty());
    assert_eq!(world.entry("db1").handle.lag().time(), Some(Duration::ZERO));
}

fn reads(fallback: Fallback) -> Intent {
    Intent {
        role: WantedRole::Replica,
        max_lag: None,
        fallback,
    }
}

/// Went wrong once: the primary was up, so that the only replica had to wait as if there were
/// others, and its readers were refused meanwhile.
#[test]
fn to_readers_a_replica_that_flaps_is_better_than_none() {
    for (fallback, role) in [
        (Fallback::Nobody, Role::Replica),
        (Fallback::Primary, Role::Unknown),
    ] {
        let mut world = world(CheckKind::Postgres(login()));
        world.set_intents(&[WRITES, reads(fallback)]);
        let up = [("db1", postgres(1, true)), ("db2", postgres(1, false))];
        let refused = Err(Cause::ConnectRefused);
        let down = [("db1", postgres(1, true)), ("db2", refused)];
        for _ in 0..4 {
            world.hear_for(SECOND * 3, &up);
            world.hear_for(SECOND * 3, &down);
        }
        world.hear_for(SECOND * 3, &up);
        assert_eq!(world.role("db2"), role, "{fallback:?}");
    }
}

#[test]
fn the_only_replica_is_found_soon_when_it_is_back() {
    let mut world = world(CheckKind::Postgres(login()));
    world.set_intents(&[WRITES, reads(Fallback::Nobody)]);
    let up = [("db1", postgres(1, true)), ("db2", postgres(1, false))];
    let refused = Err(Cause::ConnectRefused);
    let down = [("db1", postgres(1, true)), ("db2", refused)];
    world.hear_for(SECOND * 3, &up);
    world.hear_for(SECOND * 2, &down);
    assert_eq!(world.role("db2"), Role::Unknown);
    world.hear_for(SECOND * 2 / 5, &up);
    assert_eq!(world.role("db2"), Role::Replica);

    world.hear_for(SECOND * 100, &down);
    let probes = world.hear_for(SECOND * 60, &down);
    assert!((100..=140).contains(&probes), "{probes} probes in a minute");
}

#[test]
fn an_established_primary_is_asked_at_once_when_another_claims() {
    let mut world = world(CheckKind::Postgres(login()));
    world.hear(&[("db1", postgres(1, true)), ("db2", postgres(1, false))]);
    world.hear(&[("db1", postgres(1, true)), ("db2", postgres(2, true))]);
    let started = world.core.clusters().flat_map(|it| &it.backends);
    let started = started.filter_map(|it| it.last_started).min().unwrap();
    // It is asked again and again while it insists, long before the next interval.
    assert!(
        world.now - started < SECOND / 2,
        "{:?}",
        world.now - started
    );
}

#[test]
fn an_answer_from_before_maintenance_says_nothing_afterwards() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    world.run(SECOND, up);
    world.now += SECOND * 2;
    let orders = world.orders();
    let order = orders
        .iter()
        .find(|it| *it.target.backend.name == *"db1")
        .unwrap();
    world.admin("db1", AdminState::Maintenance);
    world.admin("db1", AdminState::Ready);
    world.answer(order, Ok(()));
    assert_eq!(world.health("db1"), Health::Unknown);
}

#[test]
fn the_answer_to_a_question_that_was_changed_since_is_ignored() {
    let mut world = World::new(vec![cluster("a", &["db1"])]);
    let orders = world.orders();
    assert_eq!(orders.len(), 1);
    let mut changed = cluster("a", &["db1"]);
    changed.health_check.fall = nz(9);
    world.apply(vec![changed]);
    assert_eq!(world.orders().len(), 1, "the new one is under way");
    world.answer(&orders[0], Ok(()));
    assert_eq!(world.health("db1"), Health::Unknown);
}

#[test]
fn the_others_are_asked_at_once_when_the_last_one_up_is_lost() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    world.run(SECOND * 5, refuses("db2"));
    let id = world.entry("db1").handle.id;
    while world.health("db1") == Health::Up {
        let now = world.moment();
        world.core.report(id, Cause::ConnectRefused, now);
        world.now += Duration::from_millis(60);
        world.probe(|_| Err(Cause::ConnectRefused));
    }
    world.now += Duration::from_millis(60);
    let asked = world.orders();
    assert!(asked.iter().any(|it| *it.target.backend.name == *"db2"));
}

/// Whoever is let go looks at the table, at that moment.
struct Looks {
    table: SharedTable,
    eligible: Mutex<Option<usize>>,
}

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        let eligible = self.table.load().clusters["a"].eligible();
        *self.eligible.lock().unwrap() = Some(eligible);
    }
}

#[test]
fn who_is_held_is_let_go_into_a_table_that_has_somebody() {
    let mut world = World::new(vec![cluster("a", &["db1"])]);
    let looks = Arc::new(Looks {
        table: SharedTable::default(),
        eligible: Mutex::new(None),
    });
    let mut publisher = Publisher::new(looks.table.clone());
    publisher.publish(&mut world.core);
    let hold = looks.table.load().clusters["a"].handle.hold(Intent::ANY);
    let Admission::Waiting(mut ticket) = hold.enter(1) else {
        panic!("the room is empty");
    };
    let turn = pin!(ticket.turn());
    let waker = Waker::from(Arc::clone(&looks));
    assert!(turn.poll(&mut Context::from_waker(&waker)).is_pending());
    world.probe(up);
    publisher.publish(&mut world.core);
    assert_eq!(*looks.eligible.lock().unwrap(), Some(1));
}
