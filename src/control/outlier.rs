//! Passive health: who is ejected for its answers, and for how long.
//!
//! Pure. Ejection is neither health nor admin state: it only takes a backend out of the
//! choice for new requests, and only while others are left. Failures in a row and
//! `Retry-After` act as soon as they are told; rates are compared once each interval.

mod compare;

use std::collections::HashMap;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::config::OutlierConfig;
use crate::control::outlier::compare::Sample;
use crate::routing::Counted;
use crate::routing::Ejection;

/// Rates are compared at most this often, whatever is configured: it is a pass over all
/// backends of the cluster.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// One backend as it is when it is judged.
#[derive(Debug, Clone, Copy)]
pub struct Observed {
    pub id: BackendId,
    /// Health, admin state and role let it serve.
    pub is_eligible: bool,
    pub is_down: bool,
    pub counted: Counted,
}

/// What has changed for one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub id: BackendId,
    /// `None`: it returns.
    pub ejection: Option<Ejection>,
}

/// What is remembered of the backends of one cluster.
#[derive(Debug, Default)]
pub struct Outliers {
    records: HashMap<BackendId, Record>,
    /// When rates are compared next; `None` while nobody looks for outliers.
    compare_at: Option<Instant>,
}

#[derive(Debug)]
struct Record {
    /// What was counted when the interval began.
    base: Counted,
    ejection: Option<Ejection>,
    /// Health has called it down since it was ejected.
    was_down: bool,
    /// Ejections that are not forgotten yet.
    times: u32,
    /// Since when it has not been ejected, less what was forgotten for it already.
    calm_since: Instant,
}

impl Outliers {
    /// Why a backend is ejected and until when.
    pub fn ejection(&self, id: BackendId) -> Option<Ejection> {
        self.records.get(&id)?.ejection
    }

    /// When to judge next, at the latest.
    pub fn next_due(&self) -> Option<Instant> {
        let ends = self.records.values().filter_map(|it| it.ejection);
        let ends = ends.map(|ejection| ejection.until);
        ends.chain(self.compare_at).min()
    }

    /// Judges all backends of the cluster. Without a configuration nobody is ejected.
    pub fn judge(
        &mut self,
        config: Option<&OutlierConfig>,
        backends: &[Observed],
        now: Instant,
    ) -> Vec<Verdict> {
        let Some(config) = config else {
            return self.release_all();
        };
        for backend in backends {
            let record = || Record::new(backend.counted, now);
            self.records.entry(backend.id).or_insert_with(record);
        }
        if self.records.len() > backends.len() {
            let is_known = |id: &BackendId| backends.iter().any(|backend| backend.id == *id);
            self.records.retain(|id, _| is_known(id));
        }
        let mut verdicts = self.release(backends, now);
        let returned: Vec<BackendId> = verdicts.iter().map(|verdict| verdict.id).collect();
        // What was counted of them belongs to what they were ejected for.
        let fresh = |backend: &&Observed| backend.is_eligible && !returned.contains(&backend.id);
        for backend in backends.iter().filter(fresh) {
            if let Some(accused) = accuse(config, backend, now) {
                verdicts.extend(self.eject(config, backends, accused, now));
            }
        }
        let next = now + config.interval.max(MIN_INTERVAL);
        // Also sooner than it was, when a reload has made the interval shorter.
        let compare_at = self.compare_at.map_or(next, |at| at.min(next));
        self.compare_at = Some(compare_at);
        if compare_at <= now {
            self.compare_at = Some(next);
            for accused in self.compare(config, backends) {
                verdicts.extend(self.eject(config, backends, accused, now));
            }
        }
        verdicts
    }

    fn release_all(&mut self) -> Vec<Verdict> {
        self.compare_at = None;
        let records = self.records.drain();
        let ejected = records.filter(|(_, record)| record.ejection.is_some());
        ejected
            .map(|(id, _)| Verdict { id, ejection: None })
            .collect()
    }

    /// Who has served its time returns, and who was restarted meanwhile: up again after it
    /// was down, it is not what it was ejected for.
    fn release(&mut self, backends: &[Observed], now: Instant) -> Vec<Verdict> {
        let mut returned = Vec::new();
        for backend in backends {
            let Some(record) = self.records.get_mut(&backend.id) else {
                continue;
            };
            let Some(ejection) = record.ejection else {
                continue;
            };
            let is_new = std::mem::replace(&mut record.was_down, backend.is_down);
            if ejection.until <= now || (is_new && !backend.is_down) {
                record.ejection = None;
                record.was_down = false;
                record.calm_since = now;
                record.base = backend.counted;
                returned.push(Verdict {
                    id: backend.id,
                    ejection: None,
                });
            }
        }
        returned
    }

    /// Compares what was counted in the interval that ends; the worst come first.
    fn compare(&mut self, config: &OutlierConfig, backends: &[Observed]) -> Vec<Accused> {
        let mut samples = Vec::new();
        for backend in backends {
            let Some(record) = self.records.get_mut(&backend.id) else {
                continue;
            };
            let before = std::mem::replace(&mut record.base, backend.counted);
            if backend.is_eligible && record.ejection.is_none() {
                samples.push(Sample::between(backend.id, before, backend.counted));
            }
        }
        let failing = compare::failing(config, &samples);
        let failing = failing.into_iter().map(|id| (id, Cause::SuccessRate));
        let slow = compare::slow(config, &samples);
        let slow = slow.into_iter().map(|id| (id, Cause::SlowAnswers));
        let accused = |(id, cause)| Accused {
            id,
            cause,
            for_time: None,
        };
        failing.chain(slow).map(accused).collect()
    }

    fn eject(
        &mut self,
        config: &OutlierConfig,
        backends: &[Observed],
        accused: Accused,
        now: Instant,
    ) -> Option<Verdict> {
        if !self.may_eject(config, backends, accused.id) {
            return None;
        }
        let record = self.records.get_mut(&accused.id)?;
        record.forget(config, now);
        let time = match accused.for_time {
            Some(asked) => asked,
            None => record.sentence(config),
        };
        let ejection = Ejection {
            cause: accused.cause,
            until: now + time.min(config.max_ejection),
        };
        record.ejection = Some(ejection);
        record.was_down = false;
        Some(Verdict {
            id: accused.id,
            ejection: Some(ejection),
        })
    }

    /// There is room under `max_ejected`, and somebody else is left.
    fn may_eject(&self, config: &OutlierConfig, backends: &[Observed], id: BackendId) -> bool {
        let is_ejected = |id: BackendId| self.ejection(id).is_some();
        let ejected = backends.iter().filter(|it| is_ejected(it.id)).count();
        let left = |it: &Observed| it.id != id && it.is_eligible && !is_ejected(it.id);
        !is_ejected(id)
            && ejected < max_ejected(config, backends.len())
            && backends.iter().any(left)
    }
}

impl Record {
    fn new(base: Counted, now: Instant) -> Self {
        Self {
            base,
            ejection: None,
            was_down: false,
            times: 0,
            calm_since: now,
        }
    }

    /// One ejection is forgotten for each `base_ejection` without another.
    fn forget(&mut self, config: &OutlierConfig, now: Instant) {
        let calm = now.saturating_duration_since(self.calm_since).as_nanos();
        let forgotten = calm.checked_div(config.base_ejection.as_nanos());
        let forgotten = forgotten.map_or(u32::MAX, |it| u32::try_from(it).unwrap_or(u32::MAX));
        self.times = self.times.saturating_sub(forgotten);
    }

    /// For how long it is ejected this time: `base_ejection` for each ejection that is not
    /// forgotten.
    fn sentence(&mut self, config: &OutlierConfig) -> Duration {
        let time = config.base_ejection.saturating_mul(self.times + 1);
        // What it is not ejected for need not be forgotten either.
        if time <= config.max_ejection {
            self.times += 1;
        }
        time
    }
}

/// Somebody who is to be ejected, if there is room.
#[derive(Debug, Clone, Copy)]
struct Accused {
    id: BackendId,
    cause: Cause,
    /// `None`: it grows with each ejection.
    for_time: Option<Duration>,
}

/// What a backend's own counts say against it.
fn accuse(config: &OutlierConfig, backend: &Observed, now: Instant) -> Option<Accused> {
    let counted = backend.counted;
    let is_over = |count: u32, limit: u32| limit > 0 && count >= limit;
    let accused = |cause, for_time| {
        Some(Accused {
            id: backend.id,
            cause,
            for_time,
        })
    };
    if let Some(after) = counted.retry_after.filter(|after| *after > now) {
        accused(
            Cause::RetryAfter,
            Some(after.saturating_duration_since(now)),
        )
    } else if is_over(counted.consecutive_gateway, config.consecutive_gateway) {
        accused(Cause::GatewayErrors, None)
    } else if is_over(counted.consecutive_5xx, config.consecutive_5xx) {
        accused(Cause::ServerErrors, None)
    } else {
        None
    }
}

/// How many of so many backends may be ejected at once.
fn max_ejected(config: &OutlierConfig, backends: usize) -> usize {
    // 0.29 of 100 is 29, whatever floating point makes of it.
    const ROUNDING: f64 = 1e-9;
    let share = (config.max_ejected * backends as f64 + ROUNDING) as usize;
    share.max(1)
}

#[cfg(test)]
mod tests;
