#![no_main]
//! Bytes of a client through `protocol::http2`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| evergate::protocol::http2::fuzz(data));
