//! MySQL and MariaDB: executed transactions tell whose history contains whose.

use crate::cluster::Cause;
use crate::control::evidence::MySqlDialect;
use crate::control::evidence::MySqlEvidence;
use crate::control::failover::claim::Claim;
use crate::control::failover::memory::Deposed;
use crate::control::failover::memory::MySqlMemory;
use crate::protocol::mysql::gtid::GtidPosition;
use crate::protocol::mysql::gtid::GtidSet;

/// A writable replica is a replica somebody forgot to make read-only: to take it for
/// a primary when its own primary dies would be a promotion that nobody ordered.
/// Circular replication looks the same, so there the operator has to appoint.
pub(super) fn claim(memory: &MySqlMemory, is_established: bool, evidence: &MySqlEvidence) -> Claim {
    let may_follow = is_established && memory.may_follow;
    match (evidence.is_read_only, evidence.is_replica) {
        (false, true) if may_follow => Claim::Primary,
        (_, true) => Claim::Follows,
        (false, false) => Claim::Primary,
        (true, false) => Claim::ReadOnly,
    }
}

/// Why a claimant may not be written to.
pub(super) fn bar(
    memory: &MySqlMemory,
    deposed: Option<&Deposed>,
    evidence: &MySqlEvidence,
) -> Option<Cause> {
    // A MariaDB position can contain another and have parted from it all the same.
    let is_descendant = contains(evidence.dialect, &evidence.gtid_set, &memory.gtid_set);
    (!is_descendant || deposed.is_some()).then_some(Cause::Diverged)
}

/// Replication works: what it lacked, it has or will have.
pub(super) fn is_forgiven(evidence: &MySqlEvidence) -> bool {
    evidence.is_replica && evidence.lag.is_some()
}

/// The last write target follows somebody and lacks what it had: it was made anew from
/// another history, which is the cluster's from now on.
pub(super) fn learn(memory: &mut MySqlMemory, evidence: &MySqlEvidence) {
    let is_set = is_set(evidence);
    let follows = is_forgiven(evidence) && is_set && !evidence.gtid_set.is_empty();
    if follows && !contains(evidence.dialect, &evidence.gtid_set, &memory.gtid_set) {
        evidence.gtid_set.clone_into(&mut memory.gtid_set);
        memory.has_own_write = true;
    }
}

/// The one that contains all others and is contained by none; `None`: nothing decides.
pub(super) fn winner(claimants: &[(usize, &MySqlEvidence)]) -> Option<usize> {
    let leads = |one: &MySqlEvidence| {
        claimants
            .iter()
            .all(|(_, other)| std::ptr::eq(one, *other) || is_ahead(one, other))
    };
    claimants.iter().find(|(_, e)| leads(e)).map(|(i, _)| *i)
}

/// `other` has nothing that `one` lacks. Without GTIDs nobody knows.
pub(super) fn covers(one: &MySqlEvidence, other: &MySqlEvidence) -> bool {
    one.dialect == other.dialect
        && !other.gtid_set.is_empty()
        && contains(one.dialect, &one.gtid_set, &other.gtid_set)
}

fn is_ahead(one: &MySqlEvidence, other: &MySqlEvidence) -> bool {
    covers(one, other) && !contains(one.dialect, &other.gtid_set, &one.gtid_set)
}

/// It is written to from now on, or still is.
///
/// The set is noted when it becomes primary and at the first write that it takes
/// then. Not later: a replica that is promoted lacks the last few writes, as
/// asynchronous replication has it, and must not be fenced for them.
pub(super) fn establish(memory: &mut MySqlMemory, is_new: bool, evidence: &MySqlEvidence) {
    if is_new {
        let is_set = is_set(evidence);
        memory.gtid_set.clear();
        if is_set {
            memory.gtid_set.push_str(&evidence.gtid_set);
        }
        memory.has_own_write = false;
        memory.may_follow = false;
        return;
    }
    if evidence.gtid_set == memory.gtid_set {
        return;
    }
    let is_set = is_set(evidence);
    let contains = contains(evidence.dialect, &evidence.gtid_set, &memory.gtid_set);
    // Where it does not, the others have vouched for it.
    if is_set && (!contains || !memory.has_own_write) {
        evidence.gtid_set.clone_into(&mut memory.gtid_set);
        memory.has_own_write = contains;
    }
}

/// An operator decided for it: its history is the only one.
pub(super) fn appoint(memory: &mut MySqlMemory, evidence: &MySqlEvidence) {
    establish(memory, true, evidence);
    memory.may_follow = evidence.is_replica;
}

/// Not garbage: that would contain nothing, not even itself, and fence everybody.
fn is_set(evidence: &MySqlEvidence) -> bool {
    contains(evidence.dialect, &evidence.gtid_set, &evidence.gtid_set)
}

/// A set that no server writes contains nothing but the empty one.
fn contains(dialect: MySqlDialect, whole: &str, part: &str) -> bool {
    if part.is_empty() {
        return true;
    }
    match dialect {
        MySqlDialect::MySql => {
            let (whole, part) = (GtidSet::parse(whole), GtidSet::parse(part));
            whole.is_ok_and(|whole| part.is_ok_and(|part| whole.contains(&part)))
        }
        MySqlDialect::MariaDb => {
            let (whole, part) = (GtidPosition::parse(whole), GtidPosition::parse(part));
            whole.is_ok_and(|whole| part.is_ok_and(|part| whole.contains(&part)))
        }
    }
}
