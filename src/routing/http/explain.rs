//! Why each route does or does not take a request: for people who ask.

use crate::config::HttpListenerConfig;
use crate::routing::http::HttpRequestView;
use crate::routing::http::HttpRoutes;
use crate::routing::http::matches_header;
use crate::routing::http::matches_host;
use crate::routing::http::matches_method;
use crate::routing::http::matches_path;

/// What one route says to a request; of several reasons not to match, the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVerdict {
    /// The most specific that matches.
    Taken,
    /// It matches, but the taken one is more specific or written before it.
    LessSpecific,
    OtherHost,
    OtherPath,
    OtherMethod,
    /// The header condition at this position does not hold.
    OtherHeader(usize),
}

impl HttpVerdict {
    /// For the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::LessSpecific => "less_specific",
            Self::OtherHost => "other_host",
            Self::OtherPath => "other_path",
            Self::OtherMethod => "other_method",
            Self::OtherHeader(_) => "other_header",
        }
    }
}

/// One verdict for each route, in the order of the file. None is `Taken`: the listener's default
/// takes the request.
pub fn explain_http(
    routes: &HttpRoutes,
    config: &HttpListenerConfig,
    view: &HttpRequestView<'_>,
) -> Vec<HttpVerdict> {
    let taken = routes.find(&config.routes, view);
    let verdicts = config.routes.iter().enumerate().map(|(at, route)| {
        let mut headers = route.headers.iter();
        let missing = headers.position(|one| !matches_header(one, view.headers));
        if !matches_host(route.host.as_ref(), view.host) {
            HttpVerdict::OtherHost
        } else if !matches_path(route.path.as_ref(), view.path) {
            HttpVerdict::OtherPath
        } else if !matches_method(route, view.method) {
            HttpVerdict::OtherMethod
        } else if let Some(missing) = missing {
            HttpVerdict::OtherHeader(missing)
        } else if taken == Some(at) {
            HttpVerdict::Taken
        } else {
            HttpVerdict::LessSpecific
        }
    });
    verdicts.collect()
}
