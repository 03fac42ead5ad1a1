#![no_main]
//! Bytes of a backend through `protocol::http1`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| evergate::protocol::http1::fuzz_answer(data));
