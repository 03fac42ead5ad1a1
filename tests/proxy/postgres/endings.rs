//! Ends that we bring about are said in the protocol, at a place where they can be understood.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;

use evergate::protocol::postgres::TransactionStatus;
use evergate::protocol::postgres::backend::data_row;
use evergate::protocol::postgres::backend::ready_for_query;
use evergate::protocol::postgres::sqlstate::SqlState;
use rustix::process::Signal;

use crate::postgres::cancel::sleep;
use crate::postgres::cases::LET_IN;
use crate::postgres::cases::before;
use crate::postgres::cases::file;
use crate::postgres::cases::read_startup;
use crate::postgres::wire::Wire;
use crate::support::PATIENCE;
use crate::support::evergate::Evergate;
use crate::support::ports::free_addr;
use crate::support::postgres::Postgres;

#[test]
fn a_stop_ends_idle_sessions_at_once_and_others_with_their_transaction() {
    let postgres = Postgres::start();
    let listens = free_addr();
    let yaml = file(listens, &[postgres.addr()], &[], &[]) + "drain_timeout: 60s\n";
    let mut evergate = Evergate::start(&yaml);
    let (mut idle, _) = Wire::login(listens);
    let (mut open, _) = Wire::login(listens);
    let (mut sleeping, _) = Wire::login(listens);
    open.query("create table t (n int)");
    open.query("begin");
    sleeping.send(b"Q\0\0\0\x17select pg_sleep(1)\0");
    evergate.signal(Signal::TERM);

    let error = idle.last_words();
    assert_eq!(error.sqlstate, Some(SqlState::ADMIN_SHUTDOWN));
    assert!(
        error.message.starts_with("terminating connection due to"),
        "{error}"
    );
    assert_eq!(open.query("insert into t values (1)").status, b'T');
    assert_eq!(sleeping.until_ready().rows.len(), 1);
    assert_eq!(
        sleeping.last_words().sqlstate,
        Some(SqlState::ADMIN_SHUTDOWN)
    );
    assert_eq!(open.query("commit").status, b'I');
    assert_eq!(open.last_words().sqlstate, Some(SqlState::ADMIN_SHUTDOWN));
    assert!(evergate.wait(PATIENCE).success());
    assert_eq!(postgres.sql("select count(*) from t"), "1");
}

#[test]
fn an_idle_session_is_told_that_it_was_idle() {
    let postgres = Postgres::start();
    let (_evergate, listens) = before(&[postgres.addr()], &[], &["idle_timeout: 300ms"]);
    let (mut wire, _) = Wire::login(listens);
    let error = wire.last_words();
    assert_eq!(error.sqlstate, Some(SqlState::IDLE_SESSION_TIMEOUT));
}

#[test]
fn a_session_whose_server_is_killed_gets_one_clear_error() {
    let mut postgres = Postgres::start();
    let (_evergate, listens) = before(&[postgres.addr()], &[], &[]);
    let (mut idle, _) = Wire::login(listens);
    let (mut busy, _) = Wire::login(listens);
    sleep(&mut busy, &postgres);
    postgres.kill9();
    for wire in [&mut idle, &mut busy] {
        let error = wire.last_words();
        // A process that outlives its postmaster by a moment may have words of its own.
        let clear = [SqlState::CONNECTION_FAILURE, SqlState::ADMIN_SHUTDOWN];
        assert!(
            error.sqlstate.is_some_and(|state| clear.contains(&state)),
            "{error}"
        );
    }
}

#[test]
fn what_a_server_says_at_its_end_is_the_last_word() {
    let mut postgres = Postgres::start();
    let (_evergate, listens) = before(&[postgres.addr()], &[], &[]);
    let (mut wire, _) = Wire::login(listens);
    postgres.stop();
    let error = wire.last_words();
    assert_eq!(error.sqlstate, Some(SqlState::ADMIN_SHUTDOWN));
    assert_eq!(
        error.message,
        "terminating connection due to administrator command"
    );
}

/// A server whose sessions live on when it takes no new connections.
struct Half {
    addr: SocketAddr,
    accepts: Arc<AtomicBool>,
}

impl Half {
    /// Lets everyone in, then says `more`.
    fn saying(more: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let accepts = Arc::new(AtomicBool::new(true));
        let goes_on = Arc::clone(&accepts);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if !goes_on.load(Ordering::SeqCst) {
                    return;
                }
                let more = more.clone();
                thread::spawn(move || {
                    let mut stream = stream;
                    if read_startup(&mut stream).is_some() {
                        let ready = ready_for_query(TransactionStatus::Idle);
                        stream.write_all(&[LET_IN, &ready, &more].concat()).unwrap();
                        let _ = stream.read_to_end(&mut Vec::new());
                    }
                });
            }
        });
        Self { addr, accepts }
    }

    fn close_the_door(&self) {
        self.accepts.store(false, Ordering::SeqCst);
        // Lets the thread look.
        let _ = std::net::TcpStream::connect(self.addr);
    }
}

#[test]
fn sessions_of_a_dead_server_are_told_unless_a_message_is_half_said() {
    let server = Half::saying(Vec::new());
    let (evergate, listens) = before(&[server.addr], &[], &[]);
    let mut wire = Wire::connect(listens);
    wire.begin(&[("user", "u")]);
    server.close_the_door();
    let error = wire.last_words();
    assert_eq!(error.sqlstate, Some(SqlState::ADMIN_SHUTDOWN));
    assert!(error.message.contains("failure of its server"), "{error}");
    drop(evergate);

    let row = data_row(&[Some("half a row")]);
    let server = Half::saying(row[..row.len() - 3].to_vec());
    let (_evergate, listens) = before(&[server.addr], &[], &[]);
    let mut wire = Wire::connect(listens);
    wire.begin(&[("user", "u")]);
    server.close_the_door();
    let mut rest = Vec::new();
    // Whether it ends or is reset, nothing else is put into the row.
    let _ = wire.read_raw(&mut rest);
    assert!(row.starts_with(&rest) && rest.len() < row.len());
}

#[test]
fn a_drained_session_is_told_at_its_deadline() {
    let postgres = Postgres::start();
    let listens = free_addr();
    let socket = format!(
        "{}/admin.sock",
        tempfile::tempdir().unwrap().keep().display()
    );
    let yaml = file(
        listens,
        &[postgres.addr()],
        &["failover: {drain_timeout: 500ms}"],
        &[],
    );
    let yaml = format!(
        "{yaml}admin: {{bind: \"{}\", socket: \"{socket}\"}}\n",
        free_addr()
    );
    let _evergate = Evergate::start(&yaml);
    let (mut wire, _) = Wire::login(listens);
    wire.query("begin");
    let admin = format!("unix:{socket}");
    let drained = crate::support::evergate::evergate(&["drain", "c/a", "--admin", &admin]);
    assert!(drained.status.success(), "{drained:?}");
    let error = wire.last_words();
    assert_eq!(error.sqlstate, Some(SqlState::ADMIN_SHUTDOWN));
}
