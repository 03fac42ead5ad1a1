//! A real PostgreSQL of a test's own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;

use rustix::process::Signal;
use tempfile::TempDir;

use super::PATIENCE;
use super::netns::Place;
use super::ports::free_port;
use super::process::Process;
use super::process::installed;
use super::process::is_root;
use super::process::output_of;
use super::process::run;
use super::process::words;
use super::wait_until;

pub const PACKAGE: &str = "postgresql-15";

pub struct Postgres {
    addr: SocketAddr,
    prefix: Vec<String>,
    /// Dropped before its directory.
    process: Option<Process>,
    dir: TempDir,
}

impl Postgres {
    #[track_caller]
    pub fn start() -> Self {
        Self::start_in(&Place::host())
    }

    #[track_caller]
    pub fn start_in(place: &Place) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("evergate-pg-")
            .tempdir()
            .unwrap();
        let path = dir.path().to_str().unwrap().to_owned();
        let mut prefix = place.prefix.clone();
        prefix.extend(as_postgres());
        if is_root() {
            run(&["chown", "postgres:postgres", &path]);
        }
        let mut postgres = Self {
            addr: SocketAddr::new(place.ip, free_port()),
            prefix,
            process: None,
            dir,
        };
        postgres.make_data();
        postgres.start_again();
        postgres
    }

    fn make_data(&self) {
        let initdb = installed("initdb", PACKAGE);
        let data = self.data();
        let mut command: Vec<&str> = self.prefix.iter().map(String::as_str).collect();
        command.extend([&initdb, "-D", &data, "-U", "postgres", "-A", "trust"]);
        command.extend(["-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]);
        run(&command);
        let rules = Path::new(&data).join("pg_hba.conf");
        std::fs::write(rules, "local all all trust\nhost all all all trust\n").unwrap();
    }

    fn data(&self) -> String {
        format!("{}/data", self.dir.path().display())
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The postmaster; panics while it is down.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("PostgreSQL is down")
    }

    /// Starts on the same port and data, and waits until it answers.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "PostgreSQL already runs");
        let mut command = self.prefix.clone();
        command.push(installed("postgres", PACKAGE));
        command.extend(["-D".to_owned(), self.data()]);
        let (ip, port) = (self.addr.ip(), self.addr.port());
        for setting in [
            format!("listen_addresses={ip}"),
            format!("port={port}"),
            format!("unix_socket_directories={}", self.dir.path().display()),
            "fsync=off".to_owned(),
            "max_connections=200".to_owned(),
            "shared_buffers=16MB".to_owned(),
        ] {
            command.extend(["-c".to_owned(), setting]);
        }
        let mut process = Process::start(&command, &[], self.dir.path());
        wait_until(PATIENCE, "PostgreSQL answers", || {
            assert!(process.is_running(), "PostgreSQL did not start");
            psql(self.addr, "select 1").status.success()
        });
        self.process = Some(process);
    }

    /// As a crash of the host: nobody says goodbye.
    pub fn kill9(&mut self) {
        // Dropping it kills the whole tree.
        self.process = None;
    }

    /// "Fast" shutdown: sessions get 57P01.
    #[track_caller]
    pub fn stop(&mut self) {
        self.stop_by(Signal::INT);
    }

    /// TERM is "smart" (waits for sessions), INT "fast", QUIT "immediate".
    #[track_caller]
    pub fn stop_by(&mut self, signal: Signal) {
        let mut process = self.process.take().expect("PostgreSQL is down");
        process.signal(signal);
        process.wait(PATIENCE);
    }

    /// Every process of it stands still; the kernel still accepts.
    pub fn freeze(&self) {
        self.process().signal_tree(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.process().signal_tree(Signal::CONT);
    }

    /// Runs one statement on it directly; panics unless it succeeds.
    #[track_caller]
    pub fn sql(&self, statement: &str) -> String {
        answer(psql(self.addr, statement), statement)
    }
}

/// What to put before a program that refuses to be root, as PostgreSQL and Patroni do.
pub fn as_postgres() -> Vec<String> {
    if !is_root() {
        return Vec::new();
    }
    // The kernel forgets the death signal of `Process::start` when the user changes.
    words(&[
        "setpriv",
        "--reuid=postgres",
        "--regid=postgres",
        "--init-groups",
        "--pdeathsig",
        "KILL",
        "--",
    ])
}

/// Runs one statement through any address: a backend's or a listener's.
pub fn psql(addr: SocketAddr, statement: &str) -> Output {
    psql_with(statement, &environment(addr))
}

/// The same as a user with a password, over TLS or not at all.
pub fn psql_as(addr: SocketAddr, user: &str, password: &str, statement: &str) -> Output {
    let mut environment = environment(addr).to_vec();
    // The last of a name wins.
    environment.push(("PGUSER", user.to_owned()));
    environment.push(("PGPASSWORD", password.to_owned()));
    environment.push(("PGSSLMODE", "require".to_owned()));
    psql_with(statement, &environment)
}

fn psql_with(statement: &str, environment: &[(&str, String)]) -> Output {
    let psql = installed("psql", "postgresql-client-15");
    let command = [
        psql.as_str(),
        "-X",
        "-q",
        "-A",
        "-t",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        statement,
    ];
    output_of(&command, environment)
}

/// As `psql`, when it has to succeed.
#[track_caller]
pub fn sql(addr: SocketAddr, statement: &str) -> String {
    answer(psql(addr, statement), statement)
}

/// What a run of pgbench reports.
#[derive(Debug, Clone)]
pub struct Pgbench {
    pub transactions: u64,
    pub failed: u64,
    /// Exit code 0: no client was aborted.
    pub complete: bool,
    pub output: String,
}

/// Runs pgbench to its end, e.g. with `["-S", "-c4", "-T2", "-C"]`; tables come from `pgbench_tables`.
pub fn pgbench(addr: SocketAddr, arguments: &[&str]) -> Pgbench {
    let pgbench = installed("pgbench", PACKAGE);
    let command = [&[pgbench.as_str(), "-n"], arguments].concat();
    let output = output_of(&command, &environment(addr));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Pgbench {
        transactions: number_after(&text, "number of transactions actually processed: "),
        failed: number_after(&text, "number of failed transactions: "),
        complete: output.status.success(),
        output: text,
    }
}

#[track_caller]
pub fn pgbench_tables(addr: SocketAddr) {
    let pgbench = installed("pgbench", PACKAGE);
    let output = output_of(&[&pgbench, "-i", "-q", "-s", "1"], &environment(addr));
    answer(output, "pgbench -i");
}

fn environment(addr: SocketAddr) -> [(&'static str, String); 6] {
    [
        ("PGHOST", addr.ip().to_string()),
        ("PGPORT", addr.port().to_string()),
        ("PGUSER", "postgres".to_owned()),
        ("PGDATABASE", "postgres".to_owned()),
        ("PGCONNECT_TIMEOUT", "10".to_owned()),
        ("PGSSLMODE", "prefer".to_owned()),
    ]
}

#[track_caller]
fn answer(output: Output, what: &str) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {error}");
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}

fn number_after(text: &str, label: &str) -> u64 {
    let rest = text.split_once(label).map_or("", |(_, rest)| rest);
    let end = rest.find(|c: char| !c.is_ascii_digit());
    rest[..end.unwrap_or(rest.len())].parse().unwrap_or(0)
}
