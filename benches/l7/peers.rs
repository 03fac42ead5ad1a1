//! The proxies under comparison and what stands behind them.
//!
//! All of them keep clients and backends connected and log no request. Evergate runs with its
//! defaults, and so tells the backend who asks for what (`Forwarded`, `X-Forwarded-*`, `Via`, a
//! request id). The others do it when they are told to, and are measured both ways: with the same
//! fields, and with nothing but `X-Forwarded-For`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;

use crate::pki::Authority;
use crate::shared::proxy::Running;
use crate::shared::proxy::evergate_binary;
use crate::support::ports::free_addr;
use crate::support::process::installed;
use crate::support::process::words;
use crate::support::webserver::Nginx;

/// In the certificate, and in every request.
pub const HOST: &str = "shop.test";
/// What the backend answers.
pub const BODY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// The one that all of them offer, as OpenSSL calls it.
pub const CIPHER: &str = "TLS_AES_128_GCM_SHA256";

const HAPROXY_FIELDS: &str = "    http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Port %[dst_port]
    http-request set-header Forwarded for=%[src];host=%[req.hdr(host)];proto=%[ssl_fc,iif(https,http)]
    http-request set-header X-Request-Id %[uuid]
    http-request add-header Via \"1.1 haproxy\"
    http-response add-header Via \"1.1 haproxy\"
";
const NGINX_FIELDS: &str = "proxy_set_header X-Forwarded-Proto $scheme;
proxy_set_header X-Forwarded-Host $http_host;
proxy_set_header X-Forwarded-Port $server_port;
proxy_set_header Forwarded \"for=$remote_addr;host=$http_host;proto=$scheme\";
proxy_set_header X-Request-Id $request_id;
proxy_set_header Via \"1.1 nginx\";
add_header Via \"1.1 nginx\";
";

/// Idle connections to the backend, more than requests under way; HAProxy keeps all.
const KEPT: usize = 128;

/// What a listener speaks with its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1 in the clear.
    One,
    /// HTTP/2 in the clear, by prior knowledge.
    Two,
    /// HTTP/1.1 over TLS 1.3.
    Tls,
}

/// What all proxies share.
pub struct Stage {
    backend: SocketAddr,
    /// Certificate and key; ECDSA on P-256.
    cert_file: PathBuf,
    key_file: PathBuf,
    /// Both in one file, as HAProxy wants it.
    pair_file: PathBuf,
    pub authority: Authority,
    _nginx: Nginx,
}

pub enum Peer {
    /// Its binary.
    Evergate(String),
    /// That of another build.
    Baseline(String),
    Haproxy(Fields),
    Nginx(Fields),
}

/// What a peer adds to messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fields {
    /// What Evergate adds.
    Same,
    /// The client's address.
    Few,
}

impl Stage {
    pub fn start() -> Self {
        let backend = free_addr();
        let authority = Authority::new("bench");
        let pair = authority.issue("shop", &[HOST]);
        let both = [&pair.cert_file, &pair.key_file].map(|file| fs::read_to_string(file).unwrap());
        let nginx = Nginx::raw(
            &format!(
                "http {{\naccess_log off;\nkeepalive_requests 1000000000;\nkeepalive_timeout 1h;\n\
                 server {{ listen {backend}; location / {{ return 200 {BODY}; }} }}\n}}\n"
            ),
            backend,
        );
        Self {
            backend,
            pair_file: authority.write("both.pem", &both.concat()),
            cert_file: pair.cert_file,
            key_file: pair.key_file,
            authority,
            _nginx: nginx,
        }
    }
}

impl Peer {
    /// Evergate first.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::Evergate(evergate_binary())];
        all.extend(std::env::var("BENCH_BASELINE").map(Self::Baseline));
        all.extend([Fields::Same, Fields::Few].map(Self::Haproxy));
        all.extend([Fields::Same, Fields::Few].map(Self::Nginx));
        all
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Evergate(_) => "evergate",
            Self::Baseline(_) => "baseline",
            Self::Haproxy(Fields::Same) => "haproxy",
            Self::Haproxy(Fields::Few) => "haproxy-",
            Self::Nginx(Fields::Same) => "nginx",
            Self::Nginx(Fields::Few) => "nginx-",
        }
    }

    /// What it adds, if it is none of Evergate's builds.
    pub fn fields(&self) -> Option<Fields> {
        match self {
            Self::Evergate(_) | Self::Baseline(_) => None,
            Self::Haproxy(fields) | Self::Nginx(fields) => Some(*fields),
        }
    }

    pub fn start(&self, stage: &Stage, speaks: Speaks) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let address = free_addr();
        let command = match self {
            Self::Evergate(binary) | Self::Baseline(binary) => {
                evergate(binary, dir.path(), address, (stage, speaks))
            }
            Self::Haproxy(fields) => haproxy(dir.path(), address, *fields, (stage, speaks)),
            Self::Nginx(fields) => nginx(dir.path(), address, *fields, (stage, speaks)),
        };
        Running::start(command, address, dir)
    }
}

fn evergate(
    binary: &str,
    dir: &Path,
    address: SocketAddr,
    (stage, speaks): (&Stage, Speaks),
) -> Vec<String> {
    let admin = free_addr();
    let backend = stage.backend;
    let tls = match speaks {
        Speaks::One | Speaks::Two => String::new(),
        Speaks::Tls => format!(
            ", tls: {{cert_file: \"{}\", key_file: \"{}\"}}",
            stage.cert_file.display(),
            stage.key_file.display()
        ),
    };
    let text = format!(
        "version: 1\nworkers: 1\nadmin: {{bind: \"{admin}\"}}\n\
         clusters:\n  c: {{protocol: http, backends: [\"{backend}\"], health_check: {{kind: tcp}}, http: {{max_idle: {KEPT}}}}}\n\
         listeners:\n  l: {{bind: \"{address}\", cluster: c, http: {{keep_alive: 1h}}{tls}}}\n"
    );
    let file = dir.join("evergate.yaml");
    fs::write(&file, text).unwrap();
    words(&[binary, "run", "-c", file.to_str().unwrap()])
}

fn haproxy(
    dir: &Path,
    address: SocketAddr,
    fields: Fields,
    (stage, speaks): (&Stage, Speaks),
) -> Vec<String> {
    let backend = stage.backend;
    let bind = match speaks {
        Speaks::One => String::new(),
        Speaks::Two => " proto h2".to_owned(),
        Speaks::Tls => format!(" ssl crt {} alpn http/1.1", stage.pair_file.display()),
    };
    let fields = match fields {
        Fields::Same => HAPROXY_FIELDS,
        Fields::Few => "",
    };
    let text = format!(
        "global\n    nbthread 1\n    maxconn 7000\n\
         defaults\n    mode http\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n\
         \x20   timeout http-keep-alive 1h\n    http-reuse always\n    option forwardfor\n\
         frontend f\n    bind {address}{bind}\n    default_backend b\n\
         {fields}\
         backend b\n    server s {backend} check inter 1s\n"
    );
    let file = dir.join("haproxy.cfg");
    fs::write(&file, text).unwrap();
    let binary = installed("haproxy", "haproxy");
    words(&[&binary, "-db", "-f", file.to_str().unwrap()])
}

fn nginx(
    dir: &Path,
    address: SocketAddr,
    fields: Fields,
    (stage, speaks): (&Stage, Speaks),
) -> Vec<String> {
    let backend = stage.backend;
    let (listen, tls) = match speaks {
        Speaks::One => ("", String::new()),
        Speaks::Two => (" http2", String::new()),
        Speaks::Tls => (
            " ssl",
            format!(
                "ssl_protocols TLSv1.3; ssl_certificate {}; ssl_certificate_key {};\n",
                stage.cert_file.display(),
                stage.key_file.display()
            ),
        ),
    };
    let fields = match fields {
        Fields::Same => NGINX_FIELDS,
        Fields::Few => "",
    };
    let path = dir.display();
    let scratch: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {path}/{kind};\n"))
        .collect();
    let text = format!(
        "daemon off;\nworker_processes 1;\nworker_rlimit_nofile 20000;\n\
         pid {path}/nginx.pid;\nerror_log stderr;\n\
         events {{ worker_connections 9900; }}\n\
         http {{\n{scratch}access_log off;\n\
         upstream u {{ server {backend}; keepalive {KEPT}; keepalive_requests 1000000000; }}\n\
         server {{\n\
         listen {address}{listen};\n{tls}keepalive_timeout 1h;\nkeepalive_requests 1000000000;\n\
         location / {{\n\
         proxy_pass http://u;\nproxy_http_version 1.1;\n\
         proxy_set_header Connection \"\";\nproxy_set_header Host $http_host;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         {fields}\
         }}\n}}\n}}\n"
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, text).unwrap();
    let binary = installed("nginx", "nginx-light");
    words(&[&binary, "-c", file.to_str().unwrap(), "-e", "stderr"])
}
