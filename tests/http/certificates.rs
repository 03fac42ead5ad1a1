//! TLS to clients and to backends: versions by ALPN, hosts by certificate.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use rcgen::CertificateParams;
use rcgen::KeyPair;
use tempfile::TempDir;

use crate::recorder::Recorder;
use crate::support::PATIENCE;
use crate::support::evergate::Evergate;
use crate::support::ports::free_addr;
use crate::support::process::output_of;
use crate::support::process::run;
use crate::support::wait_until;
use crate::support::webserver::Nginx;
use crate::world::CHECK;
use crate::world::file;

/// `NAME.pem` and `NAME.key` for these names, signed by nobody else.
fn certify(dir: &Path, name: &str, hosts: &[&str]) {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(hosts)
        .unwrap()
        .self_signed(&key)
        .unwrap();
    fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
    fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

struct Served {
    evergate: Evergate,
    addr: SocketAddr,
    dir: TempDir,
    yaml: String,
}

fn serve(backends: &[SocketAddr], cluster: &str) -> Served {
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path(), "shop", &["shop.test"]);
    certify(dir.path(), "bank", &["bank.test", "*.bank.test"]);
    let addr = free_addr();
    let path = dir.path().display();
    let pair = |name| format!("{{cert_file: {path}/{name}.pem, key_file: {path}/{name}.key}}");
    let tls = format!(
        "tls: {{certificates: [{}, {}]}}",
        pair("shop"),
        pair("bank")
    );
    let yaml = file(addr, backends, cluster, &tls);
    let evergate = Evergate::start(&yaml);
    evergate.wait_for_metric("evergate_backend_up", &[], backends.len() as f64);
    Served {
        evergate,
        addr,
        dir,
        yaml,
    }
}

impl Served {
    /// What curl says of one request: version, status, body.
    fn curl(&self, host: &str, arguments: &[&str]) -> String {
        let port = self.addr.port();
        let resolve = format!("{host}:{port}:127.0.0.1");
        let url = format!("https://{host}:{port}/x");
        let told = "%{http_version} %{http_code} ";
        let words = [
            &[
                "curl",
                "-sk",
                "-o",
                "/dev/stdout",
                "-w",
                told,
                "--resolve",
                &resolve,
            ],
            arguments,
            &[url.as_str()],
        ];
        run(&words.concat())
    }
}

#[test]
fn clients_choose_the_version_by_alpn_and_backends_are_told_of_tls() {
    let backend = Recorder::named("a");
    let served = serve(&[backend.addr()], CHECK);
    assert_eq!(served.curl("shop.test", &["--http1.1"]), "a1.1 200 ");
    assert_eq!(served.curl("shop.test", &["--http2"]), "a2 200 ");
    assert_eq!(served.curl("shop.test", &["--no-alpn"]), "a1.1 200 ");
    let text = backend.text();
    assert_eq!(
        text.matches("x-forwarded-proto: https\r\n").count(),
        3,
        "{text}"
    );
}

#[test]
fn a_request_for_a_host_of_another_certificate_is_misdirected() {
    let backend = Recorder::named("a");
    let served = serve(&[backend.addr()], CHECK);
    for version in ["--http1.1", "--http2"] {
        let ask = |sni, host| {
            let host = format!("Host: {host}");
            served.curl(sni, &[version, "-H", &host])
        };
        for (sni, host, is_good) in [
            ("shop.test", "shop.test", true),
            ("bank.test", "www.bank.test", true),
            ("www.bank.test", "bank.test:8443", true),
            ("shop.test", "bank.test", false),
            ("bank.test", "shop.test", false),
            ("shop.test", "www.bank.test", false),
        ] {
            let told = ask(sni, host);
            assert_eq!(
                told.contains(" 200 "),
                is_good,
                "{version} {sni} {host}: {told}"
            );
            assert_eq!(
                told.contains(" 421 "),
                !is_good,
                "{version} {sni} {host}: {told}"
            );
        }
    }
    let wrong = backend.text();
    assert_eq!(wrong.matches("GET /x ").count(), 6, "{wrong}");
}

#[test]
fn a_certificate_that_is_replaced_is_shown_after_the_reload() {
    let backend = Recorder::named("a");
    let served = serve(&[backend.addr()], CHECK);
    let shown = || {
        let addr = served.addr.to_string();
        let words = [
            "openssl",
            "s_client",
            "-connect",
            &addr,
            "-servername",
            "shop.test",
        ];
        let text = String::from_utf8_lossy(&output_of(&words, &[]).stdout).into_owned();
        let begin = text.find("-----BEGIN").unwrap_or_default();
        let end = text.find("-----END").unwrap_or_default();
        text[begin..end].to_owned()
    };
    let before = shown();
    assert!(before.contains("BEGIN CERTIFICATE"), "{before}");
    certify(served.dir.path(), "shop", &["shop.test"]);
    served.evergate.reload(&served.yaml);
    wait_until(PATIENCE, "the new certificate", || shown() != before);
    assert_eq!(served.curl("shop.test", &["--http2"]), "a2 200 ");
}

#[test]
fn a_cookie_over_tls_is_secure() {
    let backend = Recorder::named("a");
    let sticky = "http: {sticky: {secret: a-secret-of-16-characters}}";
    let served = serve(&[backend.addr()], &format!("{CHECK}, {sticky}"));
    let told = served.curl("shop.test", &["-i"]).to_ascii_lowercase();
    let cookie = crate::recorder::field(&told, "set-cookie").expect("a cookie");
    assert!(
        cookie.contains("secure") && cookie.contains("httponly"),
        "{cookie}"
    );
}

#[test]
fn backends_are_asked_over_tls_in_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path(), "backend", &["backend.test"]);
    let path = dir.path().display();
    let addr = free_addr();
    let server = format!(
        "server {{ listen {addr} ssl http2; ssl_certificate {path}/backend.pem; \
         ssl_certificate_key {path}/backend.key; \
         location / {{ return 200 '$server_protocol $ssl_server_name'; }} }}"
    );
    let _nginx = Nginx::http(&server, addr);
    for (version, spoken) in [("1", "HTTP/1.1"), ("2", "HTTP/2.0")] {
        let tls = format!("tls: {{ca_file: {path}/backend.pem, server_name: backend.test}}");
        let check = "health_check: {kind: tls, interval: 300ms}";
        let served = serve(
            &[addr],
            &format!("{check}, {tls}, http: {{version: {version}}}"),
        );
        for asked in ["--http1.1", "--http2"] {
            let told = served.curl("shop.test", &[asked]);
            assert!(
                told.starts_with(&format!("{spoken} backend.test")),
                "{version} {asked}: {told}"
            );
            assert!(told.ends_with(" 200 "), "{version} {asked}: {told}");
        }
    }
}
