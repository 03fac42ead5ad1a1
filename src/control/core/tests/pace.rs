//! How often who is asked.

use super::*;

#[test]
fn probes_come_at_their_interval_and_up_to_a_tenth_sooner_or_later() {
    let mut world = World::new(vec![cluster("a", &["db1"])]);
    expect_pauses_around(SECOND, &mut world, up);
    // Nobody is eligible.
    world.run(SECOND * 5, refuses("db1"));
    expect_pauses_around(Duration::from_millis(50), &mut world, refuses("db1"));
}

/// A thousand pauses that use the whole range and do not leave it.
fn expect_pauses_around(
    expected: Duration,
    world: &mut World,
    result: impl Fn(&str) -> Result<(), Cause>,
) {
    let mut probe = || {
        world.now = world.core.next_due().unwrap().max(world.now);
        assert_eq!(world.probe(&result), 1);
        world.settle();
        world.now
    };
    let mut last = probe();
    let (mut shortest, mut longest) = (f64::MAX, 0.0_f64);
    for _ in 0..1000 {
        let now = probe();
        let pause = (now - last).div_duration_f64(expected);
        (shortest, longest) = (shortest.min(pause), longest.max(pause));
        last = now;
    }
    // A due time is a whole number of nanoseconds.
    assert!(
        (0.899_999..0.92).contains(&shortest),
        "{shortest} of {expected:?}"
    );
    assert!(
        (1.08..1.100_001).contains(&longest),
        "{longest} of {expected:?}"
    );
}

#[test]
fn reports_that_probes_refute_cost_at_most_one_probe_per_fast_interval() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    world.run(SECOND, up);
    let id = world.entry("db1").handle.id;
    let mut probes = 0;
    for _ in 0..1000 {
        world.now += Duration::from_millis(1);
        let now = world.moment();
        world.core.report(id, Cause::Reset, now);
        probes += world.probe(up);
    }
    assert!((10..=26).contains(&probes), "{probes} probes in a second");
    assert_eq!(world.health("db1"), Health::Up);
}

#[test]
fn without_an_eligible_backend_the_cluster_is_probed_fast() {
    let mut world = World::new(vec![cluster("a", &["db1"])]);
    let calm = world.run(SECOND * 10, up);
    assert!((9..=13).contains(&calm), "{calm} probes in 10 s");
    world.run(SECOND * 2, refuses("db1"));
    let hurried = world.run(SECOND, refuses("db1"));
    assert!((17..=24).contains(&hurried), "{hurried} probes in 1 s");
}

/// Went wrong once: a recovery of an hour left 20 lines a second in the database's log.
#[test]
fn a_backend_that_is_not_ready_is_asked_less_and_less_often() {
    for cause in [
        Cause::StartingUp,
        Cause::ShuttingDown,
        Cause::TooManyConnections,
    ] {
        let mut world = World::new(vec![cluster("a", &["db1"])]);
        let probes = world.run(SECOND * 60, |_| Err(cause));
        assert!((60..=130).contains(&probes), "{probes} probes in a minute");
        let id = world.entry("db1").handle.id;
        let mut probes = 0;
        for _ in 0..3000 {
            world.now += Duration::from_millis(1);
            let now = world.moment();
            world.core.report(id, cause, now);
            probes += world.probe(|_| Err(cause));
        }
        assert!((2..=4).contains(&probes), "{probes}, whatever sessions say");
    }
}

#[test]
fn a_backend_that_is_soon_ready_is_found_soon() {
    for millis in [100, 1000, 5000] {
        let mut world = World::new(vec![cluster("a", &["db1"])]);
        world.apply(vec![{
            let mut cluster = cluster("a", &["db1"]);
            cluster.health_check.rise = nz(1);
            cluster
        }]);
        let took = Duration::from_millis(millis);
        world.run(took, |_| Err(Cause::StartingUp));
        assert_eq!(world.health("db1"), Health::Down);
        let found = Duration::from_millis(60).max(took / 8);
        world.run(found, up);
        assert_eq!(world.health("db1"), Health::Up, "after {took:?}");
    }
}
