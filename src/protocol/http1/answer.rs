//! Heads of a backend's answers (RFC 9112, 4 and 6.3).
//!
//! httparse finds the fields; what they say of the body's end is decided here. Whatever two
//! readers could take differently is refused, as it is in requests.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::StatusCode;
use http::Version;
use http::header;
use httparse::ParserConfig;
use httparse::Response;
use httparse::Status;

use super::violation::Violation;
use crate::protocol::http::hop;
use crate::protocol::http::message;

/// Largest head of an answer.
pub const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_FIELDS: usize = 256;
/// What is added to an answer on its way to the client.
const MORE_FIELDS: usize = 8;

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    /// After so many bytes.
    Length(u64),
    /// With its last chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// What was asked for, as far as the answer's end depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    pub is_head: bool,
    pub is_connect: bool,
}

/// An answer's head.
#[derive(Debug)]
pub struct AnswerHead {
    pub status: StatusCode,
    /// Where it is not the one that belongs to the status.
    pub reason: Option<Bytes>,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: BodyEnd,
    /// The connection may be used again after the body.
    pub is_kept: bool,
}

/// Reads one head after the other from a connection.
#[derive(Debug, Default)]
pub struct HeadReader {
    /// Where the values stand; kept for its room.
    fields: Vec<(HeaderName, Range<usize>)>,
    /// So many bytes have no empty line in them.
    searched: usize,
}

impl HeadReader {
    /// Takes a head out of `buffer`; `None`: some of it is still to come.
    ///
    /// # Errors
    /// It is none, is too large, or leaves in doubt where its body ends.
    pub fn read(
        &mut self,
        buffer: &mut BytesMut,
        asked: Asked,
    ) -> Result<Option<AnswerHead>, Violation> {
        // A head that comes byte by byte is not parsed again and again.
        if self.searched > 0 && !has_empty_line(&buffer[self.searched..]) {
            return self.wait(buffer);
        }
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = Response::new(&mut []);
        let status = ParserConfig::default()
            .parse_response_with_uninit_headers(&mut parsed, buffer, &mut fields)
            .map_err(|error| match error {
                httparse::Error::TooManyHeaders => Violation::TooManyFields,
                _ => Violation::StatusLine,
            })?;
        let Status::Complete(length) = status else {
            return self.wait(buffer);
        };
        self.searched = 0;
        if length > MAX_HEAD_BYTES {
            return Err(Violation::HeadTooLarge);
        }
        let code = parsed.code.unwrap_or_default();
        let code = StatusCode::from_u16(code).map_err(|_| Violation::StatusLine)?;
        let reason = parsed.reason.unwrap_or_default();
        let is_usual = code.canonical_reason() == Some(reason) || reason.is_empty();
        let reason = (!is_usual).then(|| Bytes::copy_from_slice(reason.as_bytes()));
        let version = match parsed.version {
            Some(0) => Version::HTTP_10,
            _ => Version::HTTP_11,
        };
        self.fields.clear();
        let mut says_close = false;
        let mut says_keep = false;
        let start = buffer.as_ptr() as usize;
        for field in parsed.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes());
            let at = field.value.as_ptr() as usize - start;
            let name = name.map_err(|_| Violation::FieldName)?;
            // What nearly every backend says of the connection goes no further.
            if name == header::CONNECTION {
                let is_close = field.value.eq_ignore_ascii_case(b"close");
                let is_keep = field.value.eq_ignore_ascii_case(b"keep-alive");
                says_close |= is_close;
                says_keep |= is_keep;
                if is_close || is_keep {
                    continue;
                }
            }
            self.fields.push((name, at..at + field.value.len()));
        }
        let head = buffer.split_to(length).freeze();
        let mut headers = HeaderMap::with_capacity(self.fields.len() + MORE_FIELDS);
        for (name, range) in self.fields.drain(..) {
            let value = HeaderValue::from_maybe_shared(head.slice(range));
            headers.append(name, value.map_err(|_| Violation::ControlByte)?);
        }
        let body = body_end(code, version, &headers, asked)?;
        let is_kept = match version {
            _ if says_close || body == BodyEnd::Close => false,
            Version::HTTP_10 if says_keep => true,
            _ => hop::keeps(&headers, version),
        };
        Ok(Some(AnswerHead {
            status: code,
            reason,
            version,
            headers,
            body,
            is_kept,
        }))
    }

    fn wait(&mut self, buffer: &BytesMut) -> Result<Option<AnswerHead>, Violation> {
        if buffer.len() >= MAX_HEAD_BYTES {
            return Err(Violation::HeadTooLarge);
        }
        // The empty line may have begun.
        self.searched = buffer.len().saturating_sub(2);
        Ok(None)
    }
}

/// httparse takes a line feed for the end of a line, and so does every backend's other client.
fn has_empty_line(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
        rest = &rest[at + 1..];
        if matches!(rest, [b'\n', ..] | [b'\r', b'\n', ..]) {
            return true;
        }
    }
    false
}

fn body_end(
    status: StatusCode,
    version: Version,
    headers: &HeaderMap,
    asked: Asked,
) -> Result<BodyEnd, Violation> {
    let is_bare = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let is_tunnel = asked.is_connect && status.is_success();
    if is_bare || is_tunnel || asked.is_head {
        return Ok(BodyEnd::Length(0));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).into_iter();
    let length = message::content_length(headers).map_err(|_| Violation::ContentLength)?;
    match (codings.next(), length) {
        (None, Some(length)) => Ok(BodyEnd::Length(length)),
        (None, None) => Ok(BodyEnd::Close),
        (Some(_), Some(_)) => Err(Violation::LengthAndTransferEncoding),
        (Some(_), None) if version == Version::HTTP_10 => Err(Violation::TransferEncodingVersion),
        (Some(coding), None) => {
            let is_chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
            match is_chunked && codings.next().is_none() {
                true => Ok(BodyEnd::Chunked),
                false => Err(Violation::TransferEncoding),
            }
        }
    }
}
