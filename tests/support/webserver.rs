//! nginx and HAProxy as backends and as peers that speak the PROXY protocol.

use std::fs;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::Path;

use tempfile::TempDir;

use super::PATIENCE;
use super::netns::Place;
use super::process::Process;
use super::process::installed;
use super::process::words;
use super::wait_until;

pub struct Nginx {
    process: Process,
    dir: TempDir,
}

impl Nginx {
    /// Serves `servers` (`server { … }` blocks) and waits until `listens` accepts.
    #[track_caller]
    pub fn http(servers: &str, listens: SocketAddr) -> Self {
        Self::http_in(&Place::host(), servers, listens)
    }

    #[track_caller]
    pub fn http_in(place: &Place, servers: &str, listens: SocketAddr) -> Self {
        let dir = scratch();
        let path = dir.path().display();
        let scratch: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("    {kind}_temp_path {path}/{kind};\n"))
            .collect();
        let body = format!("http {{\n{scratch}    access_log {path}/access.log;\n{servers}\n}}\n");
        Self::run(place, dir, &body, listens)
    }

    /// Runs a whole configuration after the lines that make it testable.
    #[track_caller]
    pub fn raw(body: &str, listens: SocketAddr) -> Self {
        Self::run(&Place::host(), scratch(), body, listens)
    }

    #[track_caller]
    fn run(place: &Place, dir: TempDir, body: &str, listens: SocketAddr) -> Self {
        let path = dir.path().display();
        let text = format!(
            "daemon off;\nworker_processes 1;\npid {path}/nginx.pid;\nerror_log stderr;\n\
             events {{ worker_connections 4096; }}\n{body}"
        );
        let file = write(&dir, "nginx.conf", &text);
        let mut command = place.prefix.clone();
        command.push(installed("nginx", "nginx-light"));
        command.extend(words(&["-c", &file, "-e", "stderr"]));
        let mut process = Process::start(&command, &[], dir.path());
        wait_until_accepting(&mut process, listens);
        Self { process, dir }
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    pub fn access_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default()
    }
}

pub struct Haproxy {
    process: Process,
    _dir: TempDir,
}

impl Haproxy {
    /// Runs a whole configuration and waits until `listens` accepts.
    #[track_caller]
    pub fn start(text: &str, listens: SocketAddr) -> Self {
        let dir = scratch();
        let file = write(&dir, "haproxy.cfg", text);
        let haproxy = installed("haproxy", "haproxy");
        let command = words(&[&haproxy, "-db", "-f", &file]);
        let mut process = Process::start(&command, &[], dir.path());
        wait_until_accepting(&mut process, listens);
        Self { process, _dir: dir }
    }

    pub fn process(&self) -> &Process {
        &self.process
    }
}

fn scratch() -> TempDir {
    tempfile::Builder::new()
        .prefix("evergate-web-")
        .tempdir()
        .unwrap()
}

fn write(dir: &TempDir, name: &str, text: &str) -> String {
    let path: &Path = &dir.path().join(name);
    fs::write(path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[track_caller]
fn wait_until_accepting(process: &mut Process, addr: SocketAddr) {
    wait_until(PATIENCE, &format!("{addr} accepts"), || {
        assert!(process.is_running(), "it ended during its start");
        TcpStream::connect(addr).is_ok()
    });
}
