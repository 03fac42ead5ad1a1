#![no_main]
//! Bytes of a peer through `protocol::client_hello`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| evergate::protocol::client_hello::fuzz(data));
