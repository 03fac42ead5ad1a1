//! A cluster on a table: what its backends say, and what is made of it.

mod appoint;
mod authority;
mod histories;
mod postgres;
mod properties;
mod told;
mod transactions;

use super::*;
use crate::control::evidence::PostgresEvidence;

/// A cluster whose probes answer one after the other; a decision follows each.
pub(super) struct Scene {
    failover: Failover,
    nodes: Vec<Node>,
    probes: u64,
    authority: Option<Authority>,
    decision: Decision,
}

#[derive(Debug, Clone)]
struct Node {
    name: Name,
    health: Health,
    health_cause: Cause,
    evidence: Evidence,
    observed: u64,
    failed: Option<Cause>,
    full: Option<u64>,
    quarantine: Option<Cause>,
}

impl Node {
    fn new(name: &str) -> Self {
        Self {
            name: Name::from(name),
            health: Health::Unknown,
            health_cause: Cause::Started,
            evidence: Evidence::Silent,
            observed: 0,
            failed: None,
            full: None,
            quarantine: None,
        }
    }
}

impl Scene {
    /// Nobody has answered yet.
    fn new(names: &[&str]) -> Self {
        let mut scene = Self {
            failover: Failover::new(Memory::default()),
            nodes: names.iter().map(|name| Node::new(name)).collect(),
            probes: 0,
            authority: None,
            decision: Decision {
                roles: Vec::new(),
                primary: None,
                is_split_brain: false,
                wants_fresh: Vec::new(),
                memory_changed: false,
            },
        };
        scene.decide();
        scene
    }

    fn node(&mut self, name: &str) -> &mut Node {
        let node = self.nodes.iter_mut().find(|node| *node.name == *name);
        node.expect("a node of the scene")
    }

    /// A probe that is started now is answered.
    fn sees(&mut self, name: &str, evidence: impl Into<Evidence>) -> &mut Self {
        self.probes += 1;
        let probe = self.probes;
        self.answers(name, probe, evidence)
    }

    /// A probe that was started earlier is answered now.
    fn answers(&mut self, name: &str, probe: u64, evidence: impl Into<Evidence>) -> &mut Self {
        let node = self.node(name);
        node.health = Health::Up;
        node.health_cause = Cause::CheckPassed;
        node.evidence = evidence.into();
        node.observed = probe;
        node.failed = None;
        node.full = None;
        node.quarantine = None;
        self.decide()
    }

    /// Its health checks fail for good.
    fn loses(&mut self, name: &str) -> &mut Self {
        self.fails(name, Health::Down, Cause::CheckTimeout)
    }

    fn fails(&mut self, name: &str, health: Health, cause: Cause) -> &mut Self {
        self.probes += 1;
        let probe = self.probes;
        let node = self.node(name);
        node.full = (cause == Cause::TooManyConnections).then_some(probe);
        node.health = health;
        if health == Health::Down {
            node.health_cause = cause;
        }
        node.failed = Some(cause);
        self.decide()
    }

    fn is_told(&mut self, authority: Option<Authority>) -> &mut Self {
        self.authority = authority;
        self.decide()
    }

    fn leader(&mut self, name: &str) -> &mut Self {
        let host = format!("{name}.test");
        self.is_told(Some(Authority::Leader {
            host,
            port: 5432,
            timeline: None,
        }))
    }

    /// The process starts again, with what it has saved.
    fn restarts(&mut self) -> &mut Self {
        let saved = serde_json::to_string(self.failover.memory()).unwrap();
        let memory = serde_json::from_str(&saved).unwrap();
        self.failover = Failover::new(memory);
        for node in &mut self.nodes {
            *node = Node::new(&node.name);
        }
        self.decide()
    }

    fn appoints(&mut self, name: &str) -> Result<(), AppointError> {
        let hosts = hosts(&self.nodes);
        let candidates = candidates(&self.nodes, &hosts);
        self.failover.appoint(name, &candidates)?;
        self.decide();
        Ok(())
    }

    fn decide(&mut self) -> &mut Self {
        let hosts = hosts(&self.nodes);
        let candidates = candidates(&self.nodes, &hosts);
        let authority = self.authority.as_ref();
        let before = self.failover.clone();
        let decision = self.failover.decide(&candidates, authority, self.probes);
        check(&self.failover, &candidates, &decision);
        assert_eq!(
            decision.memory_changed,
            before.memory != self.failover.memory
        );
        let mut again = before;
        let second = again.decide(&candidates, authority, self.probes);
        assert_eq!(second, decision, "the same facts, another decision");
        self.decision = decision;
        self
    }

    fn role(&self, name: &str) -> (Role, Cause) {
        let index = self.nodes.iter().position(|node| *node.name == *name);
        self.decision.roles[index.expect("a node of the scene")]
    }

    fn primary(&self) -> Option<&str> {
        let primary = self.decision.primary?;
        Some(&self.nodes[primary].name)
    }

    fn wants_fresh(&self) -> Vec<&str> {
        let wanted = self.decision.wants_fresh.iter();
        wanted.map(|index| &*self.nodes[*index].name).collect()
    }

    fn is_split(&self) -> bool {
        self.decision.is_split_brain
    }
}

fn hosts(nodes: &[Node]) -> Vec<String> {
    nodes
        .iter()
        .map(|node| format!("{}.test", node.name))
        .collect()
}

fn candidates<'a>(nodes: &'a [Node], hosts: &'a [String]) -> Vec<Candidate<'a>> {
    let nodes = nodes.iter().zip(hosts);
    nodes
        .map(|(node, host)| Candidate {
            name: &node.name,
            health: node.health,
            health_cause: node.health_cause,
            evidence: &node.evidence,
            observed: node.observed,
            failed: node.failed,
            full: node.full,
            quarantine: node.quarantine,
            host,
            address: None,
            port: 5432,
        })
        .collect()
}

/// What holds for every decision, whatever was seen.
pub(super) fn check(failover: &Failover, candidates: &[Candidate], decision: &Decision) {
    assert_eq!(decision.roles.len(), candidates.len());
    let is_primary = |index: &usize| decision.roles[*index].0 == Role::Primary;
    let primaries: Vec<usize> = (0..candidates.len()).filter(is_primary).collect();
    assert_eq!(primaries, Vec::from_iter(decision.primary), "{decision:?}");
    assert!(!decision.is_split_brain || decision.primary.is_none());
    for index in primaries {
        let primary = &candidates[index];
        assert_eq!(primary.health, Health::Up);
        assert_eq!(primary.quarantine, None);
        assert_eq!(failover.memory().established(), Some(&**primary.name));
        let memory = failover.memory();
        match primary.evidence {
            Evidence::Silent => panic!("nobody says that it is primary"),
            Evidence::Postgres(evidence) => {
                assert!(!evidence.is_in_recovery && evidence.is_writable);
                let highest = memory.postgres.timelines[&evidence.system_identifier];
                assert!(evidence.timeline >= highest, "{decision:?}");
            }
            Evidence::MySql(evidence) => assert!(!evidence.is_read_only),
            Evidence::Redis(evidence) => assert!(evidence.is_primary),
            Evidence::Told(evidence) => {
                let highest = memory.told.highest_timeline;
                let is_lower = evidence.timeline.is_some() && evidence.timeline < highest;
                assert!(evidence.is_primary && !is_lower, "{decision:?}");
            }
        }
    }
}

impl From<PostgresEvidence> for Evidence {
    fn from(evidence: PostgresEvidence) -> Self {
        Self::Postgres(evidence)
    }
}

fn postgres(timeline: u32, is_in_recovery: bool) -> PostgresEvidence {
    PostgresEvidence {
        is_in_recovery,
        is_writable: !is_in_recovery,
        system_identifier: 7,
        timeline,
        received_lsn: 1000,
        replayed_lsn: 1000,
        connections_used: 0,
        connections_allowed: 97,
    }
}

fn primary(timeline: u32) -> PostgresEvidence {
    postgres(timeline, false)
}

fn replica(timeline: u32) -> PostgresEvidence {
    postgres(timeline, true)
}

const PRIMARY: (Role, Cause) = (Role::Primary, Cause::ClaimsPrimary);
const REPLICA: (Role, Cause) = (Role::Replica, Cause::ClaimsReplica);

fn fenced(cause: Cause) -> (Role, Cause) {
    (Role::Fenced, cause)
}
