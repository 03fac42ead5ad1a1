//! Parses arguments, starts, turns an error into an exit code.

fn main() {}
