//! The proxies under comparison, each with one worker on the first core.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::cases::Case;
use crate::shared::proxy::Running;
use crate::shared::proxy::evergate_binary;
use crate::support::ports::free_addr;
use crate::support::process::installed;
use crate::support::process::words;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Evergate,
    Haproxy,
    Nginx,
}

impl Peer {
    pub const ALL: [Self; 3] = [Self::Evergate, Self::Haproxy, Self::Nginx];

    pub fn start(self, backend: SocketAddr, case: &Case) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let address = free_addr();
        let command = match self {
            Self::Evergate => evergate(dir.path(), (address, backend), case.protocol),
            Self::Haproxy => haproxy(dir.path(), address, backend, case.splice),
            Self::Nginx => nginx(dir.path(), address, backend),
        };
        Running::start(command, address, dir)
    }
}

fn evergate(
    dir: &Path,
    (address, backend): (SocketAddr, SocketAddr),
    protocol: &str,
) -> Vec<String> {
    let admin = free_addr();
    let text = format!(
        "version: 1\nworkers: 1\nadmin: {{bind: \"{admin}\"}}\n\
         clusters:\n  c:\n    protocol: {protocol}\n    health_check: {{kind: tcp}}\n    \
         backends: [\"{backend}\"]\n\
         listeners:\n  l: {{bind: \"{address}\", cluster: c}}\n"
    );
    let file = dir.join("evergate.yaml");
    fs::write(&file, text).unwrap();
    words(&[&evergate_binary(), "run", "-c", file.to_str().unwrap()])
}

fn haproxy(dir: &Path, address: SocketAddr, backend: SocketAddr, splice: bool) -> Vec<String> {
    let option = if splice {
        "    option splice-response\n"
    } else {
        ""
    };
    let text = format!(
        "global\n    nbthread 1\n    maxconn 6000\n\
         defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n\
         {option}\
         frontend f\n    bind {address}\n    default_backend b\n\
         backend b\n    balance leastconn\n    server s {backend} check inter 1s\n"
    );
    let file = dir.join("haproxy.cfg");
    fs::write(&file, text).unwrap();
    let binary = installed("haproxy", "haproxy");
    words(&[&binary, "-db", "-f", file.to_str().unwrap()])
}

fn nginx(dir: &Path, address: SocketAddr, backend: SocketAddr) -> Vec<String> {
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let load = if Path::new(module).exists() {
        format!("load_module {module};\n")
    } else {
        String::new()
    };
    let text = format!(
        "{load}daemon off;\nworker_processes 1;\nworker_rlimit_nofile 20000;\n\
         pid {path}/nginx.pid;\nerror_log stderr;\n\
         events {{ worker_connections 9900; }}\n\
         stream {{\n  upstream u {{ least_conn; server {backend}; }}\n\
         server {{ listen {address}; proxy_pass u; proxy_timeout 1h; tcp_nodelay on; }}\n}}\n",
        path = dir.display()
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, text).unwrap();
    let binary = installed("nginx", "nginx-light");
    words(&[&binary, "-c", file.to_str().unwrap(), "-e", "stderr"])
}
