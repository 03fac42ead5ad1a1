//! HTTP/2: the guard that follows a client's frames before the HTTP library does.
//!
//! Sources: RFC 9113 (HTTP/2), RFC 9218 (PRIORITY_UPDATE).

mod allowance;
mod flood;
mod frame;
mod fuzz;
mod guard;

pub use flood::Flood;
pub use fuzz::fuzz;
pub use guard::FrameGuard;

#[cfg(test)]
mod tests;
