//! What a test asks a PostgreSQL directly, whoever runs it.

use std::net::SocketAddr;
use std::time::Duration;

use super::PATIENCE;
use super::client::Dialect;
use super::client::Failure;
use super::client::Session;
use super::wait_until;

/// An answer of a node that is neither frozen nor cut off takes less.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Where this timeline left the one before, out of the history file; empty on timeline 1.
const FORK: &str = r"select coalesce(substring(pg_read_file('pg_wal/' ||
    substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '.history', 0, 65536, true)
    from '\t([0-9A-F]+/[0-9A-F]+)\t[^\n]*\n?$'), '')";

/// Nothing here keeps a connection.
#[derive(Debug, Clone)]
pub struct PgServer {
    name: String,
    addr: SocketAddr,
}

impl PgServer {
    pub fn new(name: &str, addr: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            addr,
        }
    }

    /// Also its `application_name` towards the primary.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// This replica has received what the timeline of `other` does not hold.
    #[track_caller]
    pub fn is_ahead_of_the_fork_of(&self, other: &Self) -> bool {
        let fork = other.sql(FORK);
        let ahead = format!(
            "select greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) > '{fork}'"
        );
        !fork.is_empty() && self.sql(&ahead) == "t"
    }

    /// Waits until this primary streams to a replica of that name.
    #[track_caller]
    pub fn wait_until_it_feeds(&self, replica: &str) {
        let question =
            format!("select state from pg_stat_replication where application_name = '{replica}'");
        let what = format!("{} streams to {replica}", self.name);
        wait_until(PATIENCE, &what, || {
            self.try_sql(&question)
                .is_ok_and(|state| state == "streaming")
        });
    }

    /// Waits until this replica has replayed what `primary` has written until now.
    #[track_caller]
    pub fn wait_until_it_caught_up_with(&self, primary: &Self) {
        let lsn = primary.sql("select pg_current_wal_lsn()");
        let question = format!("select pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn");
        wait_until(PATIENCE, &format!("{} replays {lsn}", self.name), || {
            self.sql(&question) == "t"
        });
    }

    #[track_caller]
    pub fn is_in_recovery(&self) -> bool {
        self.sql("select pg_is_in_recovery()") == "t"
    }

    /// The control file tells the old timeline for a while after a promotion; this does not.
    #[track_caller]
    pub fn timeline(&self) -> u32 {
        if self.is_in_recovery() {
            let received = self.sql(
                "select greatest((select received_tli from pg_stat_wal_receiver), \
                 (select min_recovery_end_timeline from pg_control_recovery()), \
                 (select timeline_id from pg_control_checkpoint()))",
            );
            return received.parse().unwrap();
        }
        // Eight hexadecimal digits of timeline begin the name.
        let file = self.sql("select pg_walfile_name(pg_current_wal_lsn())");
        u32::from_str_radix(&file[..8], 16).unwrap()
    }

    /// The replica goes on receiving and shows ever older data.
    #[track_caller]
    pub fn pause_replay(&self) {
        self.sql("select pg_wal_replay_pause()");
        wait_until(PATIENCE, "the replay pauses", || {
            self.sql("select pg_get_wal_replay_pause_state()") == "paused"
        });
    }

    #[track_caller]
    pub fn resume_replay(&self) {
        self.sql("select pg_wal_replay_resume()");
    }

    /// Runs statements on it directly as superuser; fields are joined by `|`, rows by newlines.
    #[track_caller]
    pub fn sql(&self, statement: &str) -> String {
        let answer = self.try_sql(statement);
        answer.unwrap_or_else(|failure| panic!("{}: {statement}: {failure:?}", self.name))
    }

    pub fn try_sql(&self, statement: &str) -> Result<String, Failure> {
        let mut session = Session::open(Dialect::Postgres, self.addr, "postgres", ANSWER_TIMEOUT)?;
        let rows = session.query(statement)?;
        let rows: Vec<String> = rows.iter().map(|row| row.join("|")).collect();
        Ok(rows.join("\n"))
    }

    /// Waits until it answers this.
    #[track_caller]
    pub fn wait_for_sql(&self, statement: &str, expected: &str) {
        let what = format!("{}: {statement}: {expected}", self.name);
        wait_until(PATIENCE, &what, || {
            self.try_sql(statement).as_deref() == Ok(expected)
        });
    }
}
