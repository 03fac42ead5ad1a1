//! Ports and network numbers that no other test uses, in this process or another.
//!
//! "Bind port 0, close, use the number" is a race. A number is reserved here by an abstract unix
//! socket of that name, which the kernel frees when the process ends, however it ends. Ports
//! come from below the ephemeral range, so that no outgoing connection takes one meanwhile.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr as UnixAddr;
use std::os::unix::net::UnixListener;
use std::process;
use std::sync::Mutex;

use socket2::Domain;
use socket2::Socket;
use socket2::Type;

const PORTS: Range<u32> = 12_000..32_000;

static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// A port of the loopback addresses that is free and stays ours until the process ends.
pub fn free_port() -> u16 {
    loop {
        let port = u16::try_from(reserve("port", PORTS)).unwrap();
        if !is_listened_on(port) {
            return port;
        }
    }
}

/// Somebody outside the tests may listen there. Binding without listening does not get in the way
/// of the caller, even while a program that is just being started holds a copy of our socket.
fn is_listened_on(port: u16) -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    let any = SocketAddr::from(([0, 0, 0, 0], port));
    socket.bind(&any.into()).is_err()
}

/// `127.0.0.1` with a free port.
pub fn free_addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// A number of `range` that no other caller on this machine has.
pub fn reserve(kind: &str, range: Range<u32>) -> u32 {
    let size = range.end - range.start;
    // Processes start at different places: fewer collisions to walk past.
    let first = process::id().wrapping_mul(7_919) % size;
    let mut reserved = RESERVED.lock().unwrap_or_else(|broken| broken.into_inner());
    for step in 0..size {
        let number = range.start + (first + step) % size;
        let name = format!("evergate-test-{kind}-{number}");
        let name = UnixAddr::from_abstract_name(name).unwrap();
        if let Ok(reservation) = UnixListener::bind_addr(&name) {
            reserved.push(reservation);
            return number;
        }
    }
    panic!("every {kind} of {range:?} is in use");
}

/// A socket on a free port. Connections of a process before us may still rest on it.
fn bound() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let addr = free_addr();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&addr.into()).unwrap();
    (socket, addr)
}

/// A port that refuses connections and that nobody else can listen on meanwhile.
pub struct RefusingPort {
    socket: Socket,
}

impl RefusingPort {
    pub fn new() -> Self {
        let (socket, _) = bound();
        Self { socket }
    }

    pub fn addr(&self) -> SocketAddr {
        self.socket.local_addr().unwrap().as_socket().unwrap()
    }
}

/// Listens and never accepts: after `backlog + 1` connections the next SYN stays unanswered.
pub struct FullBacklog {
    socket: Socket,
    _fillers: Vec<Socket>,
}

impl FullBacklog {
    pub fn new() -> Self {
        let (socket, addr) = bound();
        socket.listen(0).unwrap();
        let fillers = (0..4)
            .map(|_| {
                let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                filler.set_nonblocking(true).unwrap();
                // In progress for ever is the point.
                let _ = filler.connect(&addr.into());
                filler
            })
            .collect();
        Self {
            socket,
            _fillers: fillers,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.socket.local_addr().unwrap().as_socket().unwrap()
    }
}
