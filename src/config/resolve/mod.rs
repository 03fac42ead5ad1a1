//! The tree to a [`Config`]: defaults, references, limits. Reports every problem.

mod authority;
mod check;
mod cluster;
mod failover;
mod fit;
mod hook;
mod http_cluster;
mod http_fit;
mod http_headers;
mod http_listener;
mod http_outlier;
mod http_route;
mod intent;
mod legs;
mod listener;
mod password;
mod process;
mod reference;
mod route;
mod source;

use std::path::Path;
use std::path::PathBuf;

use serde_json::Map;
use serde_json::Value as Json;

use crate::cluster::Name;
use crate::config::ClusterConfig;
use crate::config::Config;
use crate::config::Diagnostics;
use crate::config::ListenerConfig;
use crate::config::Loaded;
use crate::config::include::Gathering;
use crate::config::keys;
use crate::config::reader;
use crate::config::reader::Reader;
use crate::config::resolve::fit::Known;
use crate::config::source::Outside;
use crate::config::source::Sources;
use crate::config::tree::At;
use crate::config::tree::Entry;
use crate::config::tree::Node;
use crate::config::values;
use crate::config::values::Wrong;

/// 10,000 is far above what one process serves, and keeps a mistaken template from filling memory.
const MAX_NAMED: usize = 10_000;

/// Something with a name, and where it stands.
struct Placed<T> {
    value: T,
    at: At,
    /// It was read without an error, so what follows from it means something.
    is_sound: bool,
}

pub(super) fn load(path: &Path) -> Result<Loaded, Diagnostics> {
    let mut sources = Sources::new(Outside {
        environment: |name| std::env::var(name).ok(),
        files: true,
    });
    let mut gathering = Gathering::new(&mut sources);
    gathering.main_file(path);
    let roots = gathering.roots;
    finish(sources, &roots)
}

/// Resolves one text alone: nothing but the text is read.
pub(super) fn load_text(path: &Path, text: &str) -> Result<Loaded, Diagnostics> {
    let mut sources = Sources::new(Outside {
        environment: |_| None,
        files: false,
    });
    let mut gathering = Gathering::new(&mut sources);
    gathering.text(path, text.to_owned(), &[PathBuf::from(path)]);
    let roots = gathering.roots;
    finish(sources, &roots)
}

fn finish(mut sources: Sources, roots: &[Node]) -> Result<Loaded, Diagnostics> {
    let resolved = resolve(&mut sources, roots);
    let mut files = std::mem::take(&mut sources.named);
    files.sort();
    files.dedup();
    let (warnings, named) = sources.finish()?;
    let Some((config, effective)) = resolved else {
        // Every way to get here has reported why.
        return Err(Diagnostics(warnings));
    };
    Ok(Loaded {
        config,
        warnings,
        files,
        named,
        effective,
    })
}

fn resolve(sources: &mut Sources, roots: &[Node]) -> Option<(Config, Json)> {
    let (main, includes) = roots.split_first()?;
    let mut root = Reader::open(sources, &keys::ROOT, main, String::new());
    let mut readers = Vec::new();
    for node in includes {
        readers.push(open_include(sources, node));
    }
    root.count(sources, "version");
    read_include(sources, &mut root);
    let process = process::read(sources, &mut root);
    let all = || std::iter::once(&root).chain(&readers);
    let cluster_entries = named(sources, all(), "clusters", "cluster");
    let listener_entries = named(sources, all(), "listeners", "listener");
    if main.map().is_ok() {
        for (name, empty) in [
            ("clusters", cluster_entries.is_empty()),
            ("listeners", listener_entries.is_empty()),
        ] {
            if empty && all().all(|reader| reader.entry(name).is_none()) {
                root.require(sources, name);
            }
        }
    }

    let drain_timeout = process.drain_timeout;
    let (clusters, shown, defaults) = each(sources, &cluster_entries, "clusters", |s, n, r| {
        cluster::read(s, n, r, drain_timeout)
    });
    root.attach_value("clusters", shown, defaults);
    let known: Known<'_> = clusters
        .iter()
        .filter(|cluster| cluster.is_sound)
        .map(|cluster| (&*cluster.value.name, &cluster.value))
        .collect();
    let (listeners, shown, defaults) = each(sources, &listener_entries, "listeners", |s, n, r| {
        listener::read(s, n, r, &known)
    });
    root.attach_value("listeners", shown, defaults);
    reference::check(sources, &cluster_entries, &clusters, &listeners);
    reference::binds(sources, &listeners, &process);
    // What is wrong may be the very thing that the warning is about.
    if process.state_dir.is_none() && !sources.has_errors() {
        reference::warn_of_forgotten_fences(sources, &clusters, &listeners);
    }
    let config = assemble(sources, &mut root, process, clusters, listeners);
    let (value, mut defaults) = root.finish();
    defaults.sort();
    Some((
        config,
        serde_json::json!({"config": value, "defaults": defaults}),
    ))
}

fn assemble(
    sources: &mut Sources,
    root: &mut Reader<'_>,
    process: process::Process,
    clusters: Vec<Placed<ClusterConfig>>,
    listeners: Vec<Placed<listener::Read>>,
) -> Config {
    let mut clusters: Vec<ClusterConfig> = clusters.into_iter().map(|c| c.value).collect();
    let mut listeners: Vec<ListenerConfig> =
        listeners.into_iter().map(|l| l.value.config).collect();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    listeners.sort_by(|a, b| a.name.cmp(&b.name));
    let written = root.count(sources, "max_connections");
    let max_connections = match written {
        Some(value) => usize::try_from(value).unwrap_or(usize::MAX),
        None => {
            let sum = listeners
                .iter()
                .map(|listener| listener.max_connections)
                .sum();
            root.derived("max_connections", sum);
            sum
        }
    };
    Config {
        state_dir: process.state_dir,
        clusters,
        listeners,
        admin: process.admin,
        log: process.log,
        workers: process.workers,
        zone: process.zone,
        drain_timeout: process.drain_timeout,
        shutdown_delay: process.shutdown_delay,
        max_connections,
    }
}

/// An included file may hold clusters and listeners; the rest belongs to the process.
fn open_include<'n>(sources: &mut Sources, node: &'n Node) -> Reader<'n> {
    let mut reader = Reader::open(sources, &keys::ROOT, node, String::new());
    for entry in node.map().unwrap_or_default() {
        let known = keys::ROOT.key(&entry.key).is_some();
        let allowed = ["version", "include", "clusters", "listeners"].contains(&entry.key.as_str());
        if known && !allowed {
            let message = format!("`{}` may only stand in the main file", entry.key);
            let help = "an included file may have `clusters`, `listeners` and `include`";
            sources.error(entry.key_at, Wrong::new(message, help));
        }
    }
    if reader.entry("version").is_some() {
        reader.count(sources, "version");
    }
    read_include(sources, &mut reader);
    reader
}

/// The files themselves were read before; here only the kind is checked.
fn read_include(sources: &mut Sources, reader: &mut Reader<'_>) {
    let Some(node) = reader.node("include") else {
        return;
    };
    if node.list().is_ok() {
        reader.texts(sources, "include");
    } else {
        reader.text(sources, "include");
    }
}

/// The named things of all files; a name that stands twice is reported.
fn named<'n: 'r, 'r>(
    sources: &mut Sources,
    readers: impl Iterator<Item = &'r Reader<'n>>,
    key: &str,
    what: &str,
) -> Vec<&'n Entry> {
    let mut found: Vec<&'n Entry> = Vec::new();
    let mut first_at = std::collections::HashMap::new();
    for node in readers.filter_map(|reader| reader.node(key)) {
        let entries = match node.map() {
            Ok(entries) => entries,
            Err(wrong) => {
                sources.error(node.at, wrong);
                continue;
            }
        };
        if entries.is_empty() {
            let message = format!("`{key}` is empty");
            sources.error(node.at, Wrong::new(message, format!("add a {what}")));
        }
        for entry in entries {
            if let Some(first) = first_at.insert(entry.key.as_str(), entry.key_at) {
                let message = format!("the {what} `{}` stands twice", entry.key);
                let wrong = Wrong::new(message, "rename or remove one");
                sources.conflict(entry.key_at, wrong, "the other one is here", first);
                continue;
            }
            if let Err(problem) = values::name_text(&entry.key) {
                let shown: String = entry
                    .key
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(60)
                    .collect();
                let message = format!("`{shown}` cannot be a name: {problem}");
                sources.error(
                    entry.key_at,
                    Wrong {
                        message,
                        help: None,
                    },
                );
            }
            found.push(entry);
        }
        if found.len() > MAX_NAMED {
            let message = format!("more than {MAX_NAMED} {key}");
            let help = "split them over several processes";
            sources.error(node.at, Wrong::new(message, help));
            found.truncate(MAX_NAMED);
        }
    }
    found
}

/// Reads every named section, and what they are effectively.
fn each<T>(
    sources: &mut Sources,
    entries: &[&Entry],
    key: &'static str,
    read: impl Fn(&mut Sources, Name, &mut Reader<'_>) -> T,
) -> (Vec<Placed<T>>, Json, Vec<String>) {
    let section = reader::named_section(key);
    let mut found = Vec::new();
    let mut effective = Map::new();
    let mut defaults = Vec::new();
    for entry in entries {
        let pointer = format!("/{key}/{}", entry.key);
        let mut reader = Reader::open(sources, section, &entry.value, pointer);
        let errors = sources.count_errors();
        let value = read(sources, Name::from(entry.key.as_str()), &mut reader);
        let is_sound = sources.count_errors() == errors;
        let (shown, mut unwritten) = reader.finish();
        effective.insert(entry.key.clone(), shown);
        defaults.append(&mut unwritten);
        let at = entry.key_at;
        found.push(Placed {
            value,
            at,
            is_sound,
        });
    }
    (found, Json::Object(effective), defaults)
}
