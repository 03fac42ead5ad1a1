//! Answers of a Sentinel: who is primary, who else watches, whether they could decide.

use super::replication::ReplyError;
use super::replication::refuse_error;
use super::resp::Value;

/// The primary as this Sentinel sees it (SENTINEL MASTER).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    pub host: String,
    pub port: u16,
    /// `master`, `s_down`, `o_down`, `failover_in_progress`, `disconnected`, …
    pub flags: Vec<String>,
    /// Grows with every failover; the highest one is right where Sentinels disagree.
    pub config_epoch: u64,
    pub quorum: u64,
    pub other_sentinels: u64,
}

/// Another Sentinel that watches the same primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub host: String,
    pub port: u16,
    pub flags: Vec<String>,
}

/// Whether the Sentinels could agree on a failover (SENTINEL CKQUORUM).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quorum {
    Reached {
        usable: u64,
    },
    /// Why not, in Sentinel's words.
    Missing(String),
}

/// Host and port of the primary; `None` if the Sentinel does not know the name.
///
/// # Errors
/// An error reply, or one of another shape.
pub fn primary_address(reply: &Value) -> Result<Option<(String, u16)>, ReplyError> {
    refuse_error(reply)?;
    if *reply == Value::Null {
        return Ok(None);
    }
    let address = match reply.elements() {
        Some([host, port]) => host.text().map(str::to_owned).zip(port_number(port)),
        _ => None,
    };
    match address {
        Some(address) => Ok(Some(address)),
        None => Err(ReplyError::Unexpected("SENTINEL get-master-addr-by-name")),
    }
}

/// The other Sentinels.
///
/// # Errors
/// An error reply (`No such master with that name`), or one of another shape.
pub fn peers(reply: &Value) -> Result<Vec<Peer>, ReplyError> {
    refuse_error(reply)?;
    let peers = reply.elements().map(|peers| peers.iter().map(Peer::parse));
    let peers = peers.and_then(|peers| peers.collect::<Option<_>>());
    peers.ok_or(ReplyError::Unexpected("SENTINEL sentinels"))
}

impl Watched {
    /// # Errors
    /// An error reply (`No such master with that name`), or one of another shape.
    pub fn parse(reply: &Value) -> Result<Self, ReplyError> {
        refuse_error(reply)?;
        Self::from_fields(reply).ok_or(ReplyError::Unexpected("SENTINEL master"))
    }

    fn from_fields(reply: &Value) -> Option<Self> {
        Some(Self {
            host: reply.field("ip")?.text()?.to_owned(),
            port: port_number(reply.field("port")?)?,
            flags: flags(reply)?,
            config_epoch: number(reply, "config-epoch")?,
            quorum: number(reply, "quorum")?,
            other_sentinels: number(reply, "num-other-sentinels")?,
        })
    }

    pub fn has_flag(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own == flag)
    }
}

impl Peer {
    fn parse(value: &Value) -> Option<Self> {
        Some(Self {
            host: value.field("ip")?.text()?.to_owned(),
            port: port_number(value.field("port")?)?,
            flags: flags(value)?,
        })
    }
}

impl Quorum {
    /// # Errors
    /// An error reply other than NOQUORUM, or one of another shape.
    pub fn parse(reply: &Value) -> Result<Self, ReplyError> {
        if let Some(error) = reply.error()
            && error.starts_with("NOQUORUM")
        {
            return Ok(Self::Missing(error));
        }
        refuse_error(reply)?;
        // "OK 3 usable Sentinels. Quorum and failover authorization can be reached"
        let mut words = reply.text().unwrap_or_default().split(' ');
        let usable = match words.next() {
            Some("OK") => words.next().and_then(|usable| usable.parse().ok()),
            _ => None,
        };
        match usable {
            Some(usable) => Ok(Self::Reached { usable }),
            None => Err(ReplyError::Unexpected("SENTINEL ckquorum")),
        }
    }
}

fn flags(value: &Value) -> Option<Vec<String>> {
    let text = value.field("flags")?.text()?;
    Some(text.split(',').map(str::to_owned).collect())
}

fn number(value: &Value, name: &str) -> Option<u64> {
    u64::try_from(value.field(name)?.integer()?).ok()
}

fn port_number(value: &Value) -> Option<u16> {
    u16::try_from(value.integer()?).ok()
}
