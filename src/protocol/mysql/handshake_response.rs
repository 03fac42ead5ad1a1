//! The client's first message: a request for TLS, or who it is (HandshakeResponse41).

use super::Capabilities;
use super::Malformed;
use super::wire::Reader;
use super::wire::put_lenenc_bytes;
use super::wire::put_nul_terminated;

/// Longest first message of a client: servers keep at most 64 kB of connection attributes.
pub const MAX_LOGIN_BYTES: usize = 72 * 1024;
/// MySQL allows 32 characters, MariaDB 128, of up to 4 bytes.
pub const MAX_USER_BYTES: usize = 512;
/// 64 characters of up to 4 bytes.
pub const MAX_DATABASE_BYTES: usize = 256;
/// Names like `caching_sha2_password`; component names are longer, but not by much.
const MAX_PLUGIN_BYTES: usize = 128;

/// A request for TLS is exactly the part before the user.
pub const SSL_REQUEST_BYTES: usize = 32;
const RESERVED_BYTES: usize = 19;

/// What the client's first message was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstMessage {
    /// TLS starts with the next byte; `HandshakeResponse` comes inside it.
    SslRequest(SslRequest),
    Response(HandshakeResponse),
}

/// The client wants TLS before it says who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SslRequest {
    /// Of the client, `SSL` included.
    pub capabilities: Capabilities,
    pub max_packet_bytes: u32,
    pub character_set: u8,
}

/// Who the client is, and the first answer of its authentication method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeResponse {
    /// Decide which of the fields below are sent. `SSL` stays set inside TLS.
    pub capabilities: Capabilities,
    pub max_packet_bytes: u32,
    pub character_set: u8,
    /// In the client's character set.
    pub user: Vec<u8>,
    pub auth_response: Vec<u8>,
    pub database: Option<Vec<u8>>,
    pub auth_plugin: Option<Vec<u8>>,
    /// Length-encoded names and values, in turn; see [`HandshakeResponse::attribute`].
    pub attributes: Vec<u8>,
    /// Present only with `ZSTD_COMPRESSION`.
    pub zstd_level: Option<u8>,
}

impl FirstMessage {
    /// # Errors
    /// Neither of the two, or a client from before MySQL 4.1.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        if payload.len() != SSL_REQUEST_BYTES {
            return HandshakeResponse::parse(payload).map(Self::Response);
        }
        let fixed = SslRequest::parse_prefix(payload)?;
        if !fixed.capabilities.has(Capabilities::SSL) {
            return Err(Malformed("login ends before the user"));
        }
        Ok(Self::SslRequest(fixed))
    }
}

impl SslRequest {
    /// Both messages start with the same bytes.
    pub(super) fn parse_prefix(payload: &[u8]) -> Result<Self, Malformed> {
        fixed_part(&mut Reader(payload))
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(SSL_REQUEST_BYTES);
        payload.extend_from_slice(&self.capabilities.0.to_le_bytes()[..4]);
        payload.extend_from_slice(&self.max_packet_bytes.to_le_bytes());
        payload.push(self.character_set);
        payload.extend_from_slice(&[0; RESERVED_BYTES]);
        payload.extend_from_slice(&self.capabilities.mariadb_flags().to_le_bytes());
        payload
    }
}

impl HandshakeResponse {
    /// # Errors
    /// Lengths that do not fit, fields over their limits, a client from before MySQL 4.1.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        if payload.len() > MAX_LOGIN_BYTES {
            return Err(Malformed("login too long"));
        }
        let mut reader = Reader(payload);
        let SslRequest {
            capabilities,
            max_packet_bytes,
            character_set,
        } = fixed_part(&mut reader)?;
        let user = within(reader.until_nul()?, MAX_USER_BYTES, "user too long")?;
        let auth_response = auth_response(&mut reader, capabilities)?;
        // Clients exist that set the flag of a field and end before it.
        let mut text = |flag: Capabilities, max_bytes, problem| {
            if !capabilities.has(flag) || reader.is_empty() {
                return Ok(None);
            }
            let text = within(reader.until_nul_or_end(), max_bytes, problem)?;
            Ok(Some(text).filter(|text| !text.is_empty()))
        };
        let with_db = Capabilities::CONNECT_WITH_DB;
        let database = text(with_db, MAX_DATABASE_BYTES, "database too long")?;
        let plugin = Capabilities::PLUGIN_AUTH;
        let auth_plugin = text(plugin, MAX_PLUGIN_BYTES, "plugin name too long")?;
        let mut attributes = Vec::new();
        if capabilities.has(Capabilities::CONNECT_ATTRS) && !reader.is_empty() {
            attributes = reader.lenenc_bytes()?.to_vec();
            check_attributes(&attributes)?;
        }
        let mut zstd_level = None;
        if capabilities.has(Capabilities::ZSTD_COMPRESSION) && !reader.is_empty() {
            zstd_level = Some(reader.u8()?);
        }
        Ok(Self {
            capabilities,
            max_packet_bytes,
            character_set,
            user,
            auth_response,
            database,
            auth_plugin,
            attributes,
            zstd_level,
        })
    }

    /// The payload. A field whose capability is not set is not sent.
    pub fn encode(&self) -> Vec<u8> {
        let capabilities = self.capabilities;
        let fixed = SslRequest {
            capabilities,
            max_packet_bytes: self.max_packet_bytes,
            character_set: self.character_set,
        };
        let mut payload = fixed.encode();
        put_nul_terminated(&mut payload, &self.user);
        if capabilities.has(Capabilities::PLUGIN_AUTH_LENENC_DATA) {
            put_lenenc_bytes(&mut payload, &self.auth_response);
        } else if capabilities.has(Capabilities::SECURE_CONNECTION) {
            // The client sent it, or our own login made it: at most 255 bytes by construction.
            let length = self.auth_response.len().min(usize::from(u8::MAX));
            payload.push(length as u8);
            payload.extend_from_slice(&self.auth_response[..length]);
        } else {
            put_nul_terminated(&mut payload, &self.auth_response);
        }
        if capabilities.has(Capabilities::CONNECT_WITH_DB) {
            put_nul_terminated(&mut payload, self.database.as_deref().unwrap_or_default());
        }
        if capabilities.has(Capabilities::PLUGIN_AUTH) {
            let plugin = self.auth_plugin.as_deref().unwrap_or_default();
            put_nul_terminated(&mut payload, plugin);
        }
        if capabilities.has(Capabilities::CONNECT_ATTRS) {
            put_lenenc_bytes(&mut payload, &self.attributes);
        }
        payload.extend(self.zstd_level);
        payload
    }

    /// The value of a connection attribute such as `program_name`.
    pub fn attribute(&self, name: &str) -> Option<&[u8]> {
        let mut reader = Reader(&self.attributes);
        while !reader.is_empty() {
            let key = reader.lenenc_bytes().ok()?;
            let value = reader.lenenc_bytes().ok()?;
            if key == name.as_bytes() {
                return Some(value);
            }
        }
        None
    }
}

/// Connection attributes for [`HandshakeResponse::attributes`].
pub fn encode_attributes(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut attributes = Vec::new();
    for (name, value) in pairs {
        put_lenenc_bytes(&mut attributes, name.as_bytes());
        put_lenenc_bytes(&mut attributes, value.as_bytes());
    }
    attributes
}

fn fixed_part(reader: &mut Reader<'_>) -> Result<SslRequest, Malformed> {
    let mut capabilities = Capabilities(u64::from(reader.u32()?));
    if !capabilities.has(Capabilities::PROTOCOL_41) {
        return Err(Malformed("client older than MySQL 4.1"));
    }
    let max_packet_bytes = reader.u32()?;
    let character_set = reader.u8()?;
    reader.take(RESERVED_BYTES)?;
    let extended = reader.u32()?;
    if capabilities.has_mariadb_flags() {
        capabilities = capabilities.with_mariadb_flags(extended);
    }
    Ok(SslRequest {
        capabilities,
        max_packet_bytes,
        character_set,
    })
}

fn auth_response(
    reader: &mut Reader<'_>,
    capabilities: Capabilities,
) -> Result<Vec<u8>, Malformed> {
    let bytes = if capabilities.has(Capabilities::PLUGIN_AUTH_LENENC_DATA) {
        reader.lenenc_bytes()?
    } else if capabilities.has(Capabilities::SECURE_CONNECTION) {
        let length = reader.u8()?;
        reader.take(usize::from(length))?
    } else {
        reader.until_nul()?
    };
    Ok(bytes.to_vec())
}

fn check_attributes(attributes: &[u8]) -> Result<(), Malformed> {
    let mut reader = Reader(attributes);
    while !reader.is_empty() {
        reader.lenenc_bytes()?;
        reader.lenenc_bytes()?;
    }
    Ok(())
}

fn within(bytes: &[u8], max_bytes: usize, problem: &'static str) -> Result<Vec<u8>, Malformed> {
    match bytes.len() <= max_bytes {
        true => Ok(bytes.to_vec()),
        false => Err(Malformed(problem)),
    }
}
