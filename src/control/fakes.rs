//! Small servers that answer, lie, dawdle or hang, for the tests of those who ask.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::config::BackendTlsConfig;
use crate::config::CertificatePair;
use crate::config::ListenerTlsConfig;
use crate::config::TlsVersion;
use crate::config::VerifyMode;
use crate::tls::TlsAcceptor;
use crate::tls::TlsConnector;

/// Generous for what has to succeed on a busy machine.
pub const PATIENT: Duration = Duration::from_secs(10);

pub const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A server that treats every connection alike; ends when dropped.
pub struct Server {
    pub address: SocketAddr,
    task: AbortHandle,
}

/// A certificate that has signed itself, and who shows it.
pub struct Certificate {
    pub acceptor: TlsAcceptor,
    pub ca_file: PathBuf,
    _directory: TempDir,
}

impl Server {
    pub fn port(&self) -> NonZeroU16 {
        NonZeroU16::new(self.address.port()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub async fn serve<F>(treat: impl Fn(TcpStream) -> F + Send + 'static) -> Server
where
    F: Future<Output = io::Result<()>> + Send,
{
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Who asked and has gone is no failure of the server.
            let _ = treat(stream).await;
        }
    });
    Server {
        address,
        task: task.abort_handle(),
    }
}

/// Reads a request's head, or what comes first.
pub async fn read_some(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut request = vec![0; 4096];
    let count = stream.read(&mut request).await?;
    request.truncate(count);
    Ok(request)
}

/// Reads what is asked, answers, closes.
pub async fn answers(answer: impl Into<Vec<u8>>) -> Server {
    let answer: Arc<[u8]> = answer.into().into();
    serve(move |mut stream: TcpStream| {
        let answer = Arc::clone(&answer);
        async move {
            read_some(&mut stream).await?;
            stream.write_all(&answer).await?;
            stream.shutdown().await?;
            stream.read(&mut [0; 1]).await.map(drop)
        }
    })
    .await
}

pub async fn hangs() -> Server {
    serve(async |_stream: TcpStream| std::future::pending().await).await
}

/// One byte, again and again, slower than any deadline allows.
pub async fn dribbles(head: &'static str) -> Server {
    serve(move |mut stream: TcpStream| async move {
        stream.write_all(head.as_bytes()).await?;
        loop {
            stream.write_all(b"x").await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

pub async fn refuses() -> Server {
    let server = hangs().await;
    server.task.abort();
    // Until the listener is gone.
    while TcpStream::connect(server.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    server
}

pub fn certificate(name: &str, alpn: &[&str]) -> Certificate {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cert_file = directory.path().join("cert.pem");
    let key_file = directory.path().join("key.pem");
    std::fs::write(&cert_file, made.cert.pem()).unwrap();
    std::fs::write(&key_file, made.signing_key.serialize_pem()).unwrap();
    let acceptor = TlsAcceptor::load(&ListenerTlsConfig {
        certificates: vec![CertificatePair {
            cert_file: cert_file.clone(),
            key_file,
        }],
        client_ca_file: None,
        optional: false,
        min_version: TlsVersion::V1_2,
        alpn: alpn.iter().map(ToString::to_string).collect(),
    });
    Certificate {
        acceptor: acceptor.unwrap(),
        ca_file: cert_file,
        _directory: directory,
    }
}

/// For who trusts `ca_file`, or the system's authorities.
pub fn connector(mode: VerifyMode, ca_file: Option<PathBuf>, alpn: &[&str]) -> TlsConnector {
    let config = BackendTlsConfig {
        mode,
        ca_file,
        client_pair: None,
        server_name: None,
        alpn: alpn.iter().map(ToString::to_string).collect(),
    };
    TlsConnector::load(&config).unwrap()
}
