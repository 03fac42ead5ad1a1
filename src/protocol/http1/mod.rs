//! HTTP/1: the guard that sees every byte of a client before the HTTP library does.
//!
//! Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1), RFC 3986 (URIs).

mod fuzz;
mod guard;
mod head;
mod line;
mod scan;
mod target;
mod violation;

pub use fuzz::fuzz;
pub use guard::Guard;
pub use guard::Inspection;
pub use guard::Limits;
pub use guard::Next;
pub use violation::Violation;

#[cfg(test)]
mod tests;
