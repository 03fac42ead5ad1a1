//! The files of one load, and the problems found in them.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::fs::Metadata;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use crate::config::diagnostic::Diagnostic;
use crate::config::diagnostic::Diagnostics;
use crate::config::diagnostic::Place;
use crate::config::diagnostic::Severity;
use crate::config::file;
use crate::config::tree::At;
use crate::config::values::Wrong;

/// More problems than a person reads at once.
const MAX_SHOWN_PROBLEMS: usize = 100;
/// Each problem costs a second walk through its file; all walks together take about a second.
const MAX_WALKED_BYTES: usize = 32 * 1024 * 1024;

/// What a load may touch besides the text it was given.
#[derive(Clone, Copy)]
pub(super) struct Outside {
    pub environment: fn(&str) -> Option<String>,
    /// Whether includes and secrets are read.
    pub files: bool,
}

/// One load in progress: the text of every file, and everything that is wrong so far.
pub(super) struct Sources {
    pub outside: Outside,
    texts: Vec<(PathBuf, String)>,
    problems: Vec<Problem>,
    /// Nodes whose real value is unknown, so that more problems with them mean nothing.
    spoiled: HashSet<At>,
    /// Everything to watch.
    pub named: Vec<PathBuf>,
    /// Which key names a file that others will read.
    keys: HashMap<PathBuf, At>,
}

/// Where the files that a configuration names are written down.
pub struct NamedFiles {
    texts: Vec<(PathBuf, String)>,
    keys: HashMap<PathBuf, At>,
}

impl fmt::Debug for NamedFiles {
    /// Without the texts: they may hold secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("NamedFiles").finish_non_exhaustive()
    }
}

impl NamedFiles {
    /// The place of the (last) key that names this file.
    pub(super) fn place_of(&self, path: &Path) -> Option<Place> {
        self.keys.get(path).map(|at| place(&self.texts, *at))
    }
}

struct Problem {
    severity: Severity,
    at: Spot,
    wrong: Wrong,
    related: Option<(String, At)>,
}

enum Spot {
    Node(At),
    Known(Place),
}

impl Sources {
    pub fn new(outside: Outside) -> Self {
        Self {
            outside,
            texts: Vec::new(),
            problems: Vec::new(),
            spoiled: HashSet::new(),
            named: Vec::new(),
            keys: HashMap::new(),
        }
    }

    /// Notes a file that others will read: it is to be watched.
    pub fn name_file(&mut self, at: At, path: &Path) {
        self.named.push(path.to_owned());
        self.keys.insert(path.to_owned(), at);
    }

    pub fn add(&mut self, path: PathBuf, text: String) -> usize {
        self.texts.push((path, text));
        self.texts.len() - 1
    }

    /// A path as written in a file: relative ones are relative to that file.
    pub fn resolve_path(&self, at: At, written: &str) -> PathBuf {
        let directory = self.texts.get(at.file).and_then(|(path, _)| path.parent());
        directory.map_or_else(|| PathBuf::from(written), |dir| dir.join(written))
    }

    pub fn error(&mut self, at: At, wrong: Wrong) {
        if self.spoiled.contains(&at) {
            return;
        }
        self.push(Severity::Error, Spot::Node(at), wrong, None);
    }

    /// An error after which nothing else about this node is worth saying.
    pub fn spoil(&mut self, at: At, wrong: Wrong) {
        self.error(at, wrong);
        self.spoiled.insert(at);
    }

    pub fn warn(&mut self, at: At, wrong: Wrong) {
        self.push(Severity::Warning, Spot::Node(at), wrong, None);
    }

    /// An error about two places.
    pub fn conflict(&mut self, at: At, wrong: Wrong, label: &str, other: At) {
        let related = Some((label.to_owned(), other));
        self.push(Severity::Error, Spot::Node(at), wrong, related);
    }

    /// An error whose place is known, or that is about a whole file.
    pub fn error_at(&mut self, path: &Path, line: usize, column: usize, wrong: Wrong) {
        let mut place = Place::file(path.to_owned());
        (place.line, place.column) = (line, column);
        self.push(Severity::Error, Spot::Known(place), wrong, None);
    }

    fn push(&mut self, severity: Severity, at: Spot, wrong: Wrong, related: Option<(String, At)>) {
        self.problems.push(Problem {
            severity,
            at,
            wrong,
            related,
        });
    }

    /// Warns about a secret that anyone on the machine may read. A file that cannot be looked at
    /// is reported by whoever reads it.
    pub fn warn_if_exposed(&mut self, at: At, path: &Path) {
        let exposed = |metadata: Metadata| metadata.permissions().mode() & 0o004 != 0;
        if self.outside.files && std::fs::metadata(path).is_ok_and(exposed) {
            let shown = path.display();
            let message = format!("{shown} holds a secret and everyone may read it");
            self.warn(at, Wrong::new(message, format!("chmod 600 {shown}")));
        }
    }

    /// The same, of a secret that stands in the configuration itself.
    pub fn warn_if_own_file_exposed(&mut self, at: At) {
        if let Some((path, _)) = self.texts.get(at.file) {
            let path = path.clone();
            self.warn_if_exposed(at, &path);
        }
    }

    pub fn count_errors(&self) -> usize {
        let errors = self.problems.iter();
        errors
            .filter(|problem| problem.severity == Severity::Error)
            .count()
    }

    pub fn has_errors(&self) -> bool {
        let mut severities = self.problems.iter().map(|problem| problem.severity);
        severities.any(|severity| severity == Severity::Error)
    }

    /// The warnings of a load without errors, else everything.
    pub fn finish(mut self) -> Result<(Vec<Diagnostic>, NamedFiles), Diagnostics> {
        let failed = self.has_errors();
        let mut problems = std::mem::take(&mut self.problems);
        // What is left out must not be the reason why the load failed.
        problems.sort_by_key(|problem| problem.severity != Severity::Error);
        let bytes: usize = self.texts.iter().map(|(_, text)| text.len()).sum();
        let max_shown = (MAX_WALKED_BYTES / bytes.max(1)).clamp(1, MAX_SHOWN_PROBLEMS);
        let left_out = problems.len().saturating_sub(max_shown);
        let mut shown: Vec<Diagnostic> = problems
            .into_iter()
            .take(max_shown)
            .map(|problem| self.diagnostic(problem))
            .collect();
        // In the order of the files and lines, which is how people mend them.
        shown.sort_by_key(|diagnostic| {
            let file = &diagnostic.place.file;
            let order = self.texts.iter().position(|(path, _)| path == file);
            (order, diagnostic.place.line, diagnostic.place.column)
        });
        if left_out > 0
            && let Some((main, _)) = self.texts.first()
        {
            let severity = if failed {
                Severity::Error
            } else {
                Severity::Warning
            };
            shown.push(Diagnostic {
                severity,
                message: format!("{left_out} more problems are not shown"),
                place: Place::file(main.clone()),
                help: Some("mend the ones above first".to_owned()),
                related: None,
            });
        }
        if failed {
            Err(Diagnostics(shown))
        } else {
            let named = NamedFiles {
                texts: self.texts,
                keys: self.keys,
            };
            Ok((shown, named))
        }
    }

    fn diagnostic(&self, problem: Problem) -> Diagnostic {
        let place = match problem.at {
            Spot::Node(at) => self.place(at),
            Spot::Known(mut place) => {
                let text = self.texts.iter().find(|(path, _)| *path == place.file);
                place.snippet =
                    text.map_or_else(String::new, |(_, text)| snippet(text, place.line));
                place
            }
        };
        Diagnostic {
            severity: problem.severity,
            message: problem.wrong.message,
            place,
            help: problem.wrong.help,
            related: problem.related.map(|(label, at)| (label, self.place(at))),
        }
    }

    fn place(&self, at: At) -> Place {
        place(&self.texts, at)
    }
}

fn place(texts: &[(PathBuf, String)], at: At) -> Place {
    let Some((path, text)) = texts.get(at.file) else {
        return Place::file(PathBuf::new());
    };
    let (line, column) = file::locate(text, at.node).unwrap_or((0, 0));
    Place {
        file: path.clone(),
        line,
        column,
        snippet: snippet(text, line),
    }
}

/// One line of a text, with the values of secret keys masked.
fn snippet(text: &str, line: usize) -> String {
    let lines: Vec<&str> = text.lines().take(line).collect();
    let Some((shown, before)) = lines.split_last() else {
        return String::new();
    };
    // The lines of a `password: |` block stand deeper than their key.
    let mut depth = indent(shown);
    for outer in before.iter().rev().filter(|line| !line.trim().is_empty()) {
        if indent(outer) < depth {
            depth = indent(outer);
            if secret_key_end(outer).is_some() {
                return format!("{:1$}***", "", indent(shown));
            }
        }
    }
    match secret_key_end(shown) {
        Some(end) if shown[end..].trim().is_empty() => (*shown).to_owned(),
        Some(end) => format!("{} ***", &shown[..end]),
        None => (*shown).to_owned(),
    }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Where the value of the first secret key of a line begins.
fn secret_key_end(line: &str) -> Option<usize> {
    let lower = line.to_ascii_lowercase();
    // The address of a web hook is a secret too: who knows it may post there. So are headers that
    // let in, such as `x-clickhouse-key`.
    [
        "password",
        "token",
        "secret",
        "url",
        "authorization",
        "-key",
    ]
    .iter()
    .filter_map(|word| {
        let mut from = 0;
        while let Some(found) = lower[from..].find(word) {
            from += found + word.len();
            let rest = lower[from..].trim_start_matches(['"', '\'', ' ']);
            if rest.starts_with(':') {
                return Some(lower.len() - rest.len() + 1);
            }
        }
        None
    })
    .min()
}

/// Reads a small regular file as text. Never waits: a FIFO or a device is refused.
pub(super) fn read_text(path: &Path, max_bytes: u64) -> Result<String, Wrong> {
    let bytes = read_bytes(path, max_bytes)?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        let message = format!("{} is not UTF-8 text (line {line})", path.display());
        Wrong {
            message,
            help: None,
        }
    })
}

/// Reads a small regular file. Never waits: a FIFO or a device is refused.
pub(super) fn read_bytes(path: &Path, max_bytes: u64) -> Result<Vec<u8>, Wrong> {
    let shown = path.display();
    let wrong = |message: String| Wrong {
        message,
        help: None,
    };
    let failed = |error: std::io::Error| wrong(format!("cannot read {shown}: {}", reason(&error)));
    let not_a_file = || wrong(format!("{shown} is not a regular file"));
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(not_a_file());
    }
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened: File = OpenOptions::new()
        .read(true)
        .custom_flags(nonblock)
        .open(path)
        .map_err(failed)?;
    // Looked at again: the path may lead elsewhere by now.
    if !opened.metadata().map_err(failed)?.is_file() {
        return Err(not_a_file());
    }
    let mut bytes = Vec::new();
    let mut bounded = (&opened).take(max_bytes + 1);
    bounded.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max_bytes {
        return Err(wrong(format!("{shown} is larger than {max_bytes} bytes")));
    }
    Ok(bytes)
}

/// An error without the number that means nothing to most people.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}
