//! ClientHellos as a test wants them: any name in them, cut into any records.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::ClientConnection;

/// The smallest ClientHello with these bytes as its server name, right or wrong.
pub fn client_hello(name: &[u8]) -> Vec<u8> {
    let entry = [&[0], &with_length(name)[..]].concat();
    let names = with_length(&with_length(&entry));
    let extensions = [&[0, 0], &names[..]].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &with_length(&[0x13, 0x01]),
        &[1, 0],
        &with_length(&extensions),
    ]
    .concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    record(&[&[1], &length[1..], &body].concat())
}

/// A connection whose ClientHello was taken out instead of sent.
pub fn connection(config: ClientConfig, name: &'static str) -> (ClientConnection, Vec<u8>) {
    let name = name.try_into().unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut hello).unwrap();
    }
    (connection, hello)
}

/// The same handshake message in records of one byte each.
pub fn in_records_of_one_byte(hello: &[u8]) -> Vec<u8> {
    hello[5..]
        .iter()
        .flat_map(|byte| record(&[*byte]))
        .collect()
}

fn record(fragment: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &with_length(fragment)].concat()
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length, bytes].concat()
}
