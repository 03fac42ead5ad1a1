//! The binary at its command line.
