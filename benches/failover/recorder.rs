//! What Evergate's flight recorder says of an event: when it was noticed, and when it was known that
//! somebody was promoted.

use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use serde_json::Value;

use crate::support::evergate::Evergate;

/// Moments of one event, as one Evergate has them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Noted {
    /// The primary is not written to any more.
    pub detected: Option<Instant>,
    /// There is a primary with a higher timeline, or a second one.
    pub succeeded: Option<Instant>,
}

/// What it has noted since `began`.
pub fn noted(evergate: &Evergate, began: Instant) -> Noted {
    let incidents = evergate.get("/api/v1/incidents").json();
    let incidents = incidents["incidents"].as_array().into_iter().flatten();
    let steps = incidents.flat_map(|incident| incident["steps"].as_array().into_iter().flatten());
    let steps: Vec<&Value> = steps.collect();
    let first = |phases: &[&str]| {
        let named = steps.iter().filter(|step| {
            let phase = step["phase"].as_str();
            phase.is_some_and(|phase| phases.contains(&phase))
        });
        let moments = named.filter_map(|step| instant_at(step["at"].as_f64()?));
        moments.filter(|at| *at >= began).min()
    };
    Noted {
        detected: first(&["detected"]),
        succeeded: first(&["new_primary_seen", "split_brain"]),
    }
}

/// The recorder's clock is the wall's.
fn instant_at(epoch_seconds: f64) -> Option<Instant> {
    let at = Duration::try_from_secs_f64(epoch_seconds).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Instant::now().checked_sub(now.checked_sub(at)?)
}
