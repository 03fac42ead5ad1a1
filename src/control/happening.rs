//! What happens to a cluster, as plain values: for the flight recorder and for hooks.
//!
//! Pure. The states of a cluster are compared with those of the last look, so that
//! nothing that routing acts on can go unnoticed, whatever changed it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::AdminState;
use crate::cluster::Cause;
use crate::cluster::Health;
use crate::cluster::Name;
use crate::cluster::Role;
use crate::control::backend::Moment;
use crate::routing::Counts;

/// A server that is dying has reset its sessions and still passes a check: so soon after an error that is no
/// good answer.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// Happenings that wait to be taken. They are taken after every batch of events; a core
/// whose happenings nobody takes must not grow for it.
const MAX_WAITING: usize = 4096;

/// One thing that happened to a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Happening {
    pub at: Moment,
    pub cluster: Name,
    /// `None`: it concerns nobody alone.
    pub backend: Option<Name>,
    pub cause: Cause,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// The first failed check or report against a backend since its last good answer.
    Error,
    Health {
        from: Health,
        to: Health,
        before: Before,
    },
    Role {
        from: Role,
        to: Role,
    },
    /// Nobody may be written to any more; the backend is the one that was.
    PrimaryLost {
        before: Before,
    },
    /// The backend may be written to from now on.
    PrimarySeen {
        /// The primary before; itself when it has returned, `None` when it is the first.
        last: Option<Name>,
        timeline: Option<u32>,
        before: Before,
    },
    SplitBrain,
    SplitBrainOver,
    /// A cluster without roles has lost its last backend, this one.
    Unserved {
        before: Before,
    },
    /// A cluster without roles has a backend again, this one.
    Served,
    /// The backend gets no new requests because of its answers.
    Ejected {
        before: Before,
    },
    /// The backend gets new requests again.
    Returned,
}

/// How things stood before something happened to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Before {
    pub last_good: Option<Moment>,
    pub first_error: Option<(Moment, Cause)>,
    /// The cluster's counts at the last good answer.
    pub counts: Counts,
}

/// One backend as it is now.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    pub name: &'a Name,
    pub health: Health,
    pub health_cause: Cause,
    pub admin: AdminState,
    pub role: Role,
    pub role_cause: Cause,
    pub timeline: Option<u32>,
    /// Takes new sessions.
    pub is_eligible: bool,
    /// Why its answers have it ejected.
    pub ejected: Option<Cause>,
}

/// One cluster as it is now.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    pub cluster: &'a Name,
    pub backends: &'a [Sight<'a>],
    pub tells_roles: bool,
    pub is_split_brain: bool,
}

/// One cluster as it was when it was looked at last.
#[derive(Debug, Default)]
pub struct Watch {
    seen: HashMap<Name, Seen>,
    primary: Option<Name>,
    last_primary: Option<Name>,
    is_split_brain: bool,
    is_served: bool,
    waiting: Vec<Happening>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    health: Health,
    role: Role,
    is_eligible: bool,
    ejected: Option<Cause>,
    before: Before,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            health: Health::Unknown,
            role: Role::Unknown,
            is_eligible: false,
            ejected: None,
            before: Before::default(),
        }
    }
}

impl Watch {
    /// A check of this backend passed, and all that follows from it is decided.
    pub fn passed(&mut self, backend: &Name, counts: Counts, now: Moment) {
        if let Some(seen) = self.seen.get_mut(backend) {
            let is_fresh = |(at, _): (Moment, Cause)| {
                now.instant.saturating_duration_since(at.instant) < LAST_BREATH
            };
            if seen.before.first_error.is_some_and(is_fresh) {
                return;
            }
            seen.before = Before {
                last_good: Some(now),
                first_error: None,
                counts,
            };
        }
    }

    /// A check of this backend failed, or a session reported it.
    pub fn failed(&mut self, cluster: &Name, backend: &Name, cause: Cause, now: Moment) {
        let Some(seen) = self.seen.get_mut(backend) else {
            return;
        };
        // Of one that is down already, or was never up, nothing else is expected.
        if seen.health != Health::Up || seen.before.first_error.is_some() {
            return;
        }
        seen.before.first_error = Some((now, cause));
        self.note(Happening {
            at: now,
            cluster: Arc::clone(cluster),
            backend: Some(Arc::clone(backend)),
            cause,
            what: What::Error,
        });
    }

    /// Compares the cluster with what it was; what differs has happened.
    pub fn look(&mut self, scene: Scene<'_>, now: Moment) {
        let happening = |backend: Option<&Name>, cause, what| Happening {
            at: now,
            cluster: Arc::clone(scene.cluster),
            backend: backend.cloned(),
            cause,
            what,
        };
        let mut happened = Vec::new();
        self.look_at_split_brain(scene, &mut |cause, what| {
            happened.push(happening(None, cause, what));
        });
        // Losses come first: what follows is part of them.
        self.look_for_losses(scene, &mut |name, cause, what| {
            happened.push(happening(Some(name), cause, what));
        });
        self.look_at_backends(scene.backends, &mut |name, cause, what| {
            happened.push(happening(Some(name), cause, what));
        });
        self.look_for_returns(scene, &mut |name, cause, what| {
            happened.push(happening(Some(name), cause, what));
        });
        let is_there = |name: &Name| scene.backends.iter().any(|sight| sight.name == name);
        self.seen.retain(|name, _| is_there(name));
        for happening in happened {
            self.note(happening);
        }
    }

    /// What has happened since this was asked last, oldest first.
    pub fn take(&mut self) -> Vec<Happening> {
        std::mem::take(&mut self.waiting)
    }

    fn note(&mut self, happening: Happening) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push(happening);
        }
    }

    fn before(&self, name: &Name) -> Before {
        self.seen.get(name).map(|it| it.before).unwrap_or_default()
    }

    fn look_at_split_brain(&mut self, scene: Scene<'_>, note: &mut dyn FnMut(Cause, What)) {
        match (self.is_split_brain, scene.is_split_brain) {
            (false, true) => note(Cause::SplitBrain, What::SplitBrain),
            (true, false) => note(Cause::ClaimsPrimary, What::SplitBrainOver),
            _ => {}
        }
        self.is_split_brain = scene.is_split_brain;
    }

    fn look_for_losses(&mut self, scene: Scene<'_>, note: &mut dyn FnMut(&Name, Cause, What)) {
        let present = scene.primary().map(|sight| sight.name);
        if let Some(lost) = self.primary.take() {
            if present == Some(&lost) {
                self.primary = Some(lost);
            } else {
                let before = self.before(&lost);
                note(
                    &lost,
                    why_not_primary(scene.find(&lost)),
                    What::PrimaryLost { before },
                );
            }
        }
        let is_served = !scene.tells_roles && scene.backends.iter().any(|it| it.is_eligible);
        if self.is_served && !is_served && !scene.tells_roles {
            let was = |sight: &&Sight| self.seen.get(sight.name).is_some_and(|it| it.is_eligible);
            let last = scene.backends.iter().find(was).or(scene.backends.first());
            if let Some(last) = last {
                let before = self.before(last.name);
                note(last.name, why_not_eligible(last), What::Unserved { before });
            }
        }
    }

    fn look_at_backends(
        &mut self,
        backends: &[Sight<'_>],
        note: &mut dyn FnMut(&Name, Cause, What),
    ) {
        for sight in backends {
            let seen = self.seen.entry(Arc::clone(sight.name)).or_default();
            let (was, had) = (seen.health, seen.role);
            if was != sight.health {
                let what = What::Health {
                    from: was,
                    to: sight.health,
                    before: seen.before,
                };
                note(sight.name, sight.health_cause, what);
            }
            if had != sight.role {
                let what = What::Role {
                    from: had,
                    to: sight.role,
                };
                note(sight.name, sight.role_cause, what);
            }
            match (seen.ejected, sight.ejected) {
                (None, Some(cause)) => {
                    let before = seen.before;
                    note(sight.name, cause, What::Ejected { before });
                }
                (Some(_), None) => note(sight.name, Cause::EjectionOver, What::Returned),
                _ => {}
            }
            seen.ejected = sight.ejected;
            seen.health = sight.health;
            seen.role = sight.role;
            seen.is_eligible = sight.is_eligible;
        }
    }

    fn look_for_returns(&mut self, scene: Scene<'_>, note: &mut dyn FnMut(&Name, Cause, What)) {
        if let (None, Some(sight)) = (&self.primary, scene.primary()) {
            let last = self.last_primary.replace(Arc::clone(sight.name));
            let what = What::PrimarySeen {
                last,
                timeline: sight.timeline,
                before: self.before(sight.name),
            };
            note(sight.name, sight.role_cause, what);
            self.primary = Some(Arc::clone(sight.name));
        }
        let eligible = scene.backends.iter().find(|it| it.is_eligible);
        let eligible = eligible.filter(|_| !scene.tells_roles);
        if let (false, Some(first)) = (self.is_served, eligible) {
            note(first.name, first.health_cause, What::Served);
        }
        self.is_served = eligible.is_some();
    }
}

impl<'a> Scene<'a> {
    fn primary(&self) -> Option<&'a Sight<'a>> {
        self.backends.iter().find(|it| it.role == Role::Primary)
    }

    fn find(&self, name: &Name) -> Option<&'a Sight<'a>> {
        self.backends.iter().find(|it| it.name == name)
    }
}

fn why_not_primary(sight: Option<&Sight<'_>>) -> Cause {
    match sight {
        None => Cause::Reload,
        Some(sight) if sight.admin == AdminState::Maintenance => Cause::AdminCommand,
        Some(sight) => sight.role_cause,
    }
}

fn why_not_eligible(sight: &Sight<'_>) -> Cause {
    match sight.admin {
        AdminState::Ready => sight.health_cause,
        AdminState::Drain | AdminState::Maintenance => Cause::AdminCommand,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Went wrong once: of five sessions that a dying server had reset, two were counted as lost
    /// before the outage, because a check passed in between.
    #[test]
    fn a_check_that_passes_right_after_an_error_is_no_good_answer() {
        let (cluster, name) = (Name::from("a"), Name::from("db1"));
        let sight = Sight {
            name: &name,
            health: Health::Up,
            health_cause: Cause::CheckPassed,
            admin: AdminState::Ready,
            role: Role::Unknown,
            role_cause: Cause::Started,
            timeline: None,
            is_eligible: true,
            ejected: None,
        };
        let scene = Scene {
            cluster: &cluster,
            backends: &[sight],
            tells_roles: false,
            is_split_brain: false,
        };
        let start = Moment::now();
        let after = |delay: Duration| Moment {
            instant: start.instant + delay,
            ..start
        };
        let lost = |lost| Counts {
            lost,
            ..Counts::default()
        };
        let mut watch = Watch::default();
        watch.look(scene, start);
        watch.passed(&name, lost(0), start);
        watch.failed(&cluster, &name, Cause::Reset, after(LAST_BREATH / 4));
        watch.passed(&name, lost(2), after(LAST_BREATH / 2));
        let before = watch.before(&name);
        assert_eq!(before.counts, lost(0));
        assert!(before.first_error.is_some());
        // It lives after all.
        watch.passed(&name, lost(2), after(2 * LAST_BREATH));
        let before = watch.before(&name);
        assert_eq!(before.counts, lost(2));
        assert!(before.first_error.is_none());
    }
}
