//! For clusters without Patroni: what the usual check script behind HAProxy answers.
//!
//! 200 on `/primary` when the server is not in recovery, on `/replica` when it is, 503 otherwise.
//! Such scripts ask the server for each check; this one looks every 10 ms over a connection that
//! it keeps, so that it costs little and HAProxy is not measured by its script.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::support::client::Dialect;
use crate::support::client::Session;
use crate::support::client::USER;

const LOOK_EVERY: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_millis(500);

/// Ends its threads a moment after it is dropped.
pub struct RoleTeller {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
}

/// The path that is answered with 200.
type Role = Arc<Mutex<Option<&'static str>>>;

impl RoleTeller {
    pub fn of(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let role = Role::default();
        {
            let (stop, role) = (Arc::clone(&stop), Arc::clone(&role));
            thread::spawn(move || look(server, &role, &stop));
        }
        let ended = Arc::clone(&stop);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ended.load(Ordering::Acquire) {
                    return;
                }
                // A check that went away has no use for an answer.
                let _ = answer(client, *role.lock().unwrap());
            }
        });
        Self { addr, stop }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for RoleTeller {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the one that accepts.
        let _ = TcpStream::connect(self.addr);
    }
}

fn look(server: SocketAddr, role: &Role, stop: &AtomicBool) {
    let mut session = None;
    while !stop.load(Ordering::Acquire) {
        if session.is_none() {
            session = Session::open(Dialect::Postgres, server, USER, PATIENCE).ok();
        }
        let seen = session.as_mut().and_then(path_of);
        if seen.is_none() {
            session = None;
        }
        *role.lock().unwrap() = seen;
        thread::sleep(LOOK_EVERY);
    }
}

fn path_of(session: &mut Session) -> Option<&'static str> {
    let rows = session.query("select pg_is_in_recovery()").ok()?;
    match rows.first()?.first()?.as_str() {
        "f" => Some("/primary"),
        _ => Some("/replica"),
    }
}

fn answer(mut client: TcpStream, role: Option<&str>) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let mut request = [0; 1024];
    let length = client.read(&mut request)?;
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    let asked = request.split(' ').nth(1);
    let status = if asked.is_some() && asked == role {
        "200 OK"
    } else {
        "503 Service Unavailable"
    };
    let head = format!("HTTP/1.0 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    client.write_all(head.as_bytes())
}
