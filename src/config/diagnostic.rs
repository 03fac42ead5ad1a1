//! One problem in a file, and how it is shown.

use std::fmt;
use std::path::PathBuf;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file is not used.
    Error,
    /// The file is used, but something should be mended.
    Warning,
}

/// One problem with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub message: String,
    pub place: Place,
    /// What to do about it.
    pub help: Option<String>,
    /// A second place that belongs to the problem, and what it shows.
    pub related: Option<(String, Place)>,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: PathBuf,
    /// 1-based; 0 when the problem has no place in the file.
    pub line: usize,
    /// 1-based, in characters; 0 when the problem has no place in the file.
    pub column: usize,
    /// The line's text with secrets masked; empty when there is none to show.
    pub snippet: String,
}

/// All problems of one load. Displays as the full report that `check` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

impl Place {
    /// A whole file.
    pub fn file(file: PathBuf) -> Self {
        Self {
            file,
            line: 0,
            column: 0,
            snippet: String::new(),
        }
    }
}

impl Diagnostics {
    /// How many of them are errors.
    pub fn errors(&self) -> usize {
        let is_error = |diagnostic: &&Diagnostic| diagnostic.severity == Severity::Error;
        self.0.iter().filter(is_error).count()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(formatter)?;
            }
            diagnostic.fmt(formatter)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let related = self.related.as_ref().map_or(0, |(_, place)| place.line);
        let margin = self.place.line.max(related).to_string().len();
        writeln!(formatter, "{}: {}", self.severity.as_str(), self.message)?;
        write_place(formatter, &self.place, margin)?;
        if let Some((label, place)) = &self.related {
            writeln!(formatter, "{:margin$} = note: {label}", "")?;
            write_place(formatter, place, margin)?;
        }
        if let Some(help) = &self.help {
            writeln!(formatter, "{:margin$} = help: {help}", "")?;
        }
        Ok(())
    }
}

fn write_place(formatter: &mut fmt::Formatter<'_>, place: &Place, margin: usize) -> fmt::Result {
    let file = place.file.display();
    if place.line == 0 {
        return writeln!(formatter, "{:margin$}--> {file}", "");
    }
    let (line, column) = (place.line, place.column);
    writeln!(formatter, "{:margin$}--> {file}:{line}:{column}", "")?;
    if place.snippet.is_empty() {
        return Ok(());
    }
    let (shown, skipped) = window(&place.snippet, column);
    let indent = column.saturating_sub(1).saturating_sub(skipped);
    let carets = "^".repeat(marked_chars(&shown, indent));
    writeln!(formatter, "{:margin$} |", "")?;
    writeln!(formatter, "{line:margin$} | {shown}")?;
    writeln!(formatter, "{:margin$} | {:indent$}{carets}", "", "")
}

/// Longest part of a line that is shown: one row of a wide terminal.
const MAX_SHOWN_CHARS: usize = 160;

/// The part of a long line around a column, and how many characters before it are left out.
fn window(line: &str, column: usize) -> (String, usize) {
    let skipped = if column > MAX_SHOWN_CHARS / 2 && line.chars().count() > MAX_SHOWN_CHARS {
        column - MAX_SHOWN_CHARS / 2
    } else {
        0
    };
    let shown = line.chars().skip(skipped).take(MAX_SHOWN_CHARS);
    let shown = shown.map(|c| if c.is_control() { ' ' } else { c });
    (shown.collect(), skipped)
}

/// How many characters the word at `start` has; at least one.
fn marked_chars(line: &str, start: usize) -> usize {
    let mut rest = line.chars().skip(start).peekable();
    let count = match rest.peek() {
        Some(&quote @ ('"' | '\'')) => {
            rest.next();
            2 + rest.take_while(|c| *c != quote).count()
        }
        _ => {
            let word: String = rest
                .take_while(|c| !c.is_whitespace() && !",]}".contains(*c))
                .collect();
            word.trim_end_matches(':').chars().count()
        }
    };
    let left = line.chars().count().saturating_sub(start);
    count.min(left).max(1)
}
