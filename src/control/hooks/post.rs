//! A hook that is a URL: the event is the body of a POST, any 2xx is success.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::cluster::Name;
use crate::config::BackendConfig;
use crate::config::BackendTlsConfig;
use crate::config::Host;
use crate::config::VerifyMode;
use crate::control::discovery;
use crate::control::hooks::HookError;
use crate::tls::TlsConnector;

/// Of an answer, only its status is of interest.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The parts of a URL. The configuration has checked it.
#[derive(Debug, PartialEq, Eq)]
struct Url<'a> {
    tls: bool,
    /// Host and, if it is written, port: the `Host` header.
    authority: &'a str,
    host: &'a str,
    port: NonZeroU16,
    path: String,
}

/// Sends it and waits for the status. Redirects are not followed: the URL in the file is
/// the one that somebody has thought of.
pub(super) async fn run(url: &str, body: String) -> Result<(), HookError> {
    let url = Url::parse(url)
        .ok_or_else(|| HookError::Failed("this is not a URL that can be asked".to_owned()))?;
    let address = SocketAddr::new(resolve(url.host).await?, url.port.get());
    let connected = TcpStream::connect(address).await;
    let stream = connected.map_err(|error| HookError::failed("it cannot be reached", error))?;
    if url.tls {
        let target = backend(&url);
        let handshake = connector(url.host)?.connect(&target, address, stream).await;
        let stream = handshake.map_err(|error| HookError::failed("TLS", error))?;
        exchange(stream, &url, body).await
    } else {
        exchange(stream, &url, body).await
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    url: &Url<'_>,
    body: String,
) -> Result<(), HookError> {
    let request = Request::post(url.path.as_str())
        .header(header::HOST, url.authority)
        .header(header::USER_AGENT, "evergate")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::<Bytes>::from(body))
        .map_err(|error| HookError::failed("the request", error))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| HookError::failed("HTTP", error))?;
    let asking = sender.send_request(request);
    tokio::pin!(asking);
    let answer = tokio::select! {
        biased;
        answer = &mut asking => answer,
        // The connection ends first when the peer closes; what it has read is still to be judged.
        _ = connection => asking.await,
    };
    let status = answer
        .map_err(|error| HookError::failed("HTTP", error))?
        .status();
    match status.is_success() {
        true => Ok(()),
        false => Err(HookError::Failed(format!("it answered {status}"))),
    }
}

async fn resolve(host: &str) -> Result<IpAddr, HookError> {
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    let permits = Arc::new(Semaphore::new(1));
    let found = discovery::lookup(&Name::from(host), None, permits).await;
    found.map_err(|error| HookError::failed("its name cannot be resolved", error))
}

fn connector(host: &str) -> Result<TlsConnector, HookError> {
    let config = BackendTlsConfig {
        mode: VerifyMode::VerifyFull,
        ca_file: None,
        client_pair: None,
        server_name: Some(host.to_owned()),
        alpn: Vec::new(),
    };
    TlsConnector::load(&config).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        HookError::Failed(errors.join("; "))
    })
}

/// What the handshake wants to know of a peer; the name is in the connector.
fn backend(url: &Url<'_>) -> BackendConfig {
    BackendConfig {
        name: Name::from(url.authority),
        host: Host::Name(Name::from(url.host)),
        port: url.port,
        weight: 1,
        zone: None,
        tier: 0,
        max_connections: None,
    }
}

impl<'a> Url<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (authority, if tls { 443 } else { 80 }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        // A query needs a path before it (RFC 9112, 3.2.1).
        let slash = if path.starts_with('/') { "" } else { "/" };
        Some(Self {
            tls,
            authority,
            host: Some(host).filter(|host| !host.is_empty())?,
            port: NonZeroU16::new(port)?,
            path: format!("{slash}{path}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_a_port_and_a_path() {
        for (text, tls, host, port, path) in [
            ("http://a.example", false, "a.example", 80, "/"),
            ("https://a.example/x?y=1", true, "a.example", 443, "/x?y=1"),
            ("http://[::1]:8080?q", false, "::1", 8080, "/?q"),
            ("https://[::1]", true, "::1", 443, "/"),
            ("http://10.0.0.1:81/", false, "10.0.0.1", 81, "/"),
        ] {
            let url = Url::parse(text).unwrap();
            let parts = (url.tls, url.host, url.port.get(), &*url.path);
            assert_eq!(parts, (tls, host, port, path), "{text}");
        }
        for wrong in ["", "ftp://a", "http://", "http://a:0/", "http://a:x/"] {
            assert_eq!(Url::parse(wrong), None, "{wrong}");
        }
    }
}
