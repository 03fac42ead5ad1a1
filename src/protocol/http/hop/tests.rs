//! The fields of one connection stop there, and nothing else changes.

use proptest::prelude::*;

use super::*;

fn with(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let field = |(name, value): &(&'static str, &'static str)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    HeaderMap::from_iter(fields.iter().map(field))
}

#[test]
fn fields_of_one_connection_do_not_go_further() {
    let mut headers = with(&[
        ("connection", "close, X-Own"),
        ("connection", "keep-alive"),
        ("x-own", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("http2-settings", "AAA"),
        ("proxy-authorization", "Basic x"),
        ("te", "gzip"),
        ("upgrade", "websocket"),
        ("trailer", "x-sum"),
        ("x-other", "2"),
    ]);
    let hop = strip_request(&mut headers).unwrap();
    assert_eq!(headers, with(&[("trailer", "x-sum"), ("x-other", "2")]));
    let close = Hop {
        close: true,
        ..Hop::default()
    };
    assert_eq!(hop, close);
}

#[test]
fn nothing_of_a_connection_means_nothing_changes() {
    let fields = [
        ("host", "a"),
        ("accept", "*/*"),
        ("x-te", "1"),
        ("connections", "te"),
    ];
    let mut headers = with(&fields);
    assert_eq!(strip_request(&mut headers), Ok(Hop::default()));
    assert_eq!(strip_response(&mut headers), Hop::default());
    assert_eq!(headers, with(&fields));
}

#[test]
fn an_upgrade_is_kept_aside_and_said_again() {
    let mut headers = with(&[
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "k"),
    ]);
    let hop = strip_request(&mut headers).unwrap();
    assert_eq!(hop.upgrade, Some(HeaderValue::from_static("websocket")));
    assert_eq!(headers, with(&[("sec-websocket-key", "k")]));
    set_http1(&mut headers, &hop);
    let expected = [
        ("sec-websocket-key", "k"),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
    ];
    assert_eq!(headers, with(&expected));
}

#[test]
fn an_upgrade_in_two_fields_is_none() {
    let mut headers = with(&[
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("upgrade", "h2c"),
    ]);
    assert_eq!(strip_request(&mut headers), Ok(Hop::default()));
    assert_eq!(headers, with(&[]));
}

#[test]
fn who_reads_trailers_is_said_to_be_so_in_both_versions() {
    let mut headers = with(&[("te", "gzip;q=0.5, Trailers"), ("connection", "TE")]);
    let hop = strip_request(&mut headers).unwrap();
    assert!(hop.te_trailers);
    assert_eq!(headers, with(&[]));
    set_http2(&mut headers, &hop);
    assert_eq!(headers, with(&[("te", "trailers")]));
    set_http1(&mut headers, &hop);
    assert_eq!(headers, with(&[("te", "trailers"), ("connection", "te")]));
}

#[test]
fn a_request_that_hides_what_it_means_is_refused() {
    for name in [
        "Host",
        "content-length",
        "keep-alive, COOKIE",
        "authorization",
        "x-forwarded-for",
        "X-Forwarded-Whatever",
    ] {
        let mut headers = with(&[("connection", name), ("host", "a")]);
        assert_eq!(strip_request(&mut headers), Err(BadConnection), "{name}");
    }
}

#[test]
fn a_response_keeps_what_may_not_be_named() {
    let mut headers = with(&[
        ("connection", "content-length, x-own, content-type"),
        ("content-length", "5"),
        ("content-type", "text/plain"),
        ("x-own", "1"),
        ("proxy-authenticate", "Basic"),
    ]);
    strip_response(&mut headers);
    let expected = [("content-length", "5"), ("content-type", "text/plain")];
    assert_eq!(headers, with(&expected));
}

#[test]
fn a_connection_names_few_fields() {
    let names = |count: usize| {
        let names: Vec<_> = (0..count).map(|at| format!("x-{at}")).collect();
        let value = HeaderValue::from_str(&names.join(",")).unwrap();
        HeaderMap::from_iter([(header::CONNECTION, value)])
    };
    assert!(strip_request(&mut names(MAX_NAMES)).is_ok());
    assert_eq!(strip_request(&mut names(MAX_NAMES + 1)), Err(BadConnection));
}

#[test]
fn trailers_change_nothing_that_the_head_has_said() {
    let mut trailers = with(&[
        ("grpc-status", "0"),
        ("x-sum", "1"),
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        ("host", "b"),
        ("authorization", "x"),
        ("connection", "close"),
        ("trailer", "x"),
    ]);
    strip_trailers(&mut trailers);
    assert_eq!(trailers, with(&[("grpc-status", "0"), ("x-sum", "1")]));
}

/// Small enough to collide often.
fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "connection",
        "te",
        "upgrade",
        "keep-alive",
        "x-a",
        "x-b",
        "host",
        "close",
        "trailer",
        "proxy-connection",
        "content-length",
        "transfer-encoding",
    ])
    .prop_map(str::to_owned)
}

fn any_headers() -> impl Strategy<Value = HeaderMap> {
    let value = prop_oneof![
        prop::collection::vec(name(), 0..4).prop_map(|names| names.join(" , ")),
        "[ -~]{0,12}",
    ];
    prop::collection::vec((name(), value), 0..8).prop_map(|fields| {
        let field = |(name, value): (String, String)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(&value).unwrap())
        };
        HeaderMap::from_iter(fields.into_iter().map(field))
    })
}

proptest! {
    #[test]
    fn what_is_left_is_for_the_other_end(headers in any_headers()) {
        let mut left = headers.clone();
        let Ok(_) = strip_request(&mut left) else {
            return Ok(());
        };
        for name in ["connection", "te", "upgrade", "keep-alive", "transfer-encoding"] {
            prop_assert!(!left.contains_key(name));
        }
        let options: Vec<String> = tokens(&headers, &header::CONNECTION)
            .map(|option| String::from_utf8_lossy(option).to_lowercase())
            .collect();
        for name in ["x-a", "x-b", "host", "trailer", "content-length"] {
            let kept = headers.contains_key(name) && !options.contains(&name.to_owned());
            prop_assert_eq!(left.contains_key(name), kept, "{}", name);
            if kept {
                let (before, after) = (headers.get_all(name), left.get_all(name));
                prop_assert!(before.iter().eq(after.iter()));
            }
        }
        // Twice does what once does.
        let mut again = left.clone();
        prop_assert_eq!(strip_request(&mut again), Ok(Hop::default()));
        prop_assert_eq!(again, left);
    }
}
