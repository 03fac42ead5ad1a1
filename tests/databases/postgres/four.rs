//! Four live sessions that do what sessions do when something happens to their server: nothing, a
//! transaction, a long query, a COPY.

use std::thread;
use std::thread::JoinHandle;
use std::time::Instant;

use super::stage::Stage;
use crate::support::client::Failure;
use crate::support::client::Row;
use crate::support::client::Session;
use crate::support::pg_node::PgNode;

/// Longer than any test.
const LONG_QUERY: &str = "select pg_sleep(600)";
/// Sends more than any buffer takes, and then waits longer than any test.
const COPY_OUT: &str = "copy (select repeat('x', 10000), case when i > 99 then pg_sleep(600) end \
                        from generate_series(1, 100) i) to stdout";
const COPY_IN: &str = "copy t from stdin";

type Answer = (Result<Vec<Row>, Failure>, Instant);

/// One session in each state.
pub struct Four {
    pub idle: Session,
    pub in_transaction: Session,
    /// The query and the COPY.
    pub busy: [JoinHandle<Answer>; 2],
}

/// A session does not tell its end before it is used.
pub struct Ends {
    pub long_query: Instant,
    pub copy: Instant,
}

impl Four {
    /// Of the first primary. The transaction has written 1 to the table `t`; the COPY goes there.
    #[track_caller]
    pub fn of_writers(stage: &Stage) -> Self {
        let primary = stage.cluster.node(0);
        primary.sql("create table t (x int); grant all on t to app");
        let write = "insert into t values (1)";
        Self::begin(primary, || stage.writer().unwrap(), write, COPY_IN)
    }

    /// Of the only replica, whose COPY goes to the client.
    #[track_caller]
    pub fn of_readers(stage: &Stage) -> Self {
        let replica = stage.cluster.node(1);
        Self::begin(replica, || stage.reader().unwrap(), "select 1", COPY_OUT)
    }

    #[track_caller]
    fn begin(node: &PgNode, open: impl Fn() -> Session, statement: &str, copy: &str) -> Self {
        let idle = open();
        let mut in_transaction = open();
        in_transaction.query("begin").unwrap();
        in_transaction.query(statement).unwrap();
        let busy = [LONG_QUERY, copy].map(|statement| {
            let (mut session, statement) = (open(), statement.to_owned());
            thread::spawn(move || (session.query(&statement), Instant::now()))
        });
        let active = "select count(*) from pg_stat_activity where usename = 'app' and \
                      (query like 'select pg_sleep%' or query like 'copy%')";
        node.wait_for_sql(active, "2");
        Self {
            idle,
            in_transaction,
            busy,
        }
    }

    /// All end without another word from their client, and are told why, if what they were told
    /// last was whole.
    #[track_caller]
    pub fn expect_severed(self, stage: &Stage, cause: &str) -> Ends {
        let labels = [("cause", cause), ("phase", "relay"), ("side", "proxy")];
        stage
            .evergate
            .wait_for_metric("evergate_sessions_ended_total", &labels, 4.0);
        for mut session in [self.idle, self.in_transaction] {
            let failure = session.query("select 1").unwrap_err();
            assert_eq!(failure.class(), "57P01", "{cause}");
        }
        let [long_query, copy] = self.busy.map(|busy| {
            let (answer, ended) = busy.join().unwrap();
            (answer.unwrap_err().class(), ended)
        });
        assert_eq!(long_query.0, "57P01", "{cause}");
        // PostgreSQL fills its buffer and sends it: half a row may be on its way.
        assert!(matches!(&*copy.0, "57P01" | "lost"), "{cause}: {}", copy.0);
        Ends {
            long_query: long_query.1,
            copy: copy.1,
        }
    }
}

/// Waits until so many sessions speak to it through Evergate, whose checks do not count.
#[track_caller]
pub fn wait_for_sessions(node: &PgNode, sessions: u32) {
    let question = "select count(*) from pg_stat_activity where usename = 'app' \
                    and application_name <> 'evergate'";
    node.wait_for_sql(question, &sessions.to_string());
}
