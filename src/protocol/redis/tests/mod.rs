//! Replies, roles, openings and followed streams, case by case and by property.

mod properties;
mod replies;
mod roles;
mod sessions;

use super::follower::Proof;
use super::follower::ServerFollower;
use super::replication::Link;
use super::resp::ReplyReader;
use super::resp::RespError;
use super::resp::Value;
use super::*;

const MAX_BYTES: usize = 1 << 20;

fn read(bytes: &[u8]) -> Result<Option<Value>, RespError> {
    ReplyReader::new(MAX_BYTES).read(&mut &bytes[..])
}

fn value(bytes: &[u8]) -> Value {
    read(bytes).unwrap().unwrap()
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}
