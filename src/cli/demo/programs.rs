//! PostgreSQL's programs: where they are, and how root runs them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use tokio::process::Command;
use tokio::time::timeout;

/// Whom the servers run as when we are root: PostgreSQL refuses to.
const ACCOUNT: &str = "postgres";
/// For each command and each start or stop of a server, on a slow disk.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where PostgreSQL's programs are and how they are run.
#[derive(Debug)]
pub struct Programs {
    directory: PathBuf,
    /// We are root, and this is what gives it up.
    setpriv: Option<Vec<String>>,
    owner: Option<(u32, u32)>,
}

impl Programs {
    /// Looks for them.
    ///
    /// # Errors
    /// What to install, or why they cannot be run here.
    pub fn find() -> anyhow::Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places: Vec<_> = std::env::split_paths(&path).collect();
        // Debian keeps all but the clients' programs out of PATH; the newest version first.
        if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
            let mut versions: Vec<_> = versions.flatten().map(|entry| entry.path()).collect();
            versions.sort_by_key(|path| {
                let name = path.file_name().and_then(OsStr::to_str);
                std::cmp::Reverse(name.and_then(|name| name.parse::<u32>().ok()))
            });
            places.extend(versions.into_iter().map(|version| version.join("bin")));
        }
        let needed = ["postgres", "initdb", "pg_basebackup", "pg_rewind"];
        let has_all = |place: &PathBuf| needed.iter().all(|name| place.join(name).is_file());
        let directory = places.into_iter().find(has_all).context(
            "`--postgres` needs PostgreSQL's server programs (postgres, initdb, pg_basebackup, \
             pg_rewind) in PATH or /usr/lib/postgresql/*/bin: install `postgresql` (Debian, \
             Ubuntu) or `postgresql-server` (Fedora), or run `evergate demo` without it, which \
             needs nothing",
        )?;
        if !rustix::process::geteuid().is_root() {
            return Ok(Self {
                directory,
                setpriv: None,
                owner: None,
            });
        }
        let owner = account().context(
            "PostgreSQL refuses to run as root, and there is no account `postgres` to run it as: \
             run the demo as an ordinary user",
        )?;
        let (uid, gid) = owner;
        let setpriv = ["/usr/bin/setpriv", "/bin/setpriv"];
        let setpriv = setpriv.into_iter().find(|file| Path::new(file).is_file());
        let setpriv = setpriv.context(
            "PostgreSQL refuses to run as root, and there is no `setpriv` (util-linux) to run it \
             as `postgres`: run the demo as an ordinary user",
        )?;
        let words = [
            setpriv.to_owned(),
            format!("--reuid={uid}"),
            format!("--regid={gid}"),
            "--clear-groups".to_owned(),
        ];
        Ok(Self {
            directory,
            setpriv: Some(words.to_vec()),
            owner: Some(owner),
        })
    }

    /// Makes the servers' account the owner.
    pub fn give(&self, path: &Path) -> anyhow::Result<()> {
        if let Some((uid, gid)) = self.owner {
            chown(path, Some(uid), Some(gid))
                .with_context(|| format!("cannot give {} to `{ACCOUNT}`", path.display()))?;
        }
        Ok(())
    }

    /// A program to be run as the servers' account.
    pub fn command(&self, program: &str) -> Command {
        let program = self.directory.join(program);
        let mut command = match self.setpriv.as_deref() {
            Some([setpriv, words @ ..]) => {
                let mut command = Command::new(setpriv);
                command.args(words).arg(program);
                command
            }
            _ => Command::new(program),
        };
        // Somebody's settings for his own servers, and a directory that others may not enter.
        let foreign = [
            "PGDATA",
            "PGPORT",
            "PGHOST",
            "PGUSER",
            "PGOPTIONS",
            "PGPASSWORD",
        ];
        for variable in foreign {
            command.env_remove(variable);
        }
        command.env("LC_ALL", "C").current_dir("/");
        command.stdin(Stdio::null()).kill_on_drop(true);
        // Ctrl-C is for us: we stop them in order.
        command.process_group(0);
        command
    }

    /// Runs a program to its end.
    pub async fn run<'a>(
        &self,
        program: &str,
        arguments: impl Iterator<Item = &'a OsStr>,
    ) -> anyhow::Result<()> {
        let output = self.command(program).args(arguments).output();
        let output = timeout(PATIENCE, output).await;
        let output = output.with_context(|| format!("{program} does not end"))??;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            bail!("{program} failed: {}", words.trim());
        }
        Ok(())
    }
}

/// User and group of `postgres`.
fn account() -> Option<(u32, u32)> {
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    let line = accounts
        .lines()
        .find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some((uid, gid))
}
