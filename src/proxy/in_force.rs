//! Which listeners the newest configuration has, for sessions whose listener may be gone.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::time::Instant;

use crate::cluster::Cause;
use crate::cluster::Name;
use crate::config::ListenerConfig;
use crate::proxy::registry::Registry;
use crate::proxy::registry::SessionCell;

/// The listeners of one configuration, and until when sessions of others may go on.
#[derive(Debug)]
pub struct InForce {
    names: HashSet<Name>,
    addresses: HashSet<SocketAddr>,
    deadline: Instant,
}

/// The newest [`InForce`]; none before the first configuration.
#[derive(Debug, Default)]
pub struct SharedInForce(RwLock<Option<Arc<InForce>>>);

impl InForce {
    pub fn new(listeners: &[ListenerConfig], deadline: Instant) -> Self {
        let names = listeners.iter().map(|listener| listener.name.clone());
        let addresses = listeners.iter().map(|listener| listener.bind);
        Self {
            names: names.collect(),
            addresses: addresses.collect(),
            deadline,
        }
    }

    /// A listener is not gone while its name or its address is there: it was rebound or renamed.
    fn judge(&self, cell: &SessionCell) {
        if self.names.contains(&cell.listener.name) || self.addresses.contains(&cell.bind) {
            cell.clear_deadline(Cause::ListenerRemoved);
            cell.go_on(Cause::ListenerRemoved);
        } else {
            cell.set_deadline(self.deadline, Cause::ListenerRemoved);
            cell.finish_requests(Cause::ListenerRemoved);
        }
    }
}

impl SharedInForce {
    /// Judges every session by `newest`, and from now on those that register.
    pub fn publish<'a>(&self, newest: InForce, registries: impl Iterator<Item = &'a Registry>) {
        let newest = Arc::new(newest);
        let known = self.0.write();
        *known.unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&newest));
        for registry in registries {
            registry.for_each(|cell| newest.judge(cell));
        }
    }

    fn newest(&self) -> Option<Arc<InForce>> {
        let newest = self.0.read();
        newest.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Judges a session that is in its registry: whoever publishes from then on sees it there.
    pub fn judge_newcomer(&self, cell: &SessionCell) {
        let mut known = self.newest();
        while let Some(judging) = &known {
            judging.judge(cell);
            let newest = self.newest();
            // Published meanwhile: its judgement may have come before ours, which was outdated.
            if newest.as_ref().is_some_and(|it| Arc::ptr_eq(it, judging)) {
                return;
            }
            known = newest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::registry::tests::cause;
    use crate::proxy::registry::tests::session;
    use std::time::Duration;

    /// As a configuration with at most one listener.
    fn publish(shared: &SharedInForce, registry: &Registry, name: Option<&str>, deadline: Instant) {
        let in_force = InForce {
            names: name.into_iter().map(Name::from).collect(),
            addresses: HashSet::new(),
            deadline,
        };
        shared.publish(in_force, std::iter::once(registry));
    }

    /// It got no deadline and lived for ever.
    #[test]
    fn a_session_that_registers_after_its_listener_was_removed_has_the_same_deadline() {
        let now = Instant::now();
        let (shared, registry) = (SharedInForce::default(), Registry::default());
        let early = session(Duration::ZERO, now);
        registry.insert(Arc::clone(&early));
        let deadline = now + Duration::from_secs(3);
        publish(&shared, &registry, None, deadline);

        let late = session(Duration::ZERO, now);
        registry.insert(Arc::clone(&late));
        shared.judge_newcomer(&late);

        registry.sweep(deadline - Duration::from_millis(1));
        assert_eq!([cause(&early), cause(&late)], [None, None]);
        registry.sweep(deadline);
        assert_eq!(
            [cause(&early), cause(&late)],
            [Some(Cause::ListenerRemoved); 2]
        );
    }

    #[test]
    fn a_listener_that_returns_takes_the_deadline_back() {
        let now = Instant::now();
        let (shared, registry) = (SharedInForce::default(), Registry::default());
        publish(&shared, &registry, None, now);
        let cell = session(Duration::ZERO, now);
        registry.insert(Arc::clone(&cell));
        shared.judge_newcomer(&cell);
        publish(&shared, &registry, Some("l"), now);
        registry.sweep(now);
        assert_eq!(cause(&cell), None);
    }
}
