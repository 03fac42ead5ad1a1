//! A stage: one HTTP listener of the real binary.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

use crate::recorder::field;
use crate::support::evergate::Evergate;
use crate::support::evergate::Until;
use crate::support::ports::free_addr;

/// Longer than anything a test waits for.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What a stage is made of: YAML in flow style.
#[derive(Debug, Default)]
pub struct Plan {
    /// Name, backends and further keys of each cluster; the first is the listener's.
    pub clusters: Vec<(&'static str, Vec<SocketAddr>, String)>,
    /// Further keys of the listener.
    pub listener: String,
    has_no_default: bool,
}

pub struct Stage {
    pub evergate: Evergate,
    pub addr: SocketAddr,
}

impl Plan {
    pub fn new(backends: &[SocketAddr]) -> Self {
        Self::default().cluster("web", backends, "")
    }

    pub fn cluster(mut self, name: &'static str, backends: &[SocketAddr], keys: &str) -> Self {
        self.clusters
            .push((name, backends.to_vec(), keys.to_owned()));
        self
    }

    pub fn listener(mut self, keys: &str) -> Self {
        self.listener = keys.to_owned();
        self
    }

    /// Only routes lead somewhere.
    pub fn without_default(mut self) -> Self {
        self.has_no_default = true;
        self
    }

    pub fn yaml(&self, addr: SocketAddr) -> String {
        let mut yaml = "version: 1\nclusters:\n".to_owned();
        for (name, backends, keys) in &self.clusters {
            let check = "health_check: {interval: 200ms, path: /check, expect: [200-499]}";
            yaml += &format!(
                "  {name}: {{protocol: http, backends: {}, {check}, {keys}}}\n",
                format!("{backends:?}").replace('"', "")
            );
        }
        let default = match self.has_no_default {
            true => String::new(),
            false => format!("cluster: {}, ", self.clusters[0].0),
        };
        let keys = &self.listener;
        yaml += &format!("listeners:\n  web: {{bind: '{addr}', {default}{keys}}}\n");
        yaml
    }

    #[track_caller]
    pub fn start(&self) -> Stage {
        self.start_until(Until::Ready)
    }

    #[track_caller]
    pub fn start_until(&self, until: Until) -> Stage {
        let addr = free_addr();
        let evergate = Evergate::with(&self.yaml(addr)).until(until).start();
        Stage { evergate, addr }
    }
}

impl Stage {
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect_timeout(&self.addr, TIMEOUT).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Sends these bytes and returns everything until the proxy closes.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!(
                "the proxy neither answers nor closes ({error}): {}",
                String::from_utf8_lossy(&answer)
            ),
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// The status of the first answer.
pub fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).and_then(|it| it.parse().ok());
    status.unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

/// The head of an answer, and not a byte more.
#[track_caller]
pub fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut byte).unwrap();
        assert_eq!(read, 1, "cut off: {}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// One answer with a length, or one that has no body; not a byte more.
#[track_caller]
pub fn read_answer(stream: &mut impl Read) -> String {
    let mut answer = read_head(stream);
    let head = answer.to_ascii_lowercase();
    if let Some(length) = field(&head, "content-length") {
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        answer += &String::from_utf8_lossy(&body);
    }
    answer
}
