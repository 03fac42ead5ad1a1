//! Certificates change while clients connect: good pairs are taken, bad ones change nothing.

use std::fs;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use evergate::config::CertificatePair;
use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::StreamOwned;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::version::TLS12;
use rustls::version::TLS13;

use crate::pki::Authority;
use crate::pki::certificate;
use crate::support::PATIENCE;
use crate::support::SetWhenDropped;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::evergate::Evergate;
use crate::support::evergate::Until;
use crate::support::evergate::evergate;
use crate::support::ports::free_addr;
use crate::support::talk::connect;
use crate::support::talk::echoes;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "db.test";

/// A TLS listener in front of an echo.
struct Stage {
    authority: Authority,
    live: CertificatePair,
    listens: SocketAddr,
    evergate: Evergate,
    _backend: Backend,
}

impl Stage {
    fn start(more: &str) -> Self {
        let (authority, backend, listens) = (Authority::new("ca"), Backend::echo(), free_addr());
        let live = authority.issue("live", &[NAME]);
        let evergate = Evergate::start(&yaml(&backend, listens, &live, more));
        Self {
            authority,
            live,
            listens,
            evergate,
            _backend: backend,
        }
    }

    fn client(&self) -> Arc<ClientConfig> {
        Arc::new(self.authority.trusting(&[&TLS13, &TLS12]))
    }

    fn reloads(&self, result: &str) -> f64 {
        let labels = [("result", result)];
        let reloads = self
            .evergate
            .metric("evergate_config_reloads_total", &labels);
        reloads.unwrap_or(0.0)
    }

    /// Puts a pair where the listener's is, as certbot does: file by file, each renamed over.
    fn install(&self, pair: &CertificatePair) {
        replace(&pair.key_file, &self.live.key_file);
        replace(&pair.cert_file, &self.live.cert_file);
    }

    #[track_caller]
    fn shown(&self) -> CertificateDer<'static> {
        handshake(self.listens, &self.client()).unwrap()
    }

    #[track_caller]
    fn expect_refusal_that_keeps(&self, old: &CertificateDer<'static>, because: &str) {
        let successful = "evergate_config_last_reload_successful";
        self.evergate.wait_for_metric(successful, &[], 0.0);
        self.evergate.wait_for_log(because);
        assert_eq!(self.shown(), *old);
    }
}

fn yaml(backend: &Backend, listens: SocketAddr, pair: &CertificatePair, more: &str) -> String {
    format!(
        "clusters:\n  c: {{backends: [\"{}\"]}}\nlisteners:\n  l:\n    bind: \"{listens}\"\n    cluster: c\n    \
         tls: {{cert_file: \"{}\", key_file: \"{}\"{more}}}\n",
        backend.addr(),
        pair.cert_file.display(),
        pair.key_file.display()
    )
}

fn replace(new: &std::path::Path, live: &std::path::Path) {
    let beside = live.with_extension("new");
    fs::copy(new, &beside).unwrap();
    fs::rename(&beside, live).unwrap();
}

/// A new session that verifies the certificate, echoes and returns what it was shown.
fn handshake(
    listens: SocketAddr,
    config: &Arc<ClientConfig>,
) -> io::Result<CertificateDer<'static>> {
    let name = ServerName::try_from(NAME).unwrap();
    let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, connect(listens));
    stream.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"hello");
    let shown = stream.conn.peer_certificates().unwrap();
    Ok(shown[0].clone().into_owned())
}

/// C8
#[test]
fn a_rotated_certificate_costs_no_handshake_and_is_shown_soon() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::start("");
    let pairs: Vec<_> = (0..4)
        .map(|turn| stage.authority.issue(&format!("next{turn}"), &[NAME]))
        .collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let end = SetWhenDropped(&stop);
        let load = || {
            // No tickets: a resumed session is shown no certificate.
            let mut config = stage.authority.trusting(&[&TLS13, &TLS12]);
            config.resumption = rustls::client::Resumption::disabled();
            let config = Arc::new(config);
            let mut done = 0;
            while !stop.load(Ordering::Relaxed) {
                let shown = handshake(stage.listens, &config);
                shown.unwrap_or_else(|error| panic!("handshake {done}: {error}"));
                done += 1;
            }
            done
        };
        let clients = [scope.spawn(load), scope.spawn(load)];
        for pair in &pairs {
            stage.install(pair);
            let since = Instant::now();
            let new = certificate(pair);
            wait_until(PATIENCE, "the new certificate", || stage.shown() == new);
            println!("shown {:?} after it was in place", since.elapsed());
        }
        drop(end);
        let done = clients.map(|client| client.join().unwrap());
        println!("{done:?} handshakes, none failed");
        assert!(done.iter().all(|done| *done > 0));
    });
}

/// C8
#[test]
fn a_half_rotated_pair_keeps_the_old_one_until_the_other_half_comes() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::start("");
    let (old, next) = (
        certificate(&stage.live),
        stage.authority.issue("next", &[NAME]),
    );
    let (config, listens) = (stage.client(), stage.listens);
    let name = ServerName::try_from(NAME).unwrap();
    let session = ClientConnection::new(Arc::clone(&config), name).unwrap();
    let mut session = StreamOwned::new(session, connect(listens));
    echoes(&mut session, b"before").unwrap();

    replace(&next.cert_file, &stage.live.cert_file);
    stage.expect_refusal_that_keeps(&old, "the key does not belong to the certificate");
    replace(&next.key_file, &stage.live.key_file);
    let new = certificate(&next);
    wait_until(PATIENCE, "the new pair", || stage.shown() == new);
    echoes(&mut session, b"after").unwrap();
}

/// C9
#[test]
fn an_expired_a_foreign_and_a_missing_file_are_refused_and_the_old_pair_serves_on() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::start("");
    let old = certificate(&stage.live);
    assert_eq!(stage.reloads("rejected"), 0.0);
    let key_before = fs::read(&stage.live.key_file).unwrap();
    stage.install(&stage.authority.issue_expired("expired", &[NAME]));
    stage.expect_refusal_that_keeps(&old, "expired");
    stage.install(&stage.authority.issue_early("early", &[NAME]));
    stage.expect_refusal_that_keeps(&old, "not valid");
    fs::write(&stage.live.key_file, &key_before).unwrap();
    let other = stage.authority.issue("other", &[NAME]);
    replace(&other.cert_file, &stage.live.cert_file);
    stage.expect_refusal_that_keeps(&old, "the key does not belong");
    fs::remove_file(&stage.live.cert_file).unwrap();
    stage.expect_refusal_that_keeps(&old, "No such file");

    // The last good pair is still what new clients see; a good new one is taken.
    let next = stage.authority.issue("live", &[NAME]);
    let new = certificate(&next);
    wait_until(PATIENCE, "a good pair at last", || stage.shown() == new);
    let successful = "evergate_config_last_reload_successful";
    stage.evergate.wait_for_metric(successful, &[], 1.0);
}

/// C9
#[test]
fn a_removed_ca_file_is_refused_and_clients_are_still_verified() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let clients = Authority::new("clients");
    let ca = format!(", client_ca_file: \"{}\"", clients.ca_file.display());
    let stage = Stage::start(&ca);
    let without = handshake(stage.listens, &stage.client());
    assert!(without.is_err(), "a client without a certificate came in");
    fs::remove_file(&clients.ca_file).unwrap();
    let successful = "evergate_config_last_reload_successful";
    stage.evergate.wait_for_metric(successful, &[], 0.0);
    stage.evergate.wait_for_log("ca.pem");
    let without = handshake(stage.listens, &stage.client());
    assert!(without.is_err(), "without its CA everyone comes in");
}

/// C9
#[test]
fn a_start_with_an_expired_certificate_fails_and_says_so() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (authority, backend) = (Authority::new("ca"), Backend::echo());
    let expired = authority.issue_expired("expired", &[NAME]);
    let yaml = yaml(&backend, free_addr(), &expired, "");
    let mut started = Evergate::with(&yaml).until(Until::Started).start();
    assert_eq!(started.wait(PATIENCE).code(), Some(1));
    let said = started.stderr();
    let named = said.starts_with("error: listener `l`: ") && said.contains("expired.pem");
    assert!(named && said.contains("expired"), "{said}");
    let file = started.file();
    let check = evergate(&["check", "-c", file.to_str().unwrap()]);
    assert_eq!(check.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&check.stderr).contains("expired"));
}

/// C9
#[test]
fn the_end_of_a_certificate_is_a_metric_that_follows_the_file() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::start("");
    let file = stage.live.cert_file.to_str().unwrap();
    let name = "evergate_tls_certificate_not_after_timestamp_seconds";
    // 1 January 4096, the default of the generator.
    let end = stage.evergate.metric(name, &[("file", file)]);
    assert_eq!(end, Some(67_090_118_400.0));
    let days = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ];
    let cert = stage.authority.path("short.pem");
    let key = stage.authority.path("short.key");
    let files = [
        "-keyout",
        key.to_str().unwrap(),
        "-out",
        cert.to_str().unwrap(),
    ];
    let more = ["-nodes", "-days", "10", "-subj", "/CN=db.test"];
    crate::support::process::run(&[&days[..], &files[..], &more[..]].concat());
    stage.install(&CertificatePair {
        cert_file: cert,
        key_file: key,
    });
    let now = std::time::SystemTime::now();
    let now = now
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    wait_until(PATIENCE, "the new end", || {
        let end = stage.evergate.metric(name, &[("file", file)]).unwrap();
        (end - now - 10.0 * 86_400.0).abs() < 3_600.0
    });
}

/// C3 and C8: as a mounted secret of Kubernetes changes
#[test]
fn a_mounted_secret_changes_both_files_in_one_step_and_is_never_refused() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (authority, backend, listens) = (Authority::new("ca"), Backend::echo(), free_addr());
    let mount = authority.path("mount");
    fs::create_dir(&mount).unwrap();
    let put = |version: usize| {
        let pair = authority.issue(&format!("v{version}"), &[NAME]);
        let folder = mount.join(format!("..v{version}"));
        fs::create_dir(&folder).unwrap();
        fs::copy(&pair.cert_file, folder.join("tls.crt")).unwrap();
        fs::copy(&pair.key_file, folder.join("tls.key")).unwrap();
        symlink(format!("..v{version}"), mount.join("..data_tmp")).unwrap();
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
        certificate(&pair)
    };
    let first = put(0);
    for file in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{file}"), mount.join(file)).unwrap();
    }
    let live = CertificatePair {
        cert_file: mount.join("tls.crt"),
        key_file: mount.join("tls.key"),
    };
    let stage = Stage {
        evergate: Evergate::start(&yaml(&backend, listens, &live, "")),
        authority: Authority::new("unused"),
        live,
        listens,
        _backend: backend,
    };
    let client = Arc::new(authority.trusting(&[&TLS13, &TLS12]));
    assert_eq!(handshake(listens, &client).unwrap(), first);
    for version in 1..4 {
        let next = put(version);
        fs::remove_dir_all(mount.join(format!("..v{}", version - 1))).unwrap();
        wait_until(PATIENCE, "the new certificate", || {
            handshake(listens, &client).unwrap() == next
        });
    }
    assert_eq!(
        stage.reloads("rejected"),
        0.0,
        "{}",
        stage.evergate.stderr()
    );
}
