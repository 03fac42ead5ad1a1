//! What only shows when clusters and listeners are seen together.

use std::collections::HashMap;
use std::collections::HashSet;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use crate::cluster::WantedRole;
use crate::config::CheckKind;
use crate::config::ClusterConfig;
use crate::config::Host;
use crate::config::resolve::Placed;
use crate::config::resolve::listener::Read;
use crate::config::resolve::process::Process;
use crate::config::source::Sources;
use crate::config::tree::At;
use crate::config::tree::Entry;
use crate::config::values;
use crate::config::values::Wrong;

/// Every cluster that a listener names exists and fits; every cluster is used.
pub(super) fn check(
    sources: &mut Sources,
    entries: &[&Entry],
    clusters: &[Placed<ClusterConfig>],
    listeners: &[Placed<Read>],
) {
    let declared: HashSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    let addresses: HashMap<&str, HashSet<SocketAddr>> = clusters
        .iter()
        .map(|cluster| (&*cluster.value.name, addresses(&cluster.value)))
        .collect();
    let mut used = HashSet::new();
    for listener in listeners {
        for (name, at) in &listener.value.names {
            used.insert(&**name);
            if !declared.contains(&**name) && !declared.is_empty() {
                let names = entries.iter().map(|entry| entry.key.as_str());
                let help = values::suggestion(name, names);
                let message = format!("there is no cluster `{name}`");
                sources.error(*at, Wrong::new(message, help));
            }
            if let Some(backends) = addresses.get(&**name) {
                check_loop(sources, backends, listener, *at);
            }
        }
    }
    if sources.has_errors() {
        // A mistyped name is reported already; that the right one is unused follows from it.
        return;
    }
    for cluster in clusters {
        if !used.contains(&*cluster.value.name) {
            let message = format!("no listener uses the cluster `{}`", cluster.value.name);
            let help = "its backends are probed for nothing";
            sources.warn(cluster.at, Wrong::new(message, help));
        }
    }
}

/// Warns of clusters whose primary is followed from memory only.
pub(super) fn warn_of_forgotten_fences(
    sources: &mut Sources,
    clusters: &[Placed<ClusterConfig>],
    listeners: &[Placed<Read>],
) {
    let with_roles = listeners
        .iter()
        .filter(|listener| listener.value.config.intent.role != WantedRole::Any);
    let followed: HashSet<&str> = with_roles
        .flat_map(|listener| &listener.value.names)
        .map(|(name, _)| &**name)
        .collect();
    for cluster in clusters {
        let check = &cluster.value.health_check.kind;
        let remembers = check.tells_roles() && !matches!(check, CheckKind::Http(_));
        if remembers && followed.contains(&*cluster.value.name) {
            let message = format!(
                "without `state_dir`, a stale primary of `{}` that answers first after a restart could be believed",
                cluster.value.name
            );
            let help = "add `state_dir: /var/lib/evergate` to the file";
            sources.warn(cluster.at, Wrong::new(message, help));
        }
    }
}

/// The backends that are written as addresses.
fn addresses(cluster: &ClusterConfig) -> HashSet<SocketAddr> {
    let backends = cluster.backends.iter();
    let addresses = backends.filter_map(|backend| match &backend.host {
        Host::Ip(ip) => Some(SocketAddr::new(*ip, backend.port.get())),
        Host::Name(name) if &**name == "localhost" => {
            Some((Ipv4Addr::LOCALHOST, backend.port.get()).into())
        }
        Host::Name(_) => None,
    });
    addresses.collect()
}

/// A session to a backend that is its own listener would come back for ever.
fn check_loop(
    sources: &mut Sources,
    backends: &HashSet<SocketAddr>,
    listener: &Placed<Read>,
    at: At,
) {
    let bind = listener.value.config.bind;
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let own: &[IpAddr] = if bind.ip().is_unspecified() {
        &loopback
    } else {
        &[bind.ip()]
    };
    let mut own = own.iter().map(|ip| SocketAddr::new(*ip, bind.port()));
    if let Some(itself) = own.find(|address| backends.contains(address)) {
        let message = format!("the backend `{itself}` of this cluster is this listener itself");
        let help = "every session would come back here until nothing is left; name the server";
        sources.error(at, Wrong::new(message, help));
    }
}

/// No two things listen on one place.
pub(super) fn binds(sources: &mut Sources, listeners: &[Placed<Read>], process: &Process) {
    let mut seen: HashMap<u16, Vec<(SocketAddr, At)>> = HashMap::new();
    for listener in listeners {
        let (bind, at) = (listener.value.config.bind, listener.value.bind_at);
        let others = seen.entry(bind.port()).or_default();
        if let Some((other, first)) = others.iter().find(|(other, _)| overlap(bind, *other)) {
            let message = format!("`{bind}` and `{other}` are the same place");
            let wrong = Wrong::new(message, "give one of them another port");
            sources.conflict(at, wrong, "the other one is here", *first);
        }
        others.push((bind, at));
    }
    let Some(admin) = process.admin.as_ref().and_then(|admin| admin.bind) else {
        return;
    };
    for (bind, at) in seen.get(&admin.port()).into_iter().flatten() {
        if !overlap(*bind, admin) {
            continue;
        }
        match process.admin_bind_at {
            Some(admin_at) => {
                let message = format!("`{admin}` is also the place of a listener");
                let wrong = Wrong::new(message, "give one of them another port");
                sources.conflict(admin_at, wrong, "the listener is here", *at);
            }
            None => {
                let message = format!("`{bind}` is taken by `admin`, which listens on {admin}");
                let help = "use another port, or set `admin: {bind: …}`";
                sources.error(*at, Wrong::new(message, help));
            }
        }
    }
}

/// Whether the kernel would refuse the second. `[::]` takes IPv4 as well.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let everything = |address: SocketAddr| address.is_ipv6() && address.ip().is_unspecified();
    let any = a.ip().is_unspecified() || b.ip().is_unspecified();
    let same_family = a.is_ipv4() == b.is_ipv4();
    a.port() == b.port()
        && a.port() != 0
        && (a.ip() == b.ip() || (same_family && any) || everything(a) || everything(b))
}
