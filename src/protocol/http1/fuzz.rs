//! Bodies of the fuzz targets: the same bytes as a client's, or a backend's, cut in several ways.

use std::num::NonZeroU64;

use bytes::BytesMut;
use http::HeaderMap;

use super::answer::Asked;
use super::answer::BodyEnd;
use super::answer::HeadReader;
use super::chunks::ChunkReader;
use super::chunks::Piece;
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

/// No panic; how the bytes are cut makes no difference to what is heard.
#[doc(hidden)]
pub fn fuzz_answer(data: &[u8]) {
    let asked = Asked {
        is_head: data.len() % 7 == 1,
        is_connect: data.len() % 7 == 2,
    };
    let whole = heard(data, data.len().max(1), asked);
    for piece_bytes in [1, 2, 3, 7, 64] {
        let cut = heard(data, piece_bytes, asked);
        assert_eq!(cut, whole, "by {piece_bytes}");
    }
}

/// What a backend has said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    pub status: Option<u16>,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
    pub is_over: bool,
    /// The first violation depends on the pieces where there are several.
    pub is_refused: bool,
}

/// One answer that comes in such pieces; what follows it is left.
pub fn heard(data: &[u8], piece_bytes: usize, asked: Asked) -> Heard {
    let mut heard = Heard::default();
    let mut buffer = BytesMut::new();
    let (mut reader, mut chunks) = (HeadReader::default(), ChunkReader::default());
    let mut end = None;
    for piece in data.chunks(piece_bytes) {
        buffer.extend_from_slice(piece);
        if end.is_none() {
            match reader.read(&mut buffer, asked) {
                Ok(None) => continue,
                Ok(Some(head)) => {
                    heard.status = Some(head.status.as_u16());
                    heard.headers = head.headers;
                    end = Some(head.body);
                }
                Err(_) => {
                    heard.is_refused = true;
                    return heard;
                }
            }
        }
        match &mut end {
            Some(BodyEnd::Length(left)) => {
                let taken = usize::try_from(*left).map_or(buffer.len(), |it| it.min(buffer.len()));
                heard.body.extend_from_slice(&buffer.split_to(taken));
                *left -= taken as u64;
                heard.is_over = *left == 0;
            }
            Some(BodyEnd::Close) => heard.body.extend_from_slice(&buffer.split()),
            Some(BodyEnd::Chunked) => {
                if let Err(_violation) = take_chunks(&mut chunks, &mut buffer, &mut heard) {
                    heard.is_refused = true;
                }
            }
            None => {}
        }
        if heard.is_over || heard.is_refused {
            return heard;
        }
    }
    heard
}

fn take_chunks(
    chunks: &mut ChunkReader,
    buffer: &mut BytesMut,
    heard: &mut Heard,
) -> Result<(), Violation> {
    while let Some(piece) = chunks.next(buffer)? {
        match piece {
            Piece::Data(data) => heard.body.extend_from_slice(&data),
            Piece::Trailers(trailers) => heard.trailers = trailers,
            Piece::End => {}
        }
        if chunks.is_over() {
            heard.is_over = true;
            break;
        }
    }
    Ok(())
}
