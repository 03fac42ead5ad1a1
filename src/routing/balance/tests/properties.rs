//! What holds for every balancer, whatever its members and their state are.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn weights() -> impl Strategy<Value = Vec<u32>> {
    let weight = prop_oneof![Just(1), Just(100), Just(10_000), 1..=10_000_u32];
    prop_oneof![
        prop::collection::vec(weight, 1..=200),
        prop::collection::vec(Just(100), 1..=40),
        prop::collection::vec(1..=5_u32, 1..=8),
    ]
}

/// Maglev fills 65,537 entries for each case: enough cases to find a wrong rule. Fewer when
/// `PROPTEST_CASES` asks for few.
fn few_cases() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig {
        cases: (usual.cases / 12).clamp(1, 12),
        failure_persistence: None,
        ..usual
    }
}

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn a_pick_is_open_and_found_whenever_one_is(
        weights in weights(),
        seed in any::<u64>(),
        closed_share in prop_oneof![Just(0.0), Just(0.5), Just(0.99), Just(1.0)],
    ) {
        for policy in all_policies() {
            let mut cluster = Cluster::new(policy, &weights);
            let mut random = fastrand::Rng::with_seed(seed);
            for member in 0..weights.len() {
                cluster.view.open[member] = random.f64() >= closed_share;
                cluster.view.active[member] = random.u32(..20);
                cluster.view.warmth[member] = if random.bool() { 1.0 } else { random.f64() };
                cluster.view.latency[member] = Duration::from_micros(random.u64(..3000) / 1000 * 1000);
            }
            let any_open = cluster.view.open.contains(&true);
            for _ in 0..20 {
                match cluster.pick(random.u64(..)) {
                    Some(member) => prop_assert!(cluster.view.open[member], "{policy:?}"),
                    None => prop_assert!(!any_open, "{policy:?}"),
                }
            }
        }
    }

    #[test]
    fn the_order_of_the_file_does_not_change_where_keys_go(
        weights in weights(),
        seed in any::<u64>(),
    ) {
        for algorithm in ALGORITHMS {
            let mut shuffled = members(&weights);
            fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
            let mut one = Cluster::new(hashed(algorithm, None), &weights);
            let mut two = Cluster::of(balancer(hashed(algorithm, None), shuffled));
            for key in keys(200) {
                prop_assert_eq!(one.name(key), two.name(key));
            }
        }
    }

    #[test]
    fn removing_a_member_moves_few_keys_and_its_return_restores_them(
        weights in prop_oneof![
            (2..=60_usize).prop_map(|count| vec![100; count]),
            weights().prop_filter("one must remain", |weights| weights.len() > 1),
        ],
        removed in any::<prop::sample::Index>(),
    ) {
        let removed = removed.index(weights.len());
        for algorithm in ALGORITHMS {
            let moved = Moved::by_removal(algorithm, &weights, removed);
            if algorithm != HashAlgorithm::Maglev {
                prop_assert_eq!(moved.others, 0.0, "only the keys of the removed may move");
            }
            prop_assert!(moved.others <= 0.02, "{:?} moved {} of the others", algorithm, moved.others);
            let total: u32 = weights.iter().sum();
            let bound = f64::from(weights[removed]) / f64::from(total) + 0.02;
            prop_assert!(moved.all() <= bound, "{:?} moved {:?} of {}", algorithm, moved, bound);
        }
    }

    /// A key goes to whose nearest point is nearest, measured in weights.
    #[test]
    fn a_ring_gives_each_key_to_the_nearest(weights in prop::collection::vec(1..=10_000_u32, 1..=6)) {
        let all = members(&weights);
        let places: Vec<Vec<_>> = all
            .iter()
            .map(|member| ring::places(member, all.len()).collect())
            .collect();
        let mut ring = Cluster::of(balancer(hashed(HashAlgorithm::Ring, None), all));
        for key in keys(50) {
            let distance = |member: &usize| {
                let away = places[*member].iter().map(|place| place.wrapping_sub(key));
                away.min().expect("everybody has points") as f64 / f64::from(weights[*member])
            };
            let nearest = (0..weights.len())
                .min_by(|one, two| distance(one).total_cmp(&distance(two)));
            prop_assert_eq!(ring.pick(key), nearest);
        }
    }

    #[test]
    fn no_member_exceeds_its_bounded_load(
        weights in weights(),
        factor in prop_oneof![Just(1.0), Just(1.25), Just(2.0)],
        // Few distinct keys: the worst case for hashing.
        distinct in 1..=50_u64,
    ) {
        for algorithm in ALGORITHMS {
            let mut cluster = Cluster::new(hashed(algorithm, Some(factor)), &weights);
            let total: u32 = weights.iter().sum();
            for sessions in 1..=300_u64 {
                let member = cluster.place(sessions % distinct).expect("all are open");
                let share = f64::from(weights[member]) / f64::from(total);
                let bound = (factor * sessions as f64 * share - 1e-9).ceil();
                prop_assert!(f64::from(cluster.view.active[member]) <= bound.max(1.0));
            }
        }
    }

    #[test]
    fn slow_start_moves_each_key_home_once_and_for_good(
        weights in weights().prop_filter("somebody must be warm", |weights| weights.len() > 1),
        warming in any::<prop::sample::Index>(),
    ) {
        for algorithm in ALGORITHMS {
            let mut cluster = Cluster::new(hashed(algorithm, None), &weights);
            let warming = warming.index(weights.len());
            for key in keys(40) {
                let mut came_home = false;
                for step in 0..=10 {
                    cluster.view.warmth[warming] = f64::from(step) / 10.0;
                    let home = cluster.pick(key) == Some(warming);
                    prop_assert!(home || !came_home, "a key left its home again");
                    came_home = home;
                }
                cluster.view.warmth[warming] = 1.0;
            }
        }
    }

    #[test]
    fn round_robin_is_never_more_than_one_session_from_its_share(
        weights in prop::collection::hash_set(1..=60_u32, 1..=12),
    ) {
        let weights: Vec<u32> = weights.into_iter().collect();
        let total: u32 = weights.iter().sum();
        let mut cluster = Cluster::new(Policy::RoundRobin, &weights);
        let mut taken = vec![0_u32; weights.len()];
        for turn in 1..=2 * total {
            taken[cluster.pick(0).expect("all are open")] += 1;
            for (taken, weight) in taken.iter().zip(&weights) {
                let share = f64::from(turn) * f64::from(*weight) / f64::from(total);
                prop_assert!((f64::from(*taken) - share).abs() < 1.0);
            }
        }
    }

    #[test]
    fn round_robin_is_smooth_in_every_window(weights in weights()) {
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut cluster = Cluster::new(Policy::RoundRobin, &weights);
        let turns: Vec<usize> = (0..400).filter_map(|_| cluster.pick(0)).collect();
        for window in [2, 7, 50, 200] {
            for turns in turns.windows(window) {
                let mut taken: HashMap<usize, u32> = HashMap::new();
                for member in turns {
                    *taken.entry(*member).or_default() += 1;
                }
                for (member, taken) in taken {
                    let share = window as f64 * f64::from(weights[member]) / total as f64;
                    // A whole session each way is the best that any schedule can promise
                    // in prefixes, hence two in a window.
                    prop_assert!(f64::from(taken) < share + 2.1);
                }
            }
        }
    }
}

proptest! {
    // Each fills two tables of maglev and asks every bidder of rendezvous 4,000 times.
    #![proptest_config(ProptestConfig { cases: few_cases().cases.div_ceil(2), ..few_cases() })]

    #[test]
    fn a_member_that_goes_down_moves_its_own_keys_and_at_most_two_per_cent_of_the_others(
        weights in prop::collection::vec(1..=10_000_u32, 2..=256),
        down in any::<prop::sample::Index>(),
        // From where a ring gives its members fewer points; maglev's larger table would be slow
        // to fill so often.
        down_before in 200..=399_usize,
    ) {
        const KEYS: usize = 2000;
        let all = members(&weights);
        let configured = all.len() + down_before;
        let mut rest = all.clone();
        let gone = rest.remove(down.index(all.len())).name;
        for algorithm in ALGORITHMS {
            let policy = hashed(algorithm, None);
            let mut before = Cluster::of(Balancer::new(policy, all.clone(), configured));
            let mut after = Cluster::of(Balancer::new(policy, rest.clone(), configured));
            let homes = keys(KEYS).map(|key| (before.name(key), after.name(key)));
            let moved = homes.filter(|(old, new)| *old != gone && old != new).count();
            match algorithm {
                HashAlgorithm::Maglev => prop_assert!(moved <= KEYS / 50, "{} moved", moved),
                HashAlgorithm::Ring | HashAlgorithm::Rendezvous => prop_assert_eq!(moved, 0),
            }
        }
    }
}
