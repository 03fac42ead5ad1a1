//! ARCHITECTURE.md's dependency rules, enforced.
//!
//! A rule that only lives in prose is broken by the first hurried change, so
//! each one is a test that names the offending line.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module and the modules it may name. Listed in data-flow order.
const MAY_USE: &[(&str, &[&str])] = &[
    ("cluster", &[]),
    ("calendar", &[]),
    ("lines", &[]),
    ("net", &["cluster"]),
    ("protocol", &[]),
    ("shutdown", &[]),
    ("config", &["cluster"]),
    ("report", &["cluster"]),
    // Both planes limit their warnings per cause; `log` itself is imported by nobody.
    ("throttle", &["cluster"]),
    ("metrics", &["cluster"]),
    ("tls", &["cluster", "config", "net"]),
    // The table carries ready TLS settings: one fact, one swap. Hash keys are read from requests.
    ("routing", &["cluster", "config", "protocol", "tls"]),
    (
        "control",
        &[
            "cluster", "config", "metrics", "net", "protocol", "report", "routing", "shutdown",
            "throttle", "tls",
        ],
    ),
    (
        "proxy",
        &[
            "calendar", "cluster", "config", "lines", "metrics", "net", "protocol", "report",
            "routing", "shutdown", "throttle", "tls",
        ],
    ),
    (
        "admin",
        &[
            // `config` for `AdminConfig` (where to listen), `report` for the sessions it lists.
            "cluster", "config", "control", "metrics", "net", "report", "routing", "shutdown",
            "throttle",
        ],
    ),
];

/// Modules that wire the others together and that nobody imports.
const WIRING: &[&str] = &["main", "lib", "server", "cli", "log"];

/// Code that must stay a pure function of its arguments.
const PURE: &[&str] = &[
    "calendar",
    "cluster",
    "protocol",
    "throttle",
    "routing/balance",
    "control/health",
    "control/failover",
    "control/authority/ballot",
    "control/evidence",
    "control/lag",
    "control/happening",
    "control/journal",
    "control/outlier",
];
const IMPURE: &[&str] = &[
    "tokio::",
    // An address is a value; these are the system's.
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixDatagram",
    "UnixListener",
    "UnixStream",
    "std::env",
    "std::fs",
    "std::process",
    "thread::sleep",
    "thread::spawn",
    "Instant::now(",
    "SystemTime::now(",
    ".elapsed(",
    // A seeded `&mut fastrand::Rng` is an argument; these draw from the process.
    "Rng::new(",
    "fastrand::bool",
    "fastrand::choice",
    "fastrand::f",
    "fastrand::i",
    "fastrand::shuffle",
    "fastrand::u",
    "async fn",
];

/// Third-party crates with one home each, so that each can be replaced in one place.
const HOMES: &[(&str, &str)] = &[
    ("arc_swap", "routing"),
    ("foldhash", "cluster"),
    ("httparse", "protocol/http1"),
    ("libmimalloc_sys", "proxy/memory"),
    ("serde_yaml", "config"),
    ("metrics_exporter_prometheus", "metrics/exposition"),
    ("notify", "config/watch"),
    ("rustls", "tls"),
    ("tokio_rustls", "tls"),
];

/// Files that may lift the package's `unsafe_code = "deny"`; each says why its uses are sound.
const MAY_BE_UNSAFE: &[&str] = &["proxy/memory"];
/// How unsafe code begins, and the lint that denies it.
const UNSAFE: &[&str] = &[
    "unsafe_code",
    "unsafe {",
    "unsafe fn",
    "unsafe impl",
    "unsafe trait",
    "unsafe extern",
    "unsafe(",
];

/// Longer than this is two files.
const MAX_PRODUCTION_LINES: usize = 600;

/// All that may lie at the top level; hidden files and build output aside.
const TOP_LEVEL: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "benches",
    "clippy.toml",
    "contrib",
    "deny.toml",
    "docs",
    "examples",
    "fuzz",
    "rustfmt.toml",
    "src",
    "target",
    "tests",
];

#[test]
fn modules_import_only_what_they_may() {
    let mut violations = Vec::new();
    for (path, text) in sources() {
        if WIRING.iter().any(|name| in_module(&path, name)) {
            continue;
        }
        let Some((module, allowed)) = MAY_USE.iter().find(|(name, _)| in_module(&path, name))
        else {
            violations.push(format!(
                "{}: give this module a row in MAY_USE",
                path.display()
            ));
            continue;
        };
        for (number, line) in production_lines(&text) {
            for used in line.split("crate::").skip(1) {
                let end = used.find(|c: char| !c.is_alphanumeric() && c != '_');
                let end = end.unwrap_or(used.len());
                let used = &used[..end];
                if used.is_empty() {
                    let at = path.display();
                    violations.push(format!("{at}:{number}: one `use crate::module` per line"));
                } else if used != *module && !allowed.contains(&used) {
                    let at = path.display();
                    violations.push(format!("{at}:{number}: {module} may not use {used}"));
                }
            }
        }
    }
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn pure_modules_stay_pure() {
    let mut violations = Vec::new();
    for (path, text) in sources() {
        if !ships(&path) || !PURE.iter().any(|module| in_module(&path, module)) {
            continue;
        }
        for (number, line) in production_lines(&text) {
            if let Some(token) = IMPURE.iter().find(|token| line.contains(**token)) {
                violations.push(format!(
                    "{}:{number}: `{token}` in a pure module",
                    path.display()
                ));
            }
        }
    }
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn third_party_crates_stay_at_home() {
    let mut violations = Vec::new();
    for (path, text) in sources() {
        for (number, line) in production_lines(&text) {
            for (foreign, home) in HOMES {
                if names_crate(line, foreign) && !in_module(&path, home) {
                    let at = path.display();
                    violations.push(format!("{at}:{number}: {foreign} belongs to {home}"));
                }
            }
        }
    }
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn crate_names_are_recognised() {
    assert!(names_crate("use rustls::ServerConfig;", "rustls"));
    assert!(names_crate("    rustls::Error", "rustls"));
    assert!(names_crate("use notify;", "notify"));
    assert!(!names_crate("use tokio_rustls::TlsStream;", "rustls"));
    assert!(!names_crate("waiters.notify_one();", "notify"));
    assert!(!names_crate("use crate::notify::Bell;", "notify"));
}

#[test]
fn unsafe_code_stays_where_it_is_explained() {
    let mut violations = Vec::new();
    let mut seen = BTreeSet::new();
    for (path, text) in sources() {
        let file = MAY_BE_UNSAFE.iter().find(|file| in_module(&path, file));
        for (index, line) in text.lines().enumerate() {
            if !is_unsafe(line) {
                continue;
            }
            if let Some(file) = file {
                seen.insert(*file);
            } else {
                let (at, number) = (path.display(), index + 1);
                violations.push(format!("{at}:{number}: needs a row in MAY_BE_UNSAFE"));
            }
        }
    }
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
    assert_eq!(seen, MAY_BE_UNSAFE.iter().copied().collect());
}

#[test]
fn unsafe_code_is_recognised() {
    for line in [
        "#![allow(unsafe_code)]",
        "    unsafe_code,",
        "    let two = unsafe { one() };",
        "pub unsafe fn one() {",
        "unsafe impl Send for One {}",
        "unsafe extern \"C\" {",
        "#[unsafe(no_mangle)]",
    ] {
        assert!(is_unsafe(line), "{line}");
    }
    for line in [
        "/// Without unsafe { }.",
        "    \"style-src 'unsafe-inline'\",",
        "let is_unsafe = false;",
    ] {
        assert!(!is_unsafe(line), "{line}");
    }
}

#[test]
fn files_stay_short() {
    for (path, text) in sources().into_iter().filter(|(path, _)| ships(path)) {
        let shipped = before_tests(&text).lines().count();
        assert!(
            shipped <= MAX_PRODUCTION_LINES,
            "{}: {shipped} lines; the limit is {MAX_PRODUCTION_LINES}",
            path.display()
        );
    }
}

#[test]
fn the_top_level_stays_a_table_of_contents() {
    for entry in fs::read_dir(".").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name.starts_with('.') || TOP_LEVEL.contains(&name.as_str()),
            "{name}: does not belong at the top level"
        );
    }
}

#[test]
fn every_module_says_what_it_is_for() {
    for (path, text) in sources() {
        assert!(
            text.starts_with("//!"),
            "{}: first line must be a //! module doc",
            path.display()
        );
    }
}

/// Lines that ship: comments and the trailing `mod tests` are skipped.
fn production_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    before_tests(text)
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(index, line)| (index + 1, line))
}

fn before_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap()
}

/// Whether a file is more than tests of others, or what only they read.
fn ships(path: &Path) -> bool {
    let path = path.with_extension("");
    !path.iter().any(|part| part == "tests" || part == "corpus")
}

/// Whether a line of code is unsafe, or names the lint that denies it.
fn is_unsafe(line: &str) -> bool {
    let is_comment = line.trim_start().starts_with("//");
    !is_comment && UNSAFE.iter().any(|token| line.contains(token))
}

/// Whether a line uses a third-party crate by a path that starts with its name.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(start, _)| {
        let (before, after) = (&line[..start], &line[start + name.len()..]);
        let path_starts =
            !before.ends_with(|c: char| c.is_alphanumeric() || c == '_') && !before.ends_with("::");
        let imported = before.trim_start().trim_start_matches("pub ") == "use ";
        path_starts && (after.starts_with("::") || (imported && after.starts_with(';')))
    })
}

/// `control/health` matches `control/health.rs` and everything under `control/health/`.
fn in_module(path: &Path, module: &str) -> bool {
    let relative = path.strip_prefix("src").unwrap().with_extension("");
    relative.starts_with(module)
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::from("src")];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    // An empty walk would make every rule pass vacuously.
    assert!(
        !found.is_empty(),
        "no sources found; run from the package root"
    );
    found
}
