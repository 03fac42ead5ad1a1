//! `caching_sha2_password`, the default of MySQL 8: every row of the table in docs/configuration.md.
//!
//! Debian has no MySQL 8. The client is MariaDB's with its real plugin; the server is a script that
//! does what MySQL's `sql/auth/sha2_password.cc` does, sequence numbers included.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;

use rustls::ServerConfig;
use rustls::ServerConnection;
use rustls::StreamOwned;
use rustls::version::TLS13;
use sha2::Digest;
use sha2::Sha256;
use tempfile::TempDir;

use super::NONCE;
use super::OK;
use super::before;
use super::greeting_by;
use super::packet;
use super::read_packet;
use crate::pki;
use crate::pki::Authority;
use crate::support::backend::server;
use crate::support::mariadb::mariadb;
use crate::support::process::output_of;
use crate::support::process::run;

const PASSWORD: &str = "open sesame";
const PLUGIN: &str = "caching_sha2_password";
/// An SSLRequest is as long as this, a login is longer.
const SSL_REQUEST_BYTES: usize = 32;
/// Marks what is said between the login and its end.
const MORE_DATA: u8 = 1;
const FAST_IS_ENOUGH: u8 = 3;
const FULL_IS_NEEDED: u8 = 4;
const REQUEST_PUBLIC_KEY: &[u8] = b"\x02";
const COM_QUIT: &[u8] = b"\x01";
const ACCESS_DENIED: &[u8] = b"\xff\x15\x04#28000Access denied";

trait Leg: Read + Write {}
impl<T: Read + Write> Leg for T {}

/// Knows one password, and a key to hear it by.
struct Script {
    tls: Arc<ServerConfig>,
    keys: TempDir,
    /// The password's hash is in the cache, as after a login.
    is_cached: bool,
    /// What came in the clear instead of a scramble.
    overheard: Mutex<Vec<u8>>,
}

/// One login as the server sees it.
struct Login<'a> {
    script: &'a Script,
    leg: Box<dyn Leg>,
    is_encrypted: bool,
    /// Of the packet that comes next.
    sequence: u8,
}

impl Script {
    fn new(tls: ServerConfig, is_cached: bool) -> Self {
        let keys = tempfile::tempdir().unwrap();
        let (private, public) = (keys.path().join("private"), keys.path().join("public"));
        let (private, public) = (text(&private), text(&public));
        run(&["openssl", "genrsa", "-out", private, "2048"]);
        run(&["openssl", "rsa", "-in", private, "-pubout", "-out", public]);
        Self {
            tls: Arc::new(tls),
            keys,
            is_cached,
            overheard: Mutex::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.keys.path().join(name)
    }

    /// Whoever gives up in the midst of it is a health check, or was refused.
    fn serve(&self, mut tcp: TcpStream) -> std::io::Result<()> {
        tcp.write_all(&greeting_by(PLUGIN))?;
        let (sequence, first) = read_packet(&mut tcp)?;
        assert_eq!(sequence, 1);
        let mut login = Login {
            script: self,
            leg: Box::new(tcp.try_clone()?),
            is_encrypted: first.len() == SSL_REQUEST_BYTES,
            sequence: 2,
        };
        let mut response = first;
        if login.is_encrypted {
            let connection = ServerConnection::new(Arc::clone(&self.tls)).unwrap();
            login.leg = Box::new(StreamOwned::new(connection, tcp));
            response = login.hear()?;
        }
        let is_welcome = login.judge(&response)?;
        if !is_welcome {
            return login.say(ACCESS_DENIED);
        }
        login.say(OK)?;
        while read_packet(&mut login.leg)?.1 != COM_QUIT {
            login.leg.write_all(&packet(1, OK))?;
            login.leg.flush()?;
        }
        Ok(())
    }

    /// The password out of what was encrypted with the public key.
    fn decrypt(&self, encrypted: &[u8]) -> Vec<u8> {
        let (input, private) = (self.path("input"), self.path("private"));
        fs::write(&input, encrypted).unwrap();
        let command = ["openssl", "pkeyutl", "-decrypt", "-inkey", text(&private)];
        let how = ["-in", text(&input), "-pkeyopt", "rsa_padding_mode:oaep"];
        // Noise cannot be decrypted: no password.
        let mixed = output_of(&[&command[..], &how].concat(), &[]).stdout;
        let nonce = NONCE.iter().cycle();
        mixed.iter().zip(nonce).map(|(a, b)| a ^ b).collect()
    }
}

impl Login<'_> {
    fn hear(&mut self) -> std::io::Result<Vec<u8>> {
        let (sequence, payload) = read_packet(&mut self.leg)?;
        assert_eq!(sequence, self.sequence, "packets out of order");
        self.sequence += 1;
        Ok(payload)
    }

    fn say(&mut self, payload: &[u8]) -> std::io::Result<()> {
        self.leg.write_all(&packet(self.sequence, payload))?;
        self.sequence += 1;
        self.leg.flush()
    }

    /// Whether the login is by the right password.
    fn judge(&mut self, response: &[u8]) -> std::io::Result<bool> {
        let named = &response[SSL_REQUEST_BYTES..];
        let name_end = named.iter().position(|byte| *byte == 0).unwrap();
        let (length, rest) = named[name_end + 1..].split_first().unwrap();
        let is_right = rest[..usize::from(*length)] == scramble();
        if self.script.is_cached {
            if is_right {
                self.say(&[MORE_DATA, FAST_IS_ENOUGH])?;
            }
            return Ok(is_right);
        }
        self.say(&[MORE_DATA, FULL_IS_NEEDED])?;
        let mut answer = self.hear()?;
        if !self.is_encrypted {
            if answer == REQUEST_PUBLIC_KEY {
                let key = fs::read(self.script.path("public"))?;
                self.say(&[&[MORE_DATA][..], &key].concat())?;
                answer = self.hear()?;
            }
            self.script.overheard.lock().unwrap().clone_from(&answer);
            answer = self.script.decrypt(&answer);
        }
        Ok(answer == [PASSWORD.as_bytes(), b"\0"].concat())
    }
}

/// XOR(SHA256(password), SHA256(SHA256(SHA256(password)), nonce)).
fn scramble() -> Vec<u8> {
    let hash = |parts: &[&[u8]]| Sha256::digest(parts.concat()).to_vec();
    let once = hash(&[PASSWORD.as_bytes()]);
    let mixed = hash(&[&hash(&[&once]), NONCE]);
    once.iter().zip(mixed).map(|(a, b)| a ^ b).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a login comes to: let in or not, and what the server heard in the clear.
#[track_caller]
fn log_in(authority: &Authority, client_tls: bool, server_tls: bool, cached: bool) -> (bool, bool) {
    let own = authority.issue("server", &["127.0.0.1"]);
    let script = Arc::new(Script::new(pki::server(&own, &TLS13), cached));
    let served = Arc::clone(&script);
    let backend = server(move |stream| drop(served.serve(stream)));
    let pair = authority.issue("listener", &["127.0.0.1"]);
    let ca = text(&authority.ca_file);
    let listener = match client_tls {
        true => format!(
            ", tls: {{cert_file: \"{}\", key_file: \"{}\"}}",
            text(&pair.cert_file),
            text(&pair.key_file)
        ),
        false => String::new(),
    };
    let cluster = match server_tls {
        true => format!(", tls: {{ca_file: \"{ca}\"}}"),
        false => String::new(),
    };
    let (_evergate, listens) = before(&[backend], &cluster, &listener);
    let password = format!("--password={PASSWORD}");
    let options: &[&str] = match client_tls {
        true => &["--ssl", "--ssl-ca", ca],
        false => &["--skip-ssl"],
    };
    let options = [options, &[&password]].concat();
    let output = mariadb(listens, "app", &options, "do 1");
    let told = String::from_utf8_lossy(&output.stderr);
    let is_in = output.status.success();
    // The second is what becomes of a refusal where a key was expected.
    let is_refused = ["Access denied", "Couldn't read RSA public key"]
        .iter()
        .any(|words| told.contains(words));
    assert!(is_in != is_refused, "{told}");
    let overheard = script.overheard.lock().unwrap();
    let heard = overheard.starts_with(PASSWORD.as_bytes());
    (is_in, heard)
}

#[test]
fn caching_sha2_works_where_the_manual_says_so() {
    const WORKS: (bool, bool) = (true, false);
    let authority = Authority::new("test");
    for (client_tls, server_tls, in_full) in [
        (false, false, WORKS),
        (true, true, WORKS),
        // And the password crosses the plain side.
        (true, false, (false, true)),
        (false, true, (false, false)),
    ] {
        let login = |cached| log_in(&authority, client_tls, server_tls, cached);
        assert_eq!(login(true), WORKS, "cached {client_tls} {server_tls}");
        assert_eq!(login(false), in_full, "in full {client_tls} {server_tls}");
    }
}
