//! A file system of its own that is full soon.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use tempfile::TempDir;

use super::process::output_of;
use super::process::run;

/// In memory, and gone when it is dropped.
#[derive(Debug)]
pub struct Disk {
    place: PathBuf,
    _dir: Option<TempDir>,
}

impl Disk {
    /// In a place of its own. `size` as for `mount`: `1m`.
    #[track_caller]
    pub fn of(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = Self::over(dir.path(), size);
        disk._dir = Some(dir);
        disk
    }

    /// Hides what is in this directory, and has its owner.
    #[track_caller]
    pub fn over(place: &Path, size: &str) -> Self {
        let owner = place.metadata().unwrap();
        let (user, group, mode) = (owner.uid(), owner.gid(), owner.mode() & 0o777);
        let options = format!("size={size},uid={user},gid={group},mode={mode:o}");
        let path = place.to_str().unwrap();
        run(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs", path]);
        Self {
            place: place.to_owned(),
            _dir: None,
        }
    }

    pub fn path(&self) -> &Path {
        &self.place
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the one who writes to it may still have to end.
        output_of(&["umount", "--lazy", self.place.to_str().unwrap()], &[]);
    }
}
