//! Body of the fuzz target: the same bytes as a client's, cut in several ways.

use std::num::NonZeroU64;

use super::guard::Guard;
use super::guard::Inspection;
use super::guard::Limits;
use super::guard::Next;
use super::violation::Violation;

/// No panic; how the bytes are cut makes no difference; what passes
/// never grows beyond the last good request, and what was refused stays refused.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let limits = Limits {
        max_head_bytes: 2048,
        max_headers: 20,
        max_uri_bytes: 300,
        max_body_bytes: NonZeroU64::new(4096),
        allow_connect: data.len().is_multiple_of(2),
    };
    for answer in [Guard::upgraded, Guard::not_upgraded] {
        let whole = followed(data, data.len().max(1), limits, answer);
        for piece_bytes in [1, 2, 3, 7, 64] {
            let cut = followed(data, piece_bytes, limits, answer);
            assert_eq!((cut.1, cut.2), (whole.1, whole.2), "by {piece_bytes}");
            assert!(whole.2.is_some() || cut.0 == whole.0);
            assert!(cut.0 >= whole.0, "less passed than the good requests");
        }
    }
}

/// The bytes that passed, the requests seen and the violation, when `data` comes in such pieces
/// and each request for an upgrade is answered at once.
fn followed(
    data: &[u8],
    piece_bytes: usize,
    limits: Limits,
    answer: fn(&mut Guard),
) -> (usize, u64, Option<Violation>) {
    let mut guard = Guard::new(limits);
    let mut passed = 0;
    for piece in data.chunks(piece_bytes) {
        let mut rest = piece;
        loop {
            let Inspection { pass, then } = guard.inspect(rest);
            passed += pass;
            rest = &rest[pass..];
            match then {
                Next::More => {
                    assert!(rest.is_empty());
                    break;
                }
                Next::AwaitUpgrade => {
                    assert_eq!(guard.inspect(rest).pass, 0, "bytes that wait passed");
                    answer(&mut guard);
                }
                Next::Refuse(violation) => {
                    assert_eq!(guard.inspect(piece).pass, 0, "refused, and then not");
                    assert!((400..=505).contains(&violation.status()));
                    return (passed, guard.requests(), Some(violation));
                }
            }
        }
        assert!(!(guard.is_in_head() && guard.is_between_messages()));
    }
    (passed, guard.requests(), None)
}
