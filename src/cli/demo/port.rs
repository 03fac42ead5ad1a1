//! Ports of the loopback that stay the demo's own.

use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddr;

use socket2::Domain;
use socket2::Socket;
use socket2::Type;

/// A port that is bound and never listens: nobody else gets it, and connects to it are refused
/// while nothing of ours listens there.
#[derive(Debug)]
pub struct ReservedPort {
    pub address: SocketAddr,
    _socket: Socket,
}

impl ReservedPort {
    /// A port that the kernel picks.
    pub fn new() -> io::Result<Self> {
        let socket = bound_socket(0)?;
        let address = socket.local_addr()?.as_socket();
        Ok(Self {
            address: address.ok_or_else(|| io::Error::other("no address on the loopback"))?,
            _socket: socket,
        })
    }
}

/// Lets the reserving socket and the listening one share the port.
pub fn bound_socket(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    Ok(socket)
}
