//! Parses arguments, starts, turns an error into an exit code.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Gives back what a burst of connections took, and is faster than the C library's; see
/// docs/benchmarks.md.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    evergate::cli::main()
}
