//! Answers that are our own: small, typed, with the cause in one word, never with an address.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;

use super::request_id::X_REQUEST_ID;

/// A 405 has to say (RFC 9110 15.5.6). Any method is passed on, but CONNECT only where it is allowed.
const ALLOWED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

macro_rules! problems {
    ($($(#[$doc:meta])* $variant:ident => $word:literal, $status:ident, $detail:literal;)+) => {
        /// Why a request has no answer from a backend. Words that sessions have, too, are spelled
        /// as theirs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Problem { $($(#[$doc])* $variant,)+ }

        impl Problem {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// For logs, metrics and the answer.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)+ }
            }

            /// For people.
            fn detail(self) -> &'static str {
                match self { $(Self::$variant => $detail,)+ }
            }
        }
    };
}

problems! {
    /// The request is malformed or means two things.
    BadRequest => "bad_request", BAD_REQUEST, "The request is malformed.";
    Denied => "denied", FORBIDDEN, "This client may not send requests here.";
    NoRoute => "no_route", NOT_FOUND, "No route takes this request.";
    MethodNotAllowed => "method_not_allowed", METHOD_NOT_ALLOWED, "This method is not passed on.";
    /// The client was too slow with its head or its body.
    RequestTimeout => "request_timeout", REQUEST_TIMEOUT, "The request did not arrive in time.";
    TooLarge => "too_large", PAYLOAD_TOO_LARGE, "The body is too large.";
    UriTooLong => "uri_too_long", URI_TOO_LONG, "The target is too long.";
    ExpectationFailed => "expectation_failed", EXPECTATION_FAILED, "The expectation is not known.";
    /// The server name of the TLS connection is not for this host.
    Misdirected => "misdirected", MISDIRECTED_REQUEST, "This connection is for another host.";
    RateLimited => "rate_limited", TOO_MANY_REQUESTS, "Too many requests; try again later.";
    HeadersTooLarge => "headers_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE,
        "The header fields are too large or too many.";
    /// The backend closed or reset before its answer's head was whole.
    Reset => "reset", BAD_GATEWAY, "The backend ended the exchange.";
    /// No backend could be connected to.
    ConnectFailed => "connect_failed", BAD_GATEWAY, "No backend could be reached.";
    /// The backend's answer is no HTTP.
    BadProtocol => "bad_protocol", BAD_GATEWAY, "The backend's answer is malformed.";
    HoldTimeout => "hold_timeout", SERVICE_UNAVAILABLE, "No backend became available in time.";
    HoldFull => "hold_full", SERVICE_UNAVAILABLE, "No backend is available, and too many wait.";
    QueueTimeout => "queue_timeout", SERVICE_UNAVAILABLE, "All backends stayed busy for too long.";
    QueueFull => "queue_full", SERVICE_UNAVAILABLE, "All backends are busy, and too many wait.";
    Shutdown => "shutdown", SERVICE_UNAVAILABLE, "The proxy is ending.";
    /// Out of descriptors, ports or memory, or a limit of the listener or the process.
    OutOfResources => "out_of_resources", SERVICE_UNAVAILABLE, "The proxy is out of resources.";
    /// Too many proxies of our name in `Via`.
    Loop => "loop", LOOP_DETECTED, "The request runs in a circle.";
    BackendTimeout => "backend_timeout", GATEWAY_TIMEOUT, "The backend did not answer in time.";
}

/// How a request wants to be answered; read before it is sent on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    pub form: Form,
    pub request_id: Option<&'a HeaderValue>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// One line of plain text.
    #[default]
    Text,
    /// `application/problem+json` (RFC 9457).
    Json,
    /// Trailers only: status 200, and the truth in `grpc-status`.
    Grpc,
}

impl Form {
    /// By the request's content type and `Accept`.
    pub fn of(headers: &HeaderMap) -> Self {
        if super::grpc::is_grpc(headers) {
            return Self::Grpc;
        }
        match prefers_json(headers) {
            true => Self::Json,
            false => Self::Text,
        }
    }
}

impl Problem {
    /// Whether the client's connection (HTTP/1.1) is closed after the answer: what follows on it
    /// cannot be trusted, or is not wanted.
    pub fn closes(self) -> bool {
        matches!(
            self,
            Self::BadRequest
                | Self::RequestTimeout
                | Self::TooLarge
                | Self::UriTooLong
                | Self::HeadersTooLarge
                | Self::Shutdown
        )
    }

    /// When it makes sense to ask again, unless the caller knows better: at once may be too early.
    fn retry_after(self) -> Option<Duration> {
        match self.status() {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                Some(Duration::from_secs(1))
            }
            _ => None,
        }
    }

    /// "HTTP to gRPC Status Code Mapping" (grpc/doc/http-grpc-status-mapping.md); too much of
    /// something is RESOURCE_EXHAUSTED.
    fn grpc_status(self) -> u8 {
        match self.status().as_u16() {
            400 | 431 => 13,
            403 => 7,
            404 => 12,
            413 => 8,
            429 | 502..=504 => 14,
            _ => 2,
        }
    }
}

/// The whole answer. `retry_after` is used where the cause has a time to wait.
pub fn answer(
    problem: Problem,
    asked: Asked<'_>,
    retry_after: Option<Duration>,
) -> Response<Bytes> {
    let mut response = match asked.form {
        Form::Text => text(problem),
        Form::Json => json(problem, asked.request_id),
        Form::Grpc => grpc(problem),
    };
    let headers = response.headers_mut();
    if let Some(default) = problem.retry_after() {
        let wait = retry_after.unwrap_or(default);
        // Whole seconds, never too early.
        let begun = u64::from(wait.subsec_nanos() > 0);
        let seconds = wait.as_secs().saturating_add(begun);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if problem == Problem::MethodNotAllowed {
        headers.insert(header::ALLOW, HeaderValue::from_static(ALLOWED));
    }
    if let Some(id) = asked.request_id {
        headers.insert(&X_REQUEST_ID, id.clone());
    }
    response
}

fn text(problem: Problem) -> Response<Bytes> {
    let body = format!("{}: {}\n", problem.as_str(), problem.detail());
    with_body(problem, "text/plain; charset=utf-8", body)
}

fn json(problem: Problem, request_id: Option<&HeaderValue>) -> Response<Bytes> {
    let status = problem.status();
    let body = serde_json::json!({
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": problem.detail(),
        "cause": problem.as_str(),
        "request_id": request_id.and_then(|id| id.to_str().ok()),
    });
    with_body(problem, "application/problem+json", body.to_string())
}

fn with_body(problem: Problem, content_type: &'static str, body: String) -> Response<Bytes> {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = problem.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_LENGTH, length);
    // An answer of ours says nothing of what the backend would answer later.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn grpc(problem: Problem) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    let content_type = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(
        "grpc-status",
        HeaderValue::from(u16::from(problem.grpc_status())),
    );
    headers.insert("grpc-message", HeaderValue::from_static(problem.as_str()));
    response
}

/// Whether `Accept` names JSON with at least the weight of text (RFC 9110 12.5.1). `*/*` alone is
/// what every tool sends: text.
fn prefers_json(headers: &HeaderMap) -> bool {
    let (mut json, mut text) = (0.0_f32, 0.0_f32);
    for field in headers.get_all(header::ACCEPT) {
        let ranges = field.to_str().unwrap_or_default().split(',');
        for range in ranges {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q="));
            let weight = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            match media_type.as_str() {
                "application/problem+json" | "application/json" => json = json.max(weight),
                "text/plain" | "text/html" | "text/*" => text = text.max(weight),
                _ => {}
            }
        }
    }
    json > 0.0 && json >= text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const FORMS: [Form; 3] = [Form::Text, Form::Json, Form::Grpc];

    fn accepting(accept: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))])
    }

    fn asked(form: Form) -> Asked<'static> {
        Asked {
            form,
            request_id: None,
        }
    }

    #[test]
    fn every_problem_has_its_own_word_and_says_error() {
        let words: HashSet<_> = Problem::ALL
            .iter()
            .map(|problem| problem.as_str())
            .collect();
        assert_eq!(words.len(), Problem::ALL.len());
        for problem in Problem::ALL {
            let status = problem.status();
            assert!(
                status.is_client_error() || status.is_server_error(),
                "{problem:?}"
            );
            assert_ne!(problem.grpc_status(), 0);
        }
    }

    #[test]
    fn what_sessions_can_suffer_too_is_spelled_as_theirs() {
        use crate::cluster::Cause;
        for (problem, cause) in [
            (Problem::Denied, Cause::Denied),
            (Problem::NoRoute, Cause::NoRoute),
            (Problem::Reset, Cause::Reset),
            (Problem::BadProtocol, Cause::BadProtocol),
            (Problem::HoldTimeout, Cause::HoldTimeout),
            (Problem::HoldFull, Cause::HoldFull),
            (Problem::QueueTimeout, Cause::QueueTimeout),
            (Problem::QueueFull, Cause::QueueFull),
            (Problem::Shutdown, Cause::Shutdown),
            (Problem::OutOfResources, Cause::OutOfResources),
        ] {
            assert_eq!(problem.as_str(), cause.as_str());
        }
    }

    #[test]
    fn plain_text_is_one_line_with_the_cause() {
        let answer = answer(Problem::HoldTimeout, asked(Form::Text), None);
        assert_eq!(answer.status(), 503);
        let body = "hold_timeout: No backend became available in time.\n";
        assert_eq!(answer.body(), body);
        assert_eq!(
            answer.headers()["content-type"],
            "text/plain; charset=utf-8"
        );
        assert_eq!(answer.headers()["content-length"], body.len().to_string());
        assert_eq!(answer.headers()["retry-after"], "1");
    }

    #[test]
    fn json_is_a_problem_with_the_requests_id() {
        let id = HeaderValue::from_static("a\"b");
        let asked = Asked {
            form: Form::Json,
            request_id: Some(&id),
        };
        let answer = answer(Problem::NoRoute, asked, None);
        assert_eq!(answer.status(), 404);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert_eq!(answer.headers()["x-request-id"], id);
        assert!(!answer.headers().contains_key("retry-after"));
        let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        let expected = serde_json::json!({
            "title": "Not Found",
            "status": 404,
            "detail": "No route takes this request.",
            "cause": "no_route",
            "request_id": "a\"b",
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn grpc_is_told_in_trailers_only() {
        for (problem, status) in [
            (Problem::HoldTimeout, "14"),
            (Problem::Reset, "14"),
            (Problem::RateLimited, "14"),
            (Problem::NoRoute, "12"),
            (Problem::Denied, "7"),
            (Problem::TooLarge, "8"),
            (Problem::BadRequest, "13"),
        ] {
            let answer = answer(problem, asked(Form::Grpc), None);
            assert_eq!(answer.status(), 200);
            assert!(answer.body().is_empty());
            assert_eq!(answer.headers()["content-type"], "application/grpc");
            assert_eq!(answer.headers()["grpc-status"], status, "{problem:?}");
            assert_eq!(answer.headers()["grpc-message"], problem.as_str());
        }
    }

    #[test]
    fn the_time_to_wait_is_rounded_up() {
        let wait = |wait| {
            let answer = answer(Problem::RateLimited, asked(Form::Text), Some(wait));
            answer.headers()["retry-after"].clone()
        };
        assert_eq!(wait(Duration::from_millis(1)), "1");
        assert_eq!(wait(Duration::from_millis(2001)), "3");
        assert_eq!(wait(Duration::from_secs(2)), "2");
        assert_eq!(wait(Duration::MAX), u64::MAX.to_string());
    }

    #[test]
    fn a_refused_method_is_told_which_are_not() {
        let answer = answer(Problem::MethodNotAllowed, asked(Form::Text), None);
        assert_eq!(answer.headers()["allow"], ALLOWED);
    }

    #[test]
    fn answers_are_small_in_every_form() {
        for problem in Problem::ALL {
            for form in FORMS {
                let answer = answer(*problem, asked(form), None);
                assert!(answer.body().len() < 256, "{problem:?} {form:?}");
            }
        }
    }

    #[test]
    fn json_is_for_those_who_ask_for_it() {
        for (accept, form) in [
            ("*/*", Form::Text),
            ("application/json", Form::Json),
            ("application/problem+json", Form::Json),
            ("application/json, text/plain, */*", Form::Json),
            (
                "text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8",
                Form::Text,
            ),
            ("text/plain, application/json;q=0.5", Form::Text),
            ("text/plain;q=0.2, Application/JSON; q=0.5", Form::Json),
            ("application/json;q=0", Form::Text),
            ("application/json;q=x", Form::Text),
            ("", Form::Text),
        ] {
            assert_eq!(Form::of(&accepting(accept)), form, "{accept}");
        }
        assert_eq!(Form::of(&HeaderMap::new()), Form::Text);
        let mut grpc = accepting("application/json");
        let content_type = HeaderValue::from_static("application/grpc+proto");
        grpc.insert(header::CONTENT_TYPE, content_type);
        assert_eq!(Form::of(&grpc), Form::Grpc);
    }
}
