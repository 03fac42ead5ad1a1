//! TLS with clients and backends, against certificates made for each test.

#![expect(clippy::unwrap_used, reason = "a test ends where its set-up fails")]

mod pki;
mod reload;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use evergate::config::BackendConfig;
use evergate::config::BackendTlsConfig;
use evergate::config::CertificatePair;
use evergate::config::Host;
use evergate::config::ListenerTlsConfig;
use evergate::config::TlsVersion;
use evergate::config::VerifyMode;
use evergate::protocol::client_hello;
use evergate::protocol::client_hello::ClientHello;
use evergate::tls::BackendTls;
use evergate::tls::ClientHandshake;
use evergate::tls::ClientTls;
use evergate::tls::TlsAcceptor;
use evergate::tls::TlsConnector;
use rustls::ClientConnection;
use rustls::HandshakeKind;
use rustls::SupportedProtocolVersion;
use rustls::pki_types::ServerName;
use rustls::version::TLS12;
use rustls::version::TLS13;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

use pki::Authority;

type RawClient = tokio_rustls::client::TlsStream<TcpStream>;

/// Far longer than any handshake: a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(20);

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(DEADLINE, future).await })
        .expect("the deadline has passed")
}

/// Both ends of a connection over loopback.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

fn listener_tls(certificates: Vec<CertificatePair>) -> ListenerTlsConfig {
    ListenerTlsConfig {
        optional: false,
        certificates,
        client_ca_file: None,
        min_version: TlsVersion::V1_2,
        alpn: Vec::new(),
    }
}

fn backend_tls(mode: VerifyMode, authority: &Authority) -> BackendTlsConfig {
    BackendTlsConfig {
        mode,
        ca_file: Some(authority.ca_file.clone()),
        client_pair: None,
        server_name: None,
        alpn: Vec::new(),
    }
}

fn backend(host: &str) -> BackendConfig {
    BackendConfig {
        name: host.into(),
        host: match host.parse() {
            Ok(ip) => Host::Ip(ip),
            Err(_) => Host::Name(host.into()),
        },
        port: 5432.try_into().unwrap(),
        weight: 100,
        zone: None,
        tier: 0,
        max_connections: None,
    }
}

fn acceptor_error(config: &ListenerTlsConfig) -> String {
    let errors = TlsAcceptor::load(config).unwrap_err();
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// A handshake of our acceptor with a plain rustls client.
async fn dial(
    acceptor: &TlsAcceptor,
    client: &Arc<rustls::ClientConfig>,
    name: &str,
) -> (std::io::Result<ClientTls>, std::io::Result<RawClient>) {
    let (near, far) = connection().await;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(client));
    tokio::join!(acceptor.accept(far), connector.connect(name, near))
}

/// One message each way; the client has then read its tickets.
async fn talk(
    (server, client): (std::io::Result<ClientTls>, std::io::Result<RawClient>),
) -> (ClientTls, RawClient) {
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    let mut byte = [0];
    client.write_all(b"?").await.unwrap();
    client.flush().await.unwrap();
    server.read_exact(&mut byte).await.unwrap();
    server.write_all(b"!").await.unwrap();
    server.flush().await.unwrap();
    client.read_exact(&mut byte).await.unwrap();
    (server, client)
}

/// A handshake of our connector with a server that sends what it is told to send.
async fn originate(
    config: &BackendTlsConfig,
    server: rustls::ServerConfig,
    host: &str,
) -> Result<BackendTls, String> {
    let connector = TlsConnector::load(config).unwrap();
    let (near, far) = connection().await;
    let address = near.peer_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let backend = backend(host);
    let (_, connected) = tokio::join!(
        acceptor.accept(far),
        connector.connect(&backend, address, near)
    );
    connected.map_err(|error| error.to_string())
}

#[test]
fn each_mode_believes_what_it_promises_to() {
    use VerifyMode::Insecure;
    use VerifyMode::VerifyCa;
    use VerifyMode::VerifyFull;
    let ours = Authority::new("ours");
    let other = Authority::new("other");
    let good = ours.issue("good", &["db.example"]);
    let stolen = CertificatePair {
        cert_file: good.cert_file.clone(),
        key_file: ours.issue("thief", &["db.example"]).key_file,
    };
    let wrong_name = ours.issue("wrong-name", &["else.example"]);
    let expired = ours.issue_expired("expired", &["db.example"]);
    let foreign = other.issue("foreign", &["db.example"]);
    let self_signed = ours.self_signed("self-signed", &["db.example"]);
    let matrix = [
        (&good, VerifyFull, None),
        (&good, VerifyCa, None),
        (&good, Insecure, None),
        (&wrong_name, VerifyFull, Some("not valid for name")),
        (&wrong_name, VerifyCa, None),
        (&wrong_name, Insecure, None),
        (&expired, VerifyFull, Some("expired")),
        (&expired, VerifyCa, Some("expired")),
        (&expired, Insecure, None),
        (&foreign, VerifyFull, Some("UnknownIssuer")),
        (&foreign, VerifyCa, Some("UnknownIssuer")),
        (&foreign, Insecure, None),
        (&self_signed, VerifyFull, Some("UnknownIssuer")),
        (&self_signed, VerifyCa, Some("UnknownIssuer")),
        (&self_signed, Insecure, None),
        (&stolen, VerifyFull, Some("BadSignature")),
        (&stolen, VerifyCa, Some("BadSignature")),
        (&stolen, Insecure, Some("BadSignature")),
    ];
    for version in [&TLS12, &TLS13] {
        for (pair, mode, problem) in &matrix {
            let server = pki::server(pair, version);
            let config = backend_tls(*mode, &ours);
            let answer = block_on(originate(&config, server, "db.example"));
            let context = format!(
                "{} {mode:?} {version:?}: {answer:?}",
                pair.cert_file.display()
            );
            match problem {
                None => assert!(answer.is_ok(), "{context}"),
                Some(problem) => assert!(answer.unwrap_err().contains(problem), "{context}"),
            }
        }
    }
}

/// webpki takes no CA for a server; many database servers have just that.
#[test]
fn a_server_that_stands_in_the_ca_file_itself_is_believed() {
    let place = Authority::new("place");
    let itself = place.self_signed_authority("itself", &["db.example"]);
    let trusting = |mode| BackendTlsConfig {
        ca_file: Some(itself.cert_file.clone()),
        ..backend_tls(mode, &place)
    };
    let twin = place.self_signed_authority("twin", &["db.example"]);
    for (pair, mode, host, believed) in [
        (&itself, VerifyMode::VerifyFull, "db.example", true),
        (&itself, VerifyMode::VerifyFull, "else.example", false),
        (&itself, VerifyMode::VerifyCa, "else.example", true),
        (&twin, VerifyMode::VerifyFull, "db.example", false),
        (&twin, VerifyMode::VerifyCa, "db.example", false),
    ] {
        let server = pki::server(pair, &TLS13);
        let answer = block_on(originate(&trusting(mode), server, host));
        assert_eq!(answer.is_ok(), believed, "{mode:?} {host}: {answer:?}");
    }
}

#[test]
fn a_backend_named_by_address_is_verified_by_address() {
    let ours = Authority::new("ours");
    let config = backend_tls(VerifyMode::VerifyFull, &ours);
    let pair = ours.issue("ip", &["192.0.2.7"]);
    let server = || pki::server(&pair, &TLS13);
    block_on(originate(&config, server(), "192.0.2.7")).unwrap();
    block_on(originate(&config, server(), "192.0.2.8")).unwrap_err();
}

#[test]
fn a_configured_server_name_replaces_the_host() {
    let ours = Authority::new("ours");
    let pair = ours.issue("db", &["db.example"]);
    let mut config = backend_tls(VerifyMode::VerifyFull, &ours);
    config.server_name = Some("db.example".to_owned());
    block_on(originate(&config, pki::server(&pair, &TLS13), "192.0.2.7")).unwrap();
    config.server_name = Some("not a name".to_owned());
    assert!(TlsConnector::load(&config).is_err());
}

#[test]
fn a_file_that_cannot_serve_is_refused_with_its_reason() {
    let ours = Authority::new("ours");
    let good = ours.issue("good", &["a.example"]);
    let other_key = ours.issue("other", &["a.example"]).key_file;
    let missing = ours.path("missing.pem");
    let empty = ours.write("empty.pem", "");
    let encrypted = ours.write(
        "encrypted.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let old_encrypted = ours.write(
        "old.pem",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAA\n-----END RSA PRIVATE KEY-----\n",
    );
    let cut_off = ours.write("cut-off.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    let junk = ours.write(
        "junk.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let expired = ours.issue_expired("expired", &["a.example"]);
    let early = ours.issue_early("early", &["a.example"]);
    let (cert, key) = (&good.cert_file, &good.key_file);
    let cases = [
        (&missing, key, "missing.pem: cannot be read: No such file"),
        (&ours.path(""), key, "is not a file"),
        (&empty, key, "empty.pem: contains no certificate"),
        (key, key, "contains no certificate"),
        (&cut_off, key, "cut-off.pem: is cut off"),
        (&junk, key, "junk.pem: the certificate is malformed"),
        (
            &expired.cert_file,
            &expired.key_file,
            "the certificate expired on",
        ),
        (
            &early.cert_file,
            &early.key_file,
            "the certificate is not valid before",
        ),
        (cert, cert, "contains no private key"),
        (
            cert,
            &encrypted,
            "encrypted.pem: the private key is encrypted",
        ),
        (
            cert,
            &old_encrypted,
            "old.pem: the private key is encrypted",
        ),
        (
            cert,
            &other_key,
            "the key does not belong to the certificate in",
        ),
    ];
    for (cert_file, key_file, problem) in cases {
        let error = acceptor_error(&listener_tls(vec![CertificatePair {
            cert_file: cert_file.clone(),
            key_file: key_file.clone(),
        }]));
        assert!(error.contains(problem), "{error}");
    }
    let mut config = listener_tls(vec![good.clone()]);
    config.client_ca_file = Some(empty.clone());
    assert!(acceptor_error(&config).contains("empty.pem: contains no certificate"));
    config.certificates[0].cert_file = missing.clone();
    assert_eq!(acceptor_error(&config).lines().count(), 2, "all at once");
}

#[test]
fn the_certificate_is_chosen_by_the_requested_name() {
    let ours = Authority::new("ours");
    let pairs = [
        ours.issue("default", &["default.example"]),
        ours.issue("exact", &["A.Example"]),
        ours.issue("wildcard", &["*.wild.example", "a.example"]),
    ];
    let acceptor = TlsAcceptor::load(&listener_tls(pairs.to_vec())).unwrap();
    let client = Arc::new(pki::trusting_anything());
    for (name, expected) in [
        ("default.example", 0),
        ("a.example", 1),
        ("A.EXAMPLE", 1),
        ("b.wild.example", 2),
        ("wild.example", 0),
        ("c.b.wild.example", 0),
        ("unknown.example", 0),
        ("192.0.2.1", 0),
    ] {
        let (server, client) = block_on(async { dial(&acceptor, &client, name).await });
        let sent = client.unwrap().get_ref().1.peer_certificates().unwrap()[0].clone();
        assert_eq!(sent, pki::certificate(&pairs[expected]), "{name}");
        let is_name = name.parse::<std::net::IpAddr>().is_err();
        let asked = is_name.then(|| name.to_lowercase());
        assert_eq!(server.unwrap().sni(), asked.as_deref());
    }
}

#[test]
fn client_certificates_are_required_and_verified() {
    let ours = Authority::new("ours");
    let clients = Authority::new("clients");
    let mut config = listener_tls(vec![ours.issue("server", &["db.example"])]);
    config.client_ca_file = Some(clients.ca_file.clone());
    let acceptor = TlsAcceptor::load(&config).unwrap();
    let cases = [
        (Some(clients.issue("client", &["app"])), true),
        (Some(ours.issue("client", &["app"])), false),
        (None, false),
    ];
    for (client_pair, welcome) in cases {
        let mut config = backend_tls(VerifyMode::VerifyFull, &ours);
        config.client_pair = client_pair;
        let connector = TlsConnector::load(&config).unwrap();
        let accepted = block_on(async {
            let (near, far) = connection().await;
            let backend = backend("db.example");
            let address = near.peer_addr().unwrap();
            tokio::join!(
                acceptor.accept(far),
                connector.connect(&backend, address, near)
            )
            .0
        });
        assert_eq!(accepted.is_ok(), welcome, "{accepted:?}");
    }
}

#[test]
fn a_minimum_version_keeps_older_clients_out() {
    let ours = Authority::new("ours");
    let mut config = listener_tls(vec![ours.issue("server", &["db.example"])]);
    for (minimum, version, welcome) in [
        (TlsVersion::V1_2, &TLS12, true),
        (TlsVersion::V1_2, &TLS13, true),
        (TlsVersion::V1_3, &TLS12, false),
        (TlsVersion::V1_3, &TLS13, true),
    ] {
        config.min_version = minimum;
        let acceptor = TlsAcceptor::load(&config).unwrap();
        let client = Arc::new(ours.trusting(&[version]));
        let (server, _) = block_on(dial(&acceptor, &client, "db.example"));
        assert_eq!(server.is_ok(), welcome, "{minimum:?} {version:?}");
    }
}

#[test]
fn alpn_is_agreed_on_or_refused() {
    let ours = Authority::new("ours");
    let mut config = listener_tls(vec![ours.issue("server", &["db.example"])]);
    config.alpn = vec!["postgresql".to_owned()];
    let acceptor = TlsAcceptor::load(&config).unwrap();
    let mut client = ours.trusting(&[&TLS13]);
    for (offer, welcome) in [("postgresql", true), ("h2", false)] {
        client.alpn_protocols = vec![offer.into()];
        let (server, _) = block_on(dial(&acceptor, &Arc::new(client.clone()), "db.example"));
        assert_eq!(server.is_ok(), welcome, "{offer}");
    }
}

/// Runs a handshake whose ClientHello goes out as `parts`.
async fn handshake_in_parts(acceptor: &TlsAcceptor, mut client: ClientConnection, parts: &[&[u8]]) {
    let (mut near, far) = connection().await;
    near.set_nodelay(true).unwrap();
    let drive = async {
        for part in parts {
            near.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut bytes = [0; 4096];
        while client.is_handshaking() {
            let count = near.read(&mut bytes).await.unwrap();
            assert!(count > 0, "the server hung up");
            let mut received = &bytes[..count];
            while !received.is_empty() {
                client.read_tls(&mut received).unwrap();
                client.process_new_packets().unwrap();
            }
            let mut answer = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut answer).unwrap();
            }
            near.write_all(&answer).await.unwrap();
        }
    };
    let (accepted, ()) = tokio::join!(acceptor.accept(far), drive);
    assert_eq!(accepted.unwrap().sni(), Some("db.example"));
}

#[test]
fn a_client_hello_may_come_in_any_parts_and_records() {
    let ours = Authority::new("ours");
    let pair = ours.issue("server", &["db.example"]);
    let acceptor = TlsAcceptor::load(&listener_tls(vec![pair])).unwrap();
    let config = Arc::new(ours.trusting(&[&TLS13, &TLS12]));
    let hello = || {
        let name = ServerName::try_from("db.example").unwrap();
        let mut client = ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        (client, bytes)
    };
    let named = Ok(ClientHello::Complete {
        sni: Some("db.example".to_owned()),
    });
    let length = hello().1.len();
    for cut in 1..length {
        let (client, bytes) = hello();
        // The order of extensions is random and with it, rarely, the length.
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        assert_eq!(client_hello::parse(first), Ok(ClientHello::Incomplete));
        assert_eq!(client_hello::parse(&bytes), named);
        block_on(handshake_in_parts(&acceptor, client, &[first, second]));
    }
    for fragment_bytes in [1, 2, 7, 100] {
        let (client, bytes) = hello();
        let records: Vec<u8> = bytes[5..]
            .chunks(fragment_bytes)
            .flat_map(|part| [&[22, 3, 1, 0, part.len() as u8], part].concat())
            .collect();
        assert_eq!(client_hello::parse(&records), named);
        block_on(handshake_in_parts(&acceptor, client, &[&records]));
    }
}

#[test]
fn what_is_no_tls_is_refused_in_printable_words() {
    let ours = Authority::new("ours");
    let pair = ours.issue("server", &["db.example"]);
    let acceptor = TlsAcceptor::load(&listener_tls(vec![pair])).unwrap();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01\0\0\0\0\0",
        b"\0\x1b[31m\n\n",
    ] {
        let error = block_on(async {
            let (mut near, far) = connection().await;
            near.write_all(bytes).await.unwrap();
            near.shutdown().await.unwrap();
            acceptor.accept(far).await.unwrap_err()
        });
        let text = error.to_string();
        assert!(
            !text.is_empty() && !text.contains(char::is_control),
            "{text:?}"
        );
    }
}

#[test]
fn a_ticket_of_one_listener_opens_no_other() {
    let ours = Authority::new("ours");
    let config = listener_tls(vec![ours.issue("server", &["db.example"])]);
    let mut strict = config.clone();
    strict.client_ca_file = Some(ours.ca_file.clone());
    for version in [&TLS12, &TLS13] {
        let acceptor = TlsAcceptor::load(&config).unwrap();
        let twin = TlsAcceptor::load(&config).unwrap();
        let strict = TlsAcceptor::load(&strict).unwrap();
        let client = Arc::new(ours.trusting(&[version]));
        block_on(async {
            talk(dial(&acceptor, &client, "db.example").await).await;
            let (_, second) = talk(dial(&acceptor, &client, "db.example").await).await;
            let kind = second.get_ref().1.handshake_kind();
            assert_eq!(kind, Some(HandshakeKind::Resumed), "{version:?}");
            let refused = dial(&strict, &client, "db.example").await.0;
            assert!(refused.is_err(), "{version:?}");
            talk(dial(&acceptor, &client, "db.example").await).await;
            let (_, third) = talk(dial(&twin, &client, "db.example").await).await;
            let kind = third.get_ref().1.handshake_kind();
            assert_eq!(kind, Some(HandshakeKind::Full), "{version:?}");
        });
    }
}

async fn established(version: &'static SupportedProtocolVersion) -> (ClientTls, RawClient) {
    let ours = Authority::new("ours");
    let pair = ours.issue("server", &["db.example"]);
    let acceptor = TlsAcceptor::load(&listener_tls(vec![pair])).unwrap();
    let client = Arc::new(ours.trusting(&[version]));
    talk(dial(&acceptor, &client, "db.example").await).await
}

#[test]
fn one_side_may_finish_while_the_other_goes_on() {
    for version in [&TLS12, &TLS13] {
        block_on(async {
            let (mut server, mut client) = established(version).await;
            let mut bytes = [0; 16];
            client.shutdown().await.unwrap();
            assert_eq!(server.read(&mut bytes).await.unwrap(), 0);
            assert_eq!(server.read(&mut bytes).await.unwrap(), 0, "and again");
            server.write_all(b"the rest").await.unwrap();
            server.shutdown().await.unwrap();
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"the rest", "{version:?}");
        });
    }
}

#[test]
fn a_connection_that_is_cut_off_does_not_look_finished() {
    for version in [&TLS12, &TLS13] {
        block_on(async {
            let (mut server, client) = established(version).await;
            let (mut tcp, _) = client.into_inner();
            tcp.shutdown().await.unwrap();
            let error = server.read(&mut [0; 16]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{version:?}");
        });
    }
}
