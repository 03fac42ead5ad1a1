//! Reloads by the hundred while bytes flow.

use std::fs;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Signal;
use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::StreamOwned;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;

use crate::pki::Authority;
use crate::support::PATIENCE;
use crate::support::SetWhenDropped;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::backend::Behaviour;
use crate::support::evergate::Evergate;
use crate::support::http;
use crate::support::ports::free_addr;
use crate::support::ports::free_port;
use crate::support::stream::Pattern;
use crate::support::talk::connect;
use crate::support::talk::echoes;
use crate::support::talk::file;
use crate::support::talk::plain;
use crate::support::wait_until;

const LASTS: Duration = Duration::from_secs(20);
const EVERY: Duration = Duration::from_millis(10);
/// A machine that is slower than that takes longer than [`LASTS`].
const RELOADS: u64 = 2_000;
const STREAMS: u64 = 200;
/// Of those, as many through TLS.
const TLS_STREAMS: u64 = 20;
/// Measured: 1 MB from before the storm to its end. The allocator of a busy machine may need more.
const MAX_GROWTH_BYTES: u64 = 6 << 20;
/// What the second half of the storm may add to the first: a leak of 1 kB per reload is more.
const MAX_LATE_GROWTH_BYTES: u64 = 2 << 20;

/// Where clients connect in the storm.
#[derive(Clone, Copy)]
struct Addresses {
    plain: SocketAddr,
    tls: SocketAddr,
    /// Comes and goes.
    extra: SocketAddr,
}

/// What the clients saw.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    streamed_bytes: AtomicU64,
    fresh: AtomicU64,
    failures: std::sync::Mutex<Vec<String>>,
}

impl Tally {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn fail(&self, who: &str, error: &io::Error) {
        self.failures
            .lock()
            .unwrap()
            .push(format!("{who}: {error}"));
    }
}

/// Sends the pattern in pieces and reads each back, until the end of the storm; closes in order.
fn stream(seed: u64, mut session: impl Read + Write, tally: &Tally) -> io::Result<()> {
    let mut pattern = Pattern::seeded(seed);
    while tally.goes_on() {
        let piece = pattern.next_bytes(512);
        echoes(&mut session, &piece)?;
        tally
            .streamed_bytes
            .fetch_add(piece.len() as u64, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(40));
    }
    Ok(())
}

fn stream_plain(seed: u64, listens: SocketAddr, tally: &Tally) -> io::Result<()> {
    let session = connect(listens);
    stream(seed, &session, tally)?;
    session.shutdown(Shutdown::Write)?;
    let left = (&session).read(&mut [0])?;
    if left == 0 {
        Ok(())
    } else {
        Err(io::Error::other("bytes after the end"))
    }
}

fn open_tls(config: &Arc<ClientConfig>, listens: SocketAddr) -> impl Read + Write {
    let name = ServerName::try_from("db.test").unwrap();
    let session = ClientConnection::new(Arc::clone(config), name).unwrap();
    StreamOwned::new(session, connect(listens))
}

/// New connections all the time, one after another; each must echo.
fn open_new_ones(to: Addresses, config: &Arc<ClientConfig>, tally: &Tally) -> io::Result<()> {
    let mut pattern = Pattern::seeded(STREAMS + 1);
    while tally.goes_on() {
        echoes(&mut connect(to.plain), &pattern.next_bytes(300))?;
        echoes(&mut open_tls(config, to.tls), &pattern.next_bytes(300))?;
        tally.fresh.fetch_add(2, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The file of one turn: weights change each time, a backend and a listener come and go.
struct Files {
    to: Addresses,
    admin: SocketAddr,
    backends: [SocketAddr; 3],
    tls: String,
}

impl Files {
    fn turn(&self, turn: u64) -> String {
        let [a, b, c] = self.backends;
        let Addresses { plain, tls, extra } = self.to;
        let weight = 50 + turn % 100;
        let third = match turn / 10 % 2 {
            0 => String::new(),
            _ => format!("      - {{name: c, address: \"{c}\"}}\n"),
        };
        let more = match turn / 3 % 2 {
            0 => String::new(),
            _ => format!("  extra: {{bind: \"{extra}\", cluster: c}}\n"),
        };
        format!(
            "version: 1\nclusters:\n  c:\n    backends:\n      \
             - {{name: a, address: \"{a}\", weight: {weight}}}\n      \
             - {{name: b, address: \"{b}\"}}\n{third}listeners:\n  \
             plain: {{bind: \"{plain}\", cluster: c}}\n  \
             tls: {{bind: \"{tls}\", cluster: c, tls: {}}}\n{more}drain_timeout: 10m\n\
             admin: {{bind: \"{}\", socket: admin.sock}}\nlog: {{format: json, level: warn}}\n",
            self.tls, self.admin
        )
    }
}

/// Over the Unix socket, which needs no token; the answer comes when the file is in force.
fn reload(socket: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let answer = http::exchange(&mut stream, "localhost", "POST", "/api/v1/reload", &[], b"")?;
    match answer.status {
        200 => Ok(()),
        _ => Err(io::Error::other(answer.text())),
    }
}

/// What a leak would show in.
#[derive(Debug, Clone, Copy)]
struct Footprint {
    rss_bytes: u64,
    threads: usize,
    open_files: usize,
}

impl Footprint {
    fn of(evergate: &Evergate) -> Self {
        Self {
            rss_bytes: evergate.rss_bytes(),
            threads: evergate.threads(),
            open_files: evergate.open_files(),
        }
    }
}

/// Every 10 ms a new file is renamed over the old one and a reload is asked for over the API, which
/// answers when the new table is in force; the watcher sees the file too, and every tenth turn sends
/// SIGHUP besides. Returns how many were answered and the footprint in the middle.
fn blow(evergate: &Evergate, files: &Files) -> (u64, Footprint) {
    let socket = evergate.dir().join("admin.sock");
    let started = Instant::now();
    let mut middle = None;
    let mut turn = 0;
    while turn < RELOADS || started.elapsed() < LASTS {
        turn += 1;
        evergate.write_file(&files.turn(turn));
        if turn % 10 == 0 {
            evergate.signal(Signal::HUP);
        }
        reload(&socket).unwrap_or_else(|error| panic!("reload {turn}: {error}"));
        if middle.is_none() && turn >= RELOADS / 2 && started.elapsed() > LASTS / 2 {
            middle = Some(Footprint::of(evergate));
        }
        let next = started + EVERY * u32::try_from(turn).unwrap();
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    (turn, middle.unwrap())
}

/// What was seen of one storm.
#[derive(Debug)]
struct Storm {
    lasted: Duration,
    reloads: u64,
    tables: f64,
    before: Footprint,
    middle: Footprint,
    after: Footprint,
}

/// Sessions that now pass through the process.
fn active(evergate: &Evergate) -> f64 {
    let name = "evergate_listener_connections_active";
    evergate.metric(name, &[]).unwrap_or(0.0)
}

fn generation(evergate: &Evergate) -> f64 {
    let name = "evergate_routing_table_generation";
    evergate.metric(name, &[]).unwrap()
}

/// Streams from before the storm to after it, new sessions all the time, and reloads.
fn rage(evergate: &Evergate, files: &Files, config: &Arc<ClientConfig>, tally: &Tally) -> Storm {
    let to = files.to;
    thread::scope(|scope| {
        let _end = SetWhenDropped(&tally.stop);
        for seed in 0..STREAMS {
            scope.spawn(move || {
                let result = if seed < TLS_STREAMS {
                    stream(seed, open_tls(config, to.tls), tally)
                } else {
                    stream_plain(seed, to.plain, tally)
                };
                if let Err(error) = result {
                    tally.fail(&format!("stream {seed}"), &error);
                }
            });
        }
        // On both sides: who is still being connected would look like a leak later.
        wait_until(PATIENCE, "all streams", || {
            let name = "evergate_backend_connections_active";
            let connected = evergate.metric(name, &[]).unwrap_or(0.0);
            active(evergate) >= STREAMS as f64 && connected >= STREAMS as f64
        });
        let before = Footprint::of(evergate);
        let first = generation(evergate);
        scope.spawn(move || {
            if let Err(error) = open_new_ones(to, config, tally) {
                tally.fail("a new session", &error);
            }
        });
        let started = Instant::now();
        let (reloads, middle) = blow(evergate, files);
        let lasted = started.elapsed();
        evergate.reload(&files.turn(0));
        let after = Footprint::of(evergate);
        let tables = generation(evergate) - first;
        Storm {
            lasted,
            reloads,
            tables,
            before,
            middle,
            after,
        }
    })
}

impl Storm {
    fn expect_every_reload_published(&self) {
        assert!(self.reloads >= RELOADS, "no storm");
        let published = self.tables >= self.reloads as f64;
        assert!(published, "not every reload was published");
    }

    fn expect_no_leak(&self) {
        let (before, middle, after) = (self.before, self.middle, self.after);
        let grown = after.rss_bytes.saturating_sub(before.rss_bytes);
        assert!(grown <= MAX_GROWTH_BYTES, "memory grew by {grown} bytes");
        let late = after.rss_bytes.saturating_sub(middle.rss_bytes);
        assert!(
            late <= MAX_LATE_GROWTH_BYTES,
            "memory still grows: {late} bytes"
        );
        assert!(after.threads <= before.threads + 4, "threads are left over");
        assert!(
            after.open_files <= before.open_files + 20,
            "files are left over"
        );
    }
}

fn expect_nothing_severed_or_rejected(evergate: &Evergate) {
    wait_until(PATIENCE, "every session has ended", || {
        active(evergate) == 0.0
    });
    for cause in [
        "backend_removed",
        "listener_removed",
        "backend_dead",
        "shutdown",
    ] {
        let ended = evergate.metric("evergate_sessions_ended_total", &[("cause", cause)]);
        assert_eq!(ended, None, "{cause}");
    }
    let rejected = [("result", "rejected")];
    let rejected = evergate.metric("evergate_config_reloads_total", &rejected);
    assert!(rejected.unwrap_or(0.0) == 0.0, "{}", evergate.stderr());
}

/// C5
#[test]
fn a_hundred_reloads_a_second_break_no_session_and_leak_nothing() {
    let _watchdog = Watchdog::bites_after(Duration::from_secs(240));
    let (a, b, c) = (Backend::echo(), Backend::echo(), Backend::echo());
    let authority = Authority::new("ca");
    let pair = authority.issue("live", &["db.test"]);
    let (cert, key) = (pair.cert_file.display(), pair.key_file.display());
    let files = Files {
        to: Addresses {
            plain: free_addr(),
            tls: free_addr(),
            extra: free_addr(),
        },
        admin: free_addr(),
        backends: [a.addr(), b.addr(), c.addr()],
        tls: format!("{{cert_file: \"{cert}\", key_file: \"{key}\"}}"),
    };
    let config = Arc::new(authority.trusting(&[&TLS13]));
    let mut evergate = Evergate::start(&files.turn(0));
    let tally = Tally::default();

    let storm = rage(&evergate, &files, &config, &tally);

    let bytes = tally.streamed_bytes.load(Ordering::Relaxed);
    let fresh = tally.fresh.load(Ordering::Relaxed);
    let lasted = storm.lasted;
    println!(
        "{STREAMS} streams moved {bytes} bytes, {fresh} new sessions in {lasted:?}: {storm:#?}"
    );
    let failures = tally.failures.into_inner().unwrap();
    assert_eq!(failures, [""; 0], "{} broken", failures.len());
    assert!(bytes > 0 && fresh > 0, "no storm on this machine");
    storm.expect_every_reload_published();
    storm.expect_no_leak();
    expect_nothing_severed_or_rejected(&evergate);
    assert!(evergate.stop(PATIENCE).success());
}

/// C5: as where each deployment brings new addresses and new names
#[test]
fn backends_and_listeners_with_ever_new_names_leave_nothing_behind() {
    let _watchdog = Watchdog::bites_after(Duration::from_secs(60));
    let port = free_port();
    let everywhere = SocketAddr::from(([0, 0, 0, 0], port));
    let _backends = Backend::at(everywhere, Behaviour::Echo);
    let (steady, admin) = (free_addr(), free_addr());
    let places = [free_addr(), free_addr()];
    let yaml = |turn: usize| {
        let backends: String = (0..40)
            .map(|index| format!("      - 127.1.{}.{}:{port}\n", turn % 250, 1 + index))
            .collect();
        format!(
            "version: 1\nclusters:\n  c:\n    backends: [\"127.0.0.1:{port}\"]\n  c{turn}:\n    backends:\n{backends}\
             listeners:\n  steady: {{bind: \"{steady}\", cluster: c}}\n  \
             l{turn}: {{bind: \"{}\", cluster: c{turn}}}\nlog: {{format: json, level: warn}}\n\
             admin: {{bind: \"{admin}\", socket: admin.sock}}\ndrain_timeout: 100ms\n",
            places[turn % 2]
        )
    };
    let evergate = Evergate::start(&yaml(0));
    let socket = evergate.dir().join("admin.sock");
    let mut session = connect(steady);
    let lines = || evergate.get("/metrics").text().lines().count();
    let mut few_lines = 0;
    let mut footprints = Vec::new();
    for turn in 1..=240 {
        evergate.write_file(&yaml(turn));
        reload(&socket).unwrap_or_else(|error| panic!("reload {turn}: {error}"));
        echoes(&mut session, b"not concerned").unwrap();
        // Each name has a session, so that it has counters too.
        let mut fresh = connect(places[turn % 2]);
        echoes(&mut fresh, b"a new place").unwrap_or_else(|error| panic!("turn {turn}: {error}"));
        if turn == 1 {
            few_lines = lines();
        }
        if turn % 120 == 0 {
            // Histograms of clusters that are gone are swept every few seconds.
            wait_until(PATIENCE, "no series is left over", || {
                lines() <= few_lines + 100
            });
            footprints.push(Footprint::of(&evergate));
        }
    }
    println!("{few_lines} lines of metrics; {footprints:#?}");
    let (first, last) = (footprints[0], footprints[1]);
    let grown = last.rss_bytes.saturating_sub(first.rss_bytes);
    assert!(
        grown <= MAX_LATE_GROWTH_BYTES,
        "memory grows: {grown} bytes"
    );
    assert!(
        last.open_files <= first.open_files + 50,
        "files are left over"
    );
}

/// C5
#[test]
fn forty_who_ask_for_a_reload_at_once_each_get_their_answer() {
    let _watchdog = Watchdog::bites_after(Duration::from_secs(60));
    let (echo, listens, admin) = (Backend::echo(), free_addr(), free_addr());
    let yaml = file(listens, &plain(&[echo.addr()]), &[])
        + &format!("admin: {{bind: \"{admin}\", token_file: token}}\n");
    let launch = Evergate::with(&yaml);
    fs::write(launch.dir().join("token"), "a-token-of-some-length").unwrap();
    let evergate = launch.start();
    let mut session = connect(listens);
    thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                let token = [("Authorization", "Bearer a-token-of-some-length")];
                let answer = evergate.post("/api/v1/reload", &token, b"");
                assert_eq!(answer.status, 200, "{}", answer.text());
            });
        }
    });
    echoes(&mut session, b"not concerned").unwrap();
    let accepted = [("result", "accepted")];
    let accepted = evergate.metric("evergate_config_reloads_total", &accepted);
    assert_eq!(accepted, Some(40.0));
}
