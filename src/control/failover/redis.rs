//! Redis: a promoted replica names the history that it was promoted out of.

use crate::cluster::Cause;
use crate::control::evidence::RedisEvidence;
use crate::control::failover::claim::Claim;
use crate::control::failover::memory::Deposed;
use crate::control::failover::memory::RedisMemory;

pub(super) fn claim(evidence: &RedisEvidence) -> Claim {
    match evidence.is_primary {
        true => Claim::Primary,
        false => Claim::Follows,
    }
}

/// Why a claimant may not be written to.
pub(super) fn bar(
    memory: &RedisMemory,
    deposed: Option<&Deposed>,
    is_established: bool,
    evidence: &RedisEvidence,
) -> Option<Cause> {
    let last = memory.replication_id.as_deref();
    // A restart gives the established primary another id.
    let is_known = is_established || last.is_none_or(|last| continues(last, evidence));
    (!is_known || deposed.is_some()).then_some(Cause::Diverged)
}

/// It has taken over the history of the primary that it follows.
pub(super) fn is_forgiven(memory: &RedisMemory, evidence: &RedisEvidence) -> bool {
    let is_shared = memory.replication_id.as_deref() == Some(&evidence.replication_id);
    !evidence.is_primary && evidence.is_linked && is_shared
}

/// The last write target follows somebody: that history is the cluster's from now on.
pub(super) fn learn(memory: &mut RedisMemory, evidence: &RedisEvidence) {
    if !evidence.is_primary && evidence.is_linked {
        establish(memory, evidence);
    }
}

/// The one that was promoted out of the history of all others; `None`: nothing decides.
pub(super) fn winner(memory: &RedisMemory, claimants: &[(usize, &RedisEvidence)]) -> Option<usize> {
    let leads = |one: &RedisEvidence| {
        claimants
            .iter()
            .all(|(_, other)| std::ptr::eq(one, *other) || supersedes(memory, one, other))
    };
    // Two that name each other are no servers' work, and decide nothing.
    let mut leaders = claimants.iter().filter(|(_, evidence)| leads(evidence));
    let (winner, _) = leaders.next()?;
    leaders.next().is_none().then_some(*winner)
}

/// It claims to be primary, and names the other's history as the one that it came from.
pub(super) fn is_promoted_from(new: &RedisEvidence, old: &RedisEvidence) -> bool {
    new.is_primary && new.previous_id.as_deref() == Some(&old.replication_id)
}

fn supersedes(memory: &RedisMemory, one: &RedisEvidence, other: &RedisEvidence) -> bool {
    if one.previous_id.as_deref() == Some(&other.replication_id) {
        return true;
    }
    // The other has restarted into a history of its own since.
    let last = memory.replication_id.as_deref();
    last.is_some_and(|last| continues(last, one) && !continues(last, other))
}

fn continues(last: &str, evidence: &RedisEvidence) -> bool {
    evidence.replication_id == last || evidence.previous_id.as_deref() == Some(last)
}

/// It is written to from now on, or still is.
pub(super) fn establish(memory: &mut RedisMemory, evidence: &RedisEvidence) {
    if memory.replication_id.as_deref() != Some(&evidence.replication_id) {
        memory.replication_id = Some(evidence.replication_id.clone());
    }
}
