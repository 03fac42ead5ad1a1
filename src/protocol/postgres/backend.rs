//! Messages that a server sends: written by a proxy that answers for one, and by fake servers
//! (the demo, tests).

use crate::protocol::postgres::CancelKey;
use crate::protocol::postgres::TransactionStatus;
use crate::protocol::postgres::writer::Writer;

/// Type oid of `text`.
const TEXT_OID: u32 = 25;
/// A type of variable length has size -1, and -1 for "no modifier".
const VARIABLE_SIZE: u16 = u16::MAX;
const NO_MODIFIER: u32 = u32::MAX;
const TEXT_FORMAT: u16 = 0;
/// In place of a value's length.
const NULL_LENGTH: u32 = u32::MAX;

/// What a server may ask of a client that logs in, or tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication<'a> {
    Ok,
    CleartextPassword,
    Md5Password { salt: [u8; 4] },
    Sasl { mechanisms: &'a [&'a str] },
    SaslContinue(&'a [u8]),
    SaslFinal(&'a [u8]),
}

/// An Authentication message.
#[must_use]
pub fn authentication(authentication: Authentication<'_>) -> Vec<u8> {
    let message = Writer::tagged(b'R');
    match authentication {
        Authentication::Ok => message.u32(0),
        Authentication::CleartextPassword => message.u32(3),
        Authentication::Md5Password { salt } => message.u32(5).raw(&salt),
        Authentication::Sasl { mechanisms } => mechanisms
            .iter()
            .fold(message.u32(10), |message, name| message.c_string(name))
            .byte(0),
        Authentication::SaslContinue(data) => message.u32(11).raw(data),
        Authentication::SaslFinal(data) => message.u32(12).raw(data),
    }
    .finish()
}

/// A setting of the session that drivers want to know.
#[must_use]
pub fn parameter_status(name: &str, value: &str) -> Vec<u8> {
    Writer::tagged(b'S').c_string(name).c_string(value).finish()
}

/// How the session's queries can be cancelled.
#[must_use]
pub fn backend_key_data(key: &CancelKey) -> Vec<u8> {
    Writer::tagged(b'K')
        .u32(key.process_id())
        .raw(key.secret())
        .finish()
}

#[must_use]
pub fn ready_for_query(status: TransactionStatus) -> Vec<u8> {
    Writer::tagged(b'Z').byte(status.as_byte()).finish()
}

/// Columns of type `text`.
#[must_use]
pub fn row_description(columns: &[&str]) -> Vec<u8> {
    let message = Writer::tagged(b'T').u16(count(columns.len()));
    let describe = |message: Writer, name: &&str| {
        let (table_oid, column_number) = (0, 0);
        message
            .c_string(name)
            .u32(table_oid)
            .u16(column_number)
            .u32(TEXT_OID)
            .u16(VARIABLE_SIZE)
            .u32(NO_MODIFIER)
            .u16(TEXT_FORMAT)
    };
    columns.iter().fold(message, describe).finish()
}

/// One row of text values; `None` is NULL.
#[must_use]
pub fn data_row(values: &[Option<&str>]) -> Vec<u8> {
    let message = Writer::tagged(b'D').u16(count(values.len()));
    let put = |message: Writer, value: &Option<&str>| match value {
        None => message.u32(NULL_LENGTH),
        Some(text) => {
            let length = u32::try_from(text.len()).expect("we build no message of 4 GiB");
            message.u32(length).raw(text.as_bytes())
        }
    };
    values.iter().fold(message, put).finish()
}

/// The end of one statement's result. `tag` is `SELECT 1`, `INSERT 0 1` …
#[must_use]
pub fn command_complete(tag: &str) -> Vec<u8> {
    Writer::tagged(b'C').c_string(tag).finish()
}

fn count(columns: usize) -> u16 {
    u16::try_from(columns).expect("we build no row of 65536 columns")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_laid_out_as_the_protocol_says() {
        assert_eq!(authentication(Authentication::Ok), b"R\0\0\0\x08\0\0\0\0");
        assert_eq!(
            authentication(Authentication::Md5Password { salt: *b"salt" }),
            b"R\0\0\0\x0c\0\0\0\x05salt"
        );
        assert_eq!(
            authentication(Authentication::Sasl {
                mechanisms: &["A", "B"]
            }),
            b"R\0\0\0\x0d\0\0\0\x0aA\0B\0\0"
        );
        assert_eq!(parameter_status("a", "b"), b"S\0\0\0\x08a\0b\0");
        let key = CancelKey::new(7, b"abcd").unwrap();
        assert_eq!(backend_key_data(&key), b"K\0\0\0\x0c\0\0\0\x07abcd");
        assert_eq!(ready_for_query(TransactionStatus::Failed), b"Z\0\0\0\x05E");
        assert_eq!(
            row_description(&["a"]),
            b"T\0\0\0\x1a\0\x01a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0"
        );
        assert_eq!(
            data_row(&[None, Some("x"), Some("")]),
            b"D\0\0\0\x13\0\x03\xff\xff\xff\xff\0\0\0\x01x\0\0\0\0"
        );
        assert_eq!(command_complete("SELECT 1"), b"C\0\0\0\x0dSELECT 1\0");
    }
}
