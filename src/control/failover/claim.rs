//! One backend judged on its own: what it claims, and what the memory has against it.

use crate::cluster::Cause;
use crate::cluster::Health;
use crate::control::evidence::Evidence;
use crate::control::failover::Candidate;
use crate::control::failover::memory::Memory;
use crate::control::failover::mysql;
use crate::control::failover::postgres;
use crate::control::failover::redis;
use crate::control::failover::told;

/// What a backend says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    Nothing,
    Follows,
    /// A primary that takes writes.
    Primary,
    /// It follows nobody and takes no writes.
    ReadOnly,
}

/// What becomes of a backend before it is compared with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not healthy, or it tells no role.
    Unknown(Cause),
    Follows(Cause),
    /// It may be the primary.
    Claims,
    /// It may not be primary, whatever the others are.
    Barred(Cause),
}

/// Whether an established primary still stands in the way of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Down, following or refusing writes.
    Gone,
    /// Its first verdict is on its way.
    Unheard,
    Insists,
    /// It insists, on a lower timeline than the highest.
    Outgrown,
}

pub(super) fn of(memory: &Memory, candidate: &Candidate) -> Claim {
    match candidate.evidence {
        Evidence::Silent => Claim::Nothing,
        Evidence::Postgres(evidence) => postgres::claim(evidence),
        Evidence::MySql(evidence) => {
            let is_established = memory.is_established(candidate.name);
            mysql::claim(&memory.mysql, is_established, evidence)
        }
        Evidence::Redis(evidence) => redis::claim(evidence),
        Evidence::Told(evidence) => told::claim(evidence),
    }
}

/// `everybody`: all candidates, this one among them.
pub(super) fn standing(
    memory: &Memory,
    candidate: &Candidate,
    everybody: &[Candidate],
) -> Standing {
    let claim = of(memory, candidate);
    if candidate.health != Health::Up || claim == Claim::Nothing {
        return Standing::Unknown(candidate.health_cause);
    }
    let bar = bar(memory, candidate, everybody);
    match (claim, candidate.quarantine, bar) {
        (Claim::Nothing, ..) => Standing::Unknown(candidate.health_cause),
        (_, _, Some(Cause::ForeignSystem)) => Standing::Barred(Cause::ForeignSystem),
        (Claim::Follows, _, Some(cause)) => Standing::Barred(cause),
        (Claim::Follows, _, None) => Standing::Follows(follows_cause(candidate)),
        (Claim::ReadOnly, ..) => Standing::Barred(Cause::ReadOnly),
        (Claim::Primary, _, Some(cause)) => Standing::Barred(cause),
        (Claim::Primary, Some(cause), None) => Standing::Barred(cause),
        (Claim::Primary, None, None) => Standing::Claims,
    }
}

/// What the memory has against it.
fn bar(memory: &Memory, candidate: &Candidate, everybody: &[Candidate]) -> Option<Cause> {
    let claims = of(memory, candidate) == Claim::Primary;
    let deposed = memory.deposed(candidate.name);
    let cause = match candidate.evidence {
        Evidence::Postgres(evidence) => postgres::bar(&memory.postgres, deposed, evidence),
        Evidence::MySql(evidence) if claims => mysql::bar(&memory.mysql, deposed, evidence),
        Evidence::Redis(evidence) if claims => {
            let is_established = memory.is_established(candidate.name);
            redis::bar(&memory.redis, deposed, is_established, evidence)
        }
        Evidence::Told(evidence) if claims => told::bar(&memory.told, deposed, evidence),
        _ => None,
    };
    match cause {
        Some(Cause::Diverged) if is_vouched_for(memory, candidate, everybody) => None,
        other => other,
    }
}

/// Who was written to last has given up its own history for this one. That one itself
/// is vouched for by all others: together they have nothing that it lacks.
fn is_vouched_for(memory: &Memory, claimant: &Candidate, everybody: &[Candidate]) -> bool {
    let mut others = everybody.iter().filter(|other| other.name != claimant.name);
    if !memory.is_established(claimant.name) {
        let established = others.find(|other| memory.is_established(other.name));
        return established.is_some_and(|established| follows(memory, established, claimant));
    }
    everybody.len() > 1 && others.all(|other| follows(memory, other, claimant))
}

/// It follows this claimant now, as far as their histories tell.
fn follows(memory: &Memory, follower: &Candidate, claimant: &Candidate) -> bool {
    if follower.health != Health::Up || of(memory, follower) != Claim::Follows {
        return false;
    }
    match (follower.evidence, claimant.evidence) {
        (Evidence::Postgres(follower), Evidence::Postgres(leader)) => {
            postgres::can_follow(follower, leader)
        }
        (Evidence::MySql(follower), Evidence::MySql(leader)) => mysql::covers(leader, follower),
        (Evidence::Redis(follower), Evidence::Redis(leader)) => {
            follower.is_linked && follower.replication_id == leader.replication_id
        }
        (Evidence::Told(_), Evidence::Told(_)) => true,
        _ => false,
    }
}

fn follows_cause(candidate: &Candidate) -> Cause {
    match candidate.evidence {
        Evidence::Redis(evidence) if !evidence.is_linked => Cause::LostPrimary,
        _ => Cause::ClaimsReplica,
    }
}

/// Whether the established primary is still one, as far as its latest probe can tell.
pub(super) fn presence(
    memory: &Memory,
    established: &Candidate,
    everybody: &[Candidate],
) -> Presence {
    match (established.failed, established.health) {
        (_, Health::Unknown) => return Presence::Unheard,
        (Some(_), Health::Down) => return Presence::Gone,
        (Some(cause), _) if has_stopped(cause) => return Presence::Gone,
        _ => {}
    }
    let is_primary = of(memory, established) == Claim::Primary && established.quarantine.is_none();
    // On a lower timeline it still takes writes; a foreign or diverged one is another database.
    match bar(memory, established, everybody) {
        None if is_primary => Presence::Insists,
        Some(Cause::StaleTimeline) if is_primary => Presence::Outgrown,
        _ => Presence::Gone,
    }
}

/// One failed probe that proves that nobody writes there.
fn has_stopped(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::ConnectRefused | Cause::StartingUp | Cause::ShuttingDown | Cause::Crashed
    )
}

/// A loser is forgiven once it is seen in the cluster's history again.
pub(super) fn forgive(memory: &mut Memory, candidate: &Candidate) {
    let Some(deposed) = memory.deposed(candidate.name) else {
        return;
    };
    let is_forgiven = match candidate.evidence {
        Evidence::Silent => false,
        Evidence::Postgres(evidence) => postgres::is_forgiven(&memory.postgres, deposed, evidence),
        Evidence::MySql(evidence) => mysql::is_forgiven(evidence),
        Evidence::Redis(evidence) => redis::is_forgiven(&memory.redis, evidence),
        Evidence::Told(evidence) => told::is_forgiven(&memory.told, deposed, evidence),
    };
    if is_forgiven {
        memory.forgive(candidate.name);
    }
}

/// Notes how far the cluster's history reaches.
pub(super) fn learn(memory: &mut Memory, candidate: &Candidate) {
    if memory.deposed(candidate.name).is_some() {
        return;
    }
    let is_established = memory.is_established(candidate.name);
    match candidate.evidence {
        Evidence::Postgres(evidence) => postgres::learn(&mut memory.postgres, evidence),
        Evidence::MySql(evidence) if is_established => mysql::learn(&mut memory.mysql, evidence),
        Evidence::Redis(evidence) if is_established => redis::learn(&mut memory.redis, evidence),
        Evidence::Told(evidence) => told::learn(&mut memory.told, evidence),
        _ => {}
    }
}

/// It is written to from now on (`is_new`), or still is.
pub(super) fn establish(memory: &mut Memory, primary: &Candidate, is_new: bool) {
    match primary.evidence {
        Evidence::Silent => {}
        Evidence::Postgres(evidence) => postgres::establish(&mut memory.postgres, evidence),
        Evidence::MySql(evidence) => mysql::establish(&mut memory.mysql, is_new, evidence),
        Evidence::Redis(evidence) => redis::establish(&mut memory.redis, evidence),
        Evidence::Told(evidence) => told::learn(&mut memory.told, evidence),
    }
}

/// Another is written to from now on: this one may come back with writes that are its own.
pub(super) fn may_return(memory: &Memory, loser: &Candidate, was_written_to: bool) -> bool {
    match of(memory, loser) {
        // What was seen last may be long ago.
        Claim::Follows => was_written_to && loser.health != Health::Up,
        Claim::Nothing | Claim::ReadOnly => was_written_to,
        // Who tells by itself is believed: there is no history to judge it by.
        Claim::Primary => !matches!(loser.evidence, Evidence::Told(_)),
    }
}

pub(super) fn can_be_appointed(candidate: &Candidate) -> bool {
    let is_primary = match candidate.evidence {
        Evidence::Silent => false,
        Evidence::Postgres(evidence) => postgres::claim(evidence) == Claim::Primary,
        // Circular replication: everybody follows somebody.
        Evidence::MySql(evidence) => !evidence.is_read_only,
        Evidence::Redis(evidence) => redis::claim(evidence) == Claim::Primary,
        Evidence::Told(evidence) => told::claim(evidence) == Claim::Primary,
    };
    is_primary && candidate.quarantine.is_none()
}

/// Makes its history the cluster's.
pub(super) fn appoint(memory: &mut Memory, candidate: &Candidate) {
    match candidate.evidence {
        Evidence::Silent => {}
        Evidence::Postgres(evidence) => postgres::appoint(&mut memory.postgres, evidence),
        Evidence::MySql(evidence) => mysql::appoint(&mut memory.mysql, evidence),
        Evidence::Redis(evidence) => redis::establish(&mut memory.redis, evidence),
        Evidence::Told(evidence) => told::appoint(&mut memory.told, evidence),
    }
}

/// Another was appointed: what this one says does not count until it follows.
pub(super) fn is_disowned(memory: &Memory, other: &Candidate) -> bool {
    let is_ahead = match other.evidence {
        Evidence::Postgres(_) | Evidence::Told(_) => timeline(other) > memory.highest_timeline(),
        _ => false,
    };
    is_ahead || of(memory, other) == Claim::Primary
}

pub(super) fn timeline(candidate: &Candidate) -> Option<u32> {
    match candidate.evidence {
        Evidence::Postgres(evidence) => Some(evidence.timeline),
        Evidence::Told(evidence) => evidence.timeline,
        _ => None,
    }
}
