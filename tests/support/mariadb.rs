//! A MariaDB primary with one replica that follows by GTID.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::PATIENCE;
use super::client::Dialect;
use super::client::Failure;
use super::client::Row;
use super::client::Session;
use super::netns::Place;
use super::ports::free_port;
use super::process::installed;
use super::process::is_root;
use super::process::output_of;
use super::process::run;
use super::slot::Slot;
use super::wait_until;

const PACKAGE: &str = "mariadb-server";
/// Goes up with every change of what the base is made from.
const RECIPE: u32 = 1;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The password of `native`, who has to say it; `app` and `root` have none.
pub const PASSWORD: &str = "open sesame";

/// `root` may write to a read-only server, `app` may not. `probe` may only look.
const USERS: &str = "\
flush privileges;\n\
create database if not exists app;\n\
create user app@'%';\n\
grant all on app.* to app@'%';\n\
create user native@'%' identified via mysql_native_password using password('open sesame');\n\
grant all on app.* to native@'%';\n\
create user probe@'%' identified via mysql_native_password using password('open sesame');\n\
grant slave monitor on *.* to probe@'%';\n\
create user replicator@'%';\n\
grant replication slave on *.* to replicator@'%';\n\
create user root@'%';\n\
grant all on *.* to root@'%' with grant option;\n";

/// Nothing is synced: what killed processes wrote is with the kernel, and only a crash of the
/// machine would lose it.
const SETTINGS: [&str; 17] = [
    "skip-name-resolve",
    "log-bin=binlog",
    "binlog-format=ROW",
    "log-slave-updates",
    "gtid-strict-mode=1",
    "sync-binlog=0",
    "innodb-flush-log-at-trx-commit=2",
    "innodb-flush-method=nosync",
    "innodb-buffer-pool-size=16M",
    "innodb-log-file-size=16M",
    "innodb-fast-shutdown=1",
    "key-buffer-size=1M",
    "aria-pagecache-buffer-size=1M",
    "performance-schema=0",
    "slave-net-timeout=4",
    "max-connections=200",
    "ssl=0",
];

pub struct MariaDbPair {
    nodes: [MariaDb; 2],
}

/// Every method takes `&self`: a node is used while the other one is.
pub struct MariaDb {
    name: String,
    addr: SocketAddr,
    server_id: usize,
    prefix: Vec<String>,
    slot: Slot,
    dir: TempDir,
}

impl MariaDbPair {
    #[track_caller]
    pub fn start() -> Self {
        Self::start_in(&[Place::host(), Place::host()])
    }

    #[track_caller]
    pub fn start_in(places: &[Place; 2]) -> Self {
        let nodes = [1, 2].map(|id| MariaDb::build(id, &places[id - 1]));
        thread::scope(|scope| {
            for node in &nodes {
                scope.spawn(|| node.start());
            }
        });
        nodes[1].rejoin_as_replica_of(&nodes[0]);
        nodes[0].accept_writes();
        Self { nodes }
    }

    /// The first primary is 0 for ever.
    #[track_caller]
    pub fn node(&self, index: usize) -> &MariaDb {
        &self.nodes[index]
    }

    /// The node that can answer and is not read-only.
    #[track_caller]
    pub fn primary(&self) -> &MariaDb {
        let primary = self.answering().find(|node| !node.is_read_only());
        primary.expect("no primary answers")
    }

    #[track_caller]
    pub fn replica(&self) -> &MariaDb {
        let replica = self.answering().find(|node| node.is_read_only());
        replica.expect("no replica answers")
    }

    /// Planned: stops writes, lets the replica catch up, and exchanges the roles.
    #[track_caller]
    pub fn swap(&self) {
        let (old, new) = (self.primary(), self.replica());
        old.demote();
        new.wait_until_it_caught_up_with(old);
        new.promote();
        old.rejoin_as_replica_of(new);
    }

    /// From now on the first primary acknowledges a write when its replica has received it: what
    /// was acknowledged outlives it.
    #[track_caller]
    pub fn replicate_before_acknowledging(&self) {
        let [primary, replica] = &self.nodes;
        // Longer than any test: afterwards it would not wait any more.
        primary.sql("set global rpl_semi_sync_master_timeout = 600000");
        primary.sql("set global rpl_semi_sync_master_enabled = 1");
        replica.sql("set global rpl_semi_sync_slave_enabled = 1");
        replica.sql("stop slave io_thread");
        replica.sql("start slave io_thread");
        let clients = "select variable_value from information_schema.global_status \
                       where variable_name = 'rpl_semi_sync_master_clients'";
        primary.wait_for_sql(clients, "1");
    }

    fn answering(&self) -> impl Iterator<Item = &MariaDb> {
        let running = |node: &&MariaDb| node.is_running() && !node.is_frozen();
        self.nodes.iter().filter(running)
    }
}

impl MariaDb {
    fn build(server_id: usize, place: &Place) -> Self {
        let node = Self {
            name: format!("m{server_id}"),
            addr: SocketAddr::new(place.ip, free_port()),
            server_id,
            prefix: place.prefix.clone(),
            slot: Slot::default(),
            dir: tempfile::Builder::new()
                .prefix("evergate-maria-")
                .tempdir()
                .unwrap(),
        };
        let (base, data) = (base().to_str().unwrap(), node.path("data"));
        run(&["cp", "-a", "--reflink=auto", base, &data]);
        node
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts and waits until it answers. It comes back read-only, as a careful operator has it,
    /// and replicates again if it did before.
    #[track_caller]
    pub fn start(&self) {
        self.start_with(&["read-only=1"]);
    }

    /// As an operator who was not careful: an old primary comes back writable.
    #[track_caller]
    pub fn start_writable(&self) {
        self.start_with(&["read-only=0"]);
    }

    /// Writable, and with TLS for whoever asks.
    #[track_caller]
    pub fn start_with_tls(&self, cert_file: &Path, key_file: &Path) {
        let cert = format!("ssl-cert={}", cert_file.display());
        let key = format!("ssl-key={}", key_file.display());
        self.start_with(&["read-only=0", "ssl=1", &cert, &key]);
    }

    #[track_caller]
    fn start_with(&self, more: &[&str]) {
        let mut command = self.prefix.clone();
        command.extend([installed("mariadbd", PACKAGE), "--no-defaults".to_owned()]);
        let own = [
            format!("datadir={}", self.path("data")),
            format!("socket={}", self.path("socket")),
            format!("pid-file={}", self.path("pid")),
            format!("bind-address={}", self.addr.ip()),
            format!("port={}", self.addr.port()),
            format!("server-id={}", self.server_id),
        ];
        let settings = SETTINGS
            .iter()
            .chain(more)
            .map(|setting| format!("--{setting}"));
        command.extend(settings);
        command.extend(own.iter().map(|setting| format!("--{setting}")));
        if is_root() {
            command.push("--user=root".to_owned());
        }
        self.slot.start(&command, self.dir.path());
        wait_until(PATIENCE, &format!("{} answers", self.name), || {
            assert!(self.is_running(), "{} did not start", self.name);
            self.try_sql("select 1").is_ok()
        });
    }

    /// Sessions get 1053 or a closed connection.
    #[track_caller]
    pub fn stop(&self) {
        self.slot.stop(Signal::TERM);
    }

    /// Replicates from nobody any more and takes writes.
    #[track_caller]
    pub fn promote(&self) {
        self.sql("stop slave");
        self.sql("reset slave all");
        self.accept_writes();
    }

    /// Takes no more writes, except from root; running transactions end first.
    #[track_caller]
    pub fn demote(&self) {
        self.sql("set global read_only = 1");
    }

    #[track_caller]
    pub fn accept_writes(&self) {
        self.sql("set global read_only = 0");
    }

    /// Follows `other` from where it is; writes of its own that `other` does not have stop the
    /// replication, as GTID's strict mode wants it.
    #[track_caller]
    pub fn rejoin_as_replica_of(&self, other: &Self) {
        if !self.is_running() {
            self.start();
        }
        self.demote();
        self.sql("stop slave");
        let (ip, port) = (other.addr.ip(), other.addr.port());
        self.sql(&format!(
            "change master to master_host = '{ip}', master_port = {port}, \
             master_user = 'replicator', master_use_gtid = current_pos, master_connect_retry = 1"
        ));
        self.sql("start slave");
        wait_until(PATIENCE, &format!("{} replicates", self.name), || {
            let running = |name| self.replica_status(name).as_deref() == Some("Yes");
            running("Slave_IO_Running") && running("Slave_SQL_Running")
        });
    }

    /// A field of `show replica status`; `None` on one that is no replica.
    #[track_caller]
    pub fn replica_status(&self, field: &str) -> Option<String> {
        // The position of each field is the server's business: ask with names.
        let output = mariadb(self.addr, "root", &["-E"], "show slave status");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        let values = text.lines().filter_map(|line| line.trim().split_once(": "));
        let mut found = values.filter(|(name, _)| *name == field);
        found.next().map(|(_, value)| value.to_owned())
    }

    /// Applies nothing until `resume_replay`; goes on receiving.
    #[track_caller]
    pub fn pause_replay(&self) {
        self.sql("stop slave sql_thread");
    }

    #[track_caller]
    pub fn resume_replay(&self) {
        self.sql("start slave sql_thread");
    }

    #[track_caller]
    pub fn wait_until_it_caught_up_with(&self, primary: &Self) {
        let gtid = primary.sql("select @@gtid_binlog_pos");
        let waited = self.sql(&format!("select master_gtid_wait('{gtid}', 20)"));
        assert_eq!(waited, "0", "{} did not reach {gtid}", self.name);
    }

    /// Receives nothing more, and applies what it has: a careful operator does so before a promotion.
    #[track_caller]
    pub fn apply_what_it_received(&self) {
        self.sql("stop slave io_thread");
        let received = self.replica_status("Gtid_IO_Pos").expect("a replica");
        let waited = self.sql(&format!("select master_gtid_wait('{received}', 20)"));
        assert_eq!(waited, "0", "{} did not reach {received}", self.name);
    }

    #[track_caller]
    pub fn is_read_only(&self) -> bool {
        self.sql("select @@read_only") == "1"
    }

    /// Runs a statement on it directly as root; fields are joined by `|`, rows by newlines.
    #[track_caller]
    pub fn sql(&self, statement: &str) -> String {
        let answer = self.try_sql(statement);
        answer.unwrap_or_else(|failure| panic!("{}: {statement}: {failure:?}", self.name))
    }

    pub fn try_sql(&self, statement: &str) -> Result<String, Failure> {
        let mut session = Session::open(Dialect::MariaDb, self.addr, "root", ANSWER_TIMEOUT)?;
        let rows: Vec<Row> = session.query(statement)?;
        let rows: Vec<String> = rows.iter().map(|row| row.join("|")).collect();
        Ok(rows.join("\n"))
    }

    #[track_caller]
    pub fn wait_for_sql(&self, statement: &str, expected: &str) {
        let what = format!("{}: {statement}: {expected}", self.name);
        wait_until(PATIENCE, &what, || {
            self.try_sql(statement).as_deref() == Ok(expected)
        });
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
}

impl Deref for MariaDb {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        &self.slot
    }
}

/// The command line client, with more options.
pub fn mariadb(addr: SocketAddr, user: &str, options: &[&str], statement: &str) -> Output {
    let client = installed("mariadb", "mariadb-client");
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let place = [&client, "--no-defaults", "-h", &ip, "-P", &port, "-u", user];
    output_of(&[&place, options, &["-e", statement]].concat(), &[])
}

/// The data directory that every server begins as, kept in Cargo's directory for tests.
fn base() -> &'static Path {
    static BASE: LazyLock<PathBuf> = LazyLock::new(find_or_make);
    &BASE
}

fn find_or_make() -> PathBuf {
    let version = run(&[&installed("mariadbd", PACKAGE), "--version"]);
    // mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)
    let version = version.split_whitespace().nth(2).expect("a version");
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{version}-{RECIPE}"));
    if !base.exists() {
        let beside = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let made = beside.path().join("data");
        make(made.to_str().unwrap());
        // Complete or not there: another process may make the same, and one renames first.
        if let Err(error) = fs::rename(&made, &base) {
            assert!(base.exists(), "{}: {error}", base.display());
        }
    }
    base
}

fn make(data: &str) {
    let install = installed("mariadb-install-db", PACKAGE);
    let data = format!("--datadir={data}");
    let mut user = Vec::new();
    if is_root() {
        user.push("--user=root");
    }
    let options = ["--auth-root-authentication-method=normal", "--skip-test-db"];
    let small = ["--innodb-log-file-size=16M", "--innodb-flush-method=nosync"];
    let command = [install.as_str(), "--no-defaults", &data];
    run(&[&command[..], &options, &small, &user].concat());

    let mut bootstrap = Command::new("timeout")
        .args([
            "60",
            &installed("mariadbd", PACKAGE),
            "--no-defaults",
            &data,
            "--bootstrap",
        ])
        .args(small)
        .args(user)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = bootstrap.stdin.take().unwrap();
    input.write_all(USERS.as_bytes()).unwrap();
    drop(input);
    assert!(bootstrap.wait().unwrap().success(), "mariadbd --bootstrap");
}
