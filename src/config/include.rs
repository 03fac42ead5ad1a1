//! The main file and everything it includes.

use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;

use crate::config::env;
use crate::config::file;
use crate::config::source;
use crate::config::source::Sources;
use crate::config::tree::At;
use crate::config::tree::Node;
use crate::config::tree::Value;
use crate::config::values::Wrong;

/// One file. 10,000 backends in long form are about 1 MiB.
pub(super) const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// All files together.
const MAX_TOTAL_BYTES: usize = 16 * 1024 * 1024;
/// One file per tenant and more; a glob over a whole disk is a mistake.
const MAX_FILES: usize = 1024;
/// Main file, directory of teams, directory of a team's services; deeper nobody finds a key.
const MAX_INCLUDE_DEPTH: usize = 4;

/// The parsed files, the main one first.
pub(super) struct Gathering<'s> {
    pub sources: &'s mut Sources,
    pub roots: Vec<Node>,
    seen: HashSet<PathBuf>,
    total_bytes: usize,
}

impl<'s> Gathering<'s> {
    pub fn new(sources: &'s mut Sources) -> Self {
        Self {
            sources,
            roots: Vec::new(),
            seen: HashSet::new(),
            total_bytes: 0,
        }
    }

    /// Reads the main file and follows its includes.
    pub fn main_file(&mut self, path: &Path) {
        self.sources.named.push(path.to_owned());
        match source::read_text(path, MAX_FILE_BYTES) {
            Ok((text, _)) => {
                self.seen.insert(canonical(path));
                self.text(path, text, &[canonical(path)]);
            }
            Err(wrong) => self.sources.error_at(path, 0, 0, wrong),
        }
    }

    /// Parses one file's text. `chain` are the files that led here, this one last.
    pub fn text(&mut self, path: &Path, text: String, chain: &[PathBuf]) {
        self.total_bytes += text.len();
        let text = text
            .strip_prefix('\u{feff}')
            .map_or(text.clone(), str::to_owned);
        let file = self.sources.add(path.to_owned(), text.clone());
        let mut root = match file::parse(&text, file) {
            Ok(root) => root,
            Err(error) => {
                let wrong = Wrong {
                    help: syntax_help(&text, &error),
                    message: error.message,
                };
                self.sources.error_at(path, error.line, error.column, wrong);
                return;
            }
        };
        for (at, wrong) in env::substitute(&mut root, &self.sources.outside.environment) {
            self.sources.spoil(at, wrong);
        }
        let patterns = patterns(&root);
        self.roots.push(root);
        if self.sources.outside.files {
            for (at, pattern) in patterns {
                self.include(at, &pattern, chain);
            }
        }
    }

    fn include(&mut self, at: At, pattern: &str, chain: &[PathBuf]) {
        let full = self.sources.resolve_path(at, pattern);
        let found = match self.expand(&full, pattern) {
            Ok(found) => found,
            Err(wrong) => return self.sources.error(at, wrong),
        };
        if found.is_empty() {
            let wrong = Wrong::new(format!("`{pattern}` matches no file"), "is the path right?");
            self.sources.warn(at, wrong);
        }
        for path in found {
            if let Err(wrong) = self.include_file(&path, chain) {
                self.sources.error(at, wrong);
            }
        }
    }

    fn include_file(&mut self, path: &Path, chain: &[PathBuf]) -> Result<(), Wrong> {
        self.sources.named.push(path.to_owned());
        let shown = path.display();
        let real = canonical(path);
        if chain.contains(&real) {
            return Err(Wrong::new(
                format!("{shown} includes itself"),
                "remove one of the includes",
            ));
        }
        if chain.len() > MAX_INCLUDE_DEPTH {
            return Err(Wrong::new(
                format!("includes are nested more than {MAX_INCLUDE_DEPTH} deep"),
                "include the files from one place",
            ));
        }
        if !self.seen.insert(real.clone()) {
            return Err(Wrong::new(
                format!("{shown} is included twice"),
                "remove one of the includes",
            ));
        }
        if self.seen.len() > MAX_FILES {
            return Err(Wrong::new(
                format!("more than {MAX_FILES} files"),
                "put several clusters into one file",
            ));
        }
        let (text, _) = source::read_text(path, MAX_FILE_BYTES)?;
        if self.total_bytes + text.len() > MAX_TOTAL_BYTES {
            return Err(Wrong::new(
                format!("all files together are larger than {MAX_TOTAL_BYTES} bytes"),
                "is a file included that is no configuration?",
            ));
        }
        let mut chain = chain.to_vec();
        chain.push(real);
        self.text(path, text, &chain);
        Ok(())
    }

    /// The files that a pattern stands for, sorted by name.
    fn expand(&mut self, full: &Path, pattern: &str) -> Result<Vec<PathBuf>, Wrong> {
        let wild = |text: &str| text.contains(['*', '?', '[']);
        if !wild(pattern) {
            return Ok(vec![full.to_owned()]);
        }
        let written = Path::new(pattern);
        let directory = written.parent().unwrap_or(Path::new(""));
        if wild(&directory.to_string_lossy()) {
            return Err(Wrong::new(
                format!("`{pattern}` has a wildcard in a directory's name"),
                "only the last part may have one, as in `conf.d/*.yaml`",
            ));
        }
        let directory = full.parent().unwrap_or(Path::new("."));
        // A file that is added later changes the listing of its directory.
        self.sources.named.push(directory.to_owned());
        let name = written.file_name().unwrap_or_default().to_string_lossy();
        let matcher = glob::Pattern::new(&name).map_err(|error| {
            Wrong::new(
                format!("`{pattern}` is not a pattern: {}", error.msg),
                "as in `conf.d/*.yaml`",
            )
        })?;
        let options = glob::MatchOptions {
            require_literal_leading_dot: true,
            ..glob::MatchOptions::new()
        };
        let Ok(entries) = std::fs::read_dir(if directory.as_os_str().is_empty() {
            Path::new(".")
        } else {
            directory
        }) else {
            return Ok(Vec::new());
        };
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.file_name())
            .filter(|name| matcher.matches_with(&name.to_string_lossy(), options))
            .map(|name| directory.join(name))
            // One more than allowed is enough to say that there are too many.
            .take(MAX_FILES + 1)
            .collect();
        found.sort();
        Ok(found)
    }
}

/// What the YAML crate's words for the most common slip mean.
fn syntax_help(text: &str, error: &file::SyntaxError) -> Option<String> {
    let line = text.lines().nth(error.line.checked_sub(1)?)?;
    let indent = &line[..line.len() - line.trim_start().len()];
    let help = "indent with spaces: YAML does not allow tabs";
    indent.contains('\t').then(|| help.to_owned())
}

/// The values of `include:`, which is a text or a list of texts. Other kinds are reported by
/// whoever reads the keys.
fn patterns(root: &Node) -> Vec<(At, String)> {
    let Value::Map(entries) = &root.value else {
        return Vec::new();
    };
    let texts = entries
        .iter()
        .filter(|entry| entry.key == "include")
        .flat_map(|entry| match &entry.value.value {
            Value::List(nodes) => nodes.iter().collect(),
            _ => vec![&entry.value],
        });
    texts
        .filter_map(|node| Some((node.at, node.text().ok()?.value.clone())))
        .collect()
}

/// The file behind symlinks and dots, so that a cycle is seen under any name.
fn canonical(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
