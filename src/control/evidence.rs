//! What a backend says about itself: facts from a probe, no judgement.
//!
//! Pure. Judging them is the business of [`crate::control::failover`].

use std::time::Duration;

/// Everything one probe could learn beyond "it answers".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Evidence {
    /// The protocol tells no role.
    #[default]
    Silent,
    Postgres(PostgresEvidence),
    MySql(MySqlEvidence),
    Redis(RedisEvidence),
    /// A service that tells its role by itself, e.g. by status code.
    Told(ToldEvidence),
}

impl Evidence {
    /// Which history its positions belong to; `None` where there are none.
    pub fn history(&self) -> Option<String> {
        match self {
            Self::Postgres(it) => Some(format!("{}/{}", it.system_identifier, it.timeline)),
            Self::Redis(it) => Some(it.replication_id.clone()),
            Self::Silent | Self::MySql(_) | Self::Told(_) => None,
        }
    }

    /// How far it has come: bytes of WAL that are replayed (written, by a primary), or of
    /// the replication stream.
    pub fn position(&self) -> Option<u64> {
        match self {
            Self::Postgres(it) => Some(it.replayed_lsn),
            Self::Redis(it) => Some(it.offset),
            Self::Silent | Self::MySql(_) | Self::Told(_) => None,
        }
    }

    /// The timeline that it is on; `None` where there are none.
    pub fn timeline(&self) -> Option<u32> {
        match self {
            Self::Postgres(it) => Some(it.timeline),
            Self::Told(it) => it.timeline,
            Self::Silent | Self::MySql(_) | Self::Redis(_) => None,
        }
    }

    /// Its lag as it says itself.
    pub fn told_lag(&self) -> Option<Duration> {
        match self {
            Self::MySql(it) => it.lag,
            Self::Silent | Self::Postgres(_) | Self::Redis(_) | Self::Told(_) => None,
        }
    }
}

/// <https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-RECOVERY-CONTROL>
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresEvidence {
    pub is_in_recovery: bool,
    /// New transactions may write (`default_transaction_read_only` is off).
    pub is_writable: bool,
    pub system_identifier: u64,
    /// Of a primary: of the WAL that it writes; of a replica: of what it has received.
    pub timeline: u32,
    /// Primary: written so far; replica: received so far.
    pub received_lsn: u64,
    /// Primary: the same; replica: replayed so far.
    pub replayed_lsn: u64,
    pub connections_used: u32,
    /// Without those reserved for superusers.
    pub connections_allowed: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MySqlEvidence {
    /// `read_only` or `super_read_only` is on.
    pub is_read_only: bool,
    /// It is configured to follow a primary.
    pub is_replica: bool,
    /// Executed transactions: MySQL's `gtid_executed` or MariaDB's `gtid_current_pos`; empty without GTIDs.
    pub gtid_set: String,
    pub dialect: MySqlDialect,
    /// `None`: it does not follow anybody at present, or does not say.
    pub lag: Option<Duration>,
    pub connections_used: u32,
    pub connections_allowed: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MySqlDialect {
    MySql,
    MariaDb,
}

/// <https://redis.io/docs/latest/operate/oss_and_stack/management/replication/>
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisEvidence {
    pub is_primary: bool,
    /// A replica whose link to its primary is up; a primary always.
    pub is_linked: bool,
    /// `master_replid`: the history that it is in.
    pub replication_id: String,
    /// `master_replid2`: the history that it was promoted out of.
    pub previous_id: Option<String>,
    pub offset: u64,
    pub connections_used: u32,
    pub connections_allowed: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToldEvidence {
    pub is_primary: bool,
    pub timeline: Option<u32>,
}

/// Who somebody that must know says is primary: Patroni's `/cluster` or a majority of Sentinels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    /// This backend, by its address as the authority knows it.
    Leader {
        host: String,
        port: u16,
        timeline: Option<u32>,
    },
    /// Nobody at present, it says.
    NoLeader,
}
