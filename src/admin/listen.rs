//! Sockets of the admin API, and the bounds that keep it reachable.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::Sources;
use crate::admin::access::Door;
use crate::admin::access::MAX_TOKEN_BYTES;
use crate::admin::access::Token;
use crate::admin::answer::answer;
use crate::config::AdminConfig;
use crate::config::Secret;

/// Scrapers, dashboards and people together need a handful.
const MAX_TCP_CONNECTIONS: usize = 64;
/// Counted apart, so that whoever floods the TCP address cannot lock out the operator.
const MAX_UNIX_CONNECTIONS: usize = 16;
/// From accept, or from the end of the last answer, to a complete request
/// head: also the longest idle time of a connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that never reads its answer would keep its place for ever.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(60);
/// For the request under way when a connection is too old or the process ends.
const GRACE: Duration = Duration::from_secs(2);
/// Out of descriptors, `accept` fails at once, again and again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const MAX_HEADERS: usize = 64;
/// Request line and headers together (hyper's minimum is 8 KiB).
const MAX_HEAD_BYTES: usize = 16 * 1024;
const BACKLOG: i32 = 64;

/// Bound sockets that nobody accepts from yet.
#[derive(Default)]
pub struct Bound {
    tcp: Option<std::net::TcpListener>,
    unix: Option<UnixSocket>,
    token: Option<Token>,
}

/// A Unix socket and the file that leads to it; dropping it removes the file.
struct UnixSocket {
    listener: std::os::unix::net::UnixListener,
    file: SocketFile,
}

struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A process that took our place has put its own file there.
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|now| (now.dev(), now.ino()) == (self.device, self.inode));
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Bound").finish_non_exhaustive()
    }
}

impl Bound {
    /// The TCP address, with the port that the kernel chose for port 0.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.local_addr().ok()
    }
}

/// Binds all sockets, so that a wrong address is known before anything starts.
///
/// # Errors
/// With the address or path in the message; the token's length is checked here too.
pub fn bind(config: &AdminConfig) -> io::Result<Bound> {
    let tcp = config.bind.map(bind_tcp).transpose()?;
    let unix = config.socket.as_deref().map(|path| {
        bind_unix(path).map_err(|error| explain(&format!("admin.socket {}", path.display()), error))
    });
    Ok(Bound {
        tcp,
        unix: unix.transpose()?,
        token: config.token.as_ref().map(token).transpose()?,
    })
}

fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)
        .map_err(|error| explain(&format!("admin.bind {address}"), error))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn token(secret: &Secret) -> io::Result<Token> {
    Token::new(secret.expose()).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the token in admin.token_file must have 1 to {MAX_TOKEN_BYTES} bytes"),
        )
    })
}

/// Puts the socket under a temporary name until its mode is right, so that
/// nobody else can ever connect, and renames it over a stale file.
fn bind_unix(path: &Path) -> io::Result<UnixSocket> {
    refuse_if_in_use(path)?;
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    refuse_if_in_use(&fresh)?;
    if fs::symlink_metadata(&fresh).is_ok() {
        fs::remove_file(&fresh)?;
    }
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.bind(&socket2::SockAddr::unix(&fresh)?)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    fs::rename(&fresh, path)?;
    let metadata = fs::symlink_metadata(path)?;
    Ok(UnixSocket {
        listener: std::os::fd::OwnedFd::from(socket).into(),
        file: SocketFile {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        },
    })
}

fn refuse_if_in_use(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is not a socket is in the way",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process serves this socket",
        )),
        Err(_) => Ok(()),
    }
}

fn explain(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// What every connection needs.
struct Server {
    sources: Arc<Sources>,
    token: Option<Token>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

pub(super) async fn serve(bound: Bound, sources: Arc<Sources>, shutdown: impl Future<Output = ()>) {
    let Bound { tcp, unix, token } = bound;
    let server = Arc::new(Server {
        sources,
        token,
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
    });
    let (unix, file) = unix.map_or((None, None), |unix| (Some(unix.listener), Some(unix.file)));
    let accept = async {
        tokio::join!(accept_tcp(&server, tcp), accept_unix(&server, unix));
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
    server.stop.cancel();
    server.tasks.close();
    let _ = tokio::time::timeout(GRACE, server.tasks.wait()).await;
    drop(file);
}

async fn accept_tcp(server: &Arc<Server>, listener: Option<std::net::TcpListener>) {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return give_up(&error).await,
    };
    let places = Arc::new(Semaphore::new(MAX_TCP_CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => admit(server, stream, Door::Tcp, &places),
            Err(error) => pause_accepting(&error).await,
        }
    }
}

async fn accept_unix(server: &Arc<Server>, listener: Option<std::os::unix::net::UnixListener>) {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return give_up(&error).await,
    };
    let places = Arc::new(Semaphore::new(MAX_UNIX_CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => admit(server, stream, Door::Unix, &places),
            Err(error) => pause_accepting(&error).await,
        }
    }
}

/// The other door, if there is one, stays open.
async fn give_up(error: &io::Error) {
    tracing::error!(%error, "an admin listener cannot be used");
    std::future::pending().await
}

async fn pause_accepting(error: &io::Error) {
    tracing::debug!(%error, "admin accept failed");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Serves a connection in a task, or closes it when all places are taken.
fn admit<S>(server: &Arc<Server>, stream: S, door: Door, places: &Arc<Semaphore>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(place) = Arc::clone(places).try_acquire_owned() else {
        return;
    };
    let task = serve_connection(Arc::clone(server), stream, door);
    server.tasks.spawn(async move {
        task.await;
        drop(place);
    });
}

async fn serve_connection<S>(server: Arc<Server>, stream: S, door: Door)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request| {
        let server = Arc::clone(&server);
        async move {
            let token = server.token.as_ref();
            Ok::<_, std::convert::Infallible>(answer(request, door, token, &server.sources).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // A client that breaks off or speaks something else is its own problem.
        _ = connection.as_mut() => return,
        () = tokio::time::sleep(MAX_CONNECTION_AGE) => {}
        () = server.stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GRACE, connection).await;
}
