//! A seeded random world: every event in every order.

use super::*;
use crate::cluster::takes_new_sessions;
use crate::control::happening::What;

/// Whatever happens in whatever order: the invariants hold after every event,
/// and when the world calms down the core knows it as it is.
#[test]
fn a_random_world_is_never_misjudged_for_good() {
    for seed in 0..40 {
        simulate(seed);
    }
}

const SIMULATED: [&str; 6] = ["db1", "db.x", "db2", "db3", "db4", "db5"];

fn simulate(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::new(vec![cluster("a", &SIMULATED)]);
    let mut truth: HashMap<Name, Result<(), Cause>> = HashMap::new();
    let mut flying: Vec<Order> = Vec::new();
    let mut told: HashMap<Name, Health> = HashMap::new();
    for _ in 0..2000 {
        world.now += Duration::from_millis(random.u64(0..200));
        flying.extend(world.orders());
        befall(&mut world, &mut truth, &mut flying, &mut random);
        world.settle();
        check_invariants(&world, seed);
        check_happenings(&mut world, &mut told, seed);
    }
    calm_down(&mut world, &flying);
    let real = |name: &str| match truth.get(name) {
        Some(Err(Cause::OutOfResources)) | None => Ok(()),
        Some(result) => *result,
    };
    world.run(SECOND * 120, real);
    for name in SIMULATED {
        let expected = match real(name) {
            Ok(()) => Health::Up,
            Err(_) => Health::Down,
        };
        assert_eq!(world.health(name), expected, "{name}, seed {seed}");
    }
    check_invariants(&world, seed);
}

/// One event of the random world.
fn befall(
    world: &mut World,
    truth: &mut HashMap<Name, Result<(), Cause>>,
    flying: &mut Vec<Order>,
    random: &mut fastrand::Rng,
) {
    let outcomes = [
        Ok(()),
        Ok(()),
        Err(Cause::ConnectRefused),
        Err(Cause::CheckTimeout),
        Err(Cause::OutOfResources),
    ];
    let name = SIMULATED[random.usize(..SIMULATED.len())];
    match random.u32(0..40) {
        0 => {
            truth.insert(Name::from(name), outcomes[random.usize(..outcomes.len())]);
        }
        1 => {
            let state = AdminState::ALL[random.usize(..3)];
            let now = world.moment();
            // The backend may be removed at the moment.
            let _ = world.core.set_admin_state("a", name, state, now);
        }
        2 => {
            let kept = random.usize(1..=SIMULATED.len());
            let mut reloaded = cluster("a", &SIMULATED[..kept]);
            reloaded.health_check.fall = nz(random.u32(1..4));
            world.apply(vec![reloaded]);
        }
        3 => world.resolve("db.x", random.u8(100..103)),
        4..11 => {
            let id = BackendId(random.u64(1..10));
            let causes = [Cause::ConnectRefused, Cause::EarlyClose, Cause::Reset];
            let cause = causes[random.usize(..causes.len())];
            let now = world.moment();
            world.core.report(id, cause, now);
        }
        _ if !flying.is_empty() => {
            let order = flying.swap_remove(random.usize(..flying.len()));
            let result = truth.get(&order.target.backend.name);
            world.answer(&order, result.copied().unwrap_or(Ok(())));
        }
        _ => {}
    }
}

/// Everything is configured, ready and has an address, and no probe is under way.
fn calm_down(world: &mut World, flying: &[Order]) {
    world.apply(vec![cluster("a", &SIMULATED)]);
    world.resolve("db.x", 100);
    for order in flying {
        world.answer(order, Ok(()));
    }
    for name in SIMULATED {
        world.admin(name, AdminState::Ready);
    }
}

/// Who only hears what happens knows the health of everybody.
fn check_happenings(world: &mut World, told: &mut HashMap<Name, Health>, seed: u64) {
    for happening in world.happened.drain(..) {
        let Some(name) = happening.backend else {
            continue;
        };
        if let What::Health { from, to, .. } = happening.what {
            let was = told.insert(Name::clone(&name), to);
            assert_eq!(was.unwrap_or(Health::Unknown), from, "seed {seed}: {name}");
            let passed = happening.cause == Cause::CheckPassed;
            assert_eq!(passed, to == Health::Up, "seed {seed}: {name} {to:?}");
        }
    }
    let entries = world.core.clusters().flat_map(ClusterState::entries);
    let entries: Vec<_> = entries.collect();
    told.retain(|name, _| entries.iter().any(|entry| entry.config.name == *name));
    for entry in entries {
        let told = told.get(&entry.config.name).copied();
        let told = told.unwrap_or(Health::Unknown);
        assert_eq!(told, entry.health, "seed {seed}: {entry:?}");
    }
}

fn check_invariants(world: &World, seed: u64) {
    let entries: Vec<_> = world
        .core
        .clusters()
        .flat_map(ClusterState::entries)
        .collect();
    assert!(!entries.is_empty());
    for entry in entries {
        let severed = matches!(entry.handle.fate(Intent::ANY), Fate::Sever { .. });
        let dead = entry.health == Health::Down;
        assert_eq!(severed, dead, "seed {seed}: {entry:?}");
        assert!(!(dead && takes_new_sessions(entry.health, entry.admin)));
        assert_eq!(
            entry.health == Health::Up,
            entry.cause == Cause::CheckPassed,
            "seed {seed}: {entry:?}"
        );
        let judged = entry.health != Health::Unknown;
        assert!(!(judged && entry.cause == Cause::Started));
    }
}
