//! Greetings, logins and answers, case by case and by property.

mod answers;
mod edges;
mod handshakes;
mod logins;
mod properties;

use super::greeting::Greeting;
use super::handshake_response::FirstMessage;
use super::handshake_response::HandshakeResponse;
use super::handshake_response::MAX_LOGIN_BYTES;
use super::handshake_response::SslRequest;
use super::handshake_response::encode_attributes;
use super::login::Credentials;
use super::login::Login;
use super::login::LoginError;
use super::login::ServerKey;
use super::login::Step;
use super::login::TlsUse;
use super::packet::Message;
use super::packet::MessageReader;
use super::query::Limits;
use super::query::Reply;
use super::query::ReplyError;
use super::query::ReplyReader;
use super::response::EofPacket;
use super::response::OkPacket;
use super::response::ServerError;
use super::wire::put_lenenc_bytes;
use super::*;

const NONCE: [u8; 20] =
    *b"\x0a\x2f\x4a\x6f\x4b\x49\x22\x30\x58\x4c\x72\x4a\x25\x0d\x03\x50\x52\x02\x17\x15";
const OTHER_NONCE: [u8; 20] = *b"abcdefghijklmnopqrst";

fn server_capabilities() -> Capabilities {
    Capabilities(0xFFFF_FFFF)
        .without(Capabilities::COMPRESS)
        .without(Capabilities::ZSTD_COMPRESSION)
}

fn greeting(plugin: &str) -> Greeting {
    Greeting {
        server_version: "8.4.6".to_owned(),
        connection_id: 77,
        nonce: NONCE,
        capabilities: server_capabilities(),
        character_set: 255,
        status: Status::AUTOCOMMIT,
        auth_plugin: plugin.to_owned(),
    }
}

fn response() -> HandshakeResponse {
    HandshakeResponse {
        capabilities: Capabilities::PROTOCOL_41
            | Capabilities::LONG_PASSWORD
            | Capabilities::SECURE_CONNECTION
            | Capabilities::CONNECT_WITH_DB
            | Capabilities::PLUGIN_AUTH
            | Capabilities::CONNECT_ATTRS,
        max_packet_bytes: 1 << 24,
        character_set: 45,
        user: b"app".to_vec(),
        auth_response: vec![7; 20],
        database: Some(b"shop".to_vec()),
        auth_plugin: Some(b"mysql_native_password".to_vec()),
        attributes: encode_attributes(&[("_pid", "42"), ("program_name", "psql")]),
        zstd_level: None,
    }
}

/// A login and a server that is played by the test.
struct Stage {
    login: Login,
    sequence: u8,
}

impl Stage {
    fn new(tls: TlsUse, server_key: ServerKey) -> Self {
        let credentials = Credentials {
            user: "probe".to_owned(),
            password: "secret".to_owned(),
            database: None,
        };
        Self {
            login: Login::new(credentials, tls, server_key),
            sequence: 0,
        }
    }

    fn server_says(&mut self, payload: &[u8]) -> Result<Step, LoginError> {
        let sequence = self.sequence;
        self.sequence += 1;
        let payload = payload.to_vec();
        self.login.on_message(&Message { sequence, payload })
    }

    /// The payload that the client writes now.
    fn client_answers(&mut self, payload: &[u8]) -> Vec<u8> {
        match self.server_says(payload).unwrap() {
            Step::Send(bytes) => self.sent(&bytes),
            other => panic!("{other:?}"),
        }
    }

    fn sent(&mut self, bytes: &[u8]) -> Vec<u8> {
        if bytes.is_empty() {
            return Vec::new();
        }
        let mut rest = bytes;
        let message = MessageReader::new(10_000).read(&mut rest).unwrap().unwrap();
        assert_eq!(message.sequence, self.sequence);
        self.sequence += 1;
        assert!(rest.is_empty());
        message.payload
    }
}

fn ok() -> Vec<u8> {
    OkPacket {
        status: Status::AUTOCOMMIT,
        ..OkPacket::default()
    }
    .encode()
}

const DEPRECATED: Capabilities = Capabilities::DEPRECATE_EOF;
const LIMITS: Limits = Limits {
    max_columns: 100,
    max_rows: 2,
    max_bytes: 10_000,
};

fn definition(name: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    for text in ["def", "", "", "", name, "org"] {
        put_lenenc_bytes(&mut payload, text.as_bytes());
    }
    payload.extend_from_slice(&[0x0c, 33, 0, 0, 1, 0, 0, 0xfd, 0, 0, 0, 0, 0]);
    payload
}

fn row(values: &[Option<&str>]) -> Vec<u8> {
    let mut payload = Vec::new();
    for value in values {
        match value {
            Some(value) => put_lenenc_bytes(&mut payload, value.as_bytes()),
            None => payload.push(0xFB),
        }
    }
    payload
}

fn end(capabilities: Capabilities, status: Status) -> Vec<u8> {
    if capabilities.has(DEPRECATED) {
        let mut payload = OkPacket {
            status,
            ..OkPacket::default()
        }
        .encode();
        payload[0] = 0xFE;
        payload
    } else {
        EofPacket {
            warnings: 0,
            status,
        }
        .encode()
    }
}

fn result_set(capabilities: Capabilities, names: &[&str], rows: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut payloads = vec![vec![names.len() as u8]];
    payloads.extend(names.iter().map(|name| definition(name)));
    if !capabilities.has(DEPRECATED) {
        payloads.push(end(capabilities, Status::AUTOCOMMIT));
    }
    payloads.extend_from_slice(rows);
    payloads.push(end(capabilities, Status::AUTOCOMMIT));
    payloads
}

fn reply(capabilities: Capabilities, payloads: &[Vec<u8>]) -> Result<Option<Reply>, ReplyError> {
    let mut reader = ReplyReader::new(capabilities, LIMITS);
    let mut last = Ok(None);
    for (index, payload) in payloads.iter().enumerate() {
        assert_eq!(last, Ok(None), "before message {index}");
        last = reader.on_message(&Message {
            sequence: index as u8 + 1,
            payload: payload.clone(),
        });
    }
    last
}
