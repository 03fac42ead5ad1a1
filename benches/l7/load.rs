//! Clients of the bench.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use crate::peers::BODY;
use crate::peers::CIPHER;
use crate::peers::HOST;
use crate::pki::Authority;
use crate::shared::runtime;
use crate::support::process::installed;
use crate::support::process::run;

/// Whoever puts idle connections away has done it by then.
const REST: Duration = Duration::from_secs(3);
const GROUP: &str = "X25519";

/// Requests that were answered with 2xx; anything else ends the bench.
pub fn h2load(proxy: SocketAddr, scheme: &str, arguments: &[&str]) -> f64 {
    let program = installed("h2load", "nghttp2-client");
    let url = format!("{scheme}://{proxy}/");
    let ciphers = format!("--tls13-ciphers={CIPHER}");
    let groups = format!("--groups={GROUP}");
    let fixed = [program.as_str(), &ciphers, &groups];
    let output = run(&[&fixed, arguments, &[url.as_str()]].concat());
    let of = |line: &str, word: &str| -> Option<f64> {
        let line = output.lines().find(|it| it.starts_with(line))?;
        let part = line.split([':', ',']).find(|part| part.ends_with(word))?;
        part.split_whitespace().next()?.parse().ok()
    };
    let total = of("requests", " total").unwrap();
    assert_eq!(of("status codes", " 2xx"), Some(total), "{output}");
    if scheme == "https" {
        let is_agreed = output.contains("TLSv1.3") && output.contains(CIPHER);
        assert!(is_agreed, "{output}");
    }
    total
}

/// Connect, a full handshake, one request, close; a few at a time.
pub fn handshakes(proxy: SocketAddr, authority: &Authority, operations: usize) -> f64 {
    const AT_ONCE: usize = 16;
    let connector = TlsConnector::from(Arc::new(client(authority)));
    runtime().block_on(async {
        let clients: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let connector = connector.clone();
                tokio::spawn(async move {
                    for _ in 0..operations / AT_ONCE {
                        handshake(proxy, &connector).await;
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        (operations / AT_ONCE * AT_ONCE) as f64
    })
}

async fn handshake(proxy: SocketAddr, connector: &TlsConnector) {
    let tcp = tokio::net::TcpStream::connect(proxy).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let name = ServerName::try_from(HOST).unwrap();
    let mut tls = connector.connect(name, tcp).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(BODY.as_bytes()) {
        assert_ne!(tls.read_buf(&mut answer).await.unwrap(), 0);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    // As clients do: close_notify, and no wait for the other's.
    tls.shutdown().await.unwrap();
}

/// Never resumes: each connection costs a full handshake.
fn client(authority: &Authority) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(&authority.ca_file).unwrap();
    roots.add(certificate).unwrap();
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config
}

/// Clients that have had an answer each, and say nothing more; returned when they have rested.
pub fn idle(proxy: SocketAddr, clients: usize) -> Vec<TcpStream> {
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let ask = |_| {
        let mut stream = TcpStream::connect(proxy).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        while !answer.ends_with(BODY.as_bytes()) {
            let read = stream.read(&mut part).unwrap();
            assert!(read > 0, "the answer ended early");
            answer.extend_from_slice(&part[..read]);
        }
        stream
    };
    // One after the other: a crowd would leave its memory behind.
    let streams = (0..clients).map(ask).collect();
    thread::sleep(REST);
    streams
}
