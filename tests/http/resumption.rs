//! A TLS session that was resumed carries the identity it began with: it must not be one that this
//! listener would not take (class 27; nginx had CVE-2025-23419).

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use evergate::config::CertificatePair;
use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::HandshakeKind;
use rustls::StreamOwned;
use rustls::SupportedProtocolVersion;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS12;
use rustls::version::TLS13;

use crate::pki::Authority;
use crate::recorder::Recorder;
use crate::support::PATIENCE;
use crate::support::evergate::Evergate;
use crate::support::ports::free_addr;
use crate::support::wait_until;
use crate::world::CHECK;

const NAME: &str = "a.test";
const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// Three listeners that show the same certificate: one asks for no certificate of its client, the
/// others trust one authority each.
struct World {
    servers: Authority,
    staff: Authority,
    guests: Authority,
    open: SocketAddr,
    for_staff: SocketAddr,
    for_guests: SocketAddr,
    evergate: Evergate,
    yaml: String,
    backend: Recorder,
}

impl World {
    fn start() -> Self {
        let backend = Recorder::named("secret");
        let [servers, staff, guests] = ["servers", "staff", "guests"].map(Authority::new);
        let pair = servers.issue("server", &[NAME]);
        let [open, for_staff, for_guests] = [(); 3].map(|()| free_addr());
        let listener = |name: &str, bind: SocketAddr, more: String| {
            let CertificatePair {
                cert_file,
                key_file,
            } = &pair;
            format!(
                "  {name}: {{bind: '{bind}', cluster: web, tls: {{cert_file: '{}', key_file: '{}'{more}}}}}\n",
                cert_file.display(),
                key_file.display()
            )
        };
        let trusting = |ca: &Path| format!(", client_ca_file: '{}'", ca.display());
        let yaml = format!(
            "version: 1\nclusters:\n  web: {{protocol: http, backends: ['{}'], {CHECK}}}\nlisteners:\n{}{}{}",
            backend.addr(),
            listener("open", open, String::new()),
            listener("staff", for_staff, trusting(&staff.ca_file)),
            listener("guests", for_guests, trusting(&guests.ca_file)),
        );
        let evergate = Evergate::start(&yaml);
        evergate.wait_for_metric("evergate_backend_up", &[], 1.0);
        Self {
            servers,
            staff,
            guests,
            open,
            for_staff,
            for_guests,
            evergate,
            yaml,
            backend,
        }
    }

    /// A client that remembers its sessions by the server's name, whatever the port.
    fn client(
        &self,
        version: &'static SupportedProtocolVersion,
        pair: Option<&CertificatePair>,
    ) -> Arc<ClientConfig> {
        let mut config = self.servers.trusting(&[version]);
        if let Some(pair) = pair {
            config.client_auth_cert_resolver = shows(pair);
        }
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    fn asked(&self) -> usize {
        self.backend.text().matches("GET /x ").count()
    }
}

fn shows(pair: &CertificatePair) -> Arc<dyn ResolvesClientCert> {
    let key = PrivateKeyDer::from_pem_file(&pair.key_file).unwrap();
    let provider = aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let certificate = CertificateDer::from_pem_file(&pair.cert_file).unwrap();
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(
        vec![certificate],
        key,
    )))
}

/// One request over a new connection: how it shook hands, if it was answered.
fn get(addr: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<HandshakeKind> {
    let name = ServerName::try_from(NAME).unwrap();
    let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    let stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(session, stream);
    stream.write_all(b"GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("secret"), "{answer}");
    Ok(stream.conn.handshake_kind().unwrap())
}

#[test]
fn a_session_of_one_listener_opens_no_other() {
    let world = World::start();
    let employee = world.staff.issue("employee", &["employee"]);
    for version in VERSIONS {
        // Without a certificate where none is asked for; then where one is.
        let anybody = world.client(version, None);
        assert_eq!(get(world.open, &anybody).unwrap(), HandshakeKind::Full);
        assert_eq!(get(world.open, &anybody).unwrap(), HandshakeKind::Resumed);
        let before = world.asked();
        for addr in [world.for_staff, world.for_guests] {
            let refused = get(addr, &anybody);
            assert!(refused.is_err(), "{version:?}: {refused:?}");
        }
        // With a certificate that one listener takes; then where it is worth nothing.
        let employee = world.client(version, Some(&employee));
        assert_eq!(
            get(world.for_staff, &employee).unwrap(),
            HandshakeKind::Full
        );
        let again = get(world.for_staff, &employee).unwrap();
        assert_eq!(again, HandshakeKind::Resumed, "{version:?}");
        let refused = get(world.for_guests, &employee);
        assert!(refused.is_err(), "{version:?}: {refused:?}");
        assert_eq!(world.asked(), before + 2, "{version:?}");
    }
}

#[test]
fn a_session_that_began_under_another_authority_ends_with_it() {
    for version in VERSIONS {
        let world = World::start();
        let employee = world.staff.issue("employee", &["employee"]);
        let guest = world.guests.issue("guest", &["guest"]);
        let employee = world.client(version, Some(&employee));
        let guest = || world.client(version, Some(&guest));
        assert_eq!(
            get(world.for_staff, &employee).unwrap(),
            HandshakeKind::Full
        );
        // A reload that changes nothing here keeps the sessions.
        let other = format!("{}drain_timeout: 7s\n", world.yaml);
        world.evergate.reload(&other);
        let again = get(world.for_staff, &employee).unwrap();
        assert_eq!(again, HandshakeKind::Resumed, "{version:?}");

        // The file's name stays; whom it names changes.
        std::fs::copy(&world.guests.ca_file, &world.staff.ca_file).unwrap();
        world.evergate.reload(&world.yaml);
        let guest_comes = || get(world.for_staff, &guest()).is_ok();
        wait_until(PATIENCE, "the other authority is in force", guest_comes);
        let before = world.asked();
        let refused = get(world.for_staff, &employee);
        assert!(refused.is_err(), "{version:?}: {refused:?}");
        assert_eq!(world.asked(), before, "{version:?}");
        let taken = get(world.for_staff, &guest()).unwrap();
        assert_eq!(taken, HandshakeKind::Full, "{version:?}");
    }
}

#[test]
fn a_session_that_began_before_certificates_were_asked_for_does_not_go_on() {
    let world = World::start();
    let with_staff = world
        .yaml
        .lines()
        .find(|line| line.contains("staff: {"))
        .unwrap();
    let (before, _) = with_staff.split_once(", client_ca_file").unwrap();
    let without = world.yaml.replace(with_staff, &format!("{before}}}}}"));
    assert_ne!(without, world.yaml);
    for version in VERSIONS {
        world.evergate.reload(&without);
        // Each time a client that remembers nothing shows what is in force.
        let is_open = || get(world.for_staff, &world.client(version, None)).is_ok();
        wait_until(PATIENCE, "no certificate is asked for", is_open);
        let anybody = world.client(version, None);
        assert_eq!(get(world.for_staff, &anybody).unwrap(), HandshakeKind::Full);
        let again = get(world.for_staff, &anybody).unwrap();
        assert_eq!(again, HandshakeKind::Resumed, "{version:?}");
        world.evergate.reload(&world.yaml);
        wait_until(PATIENCE, "certificates are asked for", || !is_open());
        let refused = get(world.for_staff, &anybody);
        assert!(refused.is_err(), "{version:?}: {refused:?}");
    }
}
