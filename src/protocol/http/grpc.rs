//! gRPC over HTTP/2, as far as a proxy has to know it.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

const MEDIA_TYPE: &[u8] = b"application/grpc";

/// Whether a request is a gRPC call: `application/grpc`, with a format (`+proto`) or without.
///
/// Not `application/grpc-web`: its trailers are part of the body.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).map(|value| value.as_bytes()) else {
        return false;
    };
    let Some((media_type, rest)) = value.split_at_checked(MEDIA_TYPE.len()) else {
        return false;
    };
    media_type.eq_ignore_ascii_case(MEDIA_TYPE)
        && rest
            .first()
            .is_none_or(|next| matches!(next, b'+' | b';' | b' '))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn grpc_is_recognised_by_its_media_type() {
        let is = |text| {
            is_grpc(&HeaderMap::from_iter([(
                CONTENT_TYPE,
                HeaderValue::from_static(text),
            )]))
        };
        for yes in [
            "application/grpc",
            "application/grpc+proto",
            "Application/gRPC+json",
            "application/grpc;charset=utf-8",
        ] {
            assert!(is(yes), "{yes}");
        }
        for no in [
            "application/grpc-web",
            "application/grpcx",
            "application/grp",
            "",
            "text/plain",
        ] {
            assert!(!is(no), "{no}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
