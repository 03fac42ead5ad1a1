#![no_main]
//! Bytes of a client through `protocol::http1`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| evergate::protocol::http1::fuzz(data));
