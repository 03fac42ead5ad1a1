//! PostgreSQL: timelines tell who was promoted last.

use crate::cluster::Cause;
use crate::control::evidence::PostgresEvidence;
use crate::control::failover::claim::Claim;
use crate::control::failover::memory::Deposed;
use crate::control::failover::memory::PostgresMemory;

/// Systems that are remembered until one is pinned: more would be a peer's invention.
const MAX_SYSTEMS: usize = 16;

pub(super) fn claim(evidence: &PostgresEvidence) -> Claim {
    match (evidence.is_in_recovery, evidence.is_writable) {
        (true, _) => Claim::Follows,
        (false, true) => Claim::Primary,
        (false, false) => Claim::ReadOnly,
    }
}

/// Why it may be neither written to nor read from, or not written to.
pub(super) fn bar(
    memory: &PostgresMemory,
    deposed: Option<&Deposed>,
    evidence: &PostgresEvidence,
) -> Option<Cause> {
    if is_foreign(memory, evidence) {
        return Some(Cause::ForeignSystem);
    }
    let highest = memory.highest(evidence.system_identifier);
    if evidence.is_in_recovery {
        // A higher timeline that does not count: it holds a disowned history.
        return (deposed.is_some() && evidence.timeline > highest).then_some(Cause::Diverged);
    }
    if evidence.timeline < highest {
        return Some(Cause::StaleTimeline);
    }
    deposed.is_some().then_some(Cause::Diverged)
}

/// It has come back to the cluster's history, or was promoted once more.
pub(super) fn is_forgiven(
    memory: &PostgresMemory,
    deposed: &Deposed,
    evidence: &PostgresEvidence,
) -> bool {
    let follows =
        evidence.is_in_recovery && evidence.timeline <= memory.highest(evidence.system_identifier);
    let is_promoted = deposed.timeline.is_none_or(|then| evidence.timeline > then);
    !is_foreign(memory, evidence) && (follows || is_promoted)
}

/// Raises the highest timeline.
pub(super) fn learn(memory: &mut PostgresMemory, evidence: &PostgresEvidence) {
    let system = evidence.system_identifier;
    let is_known = memory.timelines.contains_key(&system);
    let is_full = !is_known && memory.timelines.len() == MAX_SYSTEMS;
    if is_full || is_foreign(memory, evidence) {
        return;
    }
    let highest = memory.timelines.entry(system).or_default();
    *highest = evidence.timeline.max(*highest);
}

/// The follower has nothing that the leader has not written.
pub(super) fn can_follow(follower: &PostgresEvidence, leader: &PostgresEvidence) -> bool {
    follower.system_identifier == leader.system_identifier
        && follower.timeline == leader.timeline
        && follower.received_lsn <= leader.received_lsn
}

/// The one on the highest timeline; `None`: nothing decides.
pub(super) fn winner(claimants: &[(usize, &PostgresEvidence)]) -> Option<usize> {
    let (_, first) = claimants.first()?;
    let system = first.system_identifier;
    let highest = claimants.iter().map(|(_, e)| e.timeline).max()?;
    let mut leaders = claimants.iter().filter(|(_, e)| e.timeline == highest);
    let (winner, _) = leaders.next()?;
    let is_one_system = claimants.iter().all(|(_, e)| e.system_identifier == system);
    (is_one_system && leaders.next().is_none()).then_some(*winner)
}

/// It is written to from now on.
pub(super) fn establish(memory: &mut PostgresMemory, evidence: &PostgresEvidence) {
    let system = evidence.system_identifier;
    memory.system_identifier = Some(system);
    memory.timelines.retain(|known, _| *known == system);
    let highest = memory.timelines.entry(system).or_default();
    *highest = evidence.timeline.max(*highest);
}

/// An operator decided for it: its history is the only one.
pub(super) fn appoint(memory: &mut PostgresMemory, evidence: &PostgresEvidence) {
    let system = evidence.system_identifier;
    memory.system_identifier = Some(system);
    memory.timelines = [(system, evidence.timeline)].into();
}

fn is_foreign(memory: &PostgresMemory, evidence: &PostgresEvidence) -> bool {
    memory
        .system_identifier
        .is_some_and(|pinned| pinned != evidence.system_identifier)
}

impl PostgresMemory {
    /// The highest timeline ever seen of a system.
    fn highest(&self, system: u64) -> u32 {
        self.timelines.get(&system).copied().unwrap_or_default()
    }
}
