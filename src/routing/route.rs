//! Which cluster a client is for: the listener's routes, else its default.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cluster::Name;
use crate::config::ListenerConfig;
use crate::config::Route;

/// What a client has said that routes may look at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    pub sni: Option<&'a str>,
    pub database: Option<&'a str>,
    pub user: Option<&'a str>,
}

/// Where a client goes, and by which route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routed<'a> {
    pub cluster: &'a Name,
    /// Position among the listener's routes; `None`: the listener's default.
    pub route: Option<usize>,
}

/// The first matching route, else the listener's default; `None`: there is none.
pub fn route<'a>(config: &'a ListenerConfig, wish: Wish<'_>) -> Option<Routed<'a>> {
    let found = config.routes.iter().position(|route| matches(route, wish));
    let cluster = match found {
        Some(found) => &config.routes[found].cluster,
        None => config.cluster.as_ref()?,
    };
    Some(Routed {
        cluster,
        route: found,
    })
}

/// Whether a listener's access list lets this client in: `deny` wins; an empty `allow`
/// allows everyone else.
pub fn permits(config: &ListenerConfig, address: IpAddr) -> bool {
    let address = address.to_canonical();
    let in_any = |list: &[IpNet]| list.iter().any(|net| net.contains(&address));
    !in_any(&config.deny) && (config.allow.is_empty() || in_any(&config.allow))
}

/// Whether all that is written in the route holds.
fn matches(route: &Route, wish: Wish<'_>) -> bool {
    let is = |wanted: &Option<String>, found: Option<&str>| {
        wanted.is_none() || wanted.as_deref() == found
    };
    let sni = match (&route.sni, wish.sni) {
        (None, _) => true,
        (Some(pattern), Some(sni)) => matches_sni(pattern, sni),
        (Some(_), None) => false,
    };
    sni && is(&route.database, wish.database) && is(&route.user, wish.user)
}

/// `*.example.com` matches exactly one more label.
fn matches_sni(pattern: &str, sni: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(parent) => sni
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        None => pattern == sni,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::config::Intent;
    use crate::config::KeepaliveConfig;
    use crate::config::Protocol;

    fn listener(allow: &[&str], deny: &[&str]) -> ListenerConfig {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
        ListenerConfig {
            name: "front".into(),
            bind: SocketAddr::from(([127, 0, 0, 1], 5432)),
            cluster: None,
            routes: Vec::new(),
            protocol: Protocol::Tcp,
            intent: Intent::ANY,
            tls: None,
            tls_passthrough: false,
            allow: nets(allow),
            deny: nets(deny),
            proxy_protocol: None,
            max_connections: 1,
            idle_timeout: Duration::ZERO,
            handshake_timeout: Duration::ZERO,
            keepalive: KeepaliveConfig {
                idle: Duration::ZERO,
                interval: Duration::ZERO,
                probes: 0,
                user_timeout: Duration::ZERO,
            },
            backlog: 1,
            http: None,
        }
    }

    #[test]
    fn who_is_denied_is_not_let_in_although_allowed() {
        let allow = ["10.0.0.0/8", "192.0.2.1/32"];
        let deny = ["10.1.0.0/16"];
        for (listener, address, permitted) in [
            (listener(&[], &[]), "203.0.113.1", true),
            (listener(&[], &deny), "203.0.113.1", true),
            (listener(&[], &deny), "10.1.2.3", false),
            (listener(&allow, &deny), "10.2.0.1", true),
            (listener(&allow, &deny), "192.0.2.1", true),
            (listener(&allow, &deny), "::ffff:192.0.2.1", true),
            (listener(&allow, &deny), "10.1.2.3", false),
            (listener(&allow, &deny), "203.0.113.1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(permits(&listener, address), permitted, "{address}");
        }
    }

    #[test]
    fn a_wildcard_matches_exactly_one_label() {
        assert!(matches_sni("*.example.com", "db.example.com"));
        assert!(!matches_sni("*.example.com", "example.com"));
        assert!(!matches_sni("*.example.com", "a.db.example.com"));
        assert!(matches_sni("db.example.com", "db.example.com"));
        assert!(!matches_sni("db.example.com", "other.example.com"));
    }

    #[test]
    fn all_conditions_of_a_route_have_to_hold() {
        let written = Route {
            sni: None,
            database: Some("shop".to_owned()),
            user: Some("app".to_owned()),
            cluster: "orders".into(),
        };
        let wish = |database, user| Wish {
            sni: None,
            database,
            user,
        };
        assert!(matches(&written, wish(Some("shop"), Some("app"))));
        assert!(!matches(&written, wish(Some("shop"), Some("other"))));
        assert!(!matches(&written, wish(None, Some("app"))));
    }
}
