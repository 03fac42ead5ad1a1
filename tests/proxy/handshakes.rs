//! Attacks on what comes before the first byte: TLS and the PROXY header (security classes 28 to 30).

use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::StreamOwned;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::TLS12;
use rustls::version::TLS13;

use crate::pki::Authority;
use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::backend::Behaviour;
use crate::support::evergate::Evergate;
use crate::support::hello::client_hello;
use crate::support::hello::connection;
use crate::support::hello::in_records_of_one_byte;
use crate::support::ports::free_addr;
use crate::support::talk::connect;
use crate::support::talk::connect_from;
use crate::support::talk::echoes;
use crate::support::talk::file;
use crate::support::talk::plain;
use crate::support::talk::read_line;
use crate::support::talk::rest;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);
const REJECTED: &str = "evergate_listener_connections_rejected_total";

/// A listener that ends TLS in front of an echo.
struct TlsEcho {
    evergate: Evergate,
    listens: SocketAddr,
    authority: Authority,
    _backend: Backend,
}

impl TlsEcho {
    fn start() -> Self {
        let authority = Authority::new("ours");
        let pair = authority.issue("server", &["localhost"]);
        let (backend, listens) = (Backend::echo(), free_addr());
        let (cert, key) = (pair.cert_file.display(), pair.key_file.display());
        let tls = format!("cluster: c, tls: {{cert_file: {cert}, key_file: {key}}}}}");
        let yaml = file(listens, &plain(&[backend.addr()]), &[]);
        Self {
            evergate: Evergate::start(&yaml.replace("cluster: c}", &tls)),
            listens,
            authority,
            _backend: backend,
        }
    }

    /// A client with one small key share, so that its ClientHello is small.
    fn client(&self) -> ClientConfig {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(&self.authority.ca_file).unwrap();
        roots.add(ca).unwrap();
        ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    #[track_caller]
    fn expect_alive(&self) {
        let config = self.authority.trusting(&[&TLS12, &TLS13]);
        let tls = rustls::ClientConnection::new(config.into(), "localhost".try_into().unwrap());
        let mut stream = StreamOwned::new(tls.unwrap(), connect(self.listens));
        echoes(&mut stream, b"alive").unwrap();
    }
}

/// Class 28: a panic in one handshake would end every session of its worker.
#[test]
fn a_client_hello_cut_at_any_byte_is_the_same_client_hello() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let echo = TlsEcho::start();
    let length = connection(echo.client(), "localhost").1.len();
    assert!(length < 400, "{length} connections are too many at once");
    let mut cut: Vec<_> = (1..length)
        .map(|at| {
            let (tls, hello) = connection(echo.client(), "localhost");
            let mut stream = connect(echo.listens);
            stream.write_all(&hello[..at]).unwrap();
            (tls, stream, hello[at..].to_vec())
        })
        .collect();
    // All wait for their second half, so each was read in two pieces.
    for (_, stream, rest) in &mut cut {
        stream.write_all(rest).unwrap();
    }
    for (tls, stream, _) in cut {
        echoes(&mut StreamOwned::new(tls, stream), b"hello").unwrap();
    }
}

/// Class 28: records of one byte, each in a segment of its own, end in a handshake too.
#[test]
fn a_client_hello_in_records_of_one_byte_is_understood() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let echo = TlsEcho::start();
    let (tls, hello) = connection(echo.client(), "localhost");
    let mut stream = connect(echo.listens);
    for byte in in_records_of_one_byte(&hello) {
        stream.write_all(&[byte]).unwrap();
    }
    echoes(&mut StreamOwned::new(tls, stream), b"hello").unwrap();
}

/// Class 28: the same where the ClientHello is only looked at.
#[test]
fn a_client_hello_in_pieces_is_routed_by_its_name() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (backend, other, listens) = (Backend::named("one"), Backend::named("two"), free_addr());
    let yaml = format!(
        "clusters:\n  one: {{backends: [\"{}\"]}}\n  two: {{backends: [\"{}\"]}}\n\
         listeners:\n  l:\n    bind: \"{listens}\"\n    cluster: two\n    routes:\n    \
         - {{sni: one.example, cluster: one}}\n",
        backend.addr(),
        other.addr()
    );
    let _evergate = Evergate::start(&yaml);
    let hello = client_hello(b"one.example");
    let mut cut: Vec<_> = (1..hello.len())
        .map(|at| {
            let mut stream = connect(listens);
            stream.write_all(&hello[..at]).unwrap();
            (stream, at)
        })
        .collect();
    for (stream, at) in &mut cut {
        stream.write_all(&hello[*at..]).unwrap();
        assert_eq!(read_line(stream).unwrap(), "one", "cut at {at}");
    }
    let mut stream = connect(listens);
    for byte in in_records_of_one_byte(&hello) {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(read_line(&mut stream).unwrap(), "one");
    // What was read ahead arrives: every byte of every hello.
    let sent = hello.len() * cut.len() + in_records_of_one_byte(&hello).len();
    wait_until(PATIENCE, "every byte arrives", || {
        drop(std::mem::take(&mut cut));
        let _ = stream.shutdown(std::net::Shutdown::Write);
        backend.bytes_received() == sent as u64
    });
}

/// Class 28: a close in the middle of the handshake once made servers loop for ever.
#[test]
fn a_close_notify_during_the_handshake_ends_it() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    const CLOSE_NOTIFY: [u8; 7] = [21, 3, 3, 0, 2, 1, 0];
    let echo = TlsEcho::start();
    let mut clients: Vec<_> = (0..50)
        .map(|_| {
            let (_, hello) = connection(echo.client(), "localhost");
            let mut stream = connect(echo.listens);
            stream.write_all(&hello).unwrap();
            stream.write_all(&CLOSE_NOTIFY).unwrap();
            stream
        })
        .collect();
    for client in &mut clients {
        rest(client);
    }
    let active = "evergate_listener_connections_active";
    echo.evergate.wait_for_metric(active, &[], 0.0);
    echo.expect_alive();
}

/// What `openssl s_client` says when this is typed into it and nothing more.
fn openssl(listens: SocketAddr, arguments: &[&str], typed: &str) -> String {
    let arguments = arguments.join(" ");
    let client = format!("timeout 10 openssl s_client -connect {listens} {arguments} 2>&1");
    // Its input stays open long enough for an answer to what was typed.
    let pause = if typed.is_empty() { 0 } else { 5 };
    let script = format!("(printf '{typed}'; sleep {pause}) | {client}");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Class 29: the client is made willing to speak anything; the refusal is ours.
#[test]
fn old_versions_and_weak_ciphers_are_refused() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let echo = TlsEcho::start();
    const ANYTHING: &str = "ALL:COMPLEMENTOFALL:@SECLEVEL=0";
    for version in ["-tls1", "-tls1_1"] {
        let said = openssl(echo.listens, &[version, "-cipher", ANYTHING], "");
        let refused = said.contains(" alert ") && said.contains("Cipher is (NONE)");
        assert!(refused, "{version}: {said}");
    }
    for weak in [
        "NULL",
        "aNULL",
        "AES128-SHA",
        "DHE",
        "ECDHE-ECDSA-AES128-SHA",
    ] {
        let weak = format!("{weak}:@SECLEVEL=0");
        let said = openssl(echo.listens, &["-tls1_2", "-cipher", &weak], "");
        assert!(said.contains("alert handshake failure"), "{weak}: {said}");
    }
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let said = openssl(echo.listens, &[version], "");
        assert!(said.contains(&format!("New, {name}")), "{said}");
        // Nothing to replay, nothing to guess lengths from.
        assert!(said.contains("Compression: NONE"), "{said}");
        assert!(!said.contains("Max Early Data: 1"), "{said}");
    }
}

/// Class 29: a renegotiation costs the server ten times what it costs the client.
#[test]
fn renegotiation_is_refused() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let echo = TlsEcho::start();
    let said = openssl(echo.listens, &["-tls1_2"], "R\\n");
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert!(said.contains("no renegotiation"), "{said}");
    echo.expect_alive();
}

/// A listener that wants a PROXY header from 127.0.0.1 and nobody else.
fn behind_a_proxy(backend: &Backend) -> (Evergate, SocketAddr) {
    let listens = free_addr();
    let accept = "cluster: c, proxy_protocol: accept, proxy_protocol_from: [127.0.0.1], \
                  handshake_timeout: 1s, deny: [10.9.0.0/16]}";
    let yaml = file(listens, &plain(&[backend.addr()]), &[]);
    let evergate = Evergate::start(&yaml.replace("cluster: c}", accept));
    (evergate, listens)
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 with these bytes as command, family, length and content.
fn v2(command: u8, family: u8, length: u16, content: &[u8]) -> Vec<u8> {
    let length = length.to_be_bytes();
    [SIGNATURE, &[command, family], &length, content].concat()
}

/// Class 30: who may send a header is an address, not a claim.
#[test]
fn a_proxy_header_from_elsewhere_is_refused_unread() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let backend = Backend::start(Behaviour::Count);
    let (evergate, listens) = behind_a_proxy(&backend);
    let before = backend.bytes_received();
    let header = v2(0x21, 0x11, 12, &[127, 0, 0, 1, 127, 0, 0, 1, 0, 1, 0, 2]);
    for header in [&header[..], b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n", b""] {
        let mut liar = connect_from(Ipv4Addr::new(127, 0, 0, 66), listens);
        let _ = liar.write_all(header);
        let _ = liar.write_all(b"secret");
        assert_eq!(rest(&mut liar), b"");
    }
    evergate.wait_for_metric(REJECTED, &[("reason", "denied")], 3.0);
    // The list is for the client in the header, and a trusted proxy cannot talk it away.
    let mut denied = connect(listens);
    let _ = denied.write_all(b"PROXY TCP4 10.9.1.1 127.0.0.1 1 2\r\nsecret");
    assert_eq!(rest(&mut denied), b"");
    evergate.wait_for_metric(REJECTED, &[("reason", "denied")], 4.0);
    assert_eq!(backend.bytes_received(), before);
}

/// Class 30: every length that lies, every field that is missing.
#[test]
fn malformed_proxy_headers_reach_no_backend() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let backend = Backend::start(Behaviour::Count);
    let (evergate, listens) = behind_a_proxy(&backend);
    let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
    let malformed = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"PROXY\r\n".to_vec(),
        b"PROXY TCP4 256.0.0.1 127.0.0.1 1 2\r\n".to_vec(),
        b"PROXY TCP4 127.0.0.1 127.0.0.1 1 65536\r\n".to_vec(),
        b"PROXY TCP6 127.0.0.1 127.0.0.1 1 2\r\n".to_vec(),
        b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\n\r".to_vec(),
        long,
        // Version 3; a command that does not exist; addresses that do not fit their length.
        v2(0x31, 0x11, 12, &[0; 12]),
        v2(0x2f, 0x11, 12, &[0; 12]),
        v2(0x21, 0x11, 4, &[0; 4]),
        v2(0x21, 0x21, 12, &[0; 12]),
        // More than any header needs: not read, not kept.
        v2(0x21, 0x11, 65535, &[0; 12]),
    ];
    for header in &malformed {
        let mut client = connect(listens);
        let _ = client.write_all(header);
        assert_eq!(rest(&mut client), b"", "{header:?}");
    }
    let refused = || {
        let reasons = ["bad_proxy_header", "handshake_timeout"];
        let counts = reasons.map(|reason| evergate.metric(REJECTED, &[("reason", reason)]));
        counts.into_iter().flatten().sum::<f64>()
    };
    wait_until(PATIENCE, "each is counted", || {
        refused() == malformed.len() as f64
    });
    assert_eq!(backend.bytes_received(), 0);
}

/// Class 30: a header that never ends costs its handshake timeout and no more.
#[test]
fn half_a_proxy_header_meets_the_deadline_at_every_length() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let backend = Backend::start(Behaviour::Count);
    let (evergate, listens) = behind_a_proxy(&backend);
    let whole = v2(0x21, 0x11, 12, &[1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0, 10]);
    let mut halves: Vec<TcpStream> = (0..whole.len())
        .map(|length| {
            let mut client = connect(listens);
            client.write_all(&whole[..length]).unwrap();
            client
        })
        .collect();
    for half in &mut halves {
        assert_eq!(half.read(&mut [0]).unwrap_or(0), 0);
    }
    let late = [("reason", "handshake_timeout")];
    evergate.wait_for_metric(REJECTED, &late, whole.len() as f64);
    let mut good = connect(listens);
    for byte in whole.iter().chain(b"12345") {
        good.write_all(&[*byte]).unwrap();
    }
    good.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rest(&mut good), b"5");
}
