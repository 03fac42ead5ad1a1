//! Clients that a test holds in its hand, and the file that most tests need.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

use socket2::Domain;
use socket2::Socket;
use socket2::Type;

use super::PATIENCE;
use super::wait_until;

/// Fast enough for a test, slow enough for a busy machine.
pub const CHECKS: &str = "{interval: 500ms, timeout: 500ms, fast_interval: 50ms, rise: 1}";

/// One listener on one cluster `c`; `keys` are more lines of the cluster.
///
/// Backends are named `a`, `b`, … and may bring keys: `("127.0.0.1:5432", "weight: 7")`.
pub fn file(listens: SocketAddr, backends: &[(SocketAddr, &str)], keys: &[&str]) -> String {
    let backends = ('a'..).zip(backends).map(|(name, (address, more))| {
        let comma = if more.is_empty() { "" } else { ", " };
        format!("      - {{name: {name}, address: \"{address}\"{comma}{more}}}\n")
    });
    let backends: String = backends.collect();
    let mut keys: String = keys.iter().map(|key| format!("    {key}\n")).collect();
    if !keys.contains("health_check:") {
        keys += &format!("    health_check: {CHECKS}\n");
    }
    format!(
        "clusters:\n  c:\n{keys}    backends:\n{backends}\
         listeners:\n  l: {{bind: \"{listens}\", cluster: c}}\n"
    )
}

/// Backends without keys of their own.
pub fn plain(backends: &[SocketAddr]) -> Vec<(SocketAddr, &'static str)> {
    backends.iter().map(|address| (*address, "")).collect()
}

#[track_caller]
pub fn connect(addr: SocketAddr) -> TcpStream {
    patient(TcpStream::connect_timeout(&addr, PATIENCE).unwrap())
}

/// As another client of this host: all of 127.0.0.0/8 is ours.
#[track_caller]
pub fn connect_from(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect_timeout(&to.into(), PATIENCE).unwrap();
    patient(socket.into())
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads one line and not a byte more; without its newline.
pub fn read_line(stream: &mut impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        line.push(byte[0]);
    }
}

/// A new session with a backend that says its name.
pub fn greeted(addr: SocketAddr) -> io::Result<(TcpStream, String)> {
    let mut stream = patient(TcpStream::connect_timeout(&addr, PATIENCE)?);
    let name = read_line(&mut stream)?;
    Ok((stream, name))
}

/// A new session's backend; the session ends in the orderly way.
#[track_caller]
pub fn name_at(addr: SocketAddr) -> String {
    let (mut stream, name) = greeted(addr).unwrap();
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read(&mut [0]);
    name
}

/// Sends bytes and reads as many back.
pub fn echoes(stream: &mut (impl Read + Write), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer)?;
    if answer == bytes {
        Ok(())
    } else {
        Err(io::Error::other(format!("{answer:?} is no echo")))
    }
}

/// Reads what still comes, until the other side ends it; a reset is an end too.
#[track_caller]
pub fn rest(stream: &mut impl Read) -> Vec<u8> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("no end: {error}"),
    }
    rest
}

/// Nothing comes for a while; absence can only be shown for a while.
#[track_caller]
pub fn expect_silence(stream: &mut TcpStream) {
    let short = Some(Duration::from_millis(200));
    stream.set_read_timeout(short).unwrap();
    let silence = stream.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(silence, Err(io::ErrorKind::WouldBlock));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
}

/// Waits until a new session goes to this backend.
#[track_caller]
pub fn wait_for_name(addr: SocketAddr, name: &str) {
    wait_until(PATIENCE, &format!("a session with {name}"), || {
        greeted(addr).is_ok_and(|(_, is)| is == name)
    });
}
