//! What a server says of its role: ROLE and INFO.

use super::resp::Value;

/// An all-zero replication id means "none".
const NO_REPLICATION_ID: &str = "0000000000000000000000000000000000000000";
const REPLICATION_ID_BYTES: usize = 40;

/// The reply is not what the command answers with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The server refused: `LOADING ...`, `NOAUTH ...`.
    #[error("{0}")]
    Refused(String),
    #[error("unexpected answer to {0}")]
    Unexpected(&'static str),
}

/// The answer to ROLE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    Primary {
        offset: u64,
        replicas: Vec<AttachedReplica>,
    },
    Replica {
        primary_host: String,
        primary_port: u16,
        link: Link,
        /// `None` before the first synchronisation.
        offset: Option<u64>,
    },
    /// No data server at all.
    Sentinel { watched: Vec<String> },
}

/// A replica as its primary sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedReplica {
    pub host: String,
    pub port: u16,
    /// Acknowledged.
    pub offset: u64,
}

/// How far a replica's connection to its primary is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Not connected, or in the handshake.
    Connecting,
    /// Receiving a snapshot: what it holds is old or gone.
    Synchronizing,
    Connected,
    Unknown,
}

/// The parts of INFO that tell about replication; a field of another section is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replication {
    pub role: Option<InfoRole>,
    /// Names the history that the server writes.
    pub replication_id: Option<String>,
    /// The history that it was promoted out of.
    pub previous_replication_id: Option<String>,
    pub offset: Option<u64>,
    /// Up to where the previous history is its own.
    pub previous_offset: Option<u64>,
    pub primary_host: Option<String>,
    pub primary_port: Option<u16>,
    pub is_link_up: Option<bool>,
    pub is_synchronizing: Option<bool>,
    /// In the section `persistence`.
    pub is_loading: Option<bool>,
    /// Changes with every start; in the section `server`.
    pub run_id: Option<String>,
}

/// `role:` in INFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InfoRole {
    Primary,
    Replica,
}

impl Role {
    /// # Errors
    /// An error reply, or one of another shape.
    pub fn parse(reply: &Value) -> Result<Self, ReplyError> {
        refuse_error(reply)?;
        let elements = reply.elements().unwrap_or_default();
        let role = match elements {
            [kind, offset, replicas] if kind.text() == Some("master") => {
                Self::primary(offset, replicas)
            }
            [kind, host, port, link, offset] if kind.text() == Some("slave") => {
                Self::replica(host, port, link, offset)
            }
            [kind, watched] if kind.text() == Some("sentinel") => Self::sentinel(watched),
            _ => None,
        };
        role.ok_or(ReplyError::Unexpected("ROLE"))
    }

    fn primary(offset: &Value, replicas: &Value) -> Option<Self> {
        let replicas = replicas.elements()?.iter().map(AttachedReplica::parse);
        Some(Self::Primary {
            offset: u64::try_from(offset.integer()?).ok()?,
            replicas: replicas.collect::<Option<_>>()?,
        })
    }

    fn replica(host: &Value, port: &Value, link: &Value, offset: &Value) -> Option<Self> {
        Some(Self::Replica {
            primary_host: host.text()?.to_owned(),
            primary_port: u16::try_from(port.integer()?).ok()?,
            link: match link.text()? {
                "connected" => Link::Connected,
                "sync" => Link::Synchronizing,
                "connect" | "connecting" | "handshake" => Link::Connecting,
                _ => Link::Unknown,
            },
            offset: u64::try_from(offset.integer()?).ok(),
        })
    }

    fn sentinel(watched: &Value) -> Option<Self> {
        let names = watched.elements()?.iter().map(|name| name.text());
        Some(Self::Sentinel {
            watched: names
                .map(|name| name.map(str::to_owned))
                .collect::<Option<_>>()?,
        })
    }
}

impl AttachedReplica {
    fn parse(value: &Value) -> Option<Self> {
        let [host, port, offset] = value.elements()? else {
            return None;
        };
        Some(Self {
            host: host.text()?.to_owned(),
            port: u16::try_from(port.integer()?).ok()?,
            // A replica that has acknowledged nothing yet may be sent as -1.
            offset: u64::try_from(offset.integer()?).unwrap_or(0),
        })
    }
}

impl Replication {
    /// Parses the reply to INFO, whatever its sections. Unknown lines are skipped.
    ///
    /// # Errors
    /// An error reply, no text, or a value that no server writes.
    pub fn parse(reply: &Value) -> Result<Self, ReplyError> {
        refuse_error(reply)?;
        let unexpected = ReplyError::Unexpected("INFO");
        let text = reply.text().ok_or(unexpected.clone())?;
        let mut replication = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((key, value)) = line.split_once(':') {
                replication.set(key, value).ok_or(unexpected.clone())?;
            }
        }
        Ok(replication)
    }

    /// This server was promoted while it followed `other`: of the two, `other` is the old primary.
    pub fn was_promoted_from(&self, other: &Self) -> bool {
        self.previous_replication_id.is_some()
            && self.previous_replication_id == other.replication_id
    }

    /// `None`: a known key with an impossible value.
    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "role" => {
                self.role = Some(match value {
                    "master" => InfoRole::Primary,
                    "slave" => InfoRole::Replica,
                    _ => return None,
                });
            }
            "master_replid" => self.replication_id = replication_id(value)?,
            "master_replid2" => self.previous_replication_id = replication_id(value)?,
            "master_repl_offset" => self.offset = Some(value.parse().ok()?),
            // -1: there is no previous history.
            "second_repl_offset" => self.previous_offset = value.parse().ok(),
            "master_host" => self.primary_host = Some(value.to_owned()),
            "master_port" => self.primary_port = Some(value.parse().ok()?),
            "master_link_status" => self.is_link_up = Some(value == "up"),
            "master_sync_in_progress" => self.is_synchronizing = Some(flag(value)?),
            "loading" => self.is_loading = Some(flag(value)?),
            "run_id" => self.run_id = Some(value.to_owned()),
            _ => {}
        }
        Some(())
    }
}

/// Errors are answers too: the server says why it does not serve.
pub(super) fn refuse_error(reply: &Value) -> Result<(), ReplyError> {
    reply
        .error()
        .map_or(Ok(()), |text| Err(ReplyError::Refused(text)))
}

fn replication_id(value: &str) -> Option<Option<String>> {
    let is_id = value.len() == REPLICATION_ID_BYTES
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_id.then(|| Some(value.to_owned()).filter(|id| id != NO_REPLICATION_ID))
}

/// Written as 0 or 1.
fn flag(value: &str) -> Option<bool> {
    value.parse::<u8>().ok().map(|number| number != 0)
}
