//! Sockets and process limits, shared by both planes.

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::Resource;
use rustix::process::Rlimit;
use socket2::Domain;
use socket2::Protocol;
use socket2::SockFilter;
use socket2::SockRef;
use socket2::Socket;
use socket2::TcpKeepalive;
use socket2::Type;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::cluster::Cause;

/// TCP keepalive and TCP_USER_TIMEOUT of one side of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    pub interval: Duration,
    pub probes: u32,
    /// Unacknowledged bytes may wait this long (RFC 5482); zero = the kernel's default.
    pub user_timeout: Duration,
}

/// Opens a listening socket: non-blocking, TCP_NODELAY (which accepted sockets inherit).
///
/// `[::]` takes IPv4 as well, whatever the system's default is.
///
/// # Errors
/// As bind(2) and listen(2), e.g. address in use.
pub fn listen(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    listen_with(address, backlog, Sharing::Exclusive)
}

/// As [`listen`], although `old` has a place that contains this one or is part of it.
/// For the moment in which one takes over from the other.
///
/// # Errors
/// As bind(2) and listen(2), e.g. address in use by somebody else.
pub fn listen_beside(
    old: &TcpListener,
    address: SocketAddr,
    backlog: u32,
) -> io::Result<TcpListener> {
    SockRef::from(old).set_reuse_port(true)?;
    let listened = listen_with(address, backlog, Sharing::Shared);
    // Shared no longer than needed: another process of this user could bind the port, too.
    SockRef::from(old).set_reuse_port(false)?;
    let listener = listened?;
    SockRef::from(&listener).set_reuse_port(false)?;
    Ok(listener)
}

/// Whether other sockets that agree may have the same place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Exclusive,
    Shared,
}

fn listen_with(address: SocketAddr, backlog: u32, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::Shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Connects, with TCP_NODELAY, from one of `sources`; the system chooses when none of them is of
/// the peer's family. Each source has local ports of its own: when one has none left, the next
/// is tried.
///
/// # Errors
/// As connect(2); the last source's error when no source has a port, or none is ours.
pub async fn connect(address: SocketAddr, sources: &[IpAddr]) -> io::Result<TcpStream> {
    let same_family = |source: &&IpAddr| source.is_ipv4() == address.is_ipv4();
    let usable = || sources.iter().filter(same_family);
    let count = usable().count();
    if count == 0 {
        return connect_from(None, address).await;
    }
    // Not in turns: with as many backends in turn, each would see one source only.
    let first = fastrand::usize(..count);
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for source in usable().cycle().skip(first).take(count) {
        match connect_from(Some(*source), address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => last = error,
            result => return result,
        }
    }
    Err(last)
}

async fn connect_from(source: Option<IpAddr>, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_nodelay(true)?;
    if let Some(source) = source {
        let bound = socket.bind(SocketAddr::new(source, 0));
        // For our callers, too, to have no port left is a shortage and not somebody's fault.
        bound.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Errno::ADDRNOTAVAIL.into(),
            _ => error,
        })?;
    }
    socket.connect(address).await
}

/// Drops every SYN that arrives at a listening socket from now on. Handshakes under way may
/// finish, so that its accept queue can be emptied for good. Clients whose SYN is dropped
/// send it again a second later (RFC 6298) and find who listens then.
///
/// # Errors
/// As setsockopt(2) for `SO_ATTACH_FILTER`.
pub fn ignore_new_handshakes(listener: &impl AsFd) -> io::Result<()> {
    // Classic BPF, see linux/filter.h; the packet starts with its TCP header (RFC 9293, 3.1).
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const FLAGS_OFFSET: u32 = 13;
    const SYN: u32 = 0x02;
    const DROP: u32 = 0;
    const KEEP_WHOLE: u32 = u32::MAX;
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS_OFFSET),
        SockFilter::new(JUMP_IF_ANY_BIT, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, DROP),
        SockFilter::new(RETURN, 0, 0, KEEP_WHOLE),
    ])
}

/// Sets keepalive and user timeout. On a listening socket, accepted sockets inherit them.
///
/// # Errors
/// As setsockopt(2).
pub fn set_keepalive(socket: &impl AsFd, keepalive: Keepalive) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let probing = TcpKeepalive::new()
        .with_time(keepalive.idle)
        .with_interval(keepalive.interval)
        .with_retries(keepalive.probes);
    socket.set_tcp_keepalive(&probing)?;
    let user_timeout = Some(keepalive.user_timeout).filter(|timeout| !timeout.is_zero());
    socket.set_tcp_user_timeout(user_timeout)
}

/// Bounds what the kernel holds of bytes that it may not send yet because the peer reads too slowly
/// (TCP_NOTSENT_LOWAT); `None` = as much as its buffers grow to, which is usually 4 MiB. On a
/// listening socket, accepted sockets inherit it.
///
/// # Errors
/// As setsockopt(2).
pub fn set_max_unsent(socket: &impl AsFd, max_bytes: Option<u32>) -> io::Result<()> {
    // Zero is the system's own limit.
    SockRef::from(socket).set_tcp_notsent_lowat(max_bytes.unwrap_or(0))
}

/// Closing the socket will send RST instead of FIN: bytes were lost and the peer must know.
pub fn reset_on_close(socket: &impl AsFd) {
    // Fails only for a socket that is gone already.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Whether the peer has closed or reset the connection, without reading from it.
pub fn peer_is_gone(socket: &impl AsFd) -> bool {
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    let now = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match rustix::event::poll(&mut fds, Some(&now)) {
        Ok(_) => fds[0].revents().intersects(gone),
        Err(_) => false,
    }
}

/// The cause that an input or output error stands for while connecting or relaying.
pub fn cause_of(error: &io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Cause::ConnectRefused,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionAborted => Cause::Reset,
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown => Cause::Unreachable,
        // ETIMEDOUT: keepalive, TCP_USER_TIMEOUT or the kernel's own patience ran out.
        io::ErrorKind::TimedOut => Cause::SendTimeout,
        io::ErrorKind::UnexpectedEof => Cause::Closed,
        _ if is_out_of_resources(error) => Cause::OutOfResources,
        _ => Cause::IoError,
    }
}

/// Out of descriptors, ports, buffers or memory: ours to wait out, nobody else's fault.
pub fn is_out_of_resources(error: &io::Error) -> bool {
    const OURS: [Errno; 6] = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
        Errno::AGAIN,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| OURS.contains(&Errno::from_raw_os_error(code)))
}

/// Runs blocking work on a thread of its own.
///
/// tokio's pool for that panics when the system refuses a thread; this is an error.
///
/// # Errors
/// No thread to be had, or the work panicked.
pub async fn on_own_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (answer, result) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Whoever asked may have stopped waiting.
            let _ = answer.send(work());
        })?;
    result.await.map_err(io::Error::other)
}

/// Raises the soft limit of open files to the hard limit; returns the limit now in force.
pub fn raise_open_files_limit() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpStream as StdTcpStream;
    use std::time::Instant;

    #[test]
    fn accepted_sockets_inherit_nodelay_keepalive_and_their_limit() {
        let listener = listen("127.0.0.1:0".parse().unwrap(), 16).unwrap();
        listener.set_nonblocking(false).unwrap();
        let keepalive = Keepalive {
            idle: Duration::from_secs(61),
            interval: Duration::from_secs(7),
            probes: 5,
            user_timeout: Duration::from_secs(33),
        };
        set_keepalive(&listener, keepalive).unwrap();
        set_max_unsent(&listener, Some(77_000)).unwrap();

        let _client = StdTcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();

        assert!(accepted.nodelay().unwrap());
        let accepted = SockRef::from(&accepted);
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), keepalive.idle);
        assert_eq!(
            accepted.tcp_user_timeout().unwrap(),
            Some(keepalive.user_timeout)
        );
        assert_eq!(accepted.tcp_notsent_lowat().unwrap(), 77_000);
    }

    #[test]
    fn a_peer_that_closed_after_sending_is_gone() {
        let listener = listen("127.0.0.1:0".parse().unwrap(), 16).unwrap();
        listener.set_nonblocking(false).unwrap();
        let mut client = StdTcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        client.write_all(b"x").unwrap();
        assert!(!peer_is_gone(&accepted));
        drop(client);
        let deadline = Instant::now() + Duration::from_secs(5);
        while !peer_is_gone(&accepted) {
            assert!(Instant::now() < deadline, "FIN was not seen");
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn work_on_a_thread_that_panics_is_an_error() {
        assert_eq!(on_own_thread("works", || 7).await.unwrap(), 7);
        let failed = on_own_thread("fails", || assert_eq!(1, 2, "on purpose")).await;
        assert!(failed.is_err());
    }

    #[test]
    fn resource_errors_are_ours() {
        let error = io::Error::from_raw_os_error(Errno::MFILE.raw_os_error());
        assert_eq!(cause_of(&error), Cause::OutOfResources);
        let error = io::Error::from_raw_os_error(Errno::CONNREFUSED.raw_os_error());
        assert_eq!(cause_of(&error), Cause::ConnectRefused);
    }
}
