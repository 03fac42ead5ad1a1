//! Any text is a configuration or a list of problems, never a panic.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(problems) = evergate::config::load_text(Path::new("fuzz.yaml"), text) {
        assert!(!problems.to_string().is_empty());
    }
});
