//! How many requests a client may make: one token bucket for each client address.
//!
//! A bucket is one number, the moment at which it is full again (the virtual scheduling
//! algorithm of ITU-T I.371, "GCRA"). The map of them is bounded: a flood of addresses makes
//! it forget, never grow, and costs each request the same.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use crate::config::HttpRoute;
use crate::config::RateLimit;
use crate::config::RouteActions;

/// Clients of one limiter that are remembered: about 5 MiB when all are there.
pub const MAX_CLIENTS: usize = 65_536;
/// So that workers seldom meet at a lock.
const SHARDS: usize = 16;
/// Two generations for each shard.
const MAX_GENERATION: usize = MAX_CLIENTS / SHARDS / 2;

/// Who shares a bucket: an IPv4 address, or an IPv6 network of 64 bits, because whoever has
/// one address of it has all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Client {
    Four(u32),
    Six(u64),
}

impl Client {
    fn new(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::Four(address.to_bits()),
            IpAddr::V6(address) => Self::Six((address.to_bits() >> 64) as u64),
        }
    }
}

/// The limit of one route, for the clients of all workers. Survives reloads that leave the
/// route and its limit as they are.
#[derive(Debug)]
pub struct RateLimiter {
    pace: Pace,
    /// The zero of all buckets.
    epoch: Instant,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

/// The limiters of a listener's routes, in their order.
#[derive(Debug, Default)]
pub struct RateLimiters(Vec<Option<Arc<RateLimiter>>>);

impl RateLimiters {
    /// Those of `routes`; a route that was there before, with this limit, keeps its buckets.
    pub fn new(routes: &[HttpRoute], before: Option<(&[HttpRoute], &Self)>) -> Self {
        let limiters = routes.iter().map(|route| {
            let limit = route.actions.rate_limit.as_ref()?;
            let kept = before.and_then(|(old, limiters)| {
                let position = old.iter().position(|old| is_same(old, route))?;
                limiters.of(position).cloned()
            });
            Some(kept.unwrap_or_else(|| Arc::new(RateLimiter::new(limit, Instant::now()))))
        });
        Self(limiters.collect())
    }

    /// The limiter of the route at this position, if it has one.
    pub fn of(&self, route: usize) -> Option<&Arc<RateLimiter>> {
        self.0.get(route)?.as_ref()
    }
}

/// Whether it takes the same requests, as often.
fn is_same(one: &HttpRoute, other: &HttpRoute) -> bool {
    let of = |route: &HttpRoute| HttpRoute {
        actions: RouteActions {
            rate_limit: route.actions.rate_limit.clone(),
            ..Default::default()
        },
        ..route.clone()
    };
    of(one) == of(other)
}

impl RateLimiter {
    pub fn new(limit: &RateLimit, epoch: Instant) -> Self {
        Self {
            pace: Pace::new(limit),
            epoch,
            hasher: RandomState::new(),
            shards: Default::default(),
        }
    }

    /// Takes a token of this client's.
    ///
    /// # Errors
    /// When there will be one.
    pub fn take(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let client = Client::new(address);
        let hash = self.hasher.hash_one(client) as usize;
        let now = now.saturating_duration_since(self.epoch);
        let shard = &self.shards[hash % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        shard.take(client, self.pace, self.pace.ticks(now))
    }

    /// Clients that are remembered now.
    pub fn clients(&self) -> usize {
        let shards = self.shards.iter();
        shards
            .map(|shard| {
                let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                shard.young.len() + shard.old.len()
            })
            .sum()
    }
}

/// What an answer's `Retry-After` says (RFC 9110, 10.2.3): whole seconds, never too early.
pub fn retry_after_seconds(wait: Duration) -> u64 {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    seconds.max(1)
}

/// A rate in whole numbers: a tick is the part of a nanosecond in which one of `requests`
/// tokens grows by a nanosecond of `per`, so that nothing is ever rounded.
#[derive(Debug, Clone, Copy)]
struct Pace {
    ticks_per_ns: u128,
    /// Between two tokens.
    token: u128,
    /// From empty to full.
    full: u128,
}

impl Pace {
    fn new(limit: &RateLimit) -> Self {
        // A limit per no time is none; the shortest time stands for it.
        let token = limit.per.as_nanos().max(1);
        Self {
            ticks_per_ns: limit.requests.get().into(),
            token,
            full: token * u128::from(limit.burst.get()),
        }
    }

    fn ticks(self, since_epoch: Duration) -> u128 {
        since_epoch.as_nanos() * self.ticks_per_ns
    }

    /// Takes a token of a bucket that is full at `full_at`: when it is full then, or how long
    /// to wait for one.
    fn take(self, full_at: u128, now: u128) -> Result<u128, Duration> {
        let next = full_at.max(now) + self.token;
        match next.checked_sub(now + self.full) {
            None | Some(0) => Ok(next),
            Some(early) => {
                let ns = early.div_ceil(self.ticks_per_ns);
                Err(Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX)))
            }
        }
    }
}

/// Buckets in two generations: a bucket that is used moves to the young one. When that is
/// full, or so old that every bucket untouched since has filled up, the old one is forgotten.
#[derive(Debug, Default)]
struct Shard {
    young: HashMap<Client, u128>,
    old: HashMap<Client, u128>,
    /// When the young generation began.
    began: u128,
}

impl Shard {
    fn take(&mut self, client: Client, pace: Pace, now: u128) -> Result<(), Duration> {
        if now.saturating_sub(self.began) >= pace.full {
            self.turn(now);
        }
        if let Some(full_at) = self.young.get_mut(&client) {
            *full_at = pace.take(*full_at, now)?;
            return Ok(());
        }
        let full_at = self.old.remove(&client).unwrap_or(now);
        let taken = pace.take(full_at, now);
        if self.young.len() >= MAX_GENERATION {
            self.turn(now);
        }
        // One that has to wait is remembered all the same.
        self.young
            .insert(client, *taken.as_ref().unwrap_or(&full_at));
        taken.map(|_| ())
    }

    fn turn(&mut self, now: u128) {
        self.old = std::mem::take(&mut self.young);
        self.began = now;
    }
}

#[cfg(test)]
mod tests;
