//! Real servers behind the proxy: PostgreSQL, Redis, nginx, HAProxy.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use evergate::config::CertificatePair;
use rustls::ClientConnection;
use rustls::StreamOwned;
use rustls::version::TLS13;
use tempfile::TempDir;

use crate::pki::Authority;
use crate::support::PATIENCE;
use crate::support::SetWhenDropped;
use crate::support::Watchdog;
use crate::support::evergate::Evergate;
use crate::support::evergate::Until;
use crate::support::http;
use crate::support::ports::free_addr;
use crate::support::postgres::Postgres;
use crate::support::postgres::pgbench;
use crate::support::postgres::pgbench_tables;
use crate::support::postgres::psql;
use crate::support::process::Process;
use crate::support::process::installed;
use crate::support::process::words;
use crate::support::redis::Redis;
use crate::support::redis::redis_benchmark;
use crate::support::redis::redis_cli;
use crate::support::talk::connect;
use crate::support::talk::connect_from;
use crate::support::talk::file;
use crate::support::talk::plain;
use crate::support::talk::rest;
use crate::support::wait_until;
use crate::support::webserver::Haproxy;
use crate::support::webserver::Nginx;

const LIMIT: Duration = Duration::from_secs(90);

/// Work that goes on while servers are killed, judged afterwards.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    /// When each piece of work began and ended, and what went wrong.
    pieces: Mutex<Vec<(Instant, Instant, Option<String>)>>,
    /// From just before each death until it was complete.
    deaths: Mutex<Vec<(Instant, Instant)>>,
}

impl Load {
    /// Repeats a piece of work until the end; it says what went wrong, if anything did.
    fn run(&self, piece: impl Fn() -> Option<String>) {
        while !self.stop.load(Ordering::Acquire) {
            let began = Instant::now();
            let failure = piece();
            let mut pieces = self.pieces.lock().unwrap();
            pieces.push((began, Instant::now(), failure));
        }
    }

    fn kill(&self, kill: impl FnOnce()) {
        let began = Instant::now();
        kill();
        self.deaths.lock().unwrap().push((began, Instant::now()));
    }

    /// Returns when so many pieces of work that began after this call have ended.
    #[track_caller]
    fn wait_for_more(&self, count: usize) {
        let since = Instant::now();
        wait_until(PATIENCE, "more work", || {
            let pieces = self.pieces.lock().unwrap();
            let fresh = pieces.iter().filter(|(began, _, _)| *began > since);
            fresh.count() >= count
        });
    }

    /// Ends with the guard, also when a test fails.
    fn until_dropped(&self) -> SetWhenDropped<'_> {
        SetWhenDropped(&self.stop)
    }

    /// Only what was under way at a death may have failed; enough began afterwards to prove it.
    #[track_caller]
    fn expect_failures_only_at_deaths(&self) {
        let (pieces, deaths) = (self.pieces.lock().unwrap(), self.deaths.lock().unwrap());
        let overlaps = |began: Instant, ended: Instant| {
            let mut deaths = deaths.iter();
            deaths.any(|(first, last)| began <= *last && ended >= *first)
        };
        let mut after = 0;
        for (began, ended, failure) in pieces.iter() {
            if !overlaps(*began, *ended) {
                assert_eq!(*failure, None, "nothing died while this ran");
                after += usize::from(deaths.iter().any(|(_, last)| began > last));
            }
        }
        assert!(!deaths.is_empty());
        assert!(after >= 10, "only {after} pieces of work after a death");
    }
}

fn connections_of(evergate: &Evergate, backend: &str) -> f64 {
    let labels = [("backend", backend)];
    let total = evergate.metric("evergate_backend_connections_total", &labels);
    total.unwrap_or(0.0)
}

#[track_caller]
fn wait_for_down(evergate: &Evergate, backend: &str) {
    evergate.wait_for_metric("evergate_backend_up", &[("backend", backend)], 0.0);
}

/// B2, with the real thing: short sessions of psql and of pgbench, each with a connection of its own.
#[test]
fn a_killed_postgres_fails_no_new_connection() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let mut postgres = thread::scope(|scope| {
        let starts = [(); 3].map(|()| {
            scope.spawn(|| {
                let postgres = Postgres::start();
                pgbench_tables(postgres.addr());
                postgres
            })
        });
        starts.map(|start| start.join().unwrap())
    });
    let listens = free_addr();
    let backends = plain(&postgres.each_ref().map(Postgres::addr));
    // A server that recovers from a crash accepts connections long before it serves them.
    let is_ready = installed("pg_isready", "postgresql-client-15");
    let check = format!(
        "health_check: {{kind: exec, interval: 500ms, timeout: 500ms, \
         command: [sh, -c, \"{is_ready} -h $$EVERGATE_ADDRESS -p $$EVERGATE_PORT\"]}}"
    );
    let evergate = Evergate::start(&file(listens, &backends, &[&check]));
    let load = Load::default();
    thread::scope(|scope| {
        let _end = load.until_dropped();
        for _ in 0..2 {
            scope.spawn(|| load.run(|| failed_psql(listens)));
        }
        scope.spawn(|| load.run(|| failed_pgbench(listens)));
        wait_until(PATIENCE, "load on the first", || {
            connections_of(&evergate, "a") >= 5.0
        });
        load.kill(|| postgres[0].kill9());
        load.wait_for_more(20);
        wait_for_down(&evergate, "a");
        let before = connections_of(&evergate, "a");
        postgres[0].start_again();
        wait_until(PATIENCE, "it is used again", || {
            connections_of(&evergate, "a") >= before + 5.0
        });
    });
    load.expect_failures_only_at_deaths();
}

fn failed_psql(listens: SocketAddr) -> Option<String> {
    let output = psql(listens, "select count(*) from pgbench_branches");
    let failed = !output.status.success() || output.stdout != b"1\n";
    failed.then(|| format!("{output:?}"))
}

fn failed_pgbench(listens: SocketAddr) -> Option<String> {
    let result = pgbench(listens, &["-S", "-C", "-c2", "-t10"]);
    let whole = result.complete && result.failed == 0 && result.transactions == 20;
    (!whole).then_some(result.output)
}

#[test]
fn redis_servers_come_and_go_and_no_new_connection_fails() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let mut servers = [(); 3].map(|()| Redis::start());
    let listens = free_addr();
    let backends = plain(&servers.each_ref().map(Redis::addr));
    let checks = "health_check: {interval: 500ms, timeout: 500ms, rise: 1, max_damping: 0s, \
                  send: \"PING\\r\\n\", expect: PONG}";
    let evergate = Evergate::start(&file(listens, &backends, &[checks]));
    let load = Load::default();
    thread::scope(|scope| {
        let _end = load.until_dropped();
        scope.spawn(|| load.run(|| failed_benchmark(listens, "1")));
        // A connection for each request.
        scope.spawn(|| load.run(|| failed_benchmark(listens, "0")));
        scope.spawn(|| load.run(|| failed_ping(listens)));
        for (server, name) in servers.iter_mut().zip(["a", "b", "c"]) {
            load.wait_for_more(5);
            load.kill(|| server.kill9());
            load.wait_for_more(5);
            wait_for_down(&evergate, name);
            let before = connections_of(&evergate, name);
            server.start_again();
            wait_until(PATIENCE, "it is used again", || {
                connections_of(&evergate, name) >= before + 5.0
            });
        }
    });
    load.expect_failures_only_at_deaths();
}

fn failed_benchmark(listens: SocketAddr, keep_alive: &str) -> Option<String> {
    let run = ["-t", "get", "-c", "5", "-n", "200", "-k", keep_alive];
    let result = redis_benchmark(listens, &run);
    let whole = result.complete && result.requests_per_second > 0.0;
    (!whole).then_some(result.output)
}

fn failed_ping(listens: SocketAddr) -> Option<String> {
    let output = redis_cli(listens, &["PING"]);
    (output.stdout != b"PONG\n").then(|| format!("{output:?}"))
}

/// A directory that nginx may look into: its worker is nobody.
fn public_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

#[track_caller]
fn expect_only(listens: SocketAddr, name: &str) {
    for _ in 0..20 {
        assert_eq!(http::get(listens, "/").unwrap().text(), name);
    }
}

#[track_caller]
fn wait_until_both(listens: SocketAddr) {
    wait_until(PATIENCE, "both serve", || {
        let names = [(); 10].map(|()| http::get(listens, "/").unwrap().text());
        names.contains(&"a".to_owned()) && names.contains(&"b".to_owned())
    });
}

#[test]
fn a_503_takes_an_nginx_out_and_a_200_brings_it_back() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let flags = public_dir();
    let (a, b, listens) = (free_addr(), free_addr(), free_addr());
    let server = |addr: SocketAddr, name: &str| {
        let flag = flags.path().join(name);
        format!(
            "server {{ listen {addr}; location / {{ return 200 {name}; }}\n\
             location /health {{ if (-f {}) {{ return 503; }} return 200 healthy; }} }}\n",
            flag.display()
        )
    };
    let _nginx = Nginx::http(&(server(a, "a") + &server(b, "b")), b);
    let check = "health_check: {kind: http, path: /health, body: healthy, \
                 interval: 500ms, timeout: 500ms, rise: 2, fall: 2}";
    let backends = plain(&[a, b]);
    let evergate = Evergate::start(&file(listens, &backends, &[check]));
    wait_until_both(listens);
    fs::write(flags.path().join("a"), "").unwrap();
    evergate.wait_for_metric("evergate_backend_up", &[("backend", "a")], 0.0);
    expect_only(listens, "b");
    fs::remove_file(flags.path().join("a")).unwrap();
    wait_until_both(listens);
}

#[test]
fn the_exit_code_of_a_command_decides_about_a_backend() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let flags = public_dir();
    let (a, b, listens) = (free_addr(), free_addr(), free_addr());
    let servers = [(a, "a"), (b, "b")].map(|(addr, name)| {
        format!("server {{ listen {addr}; location / {{ return 200 {name}; }} }}\n")
    });
    let _nginx = Nginx::http(&servers.concat(), b);
    let script = format!("test ! -e {}/$EVERGATE_BACKEND", flags.path().display());
    let check = format!(
        "health_check: {{kind: exec, command: [sh, -c, \"{}\"], interval: 1s, timeout: 1s, fall: 2}}",
        script.replace('$', "$$")
    );
    let evergate = Evergate::start(&file(listens, &plain(&[a, b]), &[&check]));
    wait_until_both(listens);
    fs::write(flags.path().join("b"), "").unwrap();
    evergate.wait_for_metric("evergate_backend_up", &[("backend", "b")], 0.0);
    expect_only(listens, "a");
    fs::remove_file(flags.path().join("b")).unwrap();
    wait_until_both(listens);
}

/// `tls: {…}` of a listener.
fn certificate_keys(pair: &CertificatePair) -> String {
    let (cert, key) = (pair.cert_file.display(), pair.key_file.display());
    format!("cert_file: {cert}, key_file: {key}")
}

fn redis_over_tls(listens: SocketAddr, ca: &Path, more: &[&str]) -> String {
    let ca = ca.to_str().unwrap();
    let tls = ["--tls", "--cacert", ca];
    let output = redis_cli(listens, &[&tls, more, &["PING"]].concat());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A Redis that speaks TLS only.
fn tls_redis(pair: &CertificatePair, authority: &Authority) -> (Process, SocketAddr, TempDir) {
    let (addr, dir) = (free_addr(), tempfile::tempdir().unwrap());
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let command = words(&[
        &installed("redis-server", "redis-server"),
        "--bind",
        "127.0.0.1",
        "--port",
        "0",
        "--tls-port",
        &addr.port().to_string(),
        "--tls-cert-file",
        &text(&pair.cert_file),
        "--tls-key-file",
        &text(&pair.key_file),
        "--tls-ca-cert-file",
        &text(&authority.ca_file),
        "--tls-auth-clients",
        "no",
        "--save",
        "",
    ]);
    let process = Process::start(&command, &[], dir.path());
    wait_until(PATIENCE, "Redis answers over TLS", || {
        redis_over_tls(addr, &authority.ca_file, &[]) == "PONG\n"
    });
    (process, addr, dir)
}

#[test]
fn tls_of_clients_ends_here_and_the_right_certificate_opens_the_door() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (authority, other) = (Authority::new("ours"), Authority::new("other"));
    let server = authority.issue("server", &["localhost"]);
    let client = authority.issue("client", &["client"]);
    let stranger = other.issue("stranger", &["client"]);
    let redis = Redis::start();
    let (open, closed) = (free_addr(), free_addr());
    let keys = certificate_keys(&server);
    let ca = authority.ca_file.display();
    let yaml = format!(
        "clusters:\n  c: {{backends: [\"{}\"]}}\nlisteners:\n  \
         open: {{bind: \"{open}\", cluster: c, tls: {{{keys}}}}}\n  \
         closed: {{bind: \"{closed}\", cluster: c, tls: {{{keys}, client_ca_file: {ca}}}}}\n",
        redis.addr()
    );
    let evergate = Evergate::start(&yaml);
    assert_eq!(redis_over_tls(open, &authority.ca_file, &[]), "PONG\n");
    // Who does not trust the certificate does not speak.
    assert_eq!(redis_over_tls(open, &other.ca_file, &[]), "");
    // Plain text on a TLS port is refused, not passed on.
    assert_eq!(redis_cli(open, &["PING"]).stdout, b"");

    let with = |pair: &CertificatePair| {
        let (cert, key) = (pair.cert_file.to_str(), pair.key_file.to_str());
        let pair = ["--cert", cert.unwrap(), "--key", key.unwrap()];
        redis_over_tls(closed, &authority.ca_file, &pair)
    };
    assert_eq!(with(&client), "PONG\n");
    assert_eq!(with(&stranger), "");
    assert_eq!(redis_over_tls(closed, &authority.ca_file, &[]), "");
    let refused = [("listener", "closed"), ("reason", "tls_failed")];
    evergate.wait_for_metric(
        "evergate_listener_connections_rejected_total",
        &refused,
        2.0,
    );
}

#[test]
fn tls_to_backends_is_verified_and_a_false_one_gets_no_session() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (authority, other) = (Authority::new("ours"), Authority::new("other"));
    let server = authority.issue("server", &["redis.example"]);
    let (_redis, addr, _dir) = tls_redis(&server, &authority);
    let start = |ca: &Authority, name: &str| {
        let listens = free_addr();
        let tls = format!(
            "tls: {{ca_file: {}, server_name: {name}}}",
            ca.ca_file.display()
        );
        let check = "health_check: {kind: tls, interval: 500ms, timeout: 500ms}";
        // Sessions try even though the check failed: what they meet is verified too.
        let failover = "failover: {panic: try_all, hold: {for: 0s, max_sessions: 0}}";
        let keys = [&tls, check, failover, "connect: {timeout: 9s}"];
        let yaml = file(listens, &plain(&[addr]), &keys);
        (Evergate::with(&yaml).until(Until::Alive).start(), listens)
    };
    let (evergate, listens) = start(&authority, "redis.example");
    evergate.wait_for_metric("evergate_backend_up", &[], 1.0);
    assert_eq!(redis_cli(listens, &["PING"]).stdout, b"PONG\n");

    for (ca, name) in [(&other, "redis.example"), (&authority, "other.example")] {
        let (evergate, listens) = start(ca, name);
        evergate.wait_for_log("health changed");
        assert_eq!(evergate.metric("evergate_backend_up", &[]), Some(0.0));
        assert_eq!(rest(&mut connect(listens)), b"", "{name}");
        let errors = [("reason", "tls_failed")];
        evergate.wait_for_metric("evergate_backend_connect_errors_total", &errors, 1.0);
    }
}

#[test]
fn tls_passes_through_to_the_backend_that_the_server_name_asks_for() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("ours");
    let one = authority.issue("one", &["one.example"]);
    let two = authority.issue("two", &["a.two.example"]);
    let (_one, one_addr, _one_dir) = tls_redis(&one, &authority);
    let (_two, two_addr, _two_dir) = tls_redis(&two, &authority);
    let listens = free_addr();
    let yaml = format!(
        "clusters:\n  one: {{backends: [\"{one_addr}\"]}}\n  two: {{backends: [\"{two_addr}\"]}}\n\
         listeners:\n  l:\n    bind: \"{listens}\"\n    routes:\n    \
         - {{sni: one.example, cluster: one}}\n    - {{sni: \"*.two.example\", cluster: two}}\n"
    );
    let evergate = Evergate::start(&yaml);
    let server_of = |name: &str| {
        let ca = authority.ca_file.to_str().unwrap();
        let tls = ["--tls", "--cacert", ca, "--sni", name];
        let output = redis_cli(
            listens,
            &[&tls[..], &["CONFIG", "GET", "tls-port"]].concat(),
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let port = |addr: SocketAddr| format!("tls-port\n{}\n", addr.port());
    assert_eq!(server_of("one.example"), port(one_addr));
    assert_eq!(server_of("ONE.example"), port(one_addr));
    assert_eq!(server_of("a.two.example"), port(two_addr));
    for nobody in ["three.example", "b.a.two.example", "two.example"] {
        assert_eq!(server_of(nobody), "", "{nobody}");
    }
    // redis-cli tries again by itself.
    let rejected = "evergate_listener_connections_rejected_total";
    assert!(evergate.metric(rejected, &[("reason", "no_route")]) >= Some(3.0));
}

/// The client's address goes HAProxy → Evergate → nginx and HAProxy, in every version of the header.
#[test]
fn the_clients_address_arrives_through_two_proxies() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let [v1, v2, accepts, origin, second] = [(); 5].map(|()| free_addr());
    let _nginx = Nginx::http(
        &format!(
            "server {{ listen {origin} proxy_protocol; location / \
             {{ return 200 $proxy_protocol_addr:$proxy_protocol_port; }} }}"
        ),
        origin,
    );
    let _haproxy = Haproxy::start(
        &format!(
            "defaults\n timeout client 9s\n timeout server 9s\n timeout connect 9s\n\
             listen one\n mode tcp\n bind {v1}\n server e {accepts} send-proxy\n\
             listen two\n mode tcp\n bind {v2}\n server e {accepts} send-proxy-v2\n\
             frontend last\n mode http\n bind {second} accept-proxy\n \
             http-request return status 200 content-type text/plain lf-string %[src]:%[src_port]\n"
        ),
        second,
    );
    for backend in [origin, second] {
        let yaml = file(accepts, &plain(&[backend]), &["send_proxy_protocol: v2"]);
        let accept = "cluster: c, proxy_protocol: accept, proxy_protocol_from: [127.0.0.1]}";
        let evergate = Evergate::start(&yaml.replace("cluster: c}", accept));
        for (front, from) in [(v1, [127, 0, 0, 71]), (v2, [127, 0, 0, 72])] {
            let mut client = connect_from(Ipv4Addr::from(from), front);
            let address = client.local_addr().unwrap().to_string();
            let host = front.to_string();
            let answer = http::exchange(&mut client, &host, "GET", "/", &[], b"").unwrap();
            assert_eq!(answer.text(), address);
        }
        // HAProxy 127.0.0.1 may tell; who says it himself from elsewhere may not.
        let mut liar = connect_from(Ipv4Addr::new(127, 0, 0, 73), accepts);
        let _ = liar.write_all(b"PROXY TCP4 1.2.3.4 1.2.3.4 5 6\r\n");
        assert_eq!(rest(&mut liar), b"");
        let denied = [("reason", "denied")];
        evergate.wait_for_metric("evergate_listener_connections_rejected_total", &denied, 1.0);
    }
}

/// Header first, then TLS that ends here: the order in which load balancers in front send it.
#[test]
fn a_proxy_header_comes_before_the_tls_handshake() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let [front, accepts, origin] = [(); 3].map(|()| free_addr());
    let authority = Authority::new("ours");
    let server = authority.issue("server", &["localhost"]);
    let _nginx = Nginx::http(
        &format!(
            "server {{ listen {origin} proxy_protocol; location / \
             {{ return 200 $proxy_protocol_addr:$proxy_protocol_port; }} }}"
        ),
        origin,
    );
    let _haproxy = Haproxy::start(
        &format!(
            "defaults\n timeout client 9s\n timeout server 9s\n timeout connect 9s\n\
             listen two\n mode tcp\n bind {front}\n server e {accepts} send-proxy-v2\n"
        ),
        front,
    );
    let yaml = file(accepts, &plain(&[origin]), &["send_proxy_protocol: v2"]);
    let accept = format!(
        "cluster: c, tls: {{{}}}, proxy_protocol: accept, proxy_protocol_from: [127.0.0.1]}}",
        certificate_keys(&server)
    );
    let _evergate = Evergate::start(&yaml.replace("cluster: c}", &accept));
    let client = connect_from(Ipv4Addr::new(127, 0, 0, 74), front);
    let address = client.local_addr().unwrap().to_string();
    let config = Arc::new(authority.trusting(&[&TLS13]));
    let tls = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(tls, client);
    let answer = http::exchange(&mut stream, "localhost", "GET", "/", &[], b"").unwrap();
    assert_eq!(answer.text(), address);
}
