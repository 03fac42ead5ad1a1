//! The keys that belong to the whole process.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::Name;
use crate::config::AdminConfig;
use crate::config::LogConfig;
use crate::config::LogFormat;
use crate::config::LogLevel;
use crate::config::Secret;
use crate::config::reader::Reader;
use crate::config::source;
use crate::config::source::Sources;
use crate::config::tree::At;
use crate::config::tree::Node;
use crate::config::values;
use crate::config::values::Wrong;

/// A token is a line of text; more is the wrong file.
const MAX_TOKEN_BYTES: u64 = 4096;
/// The API compares and sends it in a header.
const MIN_TOKEN_BYTES: usize = 16;

pub(super) struct Process {
    pub admin: Option<AdminConfig>,
    /// Where `admin.bind` stands; `None` when it is the default.
    pub admin_bind_at: Option<At>,
    pub log: LogConfig,
    pub workers: NonZeroUsize,
    pub zone: Option<Name>,
    pub drain_timeout: Duration,
    pub state_dir: Option<PathBuf>,
    pub shutdown_delay: Duration,
}

pub(super) fn read(sources: &mut Sources, root: &mut Reader<'_>) -> Process {
    let (admin, admin_bind_at) = read_admin(sources, root);
    Process {
        admin,
        admin_bind_at,
        log: read_log(sources, root),
        workers: read_workers(sources, root),
        zone: root.read(sources, "zone", values::name, |name| (&**name).into()),
        drain_timeout: root.duration(sources, "drain_timeout"),
        state_dir: read_state_dir(sources, root),
        shutdown_delay: root.duration(sources, "shutdown_delay"),
    }
}

/// Whether it is there is asked at the start: a file may be checked on another machine.
fn read_state_dir(sources: &mut Sources, root: &mut Reader<'_>) -> Option<PathBuf> {
    let path = root.path(sources, "state_dir")?;
    // Ours to write: it is nothing to watch.
    sources.named.retain(|named| *named != path);
    let is_other = |metadata: std::fs::Metadata| !metadata.is_dir();
    if sources.outside.files && std::fs::metadata(&path).is_ok_and(is_other) {
        let message = format!("{} is not a directory", path.display());
        let help = "name a directory that only Evergate writes to";
        sources.error(root.place("state_dir"), Wrong::new(message, help));
    }
    Some(path)
}

fn read_workers(sources: &mut Sources, root: &mut Reader<'_>) -> NonZeroUsize {
    let auto = |node: &Node| node.word().is_some_and(|word| word == "auto");
    let parse = |node: &Node| {
        if auto(node) {
            return Ok(0);
        }
        values::count(node, &(1..=1024)).map_err(|mut wrong| {
            wrong.help = Some("write `auto`, or a number from 1 to 1024".to_owned());
            wrong
        })
    };
    let show = |value: &u64| match value {
        0 => "auto".into(),
        value => (*value).into(),
    };
    let written = root.read(sources, "workers", parse, show).unwrap_or(1);
    let written = usize::try_from(written).unwrap_or(1);
    NonZeroUsize::new(written)
        .unwrap_or_else(|| std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
}

fn read_log(sources: &mut Sources, root: &mut Reader<'_>) -> LogConfig {
    let mut log = root.section(sources, "log");
    let format = match log.choice(sources, "format") {
        "json" => LogFormat::Json,
        _ => LogFormat::Text,
    };
    let level = match log.choice(sources, "level") {
        "error" => LogLevel::Error,
        "warn" => LogLevel::Warn,
        "debug" => LogLevel::Debug,
        _ => LogLevel::Info,
    };
    root.attach("log", log);
    LogConfig { format, level }
}

fn read_admin(sources: &mut Sources, root: &mut Reader<'_>) -> (Option<AdminConfig>, Option<At>) {
    let mut admin = root.section(sources, "admin");
    let bind = read_admin_bind(sources, &mut admin);
    let bind_at = admin.node("bind").map(|node| node.at);
    let socket = admin.path(sources, "socket");
    // The socket is ours to create: it is nothing to watch.
    if let Some(socket) = &socket {
        sources.named.retain(|path| path != socket);
    }
    let token_at = admin.place("token_file");
    let token_file = admin.path(sources, "token_file");
    let token = token_file.and_then(|path| read_token(sources, token_at, &path));
    root.attach("admin", admin);
    let used = bind.is_some() || socket.is_some();
    let admin = used.then_some(AdminConfig {
        bind,
        socket,
        token,
    });
    (admin, bind_at)
}

fn read_admin_bind(sources: &mut Sources, admin: &mut Reader<'_>) -> Option<SocketAddr> {
    let parse = |node: &Node| {
        if node.word().is_some_and(|word| word == "none") {
            return Ok(None);
        }
        values::socket_address(node).map(Some)
    };
    let show = |bind: &Option<SocketAddr>| match bind {
        Some(bind) => bind.to_string().into(),
        None => "none".into(),
    };
    admin.read(sources, "bind", parse, show).flatten()
}

fn read_token(sources: &mut Sources, at: At, path: &Path) -> Option<Secret> {
    if !sources.outside.files {
        return None;
    }
    let shown = path.display();
    let text = match source::read_text(path, MAX_TOKEN_BYTES) {
        Ok(text) => text,
        Err(wrong) => {
            sources.error(at, wrong);
            return None;
        }
    };
    sources.warn_if_exposed(at, path);
    let token = text.strip_suffix('\n').unwrap_or(&text);
    let token = token.strip_suffix('\r').unwrap_or(token);
    let help = "put one line of at least 16 printable ASCII characters into it";
    let problem = if token.is_empty() {
        "is empty"
    } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        "holds more than one line, or characters that a header cannot carry"
    } else if token.len() < MIN_TOKEN_BYTES {
        "holds a token that is too short to be safe"
    } else {
        return Some(Secret::new(token.to_owned()));
    };
    sources.error(at, Wrong::new(format!("{shown} {problem}"), help));
    None
}
