//! Notices when a watched file may have changed.

use std::path::PathBuf;

/// Watches the *directories* of a set of files (editors rename, Kubernetes swaps symlinks).
#[derive(Debug)]
pub struct FileWatcher {}

impl FileWatcher {
    /// Starts watching. Files that do not exist yet are fine; their directory must.
    pub fn new(_files: &[PathBuf]) -> Result<Self, notify::Error> {
        todo!()
    }

    /// Replaces the set of watched files.
    pub fn set_files(&mut self, _files: &[PathBuf]) -> Result<(), notify::Error> {
        todo!()
    }

    /// Resolves once the *contents* of any watched file differ from the last time,
    /// and have been quiet for the debounce time.
    pub async fn changed(&mut self) {
        todo!()
    }
}
