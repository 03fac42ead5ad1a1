#![no_main]
//! Bytes of a peer through `protocol::redis`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| evergate::protocol::redis::fuzz(data));
