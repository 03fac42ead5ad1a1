//! Who is primary and why; who is fenced.
//!
//! Pure: evidence in, roles out. Nothing here promotes anybody: it decides whom
//! Evergate writes to, among those that say that they are primary.
//!
//! 1. Each backend is judged on its own against what is remembered of the cluster
//!    (`postgres`, `mysql`, `redis`, `told`): a lower timeline, a foreign system, a
//!    history that lacks the last primary's bars it.
//! 2. Those that remain are claimants. The authority, where there is one, decides
//!    between them; else the established primary has to yield before another is
//!    written to; else the histories decide; else nobody is written to.
//! 3. What was decided is remembered.

mod authority;
mod claim;
mod contest;
mod memory;
mod mysql;
mod postgres;
mod redis;
mod told;

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::cluster::Cause;
use crate::cluster::Health;
use crate::cluster::Name;
use crate::cluster::Role;
use crate::control::evidence::Authority;
use crate::control::evidence::Evidence;
use crate::control::failover::claim::Presence;
use crate::control::failover::claim::Standing;
use crate::control::failover::contest::Verdict;

pub use memory::Memory;

/// One backend of the cluster as it is known at the moment of a decision.
///
/// Leave out backends in maintenance. One whose name is being looked up is `Unknown`.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub name: &'a Name,
    /// `Unknown` only while its first verdict is on its way: decisions wait for it.
    pub health: Health,
    /// Why the health is what it is; given back where there is no role to tell.
    pub health_cause: Cause,
    /// Of the latest probe that was answered; `Silent` if none was.
    pub evidence: &'a Evidence,
    /// Number of that probe: ascending over the whole process, a larger one was started later.
    pub observed: u64,
    /// Why a probe after that one failed, if one did. `health` may still be `Up` then.
    pub failed: Option<Cause>,
    /// The number of that probe, if the answer was that there is no connection left: it lives, and
    /// says nothing new.
    pub full: Option<u64>,
    /// Why traffic has proved since that it takes no writes.
    pub quarantine: Option<Cause>,
    /// As configured; an authority's leader is matched by this or `address`, and by `port`.
    pub host: &'a str,
    pub address: Option<IpAddr>,
    pub port: u16,
}

/// Everybody's role, in the order of the candidates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub roles: Vec<(Role, Cause)>,
    /// The one that may be written to.
    pub primary: Option<usize>,
    /// Several claim to be primary, nothing decides, nobody is written to.
    pub is_split_brain: bool,
    /// To be probed at once: a decision waits for what they say now.
    pub wants_fresh: Vec<usize>,
    /// The memory has to be saved before the decision takes effect.
    pub memory_changed: bool,
}

/// Why nobody was appointed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppointError {
    #[error("there is no such backend, or it is not checked")]
    Unknown,
    #[error("it is not healthy")]
    NotUp,
    #[error("it does not say that it is a primary that takes writes; promote it first")]
    NoClaim,
}

/// The judgement over one cluster.
#[derive(Debug, Clone)]
pub struct Failover {
    memory: Memory,
    /// Everybody has had a verdict since the process started: nobody can come as a surprise.
    is_settled: bool,
    /// An authority's leader that another was promoted out of is not written to.
    doubts_leader: bool,
    /// This process has written to the established primary and has not seen it gone since, or a
    /// split brain is undecided: a higher timeline was promoted beside it, and does not win by that.
    is_live: bool,
    /// Who claims to be primary, since which probe: only those started later can have
    /// seen how the others answered to it.
    claiming_since: BTreeMap<String, u64>,
}

impl Failover {
    pub fn new(memory: Memory) -> Self {
        Self {
            is_live: memory.is_contested,
            memory,
            is_settled: false,
            doubts_leader: true,
            claiming_since: BTreeMap::new(),
        }
    }

    /// Whether an authority's leader is doubted when another has been promoted out of its
    /// history. The caller bounds the time: an authority that insists is right.
    pub fn doubt_leader(&mut self, doubts: bool) {
        self.doubts_leader = doubts;
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Judges everybody. To be called whenever anything about a candidate has changed.
    ///
    /// `authority`: `None` without one and when it does not answer; where one is configured,
    /// the first decision has to wait for its first answer or failure. `last_started`: number
    /// of the latest probe that was started in this process, of whatever backend.
    pub fn decide(
        &mut self,
        candidates: &[Candidate],
        authority: Option<&Authority>,
        last_started: u64,
    ) -> Decision {
        let before = self.memory.clone();
        self.learn(candidates);
        let standings = self.standings(candidates);
        self.note_claims(candidates, &standings, last_started);
        self.note_absence(candidates);
        let verdict = self.verdict(candidates, &standings, authority);
        if let Verdict::Primary(winner) = verdict {
            self.establish(candidates, winner, standings[winner]);
        }
        self.note_verdict(&verdict);
        // Once more: the memory may speak against others now.
        let standings = self.standings(candidates);
        let has_leader = matches!(authority, Some(Authority::Leader { .. }));
        let roles = standings.iter().enumerate();
        let roles = roles.map(|(index, standing)| role(index, *standing, &verdict, has_leader));
        let roles: Vec<(Role, Cause)> = roles.collect();
        Decision {
            primary: roles.iter().position(|(role, _)| *role == Role::Primary),
            roles,
            is_split_brain: matches!(verdict, Verdict::SplitBrain { .. }),
            wants_fresh: wants_fresh(&verdict, candidates),
            memory_changed: self.memory != before,
        }
    }

    /// An operator decides for this backend, whatever speaks against it. The next decision
    /// follows, except where an authority names another. What the others have that it lacks
    /// is disowned: they are fenced until they follow it, or are promoted once more.
    ///
    /// # Errors
    /// It is unknown or not healthy, or does not claim to be a writable primary.
    pub fn appoint(&mut self, name: &str, candidates: &[Candidate]) -> Result<(), AppointError> {
        let appointed = candidates.iter().find(|c| **c.name == *name);
        let appointed = appointed.ok_or(AppointError::Unknown)?;
        if appointed.health != Health::Up {
            return Err(AppointError::NotUp);
        }
        if !claim::can_be_appointed(appointed) {
            return Err(AppointError::NoClaim);
        }
        claim::appoint(&mut self.memory, appointed);
        self.memory.established = Some(name.to_owned());
        self.memory.deposed.clear();
        for other in candidates.iter().filter(|c| **c.name != *name) {
            if claim::is_disowned(&self.memory, other) {
                self.memory.depose(other.name, claim::timeline(other));
            }
        }
        Ok(())
    }

    fn learn(&mut self, candidates: &[Candidate]) {
        for candidate in candidates {
            claim::forgive(&mut self.memory, candidate);
        }
        for candidate in candidates {
            claim::learn(&mut self.memory, candidate);
        }
    }

    fn standings(&self, candidates: &[Candidate]) -> Vec<Standing> {
        let judge = |candidate| claim::standing(&self.memory, candidate, candidates);
        candidates.iter().map(judge).collect()
    }

    fn note_claims(&mut self, candidates: &[Candidate], standings: &[Standing], last_started: u64) {
        let claimants = candidates.iter().zip(standings);
        let claimants = claimants.filter(|(_, standing)| **standing == Standing::Claims);
        let mut since = BTreeMap::new();
        for (candidate, _) in claimants {
            let known = self.claiming_since.remove(&**candidate.name);
            since.insert(candidate.name.to_string(), known.unwrap_or(last_started));
        }
        self.claiming_since = since;
    }

    fn note_absence(&mut self, candidates: &[Candidate]) {
        let is_established = |candidate: &&Candidate| self.memory.is_established(candidate.name);
        let established = candidates.iter().find(is_established);
        let presence = established.map(|old| claim::presence(&self.memory, old, candidates));
        self.is_live &= presence.is_some_and(|it| it != Presence::Gone);
    }

    fn note_verdict(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Primary(_) => (self.is_live, self.memory.is_contested) = (true, false),
            Verdict::SplitBrain { .. } => self.memory.is_contested = true,
            _ => {}
        }
    }

    /// It is written to from now on, or still is.
    fn establish(&mut self, candidates: &[Candidate], winner: usize, standing: Standing) {
        let primary = &candidates[winner];
        let before = self.memory.established.replace(primary.name.to_string());
        let is_same = before.as_deref() == Some(&**primary.name);
        // Barred all the same: an authority has overruled what is remembered.
        let is_new = !is_same || standing != Standing::Claims;
        claim::establish(&mut self.memory, primary, is_new);
        self.memory.forgive(primary.name);
        if is_same {
            return;
        }
        let before = before.as_deref();
        if let Some(before) =
            before.filter(|before| !candidates.iter().any(|c| **c.name == **before))
        {
            // Removed: it may be added again.
            self.memory.depose(before, self.memory.highest_timeline());
        }
        for other in candidates.iter().filter(|c| c.name != primary.name) {
            let was_written_to = before == Some(&**other.name);
            if claim::may_return(&self.memory, other, was_written_to) {
                self.memory.depose(other.name, claim::timeline(other));
            }
        }
    }
}

fn role(index: usize, standing: Standing, verdict: &Verdict, has_leader: bool) -> (Role, Cause) {
    match (standing, verdict) {
        (Standing::Claims, Verdict::Primary(winner)) if *winner == index => {
            (Role::Primary, Cause::ClaimsPrimary)
        }
        (Standing::Unknown(cause), _) => (Role::Unknown, cause),
        (_, Verdict::SplitBrain { established }) if *established == Some(index) => {
            (Role::Fenced, Cause::SplitBrain)
        }
        (Standing::Follows(cause), _) => (Role::Replica, cause),
        (Standing::Barred(cause), _) => (Role::Fenced, cause),
        (Standing::Claims, Verdict::Primary(_)) if !has_leader => (Role::Fenced, Cause::Diverged),
        (Standing::Claims, Verdict::Primary(_) | Verdict::NotLeader) => {
            (Role::Fenced, Cause::NotLeader)
        }
        (Standing::Claims, Verdict::Outgrown { leader }) if *leader == index => {
            (Role::Fenced, Cause::AwaitingYield)
        }
        (Standing::Claims, Verdict::Outgrown { .. }) => (Role::Fenced, Cause::NotLeader),
        // It is not known yet whether it is still what it was.
        (Standing::Claims, Verdict::Awaiting { established }) if *established == index => {
            (Role::Unknown, Cause::AwaitingYield)
        }
        (Standing::Claims, Verdict::Awaiting { .. }) => (Role::Fenced, Cause::AwaitingYield),
        (Standing::Claims, Verdict::Starting) => (Role::Unknown, Cause::Started),
        (Standing::Claims, Verdict::SplitBrain { .. } | Verdict::Nobody) => {
            (Role::Fenced, Cause::SplitBrain)
        }
    }
}

fn wants_fresh(verdict: &Verdict, candidates: &[Candidate]) -> Vec<usize> {
    match verdict {
        Verdict::Awaiting { established } => vec![*established],
        Verdict::Starting => {
            let unheard = |index: &usize| candidates[*index].health == Health::Unknown;
            (0..candidates.len()).filter(unheard).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
pub mod simulation;
#[cfg(test)]
mod tests;
