#![no_main]
//! Bytes of a peer through `protocol::mysql`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| evergate::protocol::mysql::fuzz(data));
