//! TLS on either leg, both or through.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;

use evergate::protocol::postgres::frontend;
use evergate::protocol::postgres::sqlstate::SqlState;
use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::StreamOwned;
use rustls::pki_types::ServerName;

use crate::pki::Authority;
use crate::pki::trusting_anything;
use crate::postgres::cancel::expect_that_it_cancels;
use crate::postgres::cases::answer;
use crate::postgres::cases::before;
use crate::postgres::cases::complaint;
use crate::postgres::cases::psql_as;
use crate::postgres::cases::server;
use crate::postgres::wire::Wire;
use crate::support::PATIENCE;
use crate::support::evergate::Evergate;
use crate::support::postgres::Postgres;
use crate::support::talk::connect;
use crate::support::wait_until;

const IS_ENCRYPTED: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";

/// Evergate that ends its clients' TLS with a certificate of this authority.
fn ending_tls(
    authority: &Authority,
    backends: &[SocketAddr],
    more: &str,
) -> (Evergate, SocketAddr) {
    let pair = authority.issue("listener", &["127.0.0.1"]);
    let tls = format!(
        "tls: {{cert_file: {}, key_file: {}{more}}}",
        pair.cert_file.display(),
        pair.key_file.display()
    );
    before(backends, &[], &[&tls])
}

/// PostgreSQL that offers TLS, with a certificate of this authority.
pub fn encrypted(authority: &Authority) -> Postgres {
    let postgres = Postgres::start();
    let pair = authority.issue("server", &["127.0.0.1"]);
    for (file, from) in [
        ("server.crt", &pair.cert_file),
        ("server.key", &pair.key_file),
    ] {
        let pem = std::fs::read_to_string(from).unwrap();
        postgres.sql(&format!(
            "copy (select unnest(string_to_array($${pem}$$, E'\\n'))) to program 'umask 077; cat > {file}'"
        ));
    }
    postgres.sql("alter system set ssl = on");
    postgres.sql("select pg_reload_conf()");
    wait_until(PATIENCE, "TLS is offered", || {
        let tried = psql_as(postgres.addr(), "sslmode=require", "select 1");
        tried.status.success()
    });
    postgres
}

pub fn over_tls(
    stream: TcpStream,
    config: ClientConfig,
) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(connection, stream)
}

#[test]
fn clients_that_want_tls_get_it_and_others_are_told_to() {
    let (authority, postgres) = (Authority::new("ca"), Postgres::start());
    let (_evergate, listens) = ending_tls(&authority, &[postgres.addr()], "");
    let verify = format!(
        "sslmode=verify-full sslrootcert={}",
        authority.ca_file.display()
    );
    for mode in [
        "sslmode=require",
        "sslmode=prefer",
        "sslmode=allow",
        &verify,
    ] {
        assert_eq!(answer(psql_as(listens, mode, "select 41 + 1")), "42");
    }
    let said = complaint(psql_as(listens, "sslmode=disable", "select 1"));
    assert!(
        said.contains("FATAL:  connection requires SSL encryption"),
        "{said}"
    );
    assert!(
        said.contains("HINT:  Connect with sslmode=require"),
        "{said}"
    );

    let (_evergate, listens) = ending_tls(&authority, &[postgres.addr()], ", optional: true");
    for mode in ["sslmode=require", "sslmode=disable"] {
        assert_eq!(answer(psql_as(listens, mode, "select 41 + 1")), "42");
    }
}

#[test]
fn direct_tls_needs_the_protocols_name() {
    let (authority, postgres) = (Authority::new("ca"), Postgres::start());
    let (_evergate, listens) = ending_tls(&authority, &[postgres.addr()], "");
    let mut config = trusting_anything();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let mut wire = Wire::over(over_tls(connect(listens), config));
    let key = wire.begin(&[("user", "postgres")]).unwrap();
    assert_eq!(wire.query("select 1").rows.len(), 1);
    // A cancel may come in the clear: older clients have no other.
    expect_that_it_cancels(&key, &mut wire, &postgres, listens);

    for alpn in [Vec::new(), vec![b"http/1.1".to_vec()]] {
        let mut config = trusting_anything();
        config.alpn_protocols = alpn;
        let mut tls = over_tls(connect(listens), config);
        let startup = frontend::startup_message(&[("user", "postgres")]);
        let end = tls.write_all(&startup).and_then(|()| tls.read(&mut [0]));
        assert!(!matches!(end, Ok(1..)));
    }
}

#[test]
fn a_tls_client_is_told_of_its_end() {
    let (authority, postgres) = (Authority::new("ca"), Postgres::start());
    let pair = authority.issue("listener", &["127.0.0.1"]);
    let tls = format!(
        "tls: {{cert_file: {}, key_file: {}}}",
        pair.cert_file.display(),
        pair.key_file.display()
    );
    let keys = [&tls, "idle_timeout: 300ms"];
    let (_evergate, listens) = before(&[postgres.addr()], &[], &keys);
    let mut config = trusting_anything();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let mut wire = Wire::over(over_tls(connect(listens), config));
    wire.begin(&[("user", "postgres")]);
    let error = wire.last_words();
    assert_eq!(error.sqlstate, Some(SqlState::IDLE_SESSION_TIMEOUT));
}

#[test]
fn the_backends_leg_is_encrypted_and_verified() {
    let authority = Authority::new("ca");
    let postgres = encrypted(&authority);
    let tls = format!("tls: {{ca_file: {}}}", authority.ca_file.display());
    let (_evergate, listens) = before(&[postgres.addr()], &[&tls], &[]);
    assert_eq!(
        answer(psql_as(listens, "sslmode=disable", IS_ENCRYPTED)),
        "t"
    );
    let (mut wire, key) = Wire::login(listens);
    expect_that_it_cancels(&key, &mut wire, &postgres, listens);

    let other = Authority::new("other");
    let tls = format!("tls: {{ca_file: {}}}", other.ca_file.display());
    let hold = "failover: {hold: {for: 200ms, max_sessions: 1000}}";
    let (_evergate, listens) = before(&[postgres.addr()], &[&tls, hold], &[]);
    let said = complaint(psql_as(listens, "", "select 1"));
    assert!(
        said.contains("encrypted connection to the server failed"),
        "{said}"
    );
}

#[test]
fn a_backend_that_has_no_tls_or_stuffs_bytes_is_refused() {
    let plain = Postgres::start();
    let stuffing = server(|mut stream| {
        let mut request = [0; 8];
        if stream.read_exact(&mut request).is_ok() {
            let _ = stream.write_all(b"SR\0\0\0\x08\0\0\0\0");
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    for backend in [plain.addr(), stuffing] {
        let keys = [
            "tls: {mode: insecure}",
            "failover: {hold: {for: 200ms, max_sessions: 1000}}",
        ];
        let (evergate, listens) = before(&[backend], &keys, &[]);
        let said = complaint(psql_as(listens, "", "select 1"));
        assert!(
            said.contains("encrypted connection to the server failed"),
            "{said}"
        );
        let failed = evergate.metric(
            "evergate_backend_connect_errors_total",
            &[("reason", "tls_failed")],
        );
        assert!(failed.is_some_and(|count| count > 0.0));
    }
}

#[test]
fn tls_passes_through_from_end_to_end() {
    let authority = Authority::new("ca");
    let postgres = encrypted(&authority);
    let (_evergate, listens) = before(&[postgres.addr()], &[], &["tls: passthrough"]);
    let verify = format!(
        "sslmode=verify-full sslrootcert={}",
        authority.ca_file.display()
    );
    assert_eq!(answer(psql_as(listens, &verify, IS_ENCRYPTED)), "t");
    assert_eq!(
        answer(psql_as(listens, "sslmode=disable", IS_ENCRYPTED)),
        "f"
    );

    // A cancel with the server's own key, which nobody could exchange.
    let mut stream = connect(listens);
    stream.write_all(&frontend::ssl_request()).unwrap();
    let mut accepted = [0];
    stream.read_exact(&mut accepted).unwrap();
    assert_eq!(accepted, *b"S");
    let mut wire = Wire::over(over_tls(stream, trusting_anything()));
    let key = wire.begin(&[("user", "postgres")]).unwrap();
    expect_that_it_cancels(&key, &mut wire, &postgres, listens);
}

#[test]
fn direct_tls_passes_through_unread() {
    let hello = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03 and so on";
    let echo = server(|mut stream| {
        let mut bytes = [0; 64];
        while let Ok(read @ 1..) = stream.read(&mut bytes) {
            let _ = stream.write_all(&bytes[..read]);
        }
    });
    let (_evergate, listens) = before(&[echo], &[], &["tls: passthrough"]);
    let mut client = connect(listens);
    client.write_all(hello).unwrap();
    let mut back = vec![0; hello.len()];
    client.read_exact(&mut back).unwrap();
    assert_eq!(back, hello);
}

#[test]
fn tls_is_not_promised_to_a_client_that_stuffs_bytes() {
    let (authority, postgres) = (Authority::new("ca"), Postgres::start());
    let (_evergate, listens) = ending_tls(&authority, &[postgres.addr()], "");
    let startup = frontend::startup_message(&[("user", "postgres")]);
    let mut client = connect(listens);
    client
        .write_all(&[frontend::ssl_request(), startup].concat())
        .unwrap();
    let mut said = Vec::new();
    let _ = client.read_to_end(&mut said);
    assert_eq!(said.first(), Some(&b'E'), "{}", said.escape_ascii());
}
