//! Consistent hashing as the sessions of a cluster see it.

use super::*;

fn hashed(algorithm: HashAlgorithm, bounded_load: Option<f64>) -> ClusterConfig {
    config(Policy::ConsistentHash(HashConfig {
        algorithm,
        bounded_load,
    }))
}

/// Went wrong once: each worker counted for itself, and all of them took the last place.
#[test]
fn workers_that_race_for_one_backend_keep_within_its_bounded_load() {
    const BACKENDS: u16 = 100;
    let config = hashed(HashAlgorithm::Maglev, Some(1.0));
    let table = table_of(config, (1..=BACKENDS).map(backend).collect(), None);
    let work = |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let place = || {
            let placed = table.pick(&request(&[]), &mut random);
            let (picked, guard) = placed.expect("nobody has a limit of its own");
            // Counted before the sum, and no session ends: it may only look too few.
            let held = picked.handle.active();
            let sessions: u32 = table.backends.iter().map(|it| it.handle.active()).sum();
            let bound = sessions.div_ceil(BACKENDS.into());
            assert!(held <= bound, "{held} of {sessions}");
            guard
        };
        std::iter::repeat_with(place).take(1000).collect()
    };
    let guards: Vec<Vec<ConnectionGuard>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|seed| scope.spawn(move || work(seed))).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker does not panic"))
            .collect()
    });
    assert_eq!(guards.iter().map(Vec::len).sum::<usize>(), 4000);
}

/// With one backend fewer in the file, the tables of these were of another size.
#[test]
fn a_backend_that_goes_down_at_a_step_moves_few_keys_and_its_return_restores_them() {
    const KEYS: u32 = 5000;
    for (algorithm, count) in [(HashAlgorithm::Ring, 257), (HashAlgorithm::Maglev, 656)] {
        let homes = |down: Option<u16>| -> Vec<u64> {
            let backends = (0..count).map(|number| match down {
                Some(down) if down == number => with(number, |entry| entry.health = Health::Down),
                _ => backend(number),
            });
            let table = table_of(hashed(algorithm, None), backends.collect(), None);
            let mut random = fastrand::Rng::with_seed(1);
            let home = |client: u32| {
                let mut request = request(&[]);
                request.source.client = SocketAddr::from((client.to_be_bytes(), 1));
                let (picked, _) = table.pick(&request, &mut random).expect("nobody is full");
                picked.handle.id.0
            };
            (0..KEYS).map(home).collect()
        };
        let before = homes(None);
        let meanwhile = homes(Some(count / 2));
        let moved = before
            .iter()
            .zip(&meanwhile)
            .filter(|(one, two)| one != two);
        let moved = moved.count() as u32;
        let bound = KEYS / u32::from(count) + KEYS / 50;
        assert!((1..=bound).contains(&moved), "{algorithm:?}: {moved}");
        assert!(homes(None) == before, "{algorithm:?}");
    }
}
