//! The routes of one listener, laid out so that a request looks at few of hundreds.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::collections::HashMap;

use crate::config::HostPattern;
use crate::config::HttpRoute;
use crate::config::PathPattern;
use crate::routing::http::HttpRequestView;
use crate::routing::http::ends_segment;
use crate::routing::http::matches_header;
use crate::routing::http::matches_method;

/// Built once for each table; holds positions among the listener's routes.
#[derive(Debug, Clone, Default)]
pub struct HttpRoutes {
    exact: HashMap<String, Paths>,
    /// By suffix, which begins with a dot.
    below: HashMap<String, Paths>,
    any: Paths,
}

/// The routes of one host pattern.
#[derive(Debug, Clone, Default)]
struct Paths {
    exact: HashMap<String, Rivals>,
    prefixes: HashMap<String, Rivals>,
    /// Of the prefixes, in bytes; the longest first.
    prefix_lens: Vec<usize>,
    any: Rivals,
}

/// Routes with the same host and path, the most specific first.
type Rivals = Vec<usize>;

impl HttpRoutes {
    pub fn new(routes: &[HttpRoute]) -> Self {
        let mut order: Vec<usize> = (0..routes.len()).collect();
        // Stable: equals stay in the order of the file.
        order.sort_by_key(|at| {
            let route = &routes[*at];
            (route.methods.is_empty(), Reverse(route.headers.len()))
        });
        let mut index = Self::default();
        for at in order {
            let route = &routes[at];
            let paths = match &route.host {
                None => &mut index.any,
                Some(HostPattern::Exact(host)) => index.exact.entry(host.clone()).or_default(),
                Some(HostPattern::Below(suffix)) => index.below.entry(suffix.clone()).or_default(),
            };
            paths.add(at, route.path.as_ref());
        }
        let hosts = index.exact.values_mut().chain(index.below.values_mut());
        hosts
            .chain([&mut index.any])
            .for_each(Paths::measure_prefixes);
        index
    }

    /// Position of the most specific route that matches. `routes` are those of [`HttpRoutes::new`].
    pub fn find(&self, routes: &[HttpRoute], view: &HttpRequestView<'_>) -> Option<usize> {
        if let Some(host) = view.host {
            let exact = self.exact.get(host);
            if let Some(found) = exact.and_then(|paths| paths.find(routes, view)) {
                return Some(found);
            }
            if let Some(found) = self.find_below(host, routes, view) {
                return Some(found);
            }
        }
        self.any.find(routes, view)
    }

    /// Among the wildcards that hold for a host, the longest suffix first.
    fn find_below(
        &self,
        host: &str,
        routes: &[HttpRoute],
        view: &HttpRequestView<'_>,
    ) -> Option<usize> {
        if self.below.is_empty() {
            return None;
        }
        let dots = host.match_indices('.').filter(|(at, _)| *at > 0);
        dots.filter_map(|(at, _)| self.below.get(&host[at..]))
            .find_map(|paths| paths.find(routes, view))
    }
}

impl Paths {
    fn add(&mut self, at: usize, path: Option<&PathPattern>) {
        let rivals = match path {
            None => &mut self.any,
            Some(PathPattern::Exact(path)) => self.exact.entry(path.clone()).or_default(),
            Some(PathPattern::Prefix(prefix)) => self.prefixes.entry(prefix.clone()).or_default(),
        };
        rivals.push(at);
    }

    fn measure_prefixes(&mut self) {
        let lens: BTreeSet<usize> = self.prefixes.keys().map(String::len).collect();
        self.prefix_lens = lens.into_iter().rev().collect();
    }

    fn find(&self, routes: &[HttpRoute], view: &HttpRequestView<'_>) -> Option<usize> {
        let first = |rivals: &Rivals| {
            let mut rivals = rivals.iter().copied();
            rivals.find(|at| routes.get(*at).is_some_and(|route| takes(route, view)))
        };
        if !self.exact.is_empty()
            && let Some(found) = self.exact.get(view.path).and_then(first)
        {
            return Some(found);
        }
        let prefixes = self.prefix_lens.iter().filter_map(|len| {
            let prefix = view.path.get(..*len)?;
            // Hashing only what may be there: whole segments.
            ends_segment(view.path, *len).then(|| self.prefixes.get(prefix))?
        });
        let mut candidates = prefixes.chain([&self.any]);
        candidates.find_map(first)
    }
}

/// Whether what the index does not know holds.
fn takes(route: &HttpRoute, view: &HttpRequestView<'_>) -> bool {
    let mut headers = route.headers.iter();
    matches_method(route, view.method) && headers.all(|one| matches_header(one, view.headers))
}
