//! What has to outlive a restart, so that nobody is written to who was fenced before.
//!
//! It changes when the primary changes or a higher timeline is seen, never with
//! each write: saving it costs nothing in quiet times.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

/// Losers that are remembered by name. Each needs a failover of its own to become one,
/// and most are seen to follow again soon.
const MAX_DEPOSED: usize = 64;

/// What one cluster's failover remembers. An empty one knows nothing and fences nobody.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// The backend that was last written to, by its configured name.
    pub(super) established: Option<String>,
    /// A split brain was seen, and nobody was written to since: a restart must not decide it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_contested: bool,
    /// Oldest first.
    pub(super) deposed: Vec<Deposed>,
    pub(super) postgres: PostgresMemory,
    pub(super) mysql: MySqlMemory,
    pub(super) redis: RedisMemory,
    pub(super) told: ToldMemory,
}

/// It was written to, or claimed to be primary, when another became primary: it may
/// have writes that the cluster does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Deposed {
    pub name: String,
    /// Where timelines exist: the highest of those that do not count when it claims them.
    pub timeline: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PostgresMemory {
    /// Pinned by the first primary.
    pub system_identifier: Option<u64>,
    /// The highest timeline that was ever seen, by system identifier: several only
    /// until one is pinned.
    pub timelines: BTreeMap<u64, u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct MySqlMemory {
    /// What every later primary must have executed; empty without GTIDs.
    pub gtid_set: String,
    /// The set has a write that the established primary took as primary.
    pub has_own_write: bool,
    /// An operator appointed the established primary although it follows somebody.
    pub may_follow: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RedisMemory {
    /// Of the backend that was last written to.
    pub replication_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ToldMemory {
    pub highest_timeline: Option<u32>,
}

impl Memory {
    /// The backend that was last written to, by its configured name.
    pub fn established(&self) -> Option<&str> {
        self.established.as_deref()
    }

    /// The timeline below which nobody may be written to; `None` where there are no
    /// timelines or none was seen.
    pub fn highest_timeline(&self) -> Option<u32> {
        let pinned = self.postgres.system_identifier;
        let highest = pinned.and_then(|system| self.postgres.timelines.get(&system).copied());
        highest.or(self.told.highest_timeline)
    }

    pub(super) fn is_established(&self, name: &str) -> bool {
        self.established() == Some(name)
    }

    pub(super) fn deposed(&self, name: &str) -> Option<&Deposed> {
        self.deposed.iter().find(|deposed| deposed.name == name)
    }

    pub(super) fn depose(&mut self, name: &str, timeline: Option<u32>) {
        self.forgive(name);
        if self.deposed.len() == MAX_DEPOSED {
            self.deposed.remove(0);
        }
        self.deposed.push(Deposed {
            name: name.to_owned(),
            timeline,
        });
    }

    pub(super) fn forgive(&mut self, name: &str) {
        self.deposed.retain(|deposed| deposed.name != name);
    }
}
