//! One problem in a file, and how it is shown.

use std::fmt;
use std::path::PathBuf;

/// One problem with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub file: PathBuf,
    /// 1-based; 0 when the problem has no place in the file.
    pub line: usize,
    /// 1-based; 0 when the problem has no place in the file.
    pub column: usize,
    pub message: String,
}

/// All problems of one load. Displays as the full report that `check` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, _formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}

impl std::error::Error for Diagnostics {}
