//! What the tests of PostgreSQL have in common.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::process::Output;

pub use crate::support::backend::server;
use crate::support::evergate::Evergate;
use crate::support::ports::free_addr;
use crate::support::process::installed;
use crate::support::process::output_of;
use crate::support::talk::CHECKS;

/// One PostgreSQL listener `l` on one cluster `c`; `cluster` and `listener` are more keys of them,
/// in braces' notation.
pub fn file(
    listens: SocketAddr,
    backends: &[SocketAddr],
    cluster: &[&str],
    listener: &[&str],
) -> String {
    let backends: Vec<_> = ('a'..)
        .zip(backends)
        .map(|(name, address)| format!("{{name: {name}, address: \"{address}\"}}"))
        .collect();
    let mut keys: String = cluster.iter().map(|key| format!("    {key}\n")).collect();
    if !keys.contains("health_check:") {
        keys += &format!("    health_check: {{kind: tcp, {}\n", &CHECKS[1..]);
    }
    let listener: String = listener.iter().map(|key| format!("    {key}\n")).collect();
    format!(
        "clusters:\n  c:\n    protocol: postgres\n{keys}    backends: [{}]\n\
         listeners:\n  l:\n    bind: \"{listens}\"\n    cluster: c\n{listener}",
        backends.join(", ")
    )
}

/// Evergate with [`file`], and where it listens.
#[track_caller]
pub fn before(
    backends: &[SocketAddr],
    cluster: &[&str],
    listener: &[&str],
) -> (Evergate, SocketAddr) {
    let listens = free_addr();
    (
        Evergate::start(&file(listens, backends, cluster, listener)),
        listens,
    )
}

/// psql with a connection string's options, which win over the usual ones.
pub fn psql_as(addr: SocketAddr, options: &str, statement: &str) -> Output {
    let psql = installed("psql", "postgresql-client-15");
    let target = format!(
        "host={} port={} user=postgres dbname=postgres connect_timeout=10 {options}",
        addr.ip(),
        addr.port()
    );
    let command = [
        &psql,
        "-X",
        "-q",
        "-A",
        "-t",
        "-v",
        "ON_ERROR_STOP=1",
        "-v",
        "VERBOSITY=verbose",
        "-c",
        statement,
        &target,
    ];
    output_of(&command.map(|word: &str| word), &[])
}

/// What psql printed, when it has to succeed.
#[track_caller]
pub fn answer(output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}

/// What psql complained of, when it has to fail.
#[track_caller]
pub fn complaint(output: Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Reads an untagged message; `None` from a health check, which says nothing.
pub fn read_startup(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut message = length.to_vec();
    message.resize(u32::from_be_bytes(length) as usize, 0);
    stream.read_exact(&mut message[4..]).ok()?;
    Some(message)
}

/// A server that answers every startup with these bytes and then reads to the end.
pub fn answering(answer: Vec<u8>) -> SocketAddr {
    server(move |mut stream| {
        if read_startup(&mut stream).is_some() && stream.write_all(&answer).is_ok() {
            let mut rest = [0; 1024];
            while matches!(stream.read(&mut rest), Ok(1..)) {}
        }
    })
}

/// AuthenticationOk.
pub const LET_IN: &[u8] = b"R\0\0\0\x08\0\0\0\0";

/// A parameter by which a server of ours says who it is.
pub fn named(name: &[u8; 1]) -> Vec<u8> {
    let name = std::str::from_utf8(name).unwrap();
    evergate::protocol::postgres::backend::parameter_status("server", name)
}

/// A server's refusal.
pub fn error(sqlstate: &[u8], message: &str) -> Vec<u8> {
    let sqlstate = evergate::protocol::postgres::sqlstate::SqlState::new(sqlstate).unwrap();
    evergate::protocol::postgres::error::ErrorResponse::fatal(sqlstate, message).encode()
}
