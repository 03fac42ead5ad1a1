//! ARCHITECTURE.md's dependency rules, enforced.
//!
//! A rule that only lives in prose is broken by the first hurried change, so
//! each one is a test that names the offending line.

use std::fs;
use std::path::{Path, PathBuf};

/// Each module and the modules it may name. Listed in data-flow order.
const MAY_USE: &[(&str, &[&str])] = &[
    ("cluster", &[]),
    ("net", &[]),
    ("protocol", &[]),
    ("shutdown", &[]),
    ("config", &["cluster"]),
    ("report", &["cluster"]),
    ("metrics", &["cluster"]),
    ("routing", &["cluster", "config"]),
    ("tls", &["config", "net"]),
    (
        "control",
        &[
            "cluster", "config", "metrics", "net", "protocol", "report", "routing", "shutdown",
            "tls",
        ],
    ),
    (
        "proxy",
        &[
            "cluster", "config", "metrics", "net", "protocol", "report", "routing", "shutdown",
            "tls",
        ],
    ),
    (
        "admin",
        &[
            "cluster", "control", "metrics", "net", "routing", "shutdown",
        ],
    ),
];

/// Modules that wire the others together and that nobody imports.
const WIRING: &[&str] = &["main", "lib", "cli", "log"];

/// Code that must stay a pure function of its arguments.
const PURE: &[&str] = &[
    "cluster",
    "protocol",
    "routing/balance",
    "control/health",
    "control/failover",
];
const IMPURE: &[&str] = &[
    "tokio::",
    "Instant::now(",
    "SystemTime::now(",
    // A generator that is passed in is fine; one that seeds itself is not.
    "Rng::new(",
    "fastrand::u",
    "async fn",
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
        if !PURE.iter().any(|module| in_module(&path, module)) {
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
    let shipped = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    shipped
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(index, line)| (index + 1, line))
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
