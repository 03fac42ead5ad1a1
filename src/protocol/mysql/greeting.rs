//! The server's first packet (Handshake V10), or the error that it sends instead.

use super::Capabilities;
use super::Malformed;
use super::Status;
use super::response::ERR_HEADER;
use super::response::ServerError;
use super::wire::Reader;
use super::wire::put_nul_terminated;

/// Longest greeting we read; real ones have about a hundred bytes, version strings are free text.
pub const MAX_GREETING_BYTES: usize = 1024;
/// Random bytes that the client mixes with its password.
pub const NONCE_BYTES: usize = 20;

const PROTOCOL_10: u8 = 10;
const FIRST_NONCE_BYTES: usize = 8;
/// MySQL leaves ten bytes zero; MariaDB puts its flags into the last four.
const RESERVED_BYTES: usize = 6;
/// MariaDB 10 and later say they are 5.5.5, so that old replicas accept them.
const MARIADB_PREFIX: &str = "5.5.5-";

/// What the server's first packet was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstPacket {
    Greeting(Greeting),
    /// Too many connections, host blocked, shutting down.
    Refused(ServerError),
}

/// Which family a server belongs to; they differ in their replication statements and GTIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    MySql,
    MariaDb,
}

/// What the server says of itself before it knows its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// As sent: `8.4.6`, `5.5.5-10.11.11-MariaDB`.
    pub server_version: String,
    pub connection_id: u32,
    pub nonce: [u8; NONCE_BYTES],
    pub capabilities: Capabilities,
    pub character_set: u8,
    pub status: Status,
    /// Empty if the server is too old to name one.
    pub auth_plugin: String,
}

impl FirstPacket {
    /// # Errors
    /// Neither a greeting of protocol 10 nor an error.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        if payload.first() == Some(&ERR_HEADER) {
            return ServerError::parse(payload).map(Self::Refused);
        }
        Greeting::parse(payload).map(Self::Greeting)
    }
}

impl Greeting {
    /// # Errors
    /// Not a greeting of protocol 10, or one from before MySQL 4.1.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        if payload.len() > MAX_GREETING_BYTES {
            return Err(Malformed("greeting too long"));
        }
        let mut reader = Reader(payload);
        if reader.u8()? != PROTOCOL_10 {
            return Err(Malformed("not protocol version 10"));
        }
        let server_version = text(reader.until_nul()?)?;
        let connection_id = reader.u32()?;
        let mut nonce = [0; NONCE_BYTES];
        nonce[..FIRST_NONCE_BYTES].copy_from_slice(reader.take(FIRST_NONCE_BYTES)?);
        reader.take(1)?;
        let lower = reader.u16()?;
        let character_set = reader.u8()?;
        let status = Status(reader.u16()?);
        let upper = reader.u16()?;
        let mut capabilities = Capabilities(u64::from(upper) << 16 | u64::from(lower));
        if !capabilities.has(Capabilities::PROTOCOL_41 | Capabilities::SECURE_CONNECTION) {
            return Err(Malformed("server older than MySQL 4.1"));
        }
        let nonce_bytes = usize::from(reader.u8()?);
        reader.take(RESERVED_BYTES)?;
        let extended = reader.u32()?;
        if capabilities.has_mariadb_flags() {
            capabilities = capabilities.with_mariadb_flags(extended);
        }
        // At least 13 bytes follow: the rest of the nonce and a NUL.
        let rest = reader.take(nonce_bytes.saturating_sub(FIRST_NONCE_BYTES).max(13))?;
        let rest_of_nonce = &rest[..NONCE_BYTES - FIRST_NONCE_BYTES];
        nonce[FIRST_NONCE_BYTES..].copy_from_slice(rest_of_nonce);
        let auth_plugin = match capabilities.has(Capabilities::PLUGIN_AUTH) {
            true => text(reader.until_nul_or_end())?,
            false => String::new(),
        };
        Ok(Self {
            server_version,
            connection_id,
            nonce,
            capabilities,
            character_set,
            status,
            auth_plugin,
        })
    }

    /// The payload of the first packet. A NUL in a text would end it early, so it is left out.
    pub fn encode(&self) -> Vec<u8> {
        let flags = self.capabilities.0.to_le_bytes();
        let mut payload = vec![PROTOCOL_10];
        put_nul_terminated(&mut payload, &without_nul(&self.server_version));
        payload.extend_from_slice(&self.connection_id.to_le_bytes());
        payload.extend_from_slice(&self.nonce[..FIRST_NONCE_BYTES]);
        payload.push(0);
        payload.extend_from_slice(&flags[..2]);
        payload.push(self.character_set);
        payload.extend_from_slice(&self.status.0.to_le_bytes());
        payload.extend_from_slice(&flags[2..4]);
        payload.push(NONCE_BYTES as u8 + 1);
        payload.extend_from_slice(&[0; RESERVED_BYTES]);
        payload.extend_from_slice(&self.capabilities.mariadb_flags().to_le_bytes());
        put_nul_terminated(&mut payload, &self.nonce[FIRST_NONCE_BYTES..]);
        if self.capabilities.has(Capabilities::PLUGIN_AUTH) {
            put_nul_terminated(&mut payload, &without_nul(&self.auth_plugin));
        }
        payload
    }

    pub fn dialect(&self) -> Dialect {
        let is_mariadb = self.capabilities.has_mariadb_flags()
            || self.server_version.starts_with(MARIADB_PREFIX)
            || self.server_version.to_ascii_lowercase().contains("mariadb");
        match is_mariadb {
            true => Dialect::MariaDb,
            false => Dialect::MySql,
        }
    }

    /// Major, minor and patch without MariaDB's prefix; what is no number is 0.
    pub fn version(&self) -> (u16, u16, u16) {
        let text = &self.server_version;
        let text = text.strip_prefix(MARIADB_PREFIX).unwrap_or(text);
        let mut numbers = text
            .split(|c: char| !c.is_ascii_digit())
            .map(|part| part.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        (next(), next(), next())
    }
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    match str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Malformed("text that is not UTF-8")),
    }
}

fn without_nul(text: &str) -> Vec<u8> {
    text.bytes().filter(|byte| *byte != 0).collect()
}
