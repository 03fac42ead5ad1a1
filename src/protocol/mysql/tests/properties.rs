//! What holds of any bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::protocol::corpus::seeds;

#[test]
fn the_corpus_holds() {
    for seed in seeds("mysql") {
        fuzz(&seed);
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        for choice in 0..5 {
            fuzz(&[&[choice], &bytes[..]].concat());
        }
        fuzz(&[&[1], &response().encode()[..32], &bytes[..]].concat());
        fuzz(&[&[1], &greeting("").encode()[..30], &bytes[..]].concat());
    }

    #[test]
    fn changed_payloads_never_panic(at: usize, byte: u8, choice in 0_u8..2) {
        let mut payload = match choice {
            0 => greeting("caching_sha2_password").encode(),
            _ => response().encode(),
        };
        let at = at % payload.len();
        payload[at] = byte;
        fuzz(&[&[1], &payload[..]].concat());
        let mut framed = vec![2, payload.len() as u8];
        framed.extend_from_slice(&payload);
        fuzz(&framed);
    }

    #[test]
    fn any_cut_gives_the_same_messages(
        payloads in vec(vec(any::<u8>(), 0..40), 1..6),
        chunks in vec(1_usize..30, 1..10),
    ) {
        let mut stream = Vec::new();
        for (index, payload) in payloads.iter().enumerate() {
            packet::write_message(&mut stream, index as u8, payload);
        }
        let mut reader = MessageReader::new(40);
        let mut messages = Vec::new();
        let mut chunk_bytes = chunks.into_iter().cycle();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunk_bytes.next().unwrap().min(rest.len()));
            rest = after;
            let mut chunk = chunk;
            while let Some(message) = reader.read(&mut chunk).unwrap() {
                messages.push(message.payload);
            }
        }
        prop_assert_eq!(messages, payloads);
        prop_assert!(reader.is_between_messages());
    }
}
