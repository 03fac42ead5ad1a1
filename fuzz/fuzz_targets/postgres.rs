#![no_main]
//! Bytes of a peer through `protocol::postgres`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| evergate::protocol::postgres::fuzz(data));
