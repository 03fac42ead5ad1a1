//! SCRAM through a proxy that may end TLS on either side: every row of the table in
//! docs/configuration.md, "SCRAM and channel binding", with libpq's three modes.

use std::net::SocketAddr;

use evergate::config::CertificatePair;

use super::stage::LIMIT;
use super::stage::Plan;
use super::stage::Stage;
use crate::pki::Authority;
use crate::support::Watchdog;
use crate::support::pg_base::PASSWORD;
use crate::support::pg_cluster::PostgresCluster;
use crate::support::process::installed;
use crate::support::process::output_of;

/// `channel_binding` of libpq, in the order of the table's columns.
const MODES: [&str; 3] = ["disable", "prefer", "require"];
const WORKS: [bool; 3] = [true, true, true];
const WORKS_UNBOUND: [bool; 3] = [true, true, false];
const FAILS_WHERE_BOUND: [bool; 3] = [true, false, false];

/// A server with TLS, which each client and cluster may use or not.
struct Servers {
    authority: Authority,
    /// The server's own.
    pair: CertificatePair,
    stage: Stage,
}

impl Servers {
    #[track_caller]
    fn start() -> Self {
        let authority = Authority::new("databases");
        let pair = authority.issue("server", &["127.0.0.1"]);
        let cluster = PostgresCluster::with().replicas(0);
        let cluster = cluster.tls(&pair.cert_file, &pair.key_file).start();
        Self {
            authority,
            pair,
            stage: Plan::default().start(cluster),
        }
    }

    /// The cluster's key for TLS to the server.
    fn to_the_server(&self) -> String {
        format!("tls: {{ca_file: {}}}", self.authority.ca_file.display())
    }

    /// Which of libpq's modes log in.
    #[track_caller]
    fn logins(&self, plan: &Plan, sslmode: &str) -> [bool; 3] {
        self.stage.reload(plan);
        MODES.map(|mode| log_in(self.stage.write, PASSWORD, sslmode, mode))
    }
}

/// A listener that ends TLS with this certificate.
fn ends_here(pair: &CertificatePair) -> String {
    let (cert, key) = (pair.cert_file.display(), pair.key_file.display());
    format!("tls: {{cert_file: {cert}, key_file: {key}}}")
}

fn log_in(addr: SocketAddr, password: &str, sslmode: &str, binding: &str) -> bool {
    let psql = installed("psql", "postgresql-client-15");
    let target = format!(
        "host={} port={} user=scram dbname=postgres connect_timeout=10 sslmode={sslmode} \
         channel_binding={binding}",
        addr.ip(),
        addr.port()
    );
    let password = [("PGPASSWORD", password.to_owned())];
    let output = output_of(&[&psql, "-XAtc", "select current_user", &target], &password);
    println!(
        "{sslmode} {binding}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.status.success() && output.stdout == b"scram\n"
}

#[test]
fn scram_works_where_the_manual_says_so() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let servers = Servers::start();
    let own = servers.authority.issue("proxy", &["127.0.0.1"]);
    let to_the_server = servers.to_the_server();
    let encrypted = || Plan::default().orders(&[&to_the_server]);

    let passed_through = Plan::default().write("tls: passthrough");
    assert_eq!(servers.logins(&passed_through, "require"), WORKS);

    assert_eq!(servers.logins(&Plan::default(), "disable"), WORKS_UNBOUND);

    let to_the_client = Plan::default().write(&ends_here(&own));
    assert_eq!(servers.logins(&to_the_client, "require"), WORKS_UNBOUND);

    // Went wrong once: libpq takes the server's offer of a bound login for an attack.
    assert_eq!(servers.logins(&encrypted(), "disable"), WORKS_UNBOUND);
    assert!(!log_in(servers.stage.write, "wrong", "disable", "prefer"));

    let both = encrypted().write(&ends_here(&own));
    assert_eq!(servers.logins(&both, "require"), FAILS_WHERE_BOUND);

    let the_same = encrypted().write(&ends_here(&servers.pair));
    assert_eq!(servers.logins(&the_same, "require"), WORKS);
}
