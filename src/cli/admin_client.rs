//! A small client of the admin API, for the subcommands that talk to a running process.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use bytes::Bytes;
use clap::Args;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::Limited;
use hyper::Method;
use hyper::Request;
use hyper::StatusCode;
use hyper::client::conn::http1;
use hyper::header;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::net::UnixStream;

/// Longer than the server's own limit for one request.
const TIMEOUT: Duration = Duration::from_secs(35);
/// Ten thousand sessions or backends fit many times.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Where the running process is, and how to be let in.
#[derive(Debug, Clone, Args)]
pub struct AdminArgs {
    /// The admin API: HOST:PORT or unix:/path/to/socket
    #[arg(
        long,
        env = "EVERGATE_ADMIN",
        default_value = "127.0.0.1:9187",
        value_name = "ADDRESS"
    )]
    admin: AdminAddress,
    /// File with the token; needed for changes over TCP
    #[arg(long, env = "EVERGATE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum AdminAddress {
    Tcp(String),
    Unix(PathBuf),
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: needs a path".to_owned()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        match port {
            Some(Ok(_)) => Ok(Self::Tcp(text.to_owned())),
            _ => Err("expected HOST:PORT or unix:/path".to_owned()),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => formatter.write_str(address),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl AdminArgs {
    /// Reads something.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(&Method::GET, path)
    }

    /// Changes something.
    pub fn post(&self, path: &str) -> anyhow::Result<Value> {
        self.call(&Method::POST, path)
    }

    fn call(&self, method: &Method, path: &str) -> anyhow::Result<Value> {
        let request = self.request(method, path)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let answer = runtime.block_on(async {
            let answer = tokio::time::timeout(TIMEOUT, self.send(request)).await;
            answer.with_context(|| format!("no answer within {} s", TIMEOUT.as_secs()))?
        });
        let (status, body) =
            answer.with_context(|| format!("cannot ask the admin API at {}", self.admin))?;
        let value: Value = serde_json::from_slice(&body)
            .with_context(|| format!("{} does not answer as evergate does", self.admin))?;
        if status.is_success() {
            return Ok(value);
        }
        let needs_token = status == StatusCode::UNAUTHORIZED && self.token_file.is_none();
        match value["error"].as_str() {
            Some(error) if needs_token => {
                bail!("{error}\nhelp: give --token-file FILE, or the socket: --admin unix:PATH")
            }
            Some(error) => bail!("{error}"),
            None => bail!("the admin API answered {status}"),
        }
    }

    fn request(&self, method: &Method, path: &str) -> anyhow::Result<Request<Full<Bytes>>> {
        // The server checks Host against addresses; a name that leads to it is not its business.
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost");
        if let Some(file) = &self.token_file {
            let token = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read the token file {}", file.display()))?;
            let bearer = format!("Bearer {}", token.trim());
            request = request.header(header::AUTHORIZATION, bearer);
        }
        Ok(request.body(Full::default())?)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
        match &self.admin {
            AdminAddress::Tcp(address) => {
                exchange(TcpStream::connect(address).await?, request).await
            }
            AdminAddress::Unix(path) => exchange(UnixStream::connect(path).await?, request).await,
        }
    }
}

async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
        .collect()
        .await;
    driver.abort();
    let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
    Ok((status, body.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_tcp_or_a_unix_socket() {
        let parse = |text: &str| text.parse::<AdminAddress>();
        let tcp = AdminAddress::Tcp("[::1]:9187".to_owned());
        assert_eq!(parse("[::1]:9187"), Ok(tcp));
        let unix = AdminAddress::Unix("/run/evergate/admin.sock".into());
        assert_eq!(parse("unix:/run/evergate/admin.sock"), Ok(unix));
        for wrong in ["", "localhost", "unix:", "localhost:x", "localhost:70000"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
