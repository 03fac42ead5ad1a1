//! Requests as HTTP/1.1 writes them (RFC 9112, 3 and 7.1).

use http::HeaderMap;
use http::HeaderName;
use http::Method;
use http::Uri;
use http::header;

use super::head::Framing;

/// Ends a chunk's data.
pub const CHUNK_END: &[u8] = b"\r\n";
/// Ends a body of chunks without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

const FIELD_BYTES: usize = 40;

/// Appends a request's head. `framing`: of its body, if it has one; a length is one of the fields.
pub fn head(
    out: &mut Vec<u8>,
    (method, uri): (&Method, &Uri),
    headers: &HeaderMap,
    framing: Option<Framing>,
) {
    let target = match (uri.path_and_query(), uri.authority()) {
        (_, Some(authority)) if method == Method::CONNECT => authority.as_str(),
        (Some(path), _) => path.as_str(),
        (None, authority) => authority.map_or("/", |it| it.as_str()),
    };
    out.reserve(target.len() + headers.len() * FIELD_BYTES);
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    fields(out, headers.iter());
    if framing == Some(Framing::Chunked) {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn fields<'a>(
    out: &mut Vec<u8>,
    fields: impl Iterator<Item = (&'a HeaderName, &'a http::HeaderValue)>,
) {
    for (name, value) in fields {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends what stands before the data of a chunk.
pub fn chunk_size(out: &mut Vec<u8>, bytes: usize) {
    out.extend_from_slice(format!("{bytes:X}\r\n").as_bytes());
}

/// Appends the end of a body of chunks, with those trailers that the head has announced: a
/// backend may not expect others (RFC 9110, 6.5.1).
pub fn trailers(out: &mut Vec<u8>, trailers: &HeaderMap, announced: &[HeaderName]) {
    out.extend_from_slice(b"0\r\n");
    fields(
        out,
        trailers.iter().filter(|(name, _)| announced.contains(name)),
    );
    out.extend_from_slice(b"\r\n");
}

/// The names in `Trailer`.
pub fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let fields = headers.get_all(header::TRAILER).into_iter();
    let names = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    names
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect()
}
