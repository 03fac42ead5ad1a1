//! What stands between the clients and the cluster.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

use crate::configurations;
use crate::configurations::Checks;
use crate::configurations::Relay;
use crate::nodes::Intent;
use crate::nodes::Nodes;
use crate::recorder;
use crate::recorder::Noted;
use crate::support::PATIENCE;
use crate::support::client::Dialect;
use crate::support::client::Session;
use crate::support::client::USER;
use crate::support::evergate::Evergate;
use crate::support::pg_base;
use crate::support::ports::free_addr;
use crate::support::postgres::as_postgres;
use crate::support::process::Process;
use crate::support::process::installed;
use crate::support::process::words;
use crate::support::wait_until;

/// Four rounds of three servers.
const SESSIONS_IN_A_ROW: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// `protocol: postgres`: session mode.
    Evergate,
    /// `protocol: tcp`: bytes are relayed unseen.
    EvergateLayer4,
    HaproxyTemplate,
    HaproxyFast,
    HaproxyLimit,
    /// Behind HAProxy with fast checks.
    Pgbouncer,
}

/// A started stack; ends when it is dropped.
pub struct Running {
    pub stack: Stack,
    pub addr: SocketAddr,
    /// In the order of the way from the client: who is in front ends first.
    pgbouncer: Option<Server>,
    haproxy: Option<Server>,
    evergate: Option<Evergate>,
}

/// A program and the directory with its file.
struct Server {
    _process: Process,
    _dir: TempDir,
}

impl Stack {
    pub const ALL: [Self; 6] = [
        Self::Evergate,
        Self::EvergateLayer4,
        Self::HaproxyTemplate,
        Self::HaproxyFast,
        Self::HaproxyLimit,
        Self::Pgbouncer,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Evergate => "Evergate",
            Self::EvergateLayer4 => "Evergate, layer 4",
            Self::HaproxyTemplate => "HAProxy, Patroni's template",
            Self::HaproxyFast => "HAProxy, 100 ms checks",
            Self::HaproxyLimit => "HAProxy, tuned to the limit",
            Self::Pgbouncer => "PgBouncer behind HAProxy",
        }
    }

    /// Also a part of a table's name.
    pub fn short(self) -> &'static str {
        match self {
            Self::Evergate => "evergate",
            Self::EvergateLayer4 => "layer4",
            Self::HaproxyTemplate => "template",
            Self::HaproxyFast => "fast",
            Self::HaproxyLimit => "limit",
            Self::Pgbouncer => "pgbouncer",
        }
    }

    pub fn start_all(nodes: &Nodes, intent: Intent) -> Vec<Running> {
        Self::ALL.map(|stack| stack.start(nodes, intent)).into()
    }

    /// Starts it and waits until it lets a client in.
    fn start(self, nodes: &Nodes, intent: Intent) -> Running {
        let mut running = Running {
            stack: self,
            addr: free_addr(),
            pgbouncer: None,
            haproxy: None,
            evergate: None,
        };
        let addr = running.addr;
        let evergate = |relay| {
            let yaml = configurations::evergate(nodes, intent, relay, addr);
            Some(Evergate::start(&yaml))
        };
        let haproxy = |checks, bind| Some(haproxy(checks, nodes, intent, bind));
        match self {
            Self::Evergate => running.evergate = evergate(Relay::Postgres),
            Self::EvergateLayer4 => running.evergate = evergate(Relay::Layer4),
            Self::HaproxyTemplate => running.haproxy = haproxy(Checks::Template, addr),
            Self::HaproxyFast => running.haproxy = haproxy(Checks::Fast, addr),
            Self::HaproxyLimit => running.haproxy = haproxy(Checks::Limit, addr),
            Self::Pgbouncer => {
                let inner = free_addr();
                running.haproxy = haproxy(Checks::Fast, inner);
                running.pgbouncer = Some(pgbouncer(inner, addr));
            }
        }
        running.wait_until_it_serves(intent);
        running
    }
}

impl Running {
    /// What it has noted of an event since it began; other stacks have no record of theirs.
    pub fn noted(&self, began: Instant) -> Option<Noted> {
        let evergate = self.evergate.as_ref()?;
        Some(recorder::noted(evergate, began))
    }

    /// HAProxy believes that every server is up until enough checks say otherwise, and gives each
    /// new session to another one: only several in a row show that it has settled.
    pub fn wait_until_it_serves(&self, intent: Intent) {
        let wanted = match intent {
            Intent::Write => "f",
            Intent::Read => "t",
        };
        wait_until(PATIENCE, &format!("{:?} serves", self.stack), || {
            (0..SESSIONS_IN_A_ROW).all(|_| self.role_seen().as_deref() == Some(wanted))
        });
    }

    fn role_seen(&self) -> Option<String> {
        let patience = Duration::from_secs(2);
        let mut session = Session::open(Dialect::Postgres, self.addr, USER, patience).ok()?;
        let rows = session.query("select pg_is_in_recovery()").ok()?;
        rows.first()?.first().cloned()
    }
}

fn haproxy(checks: Checks, nodes: &Nodes, intent: Intent, bind: SocketAddr) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("haproxy.cfg");
    fs::write(&file, configurations::haproxy(checks, nodes, intent, bind)).unwrap();
    let binary = installed("haproxy", "haproxy");
    let command = words(&[&binary, "-db", "-f", file.to_str().unwrap()]);
    Server {
        _process: Process::start(&command, &[], dir.path()),
        _dir: dir,
    }
}

/// It refuses to run as root.
fn pgbouncer(upstream: SocketAddr, bind: SocketAddr) -> Server {
    let dir = pg_base::directory("evergate-pgbouncer-");
    let file = dir.path().join("pgbouncer.ini");
    fs::write(&file, configurations::pgbouncer(upstream, bind)).unwrap();
    let mut command = as_postgres();
    command.push(installed("pgbouncer", "pgbouncer"));
    command.push(file.display().to_string());
    Server {
        _process: Process::start(&command, &[], dir.path()),
        _dir: dir,
    }
}
