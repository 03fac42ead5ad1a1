//! Body of the fuzz target: the same bytes as a client's, cut in several ways.

use std::time::Duration;

use super::flood::Flood;
use super::guard::FrameGuard;

/// No panic; how the bytes are cut makes no difference; what was refused stays refused. The first
/// byte is how much time passes with each byte.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let Some((pace, data)) = data.split_first() else {
        return;
    };
    let pace = Duration::from_micros(u64::from(*pace));
    let bytewise = told(data, 1, pace);
    assert_eq!(
        told(data, data.len().max(1), Duration::ZERO),
        told(data, 1, Duration::ZERO)
    );
    for piece_bytes in [2, 3, 9, 64] {
        assert_eq!(
            told(data, piece_bytes, Duration::ZERO),
            told(data, 1, Duration::ZERO)
        );
    }
    // Time only ever forgives.
    if told(data, 1, Duration::ZERO).is_ok() {
        assert_eq!(bytewise, Ok(()));
    }
}

/// What is said in the end of `data` in such pieces.
fn told(data: &[u8], piece_bytes: usize, pace: Duration) -> Result<(), Flood> {
    let mut guard = FrameGuard::new(1 << 10);
    let mut now = Duration::ZERO;
    let mut said = Ok(());
    for piece in data.chunks(piece_bytes) {
        now += pace;
        let next = guard.inspect(piece, now);
        assert!(said.is_ok() || next == said, "refused, and then not");
        said = next;
    }
    said
}
