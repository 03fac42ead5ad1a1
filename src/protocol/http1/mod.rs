//! HTTP/1: the guard that sees every byte of a client before the HTTP library does, and what is
//! said to backends and heard from them.
//!
//! Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1), RFC 3986 (URIs).

mod answer;
mod chunks;
pub mod encode;
mod fuzz;
mod guard;
mod head;
mod line;
mod scan;
mod target;
mod violation;

pub use answer::AnswerHead;
pub use answer::Asked;
pub use answer::BodyEnd;
pub use answer::HeadReader;
pub use answer::MAX_HEAD_BYTES;
pub use chunks::ChunkReader;
pub use chunks::Piece;
pub use fuzz::fuzz;
pub use fuzz::fuzz_answer;
pub use guard::Guard;
pub use guard::Inspection;
pub use guard::Limits;
pub use guard::Next;
pub use head::Framing;
pub use violation::Violation;

#[cfg(test)]
mod tests;
