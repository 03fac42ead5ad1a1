//! Whether the routes of requests and the clusters they lead to fit together.

use std::collections::HashMap;

use http::Method;

use crate::config::ClusterConfig;
use crate::config::HostPattern;
use crate::config::HttpClusterConfig;
use crate::config::HttpRoute;
use crate::config::reader::Reader;
use crate::config::resolve::fit::Named;
use crate::config::source::Sources;
use crate::config::tree::At;
use crate::config::values;
use crate::config::values::Wrong;

/// A cookie that requests for a host get: a client keeps one value for both together.
type Cookie<'c> = (&'c str, Option<HostPattern>);

/// What is known of a listener's clusters, and of the routes before.
pub(super) struct HttpFit<'c> {
    clusters: &'c [Named<'c>],
    cookies: HashMap<Cookie<'c>, (&'c ClusterConfig, At)>,
}

impl<'c> HttpFit<'c> {
    pub fn new(listener: &Reader<'_>, clusters: &'c [Named<'c>]) -> Self {
        let mut fit = Self {
            clusters,
            cookies: HashMap::new(),
        };
        // Requests that no route takes, for whatever host.
        let default = listener.node("cluster").and_then(|node| node.word());
        if let Some((cluster, http)) = default.and_then(|name| fit.cluster(&name))
            && let Some(sticky) = &http.sticky
        {
            let place = (cluster, listener.place("cluster"));
            fit.cookies.insert((&sticky.cookie, None), place);
        }
        fit
    }

    pub fn check(&mut self, sources: &mut Sources, route: &Reader<'_>, read: &HttpRoute) {
        let Some((cluster, http)) = self.cluster(&read.cluster) else {
            return;
        };
        refuse_short_timeout(sources, route, read, (cluster, http));
        let Some(sticky) = &http.sticky else {
            return;
        };
        let at = route.place("cluster");
        let cookie = (sticky.cookie.as_str(), read.host.clone());
        let (first, first_at) = *self.cookies.entry(cookie).or_insert((cluster, at));
        if first.name != cluster.name {
            let message = format!(
                "the clusters `{}` and `{}` set the same cookie `{}` for the same host, \
                 each in the place of the other's",
                first.name, cluster.name, sticky.cookie
            );
            let help = "give one of them an `http.sticky.cookie` of its own";
            let wrong = Wrong::new(message, help);
            sources.conflict(at, wrong, "the other one is here", first_at);
        }
    }

    fn cluster(&self, name: &str) -> Option<(&'c ClusterConfig, &'c HttpClusterConfig)> {
        let mut clusters = self.clusters.iter().map(|named| named.cluster);
        let cluster = clusters.find(|cluster| &*cluster.name == name)?;
        Some((cluster, cluster.http.as_deref()?))
    }
}

/// A request that may be sent again never is when its time is over first.
fn refuse_short_timeout(
    sources: &mut Sources,
    route: &Reader<'_>,
    read: &HttpRoute,
    (cluster, http): (&ClusterConfig, &HttpClusterConfig),
) {
    let (Some(whole), Some(attempt)) = (read.actions.timeout, http.retry.attempt_timeout) else {
        return;
    };
    let may_repeat = read.methods.is_empty() || read.methods.iter().any(Method::is_idempotent);
    if may_repeat && whole <= attempt {
        let message = format!(
            "`timeout` {} leaves no time for a second attempt: the first one in the cluster `{}` \
             may take {}",
            values::show_duration(whole),
            cluster.name,
            values::show_duration(attempt)
        );
        let help = "lengthen it, or shorten the cluster's `http.retry.attempt_timeout`";
        sources.error(route.place("timeout"), Wrong::new(message, help));
    }
}
