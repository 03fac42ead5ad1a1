//! Bytes arrive as they were sent, whole and in order, or their reader sees an error: faults N1 and N8
//! to N10.

use std::io;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::ClientConnection;
use rustls::ServerConnection;
use rustls::StreamOwned;
use rustls::SupportedProtocolVersion;
use rustls::version::TLS12;
use rustls::version::TLS13;
use socket2::SockRef;

use crate::pki;
use crate::pki::Authority;
use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::backend::Behaviour;
use crate::support::backend::End;
use crate::support::evergate::Evergate;
use crate::support::ports::free_addr;
use crate::support::relay::Direction;
use crate::support::relay::FaultRelay;
use crate::support::relay::Faults;
use crate::support::stream::Pattern;
use crate::support::stream::expect_pattern;
use crate::support::stream::write_pattern;
use crate::support::wait_until;
use crate::talk::ask;
use crate::talk::ask_over_tls;
use crate::talk::connect;
use crate::talk::file;
use crate::talk::open_pipes;
use crate::talk::wait_for_ends;

const LIMIT: Duration = Duration::from_secs(90);
/// Above what the relay copies before it splices, and above every buffer on the way.
const BULK_BYTES: u64 = 12 << 20;
/// More than two directions of three connections keep in their largest buffers.
const PAUSED_BYTES: u64 = 40 << 20;
/// A health check that sees no fault for the length of a test.
const RARE_CHECKS: &str = ", health_check: {interval: 1h}";

/// N1, in the middle of an answer: of a short one, which is copied, and of a long one, which is spliced.
#[test]
fn an_answer_cut_off_by_a_reset_never_ends_cleanly() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for bytes in [10_000, BULK_BYTES] {
        let backend = OwnBackend::new();
        let listen = free_addr();
        let evergate = backend.behind(listen, "1h", "", "");
        let mut client = connect(listen);
        client.write_all(b"select\n").unwrap();
        let mut server = backend.accept();
        server.read_exact(&mut [0; 7]).unwrap();

        let sender = thread::spawn(move || {
            write_pattern(&mut server, Pattern::new(), bytes).unwrap();
            server
        });
        let half = bytes / 2;
        let seen = expect_pattern(&mut client, Pattern::new(), half).unwrap();
        assert_eq!(seen, half);
        if bytes == BULK_BYTES {
            assert!(open_pipes(&evergate) > 0, "bulk is spliced");
        }
        // All of it is delivered; that there is no more to come was never said.
        drain_some(&mut client, half);
        reset(sender.join().unwrap());

        let end = client.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ConnectionReset, "{bytes} bytes");
        wait_for_ends(&evergate, "reset", 1.0);
    }
}

/// N1, for a client behind TLS.
#[test]
fn an_answer_cut_off_by_a_reset_never_ends_cleanly_through_tls() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("ca");
    let backend = OwnBackend::new();
    let listen = free_addr();
    let _evergate = backend.behind(listen, "1h", "", &tls_keys(&authority));
    let client = authority.trusting(&[&TLS13]);
    let asking = thread::spawn(move || ask_over_tls(listen, "db.test", client, b"", b"select\n"));
    let mut server = backend.accept();
    server.read_exact(&mut [0; 7]).unwrap();
    write_pattern(&mut server, Pattern::new(), 10_000).unwrap();
    reset(server);
    let end = asking.join().unwrap().unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
}

/// N1, the other way: a half upload must not look like a whole one.
#[test]
fn an_upload_cut_off_by_a_reset_never_ends_cleanly() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for bytes in [10_000, BULK_BYTES] {
        let backend = OwnBackend::new();
        let listen = free_addr();
        let _evergate = backend.behind(listen, "1h", "", "");
        let mut client = connect(listen);
        let uploading = thread::spawn(move || {
            write_pattern(&mut client, Pattern::new(), bytes).unwrap();
            client
        });
        let mut server = backend.accept();
        let seen = expect_pattern(&mut server, Pattern::new(), bytes).unwrap();
        assert_eq!(seen, bytes);

        reset(uploading.join().unwrap());

        let end = server.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ConnectionReset, "{bytes} bytes");
    }
}

/// N8: the FIN comes before the answer is known.
#[test]
fn a_half_closed_client_gets_the_whole_answer() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("ca");
    let count = Backend::start(Behaviour::Count);
    for upload in [0, 1, 100_000, BULK_BYTES] {
        let sent = Pattern::new().next_bytes(usize::try_from(upload).unwrap());
        let expected = upload.to_string().into_bytes();

        let plain = free_addr();
        let _evergate = Evergate::start(&file(plain, &[count.addr()], "", ""));
        assert_eq!(ask(plain, &sent).unwrap(), expected);

        let tls = free_addr();
        let listener = tls_keys(&authority);
        let _evergate = Evergate::start(&file(tls, &[count.addr()], "", &listener));
        for version in [&TLS12, &TLS13] {
            let client = authority.trusting(&[version]);
            let answer = ask_over_tls(tls, "db.test", client, b"", &sent).unwrap();
            assert_eq!(answer, expected, "{version:?}");
        }
    }
}

/// N9: the backend's FIN passes, and the client may go on sending.
#[test]
fn a_half_closed_backend_still_gets_what_its_client_sends() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for answer in [1, BULK_BYTES] {
        let backend = Backend::start(Behaviour::Stream { bytes: answer });
        let listen = free_addr();
        let evergate = Evergate::start(&file(listen, &[backend.addr()], RARE_CHECKS, ""));
        let mut client = connect(listen);
        let seen = expect_pattern(&mut client, Pattern::new(), u64::MAX).unwrap();
        assert_eq!(seen, answer);

        write_pattern(&mut client, Pattern::new(), BULK_BYTES).unwrap();
        client.shutdown(Shutdown::Write).unwrap();

        wait_until(PATIENCE, "everything has arrived", || {
            backend.bytes_received() == BULK_BYTES
        });
        wait_for_ends(&evergate, "closed", 1.0);
    }
}

/// N10
#[test]
fn the_size_of_segments_changes_no_byte() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("ca");
    let echo = Backend::echo();
    let behind = FaultRelay::to(echo.addr());
    let (plain, tls, passed) = (free_addr(), free_addr(), free_addr());
    let trusted = "proxy_protocol: accept, proxy_protocol_from: [127.0.0.0/8]";
    let terminating = tls_keys(&authority);
    let yaml = file(plain, &[behind.addr()], RARE_CHECKS, "")
        + &format!("  t: {{bind: \"{tls}\", cluster: c, {trusted}{terminating}}}\n")
        + &format!("  s: {{bind: \"{passed}\", routes: [{{sni: db.test, cluster: c}}]}}\n");
    let _evergate = Evergate::start(&yaml);
    let sent = Pattern::seeded(5).next_bytes(8_000);
    let tiny = Direction {
        max_segment_bytes: Some(1),
        ..Direction::default()
    };
    let merged = Direction {
        coalesce: Duration::from_millis(30),
        ..Direction::default()
    };
    for faults in [Direction::default(), tiny, merged] {
        behind.set(Faults::both(faults.clone()));
        let before = |listen| {
            let relay = FaultRelay::to(listen);
            relay.set(Faults::both(faults.clone()));
            relay
        };
        let relay = before(plain);
        assert_eq!(ask(relay.addr(), &sent).unwrap(), sent, "{faults:?}");

        let relay = before(tls);
        let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n";
        for version in [&TLS12, &TLS13] {
            let client = authority.trusting(&[version]);
            let answer = ask_over_tls(relay.addr(), "db.test", client, header, &sent).unwrap();
            assert_eq!(answer, sent, "{faults:?}");
        }

        // Read ahead for its server name, then passed on: the echo sends the hello back.
        let relay = before(passed);
        let hello = client_hello(&authority);
        assert_eq!(ask(relay.addr(), &hello).unwrap(), hello, "{faults:?}");
    }
}

/// Bulk both ways at once through splice(2), with a client that stops reading in the middle.
#[test]
fn bulk_survives_a_reader_that_pauses() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let echo = Backend::echo();
    let listen = free_addr();
    let evergate = Evergate::start(&file(listen, &[echo.addr()], RARE_CHECKS, ""));
    let mut client = connect(listen);
    let mut output = client.try_clone().unwrap();
    let writer = thread::spawn(move || {
        write_pattern(&mut output, Pattern::seeded(9), PAUSED_BYTES)?;
        output.shutdown(Shutdown::Write)
    });
    // Nothing is read until every buffer on the way is full.
    let mut last = 0;
    let mut still = 0;
    wait_until(PATIENCE, "the way is full", || {
        thread::sleep(Duration::from_millis(50));
        let now = echo.bytes_received();
        still = if now == last && now > 0 { still + 1 } else { 0 };
        last = now;
        still == 5
    });
    assert!(last < PAUSED_BYTES, "it was never full");

    let mut spliced = 0;
    let mut input = Watched {
        stream: &mut client,
        look: || spliced = spliced.max(open_pipes(&evergate)),
    };
    let seen = expect_pattern(&mut input, Pattern::seeded(9), u64::MAX).unwrap();

    assert_eq!(seen, PAUSED_BYTES);
    writer.join().unwrap().unwrap();
    assert!(spliced > 0, "bulk is spliced");
}

/// The backend's connection stays open, but its health check says that it is dead.
#[test]
fn an_answer_cut_off_by_the_backends_death_never_ends_cleanly() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let mut backend = OwnBackend::new();
    let listen = free_addr();
    let evergate = backend.behind(listen, "100ms", "", "");
    let mut client = connect(listen);
    client.write_all(b"select\n").unwrap();
    let mut server = backend.accept();
    server.read_exact(&mut [0; 7]).unwrap();
    write_pattern(&mut server, Pattern::new(), 10_000).unwrap();
    let seen = expect_pattern(&mut client, Pattern::new(), 10_000).unwrap();
    assert_eq!(seen, 10_000);

    backend.checked.kill(End::Rst);

    let end = client.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    wait_for_ends(&evergate, "backend_dead", 1.0);
}

/// N9, for a client behind TLS.
#[test]
fn a_half_closed_backend_still_gets_what_its_client_sends_through_tls() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("ca");
    let backend = OwnBackend::new();
    let listen = free_addr();
    let _evergate = backend.behind(listen, "1h", "", &tls_keys(&authority));
    for version in [&TLS12, &TLS13] {
        let mut client = tls_client(&authority, version, connect(listen));
        client.write_all(b"?").unwrap();
        let mut server = backend.accept();
        server.read_exact(&mut [0]).unwrap();
        server.write_all(b"answer").unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"answer");

        let uploading = thread::spawn(move || {
            write_pattern(&mut client, Pattern::new(), 1 << 20).unwrap();
            client.conn.send_close_notify();
            client.flush().unwrap();
            client
        });
        let seen = expect_pattern(&mut server, Pattern::new(), u64::MAX).unwrap();
        assert_eq!(seen, 1 << 20, "{version:?}");
        uploading.join().unwrap();
    }
}

/// N8, N9 and a reset, with TLS to the backend.
#[test]
fn tls_to_the_backend_neither_loses_nor_shortens_anything() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("ca");
    let pair = authority.issue("backend", &["db.test"]);
    let backend = OwnBackend::new();
    let listen = free_addr();
    let ca = authority.ca_file.display();
    let tls = format!(", tls: {{ca_file: \"{ca}\", server_name: db.test}}");
    let _evergate = backend.behind(listen, "1h", &tls, "");
    let sent = Pattern::new().next_bytes(2 << 20);
    for version in [&TLS12, &TLS13] {
        for whole in [true, false] {
            let bytes = sent.clone();
            let asking = thread::spawn(move || ask(listen, &bytes));
            let config = Arc::new(pki::server(&pair, version));
            let connection = ServerConnection::new(config).unwrap();
            let mut server = StreamOwned::new(connection, backend.accept());
            let seen = expect_pattern(&mut server, Pattern::new(), u64::MAX).unwrap();
            assert_eq!(seen, sent.len() as u64);

            server.write_all(&sent).unwrap();
            if !whole {
                reset(server.sock);
                assert!(asking.join().unwrap().is_err(), "{version:?}");
                continue;
            }
            server.conn.send_close_notify();
            server.flush().unwrap();
            assert!(asking.join().unwrap().unwrap() == sent, "{version:?}");
        }
    }
}

/// Both ways at once, through TLS with the client.
#[test]
fn bulk_through_tls_comes_back_unharmed() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("ca");
    let echo = Backend::echo();
    let listen = free_addr();
    let listener = tls_keys(&authority);
    let _evergate = Evergate::start(&file(listen, &[echo.addr()], RARE_CHECKS, &listener));
    let sent = Pattern::seeded(3).next_bytes(8 << 20);
    for version in [&TLS12, &TLS13] {
        let client = authority.trusting(&[version]);
        let answer = ask_over_tls(listen, "db.test", client, b"", &sent).unwrap();
        assert!(answer == sent, "{version:?}");
    }
}

/// A backend of which the test holds the connection itself; its health is checked elsewhere.
struct OwnBackend {
    listener: TcpListener,
    checked: Backend,
}

impl OwnBackend {
    fn new() -> Self {
        Self {
            listener: TcpListener::bind(free_addr()).unwrap(),
            checked: Backend::echo(),
        }
    }

    fn behind(
        &self,
        listen: SocketAddr,
        interval: &str,
        cluster: &str,
        listener: &str,
    ) -> Evergate {
        let port = self.checked.addr().port();
        let cluster = format!(", health_check: {{interval: {interval}, port: {port}}}{cluster}");
        let addr = self.listener.local_addr().unwrap();
        Evergate::start(&file(listen, &[addr], &cluster, listener))
    }

    fn accept(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

/// Looks at something after each read.
struct Watched<'a, F> {
    stream: &'a mut TcpStream,
    look: F,
}

impl<F: FnMut()> Read for Watched<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.stream.read(buffer);
        (self.look)();
        length
    }
}

/// Ends as a crash does.
fn reset(stream: impl AsFd) {
    let linger = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    linger.unwrap();
}

/// Takes everything there is of an answer that still lacks its end.
fn drain_some(client: &mut TcpStream, bytes: u64) {
    let mut buffer = vec![0; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        left -= client.read(&mut buffer).unwrap() as u64;
    }
}

pub fn tls_keys(authority: &Authority) -> String {
    let pair = authority.issue("server", &["db.test"]);
    let (cert, key) = (pair.cert_file.display(), pair.key_file.display());
    format!(", tls: {{cert_file: \"{cert}\", key_file: \"{key}\"}}")
}

pub fn tls_client(
    authority: &Authority,
    version: &'static SupportedProtocolVersion,
    tcp: TcpStream,
) -> StreamOwned<ClientConnection, TcpStream> {
    let config = Arc::new(authority.trusting(&[version]));
    let name = "db.test".try_into().unwrap();
    StreamOwned::new(ClientConnection::new(config, name).unwrap(), tcp)
}

/// The first flight of a real client.
pub fn client_hello(authority: &Authority) -> Vec<u8> {
    let config = Arc::new(authority.trusting(&[&TLS13]));
    let name = "db.test".try_into().unwrap();
    let mut connection = ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}
