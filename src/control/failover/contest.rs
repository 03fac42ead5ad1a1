//! The claimants compared: one of them, or nobody.

use crate::cluster::Cause;
use crate::cluster::Health;
use crate::control::evidence::Authority;
use crate::control::evidence::Evidence;
use crate::control::failover::Candidate;
use crate::control::failover::Failover;
use crate::control::failover::authority;
use crate::control::failover::claim;
use crate::control::failover::claim::Claim;
use crate::control::failover::claim::Presence;
use crate::control::failover::claim::Standing;
use crate::control::failover::memory::Memory;
use crate::control::failover::mysql;
use crate::control::failover::postgres;
use crate::control::failover::redis;
use crate::control::failover::told;

/// How the contest ends for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Primary(usize),
    /// Nobody claims, or everybody who does is barred.
    Nobody,
    /// Somebody has not had a first verdict yet, and may be the better one.
    Starting,
    /// The established primary has to say that it is one no longer.
    Awaiting {
        established: usize,
    },
    SplitBrain {
        established: Option<usize>,
    },
    /// The authority has not named any of them.
    NotLeader,
    /// The authority names this one, but another was promoted out of its history.
    Outgrown {
        leader: usize,
    },
}

impl Failover {
    pub(super) fn verdict(
        &mut self,
        candidates: &[Candidate],
        standings: &[Standing],
        authority: Option<&Authority>,
    ) -> Verdict {
        let is_unheard = |candidate: &Candidate| candidate.health == Health::Unknown;
        self.is_settled |= !candidates.is_empty() && !candidates.iter().any(is_unheard);
        let claimants = (0..candidates.len()).filter(|index| standings[*index] == Standing::Claims);
        let claimants: Vec<usize> = claimants.collect();
        if let Some(Authority::Leader { host, port, .. }) = authority {
            let leader = authority::leader(candidates, host, *port);
            return self.verdict_for(leader, candidates, standings);
        }
        if claimants.is_empty() {
            return Verdict::Nobody;
        }
        if !self.is_settled {
            return Verdict::Starting;
        }
        let established = |candidate: &Candidate| self.memory.is_established(candidate.name);
        let established = candidates.iter().position(established);
        if authority.is_some() {
            return without_leader(&claimants, established);
        }
        self.contest(candidates, &claimants, established)
    }

    /// The authority names a leader: it and nobody else.
    fn verdict_for(
        &self,
        leader: Option<usize>,
        candidates: &[Candidate],
        standings: &[Standing],
    ) -> Verdict {
        let Some(leader) = leader else {
            return Verdict::NotLeader;
        };
        let claims = claim::of(&self.memory, &candidates[leader]) == Claim::Primary;
        match standings[leader] {
            Standing::Claims if self.doubts_leader && is_outgrown(candidates, leader) => {
                Verdict::Outgrown { leader }
            }
            Standing::Claims => Verdict::Primary(leader),
            // It knows better than the history.
            Standing::Barred(Cause::Diverged) if claims => Verdict::Primary(leader),
            // It wants a lower timeline than others have: whoever is wrong, writes would be lost.
            Standing::Barred(Cause::StaleTimeline) if standings.contains(&Standing::Claims) => {
                let established = Some(leader);
                Verdict::SplitBrain { established }
            }
            _ => Verdict::NotLeader,
        }
    }

    fn contest(
        &self,
        candidates: &[Candidate],
        claimants: &[usize],
        established: Option<usize>,
    ) -> Verdict {
        let Some(old) = established else {
            return choose(&self.memory, candidates, claimants, None);
        };
        let rivals = claimants.iter().copied().filter(|index| *index != old);
        let rivals: Vec<usize> = rivals.collect();
        match claim::presence(&self.memory, &candidates[old], candidates) {
            Presence::Gone => choose(&self.memory, candidates, claimants, established),
            // The higher timeline began while it was away, or while nobody was written to by us.
            Presence::Outgrown if !self.is_live => {
                choose(&self.memory, candidates, claimants, established)
            }
            Presence::Unheard => Verdict::Awaiting { established: old },
            Presence::Insists if rivals.is_empty() => Verdict::Primary(old),
            Presence::Insists | Presence::Outgrown => {
                match self.stand_off(candidates, old, &rivals) {
                    // It answers again, but is not healthy yet.
                    Verdict::Primary(old) if !claimants.contains(&old) => {
                        Verdict::Awaiting { established: old }
                    }
                    verdict => verdict,
                }
            }
        }
    }

    /// The established primary was one when it was asked last, and others claim to be.
    fn stand_off(&self, candidates: &[Candidate], old: usize, rivals: &[usize]) -> Verdict {
        let has_answered = |rival: &usize| {
            let since = self.claiming_since.get(&**candidates[*rival].name);
            // Full of sessions it may never answer more than that: it takes their writes.
            let answered = candidates[old].full.unwrap_or(candidates[old].observed);
            since.is_some_and(|since| answered > *since)
        };
        let is_behind = |rival: &usize| covers(&candidates[old], &candidates[*rival]);
        if rivals
            .iter()
            .any(|rival| has_answered(rival) && !is_behind(rival))
        {
            return Verdict::SplitBrain {
                established: Some(old),
            };
        }
        match rivals.iter().all(has_answered) {
            true => Verdict::Primary(old),
            false => Verdict::Awaiting { established: old },
        }
    }
}

/// Another healthy backend takes writes and was promoted out of this one's history: the
/// authority will name it in a moment, and what is written here until then will be discarded.
pub(super) fn is_outgrown(candidates: &[Candidate], leader: usize) -> bool {
    let Evidence::Redis(old) = candidates[leader].evidence else {
        return false;
    };
    candidates.iter().enumerate().any(|(index, other)| {
        index != leader
            && other.health == Health::Up
            && matches!(other.evidence, Evidence::Redis(new) if redis::is_promoted_from(new, old))
    })
}

/// The authority says that there is no leader at present: what was, may go on.
fn without_leader(claimants: &[usize], established: Option<usize>) -> Verdict {
    match (claimants, established) {
        ([only], Some(established)) if *only == established => Verdict::Primary(established),
        ([_], _) => Verdict::NotLeader,
        _ => Verdict::SplitBrain { established: None },
    }
}

/// The established primary is out of the way.
fn choose(
    memory: &Memory,
    candidates: &[Candidate],
    claimants: &[usize],
    established: Option<usize>,
) -> Verdict {
    let others = claimants
        .iter()
        .filter(|index| Some(**index) != established);
    let others: Vec<usize> = others.copied().collect();
    match (claimants, &others[..]) {
        ([only], _) | (_, [only]) => return Verdict::Primary(*only),
        _ => {}
    }
    let claims = others
        .iter()
        .map(|index| (*index, candidates[*index].evidence));
    let claims: Vec<_> = claims.collect();
    match winner(memory, &claims) {
        Some(winner) => Verdict::Primary(winner),
        None => Verdict::SplitBrain { established: None },
    }
}

/// The one whose history decides; `None`: nothing decides.
fn winner(memory: &Memory, claims: &[(usize, &Evidence)]) -> Option<usize> {
    match claims.first()?.1 {
        Evidence::Silent => None,
        Evidence::Postgres(_) => postgres::winner(&all(claims, |evidence| match evidence {
            Evidence::Postgres(evidence) => Some(evidence),
            _ => None,
        })?),
        Evidence::MySql(_) => mysql::winner(&all(claims, |evidence| match evidence {
            Evidence::MySql(evidence) => Some(evidence),
            _ => None,
        })?),
        Evidence::Redis(_) => {
            let claims = all(claims, |evidence| match evidence {
                Evidence::Redis(evidence) => Some(evidence),
                _ => None,
            })?;
            redis::winner(&memory.redis, &claims)
        }
        Evidence::Told(_) => told::winner(&all(claims, |evidence| match evidence {
            Evidence::Told(evidence) => Some(evidence),
            _ => None,
        })?),
    }
}

/// Claims of one kind of database; `None`: they cannot be compared.
fn all<'a, T>(
    claims: &[(usize, &'a Evidence)],
    of_kind: impl Fn(&'a Evidence) -> Option<&'a T>,
) -> Option<Vec<(usize, &'a T)>> {
    let typed = claims
        .iter()
        .map(|(index, evidence)| Some((*index, of_kind(evidence)?)));
    typed.collect()
}

/// The rival has nothing that the established primary lacks.
fn covers(established: &Candidate, rival: &Candidate) -> bool {
    match (established.evidence, rival.evidence) {
        (Evidence::MySql(established), Evidence::MySql(rival)) => mysql::covers(established, rival),
        _ => false,
    }
}
