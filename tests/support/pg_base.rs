//! The data directory that every PostgreSQL of a cluster begins as: made once, then copied.
//!
//! It lies in Cargo's directory for tests, keyed by what it is made from, and is ready for being
//! a primary or a replica. All clusters share its system identifier; a test that needs a foreign
//! one starts a `Postgres`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::chown;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::LazyLock;

use rustix::fs::stat;
use tempfile::TempDir;

use super::postgres::PACKAGE;
use super::postgres::as_postgres;
use super::process::installed;
use super::process::is_root;
use super::process::output_of;
use super::process::run;

/// Goes up with every change of what follows.
const RECIPE: u32 = 1;

/// The password of `scram`, `md5` and `plain`, the users who have to say it.
pub const PASSWORD: &str = "open sesame";

const USERS: &str = "\
create role replicator replication login;\n\
create role app login;\n\
create role nobody login;\n\
grant all on schema public to app;\n\
set password_encryption = 'scram-sha-256';\n\
create role scram login password 'open sesame';\n\
create role plain login password 'open sesame';\n\
set password_encryption = 'md5';\n\
create role md5 login password 'open sesame';\n";

/// `nobody` is refused with 28000; who is not named here needs no password.
const RULES: &str = "\
local all all trust\n\
host replication all all trust\n\
host all scram all scram-sha-256\n\
host all md5 all md5\n\
host all plain all password\n\
host all nobody all reject\n\
host all all all trust\n";

/// Smaller than in any cluster made from it: a replica refuses to have less than was in force
/// when the base was written.
const SMALLEST: [&str; 5] = [
    "wal_level=replica",
    "max_connections=4",
    "max_wal_senders=0",
    "max_worker_processes=1",
    "fsync=off",
];

/// Copies the base, with its owner, to a place that does not exist yet.
pub fn copy_to(data: &Path) {
    let (base, data) = (base().to_str().unwrap(), data.to_str().unwrap());
    run(&["cp", "-a", "--reflink=auto", base, data]);
}

/// A directory of the user that PostgreSQL runs as.
pub fn directory(prefix: &str) -> TempDir {
    let dir = tempfile::Builder::new().prefix(prefix).tempdir().unwrap();
    give_to_postgres(dir.path());
    dir
}

/// PostgreSQL refuses to be root, and to read what others own.
pub fn give_to_postgres(path: &Path) {
    if is_root() {
        let owner = stat("/var/lib/postgresql").expect("postgresql-15 is not installed");
        chown(path, Some(owner.st_uid), Some(owner.st_gid)).unwrap();
    }
}

/// A killed postmaster leaves a segment of shared memory behind.
pub fn free_shared_memory(data: &Path) {
    let lock = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    // The seventh line: key and number.
    let shared = lock.lines().nth(6);
    let shared = shared.and_then(|line| line.split_whitespace().nth(1));
    if let Some(number) = shared {
        // The next start of a server in the same place may have removed it.
        output_of(&["ipcrm", "-m", number], &[]);
    }
}

fn base() -> &'static Path {
    static BASE: LazyLock<PathBuf> = LazyLock::new(find_or_make);
    &BASE
}

fn find_or_make() -> PathBuf {
    let version = run(&[&installed("postgres", PACKAGE), "--version"]);
    // postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)
    let version = version.split(' ').nth(2).expect("a version");
    let name = format!("postgres-{}-{RECIPE}", version.trim());
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if base.exists() {
        return base;
    }
    let dir = directory("evergate-pg-base-");
    let made = dir.path().join("data");
    make(made.to_str().unwrap());
    // Complete or not there: another process makes the same, and one of both renames first.
    let beside = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let copy = beside.path().join("data");
    run(&["cp", "-a", made.to_str().unwrap(), copy.to_str().unwrap()]);
    if let Err(error) = fs::rename(&copy, &base) {
        assert!(base.exists(), "{}: {error}", base.display());
    }
    base
}

fn make(data: &str) {
    let initdb = installed("initdb", PACKAGE);
    let prefix = as_postgres();
    let mut command: Vec<&str> = prefix.iter().map(String::as_str).collect();
    command.extend([&initdb, "-D", data, "-U", "postgres", "-A", "trust"]);
    command.extend(["-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]);
    run(&command);
    fs::write(Path::new(data).join("pg_hba.conf"), RULES).unwrap();

    let mut command = prefix;
    command.push(installed("postgres", PACKAGE));
    command.extend(["--single".to_owned(), "-D".to_owned(), data.to_owned()]);
    for setting in SMALLEST {
        command.extend(["-c".to_owned(), setting.to_owned()]);
    }
    command.push("postgres".to_owned());
    let mut single = Command::new("timeout")
        .arg("60")
        .args(&command)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = single.stdin.take().unwrap();
    input.write_all(USERS.as_bytes()).unwrap();
    drop(input);
    assert!(single.wait().unwrap().success(), "postgres --single");
}
