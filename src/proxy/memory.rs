//! Memory that is free goes back to the system.
//!
//! The allocator gives it back while it is asked for more. After a burst nobody asks any more, and
//! idle connections would hold what busy ones have needed.

use std::time::Duration;

/// A walk over the pages of a thread takes well under a millisecond.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Gives back what is free on this thread. Forced: else the allocator waits for a while in which
/// nothing is freed, which each free puts off.
#[allow(
    unsafe_code,
    reason = "the only function of the allocator that is called by name"
)]
pub fn give_back() {
    // SAFETY: `mi_collect` takes no pointers and may be called by any thread at any time; it touches
    // only what the allocator knows to be free.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
