#![no_main]
//! Bytes of a peer through `protocol::proxy_header`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| evergate::protocol::proxy_header::fuzz(data));
