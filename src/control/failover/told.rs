//! A service that tells its role by itself: it is believed.

use crate::cluster::Cause;
use crate::control::evidence::ToldEvidence;
use crate::control::failover::claim::Claim;
use crate::control::failover::memory::Deposed;
use crate::control::failover::memory::ToldMemory;

pub(super) fn claim(evidence: &ToldEvidence) -> Claim {
    match evidence.is_primary {
        true => Claim::Primary,
        false => Claim::Follows,
    }
}

/// Why a claimant may not be written to.
pub(super) fn bar(
    memory: &ToldMemory,
    deposed: Option<&Deposed>,
    evidence: &ToldEvidence,
) -> Option<Cause> {
    let is_lower = |timeline| Some(timeline) < memory.highest_timeline;
    if evidence.timeline.is_some_and(is_lower) {
        return Some(Cause::StaleTimeline);
    }
    deposed.map(|_| Cause::Diverged)
}

/// It has come back to the cluster's history, or was promoted once more.
pub(super) fn is_forgiven(memory: &ToldMemory, deposed: &Deposed, evidence: &ToldEvidence) -> bool {
    let follows = !evidence.is_primary && evidence.timeline <= memory.highest_timeline;
    follows || evidence.timeline > deposed.timeline
}

/// Raises the highest timeline.
pub(super) fn learn(memory: &mut ToldMemory, evidence: &ToldEvidence) {
    memory.highest_timeline = evidence.timeline.max(memory.highest_timeline);
}

/// The one on the highest timeline, if all tell theirs; `None`: nothing decides.
pub(super) fn winner(claimants: &[(usize, &ToldEvidence)]) -> Option<usize> {
    let known = claimants.iter().all(|(_, e)| e.timeline.is_some());
    let highest = claimants.iter().filter_map(|(_, e)| e.timeline).max()?;
    let mut leaders = claimants
        .iter()
        .filter(|(_, e)| e.timeline == Some(highest));
    let (winner, _) = leaders.next()?;
    (known && leaders.next().is_none()).then_some(*winner)
}

/// An operator decided for it: its timeline is the only one.
pub(super) fn appoint(memory: &mut ToldMemory, evidence: &ToldEvidence) {
    memory.highest_timeline = evidence.timeline;
}
