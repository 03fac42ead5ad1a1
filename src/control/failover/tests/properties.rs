//! Whatever backends say, in whatever order: what never happens.

use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::control::evidence::MySqlDialect;
use crate::control::evidence::MySqlEvidence;
use crate::control::evidence::RedisEvidence;
use crate::control::evidence::ToldEvidence;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone)]
enum Step {
    Sees(usize, Evidence),
    /// Answered out of the past.
    SeesLate(usize, Evidence),
    Fails(usize, Health, Cause),
    Quarantined(usize),
    Told(Option<Authority>),
    Restarts,
}

fn any_postgres() -> impl Strategy<Value = Evidence> {
    let parts = (any::<bool>(), any::<bool>(), 7..9_u64, 1..5_u32, 0..3_u64);
    parts.prop_map(
        |(is_in_recovery, is_writable, system_identifier, timeline, lsn)| {
            Evidence::Postgres(PostgresEvidence {
                is_in_recovery,
                is_writable,
                system_identifier,
                received_lsn: lsn,
                ..postgres(timeline, is_in_recovery)
            })
        },
    )
}

fn any_mysql() -> impl Strategy<Value = Evidence> {
    let a = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    let b = "4e11fa47-71ca-11e1-9e33-c80aa9429562";
    let sets = vec![
        String::new(),
        format!("{a}:1-5"),
        format!("{a}:1-6"),
        format!("{a}:1-5,{b}:1"),
        format!("{a}:1-7,{b}:1-2"),
        "0-1-5".to_owned(),
        "0-2-6".to_owned(),
        "garbage".to_owned(),
    ];
    let dialects = [MySqlDialect::MySql, MySqlDialect::MariaDb];
    let parts = (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        prop::sample::select(sets),
        prop::sample::select(dialects.to_vec()),
    );
    parts.prop_map(|(is_read_only, is_replica, is_linked, gtid_set, dialect)| {
        Evidence::MySql(MySqlEvidence {
            is_read_only,
            is_replica,
            gtid_set,
            dialect,
            lag: is_linked.then_some(Duration::ZERO),
            connections_used: 0,
            connections_allowed: 1,
        })
    })
}

fn any_redis() -> impl Strategy<Value = Evidence> {
    let parts = (any::<bool>(), any::<bool>(), 0..4_u8, option::of(0..4_u8));
    parts.prop_map(|(is_primary, is_linked, id, previous)| {
        Evidence::Redis(RedisEvidence {
            is_primary,
            is_linked,
            replication_id: id.to_string(),
            previous_id: previous.map(|id| id.to_string()),
            offset: 1,
            connections_used: 0,
            connections_allowed: 1,
        })
    })
}

fn any_told() -> impl Strategy<Value = Evidence> {
    (any::<bool>(), option::of(1..4_u32)).prop_map(|(is_primary, timeline)| {
        Evidence::Told(ToldEvidence {
            is_primary,
            timeline,
        })
    })
}

fn any_authority() -> impl Strategy<Value = Option<Authority>> {
    let leader = (0..NAMES.len(), option::of(1..5_u32)).prop_map(|(node, timeline)| {
        Some(Authority::Leader {
            host: format!("{}.test", NAMES[node]),
            port: 5432,
            timeline,
        })
    });
    prop_oneof![
        3 => Just(None),
        1 => Just(Some(Authority::NoLeader)),
        2 => leader,
    ]
}

fn any_step(evidence: BoxedStrategy<Evidence>) -> impl Strategy<Value = Step> {
    let node = 0..NAMES.len();
    let causes = [
        Cause::CheckTimeout,
        Cause::ConnectRefused,
        Cause::ShuttingDown,
    ];
    let causes = prop::sample::select(causes.to_vec());
    let healths = [Health::Up, Health::Down];
    let healths = prop::sample::select(healths.to_vec());
    prop_oneof![
        8 => (node.clone(), evidence.clone()).prop_map(|(n, e)| Step::Sees(n, e)),
        2 => (node.clone(), evidence).prop_map(|(n, e)| Step::SeesLate(n, e)),
        3 => (node.clone(), healths, causes).prop_map(|(n, h, c)| Step::Fails(n, h, c)),
        1 => node.prop_map(Step::Quarantined),
        2 => any_authority().prop_map(Step::Told),
        1 => Just(Step::Restarts),
    ]
}

fn any_story() -> impl Strategy<Value = Vec<Step>> {
    let mixed = prop_oneof![
        Just(Evidence::Silent),
        any_postgres(),
        any_mysql(),
        any_redis(),
        any_told()
    ];
    let families = [
        any_postgres().boxed(),
        any_mysql().boxed(),
        any_redis().boxed(),
        any_told().boxed(),
        mixed.boxed(),
    ];
    (0..families.len()).prop_flat_map(move |family| vec(any_step(families[family].clone()), 1..40))
}

fn take(scene: &mut Scene, step: Step) {
    match step {
        Step::Sees(node, evidence) => {
            scene.sees(NAMES[node], evidence);
        }
        Step::SeesLate(node, evidence) => {
            let probe = scene.node(NAMES[node]).observed + 1;
            scene.probes = scene.probes.max(probe);
            scene.answers(NAMES[node], probe, evidence);
        }
        Step::Fails(node, health, cause) => {
            let is_known = scene.node(NAMES[node]).health != Health::Unknown;
            let health = if is_known { health } else { Health::Down };
            scene.fails(NAMES[node], health, cause);
        }
        Step::Quarantined(node) => {
            scene.node(NAMES[node]).quarantine = Some(Cause::ReadOnly);
            scene.decide();
        }
        Step::Told(authority) => {
            scene.is_told(authority);
        }
        Step::Restarts => {
            scene.restarts();
        }
    }
}

proptest! {
    /// Each decision is checked by the scene: one primary at most, it claims to be one, it is
    /// not below the highest timeline, and the same facts make the same decision.
    #[test]
    fn no_story_breaks_the_fence(story in any_story()) {
        let mut scene = Scene::new(&NAMES);
        for step in story {
            let before = scene.failover.memory().clone();
            take(&mut scene, step);
            let after = scene.failover.memory();
            if let Some(pinned) = before.postgres.system_identifier {
                prop_assert_eq!(after.postgres.system_identifier, Some(pinned));
                let highest = |memory: &Memory| memory.postgres.timelines.get(&pinned).copied();
                prop_assert!(highest(after) >= highest(&before));
            }
            prop_assert!(after.told.highest_timeline >= before.told.highest_timeline);
            prop_assert!(after.established.is_some() || before.established.is_none());
        }
    }

    #[test]
    fn the_order_of_the_backends_does_not_matter(story in any_story()) {
        let mut scene = Scene::new(&NAMES);
        let mut turned = Scene::new(&NAMES);
        turned.nodes.reverse();
        turned.decide();
        for step in story {
            take(&mut scene, step.clone());
            take(&mut turned, step);
            for name in NAMES {
                prop_assert_eq!(scene.role(name), turned.role(name), "{}", name);
            }
        }
    }
}
