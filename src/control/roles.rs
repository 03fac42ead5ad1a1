//! What is known of the roles in one cluster, and how sure it is.

use std::time::Duration;
use std::time::Instant;

use crate::cluster::Cause;
use crate::cluster::Role;
use crate::control::evidence::Authority;
use crate::control::failover::AppointError;
use crate::control::failover::Candidate;
use crate::control::failover::Decision;
use crate::control::failover::Failover;
use crate::control::failover::Memory;

/// A backend that begins to claim to be primary has perhaps been promoted, and the authority
/// says so in a moment: Sentinel notices within a second and tells the others within two
/// more. One that claims for longer is a stray, and nobody is asked in haste because of it.
pub const MAX_CONTRADICTION: Duration = Duration::from_secs(5);

/// Who is what, in a cluster whose health check tells roles.
#[derive(Debug)]
pub struct Roles {
    failover: Failover,
    /// What the authority has said last; `None` without one and when it is silent.
    pub authority: Option<Authority>,
    /// The first decision waits for what the authority says, or for its silence.
    pub awaits_authority: bool,
    pub is_split_brain: bool,
    /// Since when the authority's leader is doubted.
    doubted_since: Option<Instant>,
    /// Since when a higher timeline is known than the last primary had, while there is none:
    /// somebody was promoted, whether or not we ever see who.
    outgrown_since: Option<Instant>,
    /// Since when the one that was written to last is that one; `None`: since before this process.
    elected_since: Option<Instant>,
    /// The memory has to be saved before the next table is published.
    pub unsaved: bool,
}

impl Roles {
    pub fn new(memory: Memory) -> Self {
        Self {
            failover: Failover::new(memory),
            authority: None,
            awaits_authority: false,
            is_split_brain: false,
            doubted_since: None,
            outgrown_since: None,
            elected_since: None,
            unsaved: false,
        }
    }

    /// An authority that insists for this long is right, whoever was promoted by whomever.
    fn doubts_leader(&self, now: Instant) -> bool {
        let doubted = |since| now.saturating_duration_since(since) < MAX_CONTRADICTION;
        self.doubted_since.is_none_or(doubted)
    }

    fn note_doubts(&mut self, decision: &Decision, now: Instant) {
        let contradicts = |role: &(Role, Cause)| {
            [
                (Role::Fenced, Cause::AwaitingYield),
                (Role::Fenced, Cause::NotLeader),
            ]
            .contains(role)
        };
        self.doubted_since = decision
            .roles
            .iter()
            .any(contradicts)
            .then(|| self.doubted_since.unwrap_or(now));
    }

    /// Who is what now. `last_started`: see [`Failover::decide`].
    pub fn decide(
        &mut self,
        candidates: &[Candidate],
        last_started: u64,
        now: Instant,
    ) -> Decision {
        let doubts = self.doubts_leader(now);
        self.failover.doubt_leader(doubts);
        let highest = self.memory().highest_timeline();
        let before = self.memory().established().map(str::to_owned);
        let authority = self.authority.as_ref();
        let decision = self.failover.decide(candidates, authority, last_started);
        self.note_doubts(&decision, now);
        self.unsaved |= decision.memory_changed;
        if self.memory().established() != before.as_deref() {
            self.elected_since = Some(now);
        }
        let has_risen = highest.is_some() && self.memory().highest_timeline() > highest;
        self.outgrown_since = match decision.primary {
            Some(_) => None,
            None => self.outgrown_since.or(has_risen.then_some(now)),
        };
        decision
    }

    /// An operator decides for this backend.
    ///
    /// # Errors
    /// As for [`Failover::appoint`].
    pub fn appoint(
        &mut self,
        backend: &str,
        candidates: &[Candidate],
        now: Instant,
    ) -> Result<(), AppointError> {
        self.failover.appoint(backend, candidates)?;
        self.elected_since = Some(now);
        self.unsaved = true;
        Ok(())
    }

    /// Since when it is known that somebody was promoted after this backend; `None`: nothing says so.
    pub fn replaced_since(&self, backend: &str) -> Option<Instant> {
        let last = self.memory().established();
        let is_other = last.is_some_and(|last| last != backend);
        let elected = self.elected_since.filter(|_| is_other);
        elected.or(self.outgrown_since)
    }

    pub fn memory(&self) -> &Memory {
        self.failover.memory()
    }

    /// What the authority says from now on; `None`: it is silent.
    pub fn hear(&mut self, authority: Option<Authority>) {
        self.authority = authority;
        self.awaits_authority = false;
    }
}
