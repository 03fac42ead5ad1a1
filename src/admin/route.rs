//! Method and path in, one closed list of requests out. Pure.

use hyper::Method;

use crate::admin::explain;
use crate::admin::explain::Client;
use crate::cluster::AdminState;
use crate::control::MAX_INCIDENTS;
use crate::routing::WrittenRequest;

/// Sessions listed when the request does not say how many: one screen of `jq`
/// is enough, a hundred thousand sessions are not.
pub const DEFAULT_SESSION_LIMIT: usize = 1000;
/// Most sessions in one answer, to bound its memory.
pub const MAX_SESSION_LIMIT: usize = 10_000;

/// Incidents listed when the request does not say how many: one screen.
pub const DEFAULT_INCIDENT_LIMIT: usize = 20;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    Index,
    Alive,
    Ready,
    Metrics,
    Status,
    Clusters,
    Sessions {
        limit: usize,
    },
    Incidents {
        limit: usize,
    },
    ExplainClient(Box<Client>),
    ExplainSession(u64),
    Config,
    Appoint {
        cluster: String,
        backend: String,
    },
    SetAdminState {
        cluster: String,
        backend: String,
        state: AdminState,
    },
    Reload,
}

impl Route {
    pub fn changes_something(&self) -> bool {
        matches!(
            self,
            Self::SetAdminState { .. } | Self::Appoint { .. } | Self::Reload
        )
    }
}

/// Why a request is no [`Route`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoute {
    NotFound,
    /// With the value of the `Allow` header.
    WrongMethod(&'static str),
    BadRequest(&'static str),
}

/// Reads one request line.
pub fn route(method: &Method, path: &str, query: Option<&str>) -> Result<Route, NoRoute> {
    let route = find(path, query)?;
    let allowed = if route.changes_something() {
        "POST"
    } else {
        "GET, HEAD"
    };
    if allowed.split(", ").any(|name| method == name) {
        Ok(route)
    } else {
        Err(NoRoute::WrongMethod(allowed))
    }
}

fn find(path: &str, query: Option<&str>) -> Result<Route, NoRoute> {
    Ok(match path {
        "/" => Route::Index,
        "/healthz" => Route::Alive,
        "/readyz" => Route::Ready,
        "/metrics" => Route::Metrics,
        "/api/v1/status" => Route::Status,
        "/api/v1/clusters" => Route::Clusters,
        "/api/v1/sessions" => Route::Sessions {
            limit: session_limit(query)?,
        },
        "/api/v1/incidents" => Route::Incidents {
            limit: incident_limit(query)?,
        },
        "/api/v1/explain" => question(query)?,
        "/api/v1/config" => Route::Config,
        "/api/v1/reload" => Route::Reload,
        _ => return change(path),
    })
}

fn change(path: &str) -> Result<Route, NoRoute> {
    let parts: Vec<&str> = path.split('/').collect();
    let [
        "",
        "api",
        "v1",
        "clusters",
        cluster,
        "backends",
        backend,
        verb,
    ] = parts[..]
    else {
        return Err(NoRoute::NotFound);
    };
    if verb == "switchover" {
        return Ok(Route::Appoint {
            cluster: decode(cluster)?,
            backend: decode(backend)?,
        });
    }
    let state = AdminState::ALL
        .into_iter()
        .find(|state| state.as_str() == verb);
    Ok(Route::SetAdminState {
        state: state.ok_or(NoRoute::NotFound)?,
        cluster: decode(cluster)?,
        backend: decode(backend)?,
    })
}

/// What `explain` is asked: a session's number, or all that is known of a client.
fn question(query: Option<&str>) -> Result<Route, NoRoute> {
    let value = |name| {
        let value = parameter(query, name).filter(|value| !value.is_empty());
        value.map(decode).transpose()
    };
    if let Some(session) = value("session")? {
        let session = session.parse();
        return session
            .map(Route::ExplainSession)
            .map_err(|_| NoRoute::BadRequest("session must be a number"));
    }
    let listener =
        value("listener")?.ok_or(NoRoute::BadRequest("explain needs a listener or a session"))?;
    let source = match value("source")? {
        None => None,
        Some(text) => Some(explain::parse_source(&text).ok_or(NoRoute::BadRequest(
            "source must be an IP address, with or without a port",
        ))?),
    };
    let startup = match value("startup")? {
        None => None,
        Some(text) => Some(
            explain::parse_startup(&text)
                .ok_or(NoRoute::BadRequest("startup must be NAME=VALUE"))?,
        ),
    };
    Ok(Route::ExplainClient(Box::new(Client {
        listener,
        source,
        user: value("user")?,
        database: value("database")?,
        sni: value("sni")?,
        startup,
        request: WrittenRequest {
            host: value("host")?,
            path: value("path")?,
            method: value("method")?,
            headers: value("header")?,
        },
    })))
}

/// The value of the first pair of this name, as it is written.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    let pairs = query.into_iter().flat_map(|query| query.split('&'));
    let mut pairs = pairs.filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn incident_limit(query: Option<&str>) -> Result<usize, NoRoute> {
    let Some(limit) = parameter(query, "limit") else {
        return Ok(DEFAULT_INCIDENT_LIMIT);
    };
    match limit.parse() {
        Ok(limit @ 1..=MAX_INCIDENTS) => Ok(limit),
        _ => Err(NoRoute::BadRequest("limit must be a number from 1 to 256")),
    }
}

fn session_limit(query: Option<&str>) -> Result<usize, NoRoute> {
    let Some(limit) = parameter(query, "limit") else {
        return Ok(DEFAULT_SESSION_LIMIT);
    };
    match limit.parse() {
        Ok(limit @ 1..=MAX_SESSION_LIMIT) => Ok(limit),
        _ => Err(NoRoute::BadRequest(
            "limit must be a number from 1 to 10000",
        )),
    }
}

/// Undoes percent-encoding (RFC 3986, 2.1).
fn decode(text: &str) -> Result<String, NoRoute> {
    const BROKEN: NoRoute = NoRoute::BadRequest("a broken percent-encoding");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let (digits, tail) = tail.split_at_checked(2).ok_or(BROKEN)?;
        bytes.push(hex_value(digits[0]).ok_or(BROKEN)? << 4 | hex_value(digits[1]).ok_or(BROKEN)?);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| BROKEN)
}

fn hex_value(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_path_are_percent_decoded() {
        let path = "/api/v1/clusters/orders%2Feu/backends/pg1.internal%3A5432/drain";
        let expected = Route::SetAdminState {
            cluster: "orders/eu".to_owned(),
            backend: "pg1.internal:5432".to_owned(),
            state: AdminState::Drain,
        };
        assert_eq!(route(&Method::POST, path, None), Ok(expected));
    }

    #[test]
    fn a_broken_encoding_is_a_bad_request() {
        for broken in ["%", "%2", "%zz", "%ff", "%+1"] {
            let path = format!("/api/v1/clusters/{broken}/backends/a/ready");
            let answer = route(&Method::POST, &path, None);
            assert!(matches!(answer, Err(NoRoute::BadRequest(_))), "{broken}");
        }
    }

    #[test]
    fn a_wrong_method_names_the_right_ones() {
        let answer = route(&Method::GET, "/api/v1/reload", None);
        assert_eq!(answer, Err(NoRoute::WrongMethod("POST")));
        let answer = route(&Method::DELETE, "/metrics", None);
        assert_eq!(answer, Err(NoRoute::WrongMethod("GET, HEAD")));
    }

    #[test]
    fn the_session_limit_is_bounded() {
        let limit = |query| route(&Method::GET, "/api/v1/sessions", query);
        assert_eq!(limit(None), Ok(Route::Sessions { limit: 1000 }));
        assert_eq!(limit(Some("a=b&limit=5")), Ok(Route::Sessions { limit: 5 }));
        for wrong in ["limit=0", "limit=10001", "limit=-1", "limit=", "limit=x"] {
            assert!(limit(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_listed_is_not_found() {
        for path in [
            "",
            "//",
            "/metrics/",
            "/api/v1",
            "/api/v1/clusters/a/backends/b/explode",
        ] {
            assert_eq!(route(&Method::GET, path, None), Err(NoRoute::NotFound));
        }
    }
}
