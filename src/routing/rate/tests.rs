//! Never more than the limit, never less, never more memory.

use super::*;
use crate::config::HostPattern;
use crate::config::RouteActions;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::num::NonZeroU32;

fn limit(requests: u32, per: Duration, burst: u32) -> RateLimit {
    RateLimit {
        requests: NonZeroU32::new(requests).unwrap(),
        per,
        burst: NonZeroU32::new(burst).unwrap(),
    }
}

const SECOND: Duration = Duration::from_secs(1);
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

#[test]
fn a_burst_is_let_through_and_then_one_by_one() {
    let start = Instant::now();
    let limiter = RateLimiter::new(&limit(10, SECOND, 3), start);
    for _ in 0..3 {
        assert_eq!(limiter.take(CLIENT, start), Ok(()));
    }
    let wait = Duration::from_millis(100);
    assert_eq!(limiter.take(CLIENT, start), Err(wait));
    let almost = start + wait - Duration::from_nanos(1);
    assert_eq!(limiter.take(CLIENT, almost), Err(Duration::from_nanos(1)));
    assert_eq!(limiter.take(CLIENT, start + wait), Ok(()));
    assert_eq!(limiter.take(CLIENT, start + wait), Err(wait));
    // Full again, and no fuller than that.
    let later = start + Duration::from_secs(3600);
    let taken = (0..10).filter(|_| limiter.take(CLIENT, later).is_ok());
    assert_eq!(taken.count(), 3);
}

#[test]
fn each_client_has_its_own_bucket_and_an_ipv6_network_shares_one() {
    let start = Instant::now();
    let limiter = RateLimiter::new(&limit(1, SECOND, 1), start);
    let take = |address: &str| limiter.take(address.parse().unwrap(), start).is_ok();
    assert!(take("192.0.2.1") && take("192.0.2.2"));
    assert!(!take("192.0.2.1"));
    assert!(
        !take("::ffff:192.0.2.1"),
        "the same client on a dual-stack socket"
    );
    assert!(take("2001:db8::1"));
    assert!(!take("2001:db8::ffff:1:2:3"));
    assert!(take("2001:db8:0:1::1"));
}

#[test]
fn retry_after_is_never_too_early() {
    for (wait_ms, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_999, 60)] {
        assert_eq!(retry_after_seconds(Duration::from_millis(wait_ms)), seconds);
    }
}

#[test]
fn a_flood_of_addresses_does_not_grow_the_memory() {
    let start = Instant::now();
    let limiter = RateLimiter::new(&limit(1, Duration::from_secs(3600), 1), start);
    for number in 0..4 * MAX_CLIENTS as u128 {
        let address = Ipv6Addr::from_bits(number << 64);
        let _ = limiter.take(address.into(), start);
        if number % 10_000 == 0 {
            assert!(limiter.clients() <= MAX_CLIENTS);
        }
    }
    let clients = limiter.clients();
    assert!(
        (MAX_CLIENTS / 2..=MAX_CLIENTS).contains(&clients),
        "{clients}"
    );
}

#[test]
fn a_client_that_keeps_asking_is_not_forgotten_in_a_flood() {
    let start = Instant::now();
    let limiter = RateLimiter::new(&limit(1, Duration::from_secs(3600), 1), start);
    assert!(limiter.take(CLIENT, start).is_ok());
    for number in 0..4 * MAX_CLIENTS as u128 {
        let address = Ipv6Addr::from_bits(number << 64);
        let _ = limiter.take(address.into(), start);
        if number % 1000 == 0 {
            assert!(limiter.take(CLIENT, start).is_err(), "after {number}");
        }
    }
}

#[test]
fn clients_that_are_gone_are_forgotten() {
    let start = Instant::now();
    let limiter = RateLimiter::new(&limit(1, SECOND, 1), start);
    for number in 0..10_000 {
        let address = Ipv4Addr::from_bits(number);
        assert!(limiter.take(address.into(), start).is_ok());
    }
    // Enough others that every shard is visited, twice.
    for round in [2, 4] {
        let later = start + SECOND * round;
        for number in 0..1000 {
            let address = Ipv4Addr::from_bits(number);
            assert!(limiter.take(address.into(), later).is_ok());
        }
    }
    assert!(limiter.clients() <= 2000, "{}", limiter.clients());
}

fn route(host: &str, rate_limit: Option<RateLimit>) -> HttpRoute {
    HttpRoute {
        host: Some(HostPattern::Exact(host.to_owned())),
        path: None,
        methods: Vec::new(),
        headers: Vec::new(),
        cluster: "c".into(),
        actions: RouteActions {
            rate_limit,
            ..RouteActions::default()
        },
    }
}

#[test]
fn a_reload_keeps_the_buckets_of_routes_that_stay() {
    let (slow, fast) = (limit(1, SECOND, 1), limit(9, SECOND, 9));
    let old = [
        route("a", Some(slow.clone())),
        route("b", Some(slow.clone())),
        route("c", None),
    ];
    let before = RateLimiters::new(&old, None);
    assert!(before.of(2).is_none() && before.of(3).is_none());
    let mut moved = route("b", Some(slow.clone()));
    moved.actions.timeout = Some(SECOND);
    let new = [route("c", Some(slow)), moved, route("a", Some(fast))];
    let after = RateLimiters::new(&new, Some((&old, &before)));
    let is_kept = |old: usize, new: usize| match (before.of(old), after.of(new)) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new),
        _ => false,
    };
    assert!(is_kept(1, 1), "only its timeout was changed");
    assert!(!is_kept(0, 2), "it has another limit now");
    assert!(after.of(0).is_some());
}

proptest! {
    /// In every window: no more than the burst and what has grown in it …
    #[test]
    fn never_more_than_burst_and_rate_times_time(
        requests in 1..2000_u32,
        per_ms in 1..5000_u64,
        burst in 1..50_u32,
        pauses_us in proptest::collection::vec(0..20_000_u64, 1..300),
    ) {
        let start = Instant::now();
        let per = Duration::from_millis(per_ms);
        let limiter = RateLimiter::new(&limit(requests, per, burst), start);
        let mut now = start;
        let mut taken = Vec::new();
        for pause in pauses_us {
            now += Duration::from_micros(pause);
            if limiter.take(CLIENT, now).is_ok() {
                taken.push(now);
            }
        }
        for (first, from) in taken.iter().enumerate() {
            for (last, until) in taken.iter().enumerate().skip(first) {
                let window = until.duration_since(*from).as_nanos();
                let grown = window * u128::from(requests) / per.as_nanos();
                let count = (last - first + 1) as u128;
                prop_assert!(count <= u128::from(burst) + grown, "{count} in {window} ns");
            }
        }
    }

    /// … and who waits as long as it was told is let through, and not before.
    #[test]
    fn who_waits_as_long_as_told_is_let_through(
        requests in 1..u32::MAX,
        per_ns in 1..10_000_000_000_u64,
        burst in 1..20_u32,
        pauses_ns in proptest::collection::vec(0..1_000_000_000_u64, 1..100),
    ) {
        let start = Instant::now();
        let limiter = RateLimiter::new(&limit(requests, Duration::from_nanos(per_ns), burst), start);
        let mut now = start;
        for pause in pauses_ns {
            now += Duration::from_nanos(pause);
            if let Err(wait) = limiter.take(CLIENT, now) {
                prop_assert!(!wait.is_zero());
                let almost = now + wait - Duration::from_nanos(1);
                prop_assert!(limiter.take(CLIENT, almost).is_err());
                now += wait;
                prop_assert!(limiter.take(CLIENT, now).is_ok());
            }
        }
    }
}
