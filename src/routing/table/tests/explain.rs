//! What is explained is what is done.

use super::*;
use crate::cluster::WantedRole;
use crate::routing::Exclusion;
use crate::routing::Standing;

fn standings(table: &ClusterTable, tried: &[BackendId]) -> Vec<Standing> {
    table.explain(&request(tried)).standings
}

#[test]
fn everybody_s_standing_is_told() {
    let zoned =
        |number, zone: &'static str| with(number, |entry| entry.config.zone = Some(zone.into()));
    let spare = with(4, |entry| entry.config.tier = 1);
    let down = with(5, |entry| entry.health = Health::Down);
    let weightless = with(6, |entry| entry.config.weight = 0);
    let mut full = zoned(7, "a");
    full.config.max_connections = NonZeroU32::new(1);
    let _place = full.handle.acquire(None).unwrap();
    let backends = vec![
        zoned(1, "a"),
        zoned(2, "a"),
        zoned(3, "b"),
        spare,
        down,
        weightless,
        full,
    ];
    let policy = config(Policy::LeastConnections);
    let table = table_of(policy, backends, Some("a"));
    let expected = [
        Standing::Picked,
        Standing::Picked,
        Standing::OtherZone,
        Standing::Spare,
        Standing::Excluded(Exclusion::Health(Health::Down, Cause::CheckPassed)),
        Standing::Excluded(Exclusion::Weightless),
        Standing::Full,
    ];
    assert_eq!(standings(&table, &[]), expected);
    let _one = table.backends[0].handle.acquire(None).unwrap();
    assert_eq!(
        standings(&table, &[])[..2],
        [Standing::Eligible, Standing::Picked]
    );
    let tried = [BackendId(2)];
    assert_eq!(
        standings(&table, &tried)[..2],
        [Standing::Picked, Standing::Tried]
    );
}

#[test]
fn one_that_is_ejected_is_told_of_unless_it_has_to_serve() {
    let ejection = ejected(1).ejected.unwrap();
    let out = with(1, |entry| entry.ejected = Some(ejection));
    let both = table(vec![out.clone(), backend(2)]);
    let excluded = Standing::Excluded(Exclusion::Ejected(ejection));
    assert_eq!(standings(&both, &[]), [excluded, Standing::Picked]);
    let alone = table(vec![out]);
    assert_eq!(standings(&alone, &[]), [Standing::Picked]);
}

#[test]
fn the_fallback_is_a_spare_until_it_is_needed() {
    let role = |number, role| with(number, |entry| entry.role = role);
    let intent = Intent {
        role: WantedRole::Replica,
        max_lag: None,
        fallback: crate::config::Fallback::Primary,
    };
    let asked = PickRequest {
        intent,
        ..request(&[])
    };
    let both = table(vec![role(1, Role::Primary), role(2, Role::Replica)]);
    let told = both.explain(&asked);
    assert_eq!(told.standings, [Standing::Spare, Standing::Picked]);
    let alone = table(vec![role(1, Role::Primary)]);
    assert_eq!(alone.explain(&asked).standings, [Standing::Picked]);
}

#[test]
fn nobody_to_pick_is_told_as_the_pick_tells_it() {
    let down = table(vec![with(1, |entry| entry.health = Health::Down)]);
    let told = down.explain(&request(&[]));
    assert_eq!(told.picks, Err(PickError::NoneEligible));
    let full = table(vec![limited(1, 1)]);
    let _place = place(&full, &[], 1).unwrap();
    assert_eq!(full.explain(&request(&[])).picks, Err(PickError::AllFull));
    let tried = [BackendId(1)];
    let told = full.explain(&request(&tried));
    assert_eq!(told.picks, Err(PickError::AllTried));
    assert_eq!(told.standings, [Standing::Tried]);
}

#[test]
fn asking_takes_no_place_and_nobody_s_turn() {
    for policy in [Policy::RoundRobin, Policy::LeastConnections] {
        let backends = vec![backend(1), backend(2), backend(3)];
        let table = table_of(config(policy), backends, None);
        let mut random = fastrand::Rng::with_seed(1);
        let mut guards = Vec::new();
        for _ in 0..9 {
            let told = table.explain(&request(&[])).picks.unwrap();
            assert_eq!(told, table.explain(&request(&[])).picks.unwrap());
            let (entry, guard) = table.pick(&request(&[]), &mut random).unwrap();
            let names: Vec<_> = told
                .iter()
                .map(|it| &table.backends[*it].handle.name)
                .collect();
            assert!(names.contains(&&entry.handle.name), "{names:?}");
            guards.push(guard);
        }
        let active: u32 = table.backends.iter().map(|it| it.handle.active()).sum();
        assert_eq!(active, 9);
    }
}

#[test]
fn the_hash_is_told_with_what_was_hashed() {
    let hash = HashConfig {
        algorithm: HashAlgorithm::Maglev,
        bounded_load: None,
    };
    let mut settings = config(Policy::ConsistentHash(hash));
    settings.balance.key = HashKey::User;
    let table = table_of(settings, (1..20).map(backend).collect(), None);
    let told = table.explain(&request(&[]));
    let key = told.key.unwrap();
    assert_eq!(
        (key.source, &*key.value),
        ("client_ip", "192.0.2.1"),
        "for want of a user"
    );
    let mut asked = request(&[]);
    asked.source.login.user = Some("app");
    let told = table.explain(&asked);
    let key = told.key.unwrap();
    assert_eq!((key.source, &*key.value), ("user", "app"));
    let picked = told.picks.unwrap();
    assert_eq!(picked.len(), 1, "chance has no part in it");
    let (entry, _guard) = table
        .pick(&asked, &mut fastrand::Rng::with_seed(3))
        .unwrap();
    let picked = &table.backends[*picked.first().unwrap()];
    assert_eq!(picked.handle.id, entry.handle.id);
}
