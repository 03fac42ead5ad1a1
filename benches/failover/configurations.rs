//! The files of the stacks: what their own documentation tells users to write.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use crate::nodes::Authority;
use crate::nodes::Intent;
use crate::nodes::Nodes;
use crate::support::client::USER;

/// How hard HAProxy asks Patroni.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checks {
    /// Patroni's `haproxy.cfg`, word for word but for addresses and log.
    Template,
    /// Ten checks a second of which each counts: about what is seen in the field.
    Fast,
    /// Checks every 50 ms, errors of clients' connections count as failed checks, nothing waits.
    Limit,
}

/// What Evergate's listener knows of what it relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relay {
    /// The cluster's protocol, in session mode.
    Postgres,
    /// Bytes, unseen.
    Layer4,
}

/// All keys have their defaults, except who the check logs in as.
pub fn evergate(nodes: &Nodes, intent: Intent, relay: Relay, bind: SocketAddr) -> String {
    let backends: Vec<String> = nodes
        .list
        .iter()
        .map(|node| format!("{{name: {}, address: \"{}\"}}", node.name, node.addr))
        .collect();
    let failover = match nodes.authority {
        Authority::Patroni { port } => {
            format!("    failover: {{authority: {{kind: patroni, port: {port}}}}}\n")
        }
        Authority::Nobody => String::new(),
    };
    let protocol = match relay {
        Relay::Postgres => "",
        Relay::Layer4 => ", protocol: tcp",
    };
    format!(
        "clusters:\n  orders:\n    protocol: postgres\n    backends: [{backends}]\n    \
         health_check: {{user: {USER}}}\n{failover}\
         listeners:\n  front: {{bind: \"{bind}\", cluster: orders, role: {role}{protocol}}}\n",
        backends = backends.join(", "),
        role = intent.role(),
    )
}

/// <https://github.com/patroni/patroni/blob/master/haproxy.cfg>, and tuned.
pub fn haproxy(checks: Checks, nodes: &Nodes, intent: Intent, bind: SocketAddr) -> String {
    let mut text = format!(
        "global\n    maxconn 100\n\
         defaults\n    mode tcp\n    retries {retries}\n    timeout client 30m\n    \
         timeout connect {connect}\n    timeout server 30m\n    timeout check {check}\n{redispatch}\
         listen front\n    bind {bind}\n    option httpchk OPTIONS {path}\n    \
         http-check expect status 200\n    default-server {server} on-marked-down shutdown-sessions\n",
        retries = if checks == Checks::Limit { 3 } else { 2 },
        connect = shown(checks.connect_timeout()),
        check = shown(checks.check_timeout()),
        redispatch = checks.redispatch(),
        path = intent.path(),
        server = checks.server(),
    );
    for node in &nodes.list {
        let (name, addr, role) = (&node.name, node.addr, node.role);
        let (ip, port) = (role.ip(), role.port());
        let _ = writeln!(
            text,
            "    server {name} {addr} maxconn 100 check addr {ip} port {port}"
        );
    }
    text
}

impl Checks {
    fn server(self) -> &'static str {
        match self {
            Self::Template => "inter 3s fall 3 rise 2",
            Self::Fast => "inter 100ms fall 2 rise 1",
            Self::Limit => {
                "inter 50ms fastinter 20ms downinter 50ms fall 1 rise 1 \
                 observe layer4 error-limit 1 on-error mark-down"
            }
        }
    }

    fn connect_timeout(self) -> Duration {
        match self {
            Self::Template => Duration::from_secs(4),
            Self::Fast => Duration::from_secs(1),
            Self::Limit => Duration::from_millis(200),
        }
    }

    fn check_timeout(self) -> Duration {
        match self {
            Self::Template => Duration::from_secs(5),
            // Patroni is written in Python and shares the machine: less would flap.
            Self::Fast => Duration::from_millis(500),
            Self::Limit => Duration::from_millis(250),
        }
    }

    fn redispatch(self) -> &'static str {
        match self {
            Self::Template => "",
            Self::Fast | Self::Limit => "    option redispatch 1\n",
        }
    }
}

fn shown(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

/// A server connection for each client. `server_login_retry` is 15 s by default, which nobody who
/// has a failover keeps.
pub fn pgbouncer(upstream: SocketAddr, bind: SocketAddr) -> String {
    format!(
        "[databases]\npostgres = host={} port={} user={USER}\n\
         [pgbouncer]\nlisten_addr = {}\nlisten_port = {}\nunix_socket_dir =\nauth_type = any\n\
         pool_mode = session\nmax_client_conn = 200\ndefault_pool_size = 50\n\
         server_login_retry = 1\nserver_connect_timeout = 2\n",
        upstream.ip(),
        upstream.port(),
        bind.ip(),
        bind.port(),
    )
}
