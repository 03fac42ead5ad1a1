//! Notices when a watched file may have changed.
//!
//! The kernel tells when something happened in a directory; what counts is
//! whether the contents differ. So no order of renames, symlink swaps and
//! half-written files can be misread, and a lost notice only costs time.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::hash::Hasher;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use notify::EventKind;
use notify::RecommendedWatcher;
use notify::RecursiveMode;
use notify::Watcher;
use notify::event::AccessKind;
use notify::event::AccessMode;
use rustix::io::Errno;
use tokio::sync::mpsc;
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

use crate::config::source;

/// An editor writes and renames within milliseconds.
const QUIET: Duration = Duration::from_millis(50);
/// A file that is written to all the time must not put off a reload for ever.
const MAX_POSTPONED: Duration = Duration::from_millis(500);
/// Looks without a notice: network file systems send none.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// The same, when the kernel refused to watch a directory.
const POLL_INTERVAL_UNWATCHED: Duration = Duration::from_secs(1);
/// As many as the kernel follows (path_resolution(7)).
const MAX_SYMLINKS: usize = 40;
/// Larger than any file that a load accepts.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Watches the *directories* of a set of files (editors rename, Kubernetes swaps symlinks).
#[derive(Debug)]
pub struct FileWatcher {
    /// `None` when the kernel gives us no instance: we poll.
    watcher: Option<RecommendedWatcher>,
    notices: mpsc::Receiver<()>,
    /// What was seen last of each file.
    seen: BTreeMap<PathBuf, u64>,
    /// Directories under watch, by what they were when the watch began.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    all_watched: bool,
    /// A refusal of the kernel is logged once, not at every look.
    warned: bool,
    /// A notice came and the contents have not been compared since.
    noticed: bool,
}

impl FileWatcher {
    /// Starts watching. Files and directories that do not exist yet are fine. A directory in the
    /// list is compared by the names in it. Where the kernel refuses to watch, files are polled.
    pub fn new(files: &[PathBuf]) -> Self {
        // One notice is as good as many: the contents decide.
        let (sender, notices) = mpsc::channel(1);
        let noticed = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !is_reading(event.kind)) {
                let _ = sender.try_send(());
            }
        };
        // A watcher without the thread that it takes for granted panics, again while it is dropped.
        let watcher = try_thread()
            .map_err(notify::Error::io)
            .and_then(|()| notify::recommended_watcher(noticed));
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(%error, "cannot watch files; looking at them each second instead");
        });
        let mut this = Self {
            watcher: watcher.ok(),
            notices,
            seen: BTreeMap::new(),
            watched: BTreeMap::new(),
            all_watched: false,
            warned: false,
            noticed: false,
        };
        this.set_files(files);
        this
    }

    /// Replaces the set of watched files. What was seen of a file that stays is kept, so that a
    /// change between the last [`changed`](Self::changed) and now is not missed.
    pub fn set_files(&mut self, files: &[PathBuf]) {
        let mut before = std::mem::take(&mut self.seen);
        self.seen = files.iter().map(|file| (file.clone(), 0)).collect();
        // Watch first and read then: a change in between is noticed.
        self.watch_directories();
        for (file, fingerprint) in &mut self.seen {
            let known = before.remove(file);
            *fingerprint = known.unwrap_or_else(|| fingerprint_of(file));
        }
    }

    /// Resolves once the *contents* of any watched file differ from the last time, and have been
    /// quiet for the debounce time. A file that vanished or cannot be read has changed. Cancel safe.
    pub async fn changed(&mut self) {
        loop {
            self.notice().await;
            self.settle().await;
            self.noticed = false;
            self.watch_directories();
            if self.compare() {
                return;
            }
        }
    }

    /// Waits for a notice, or until it is time to look without one.
    async fn notice(&mut self) {
        if self.noticed {
            return;
        }
        let interval = if self.all_watched {
            POLL_INTERVAL
        } else {
            POLL_INTERVAL_UNWATCHED
        };
        tokio::select! {
            Some(()) = self.notices.recv() => self.noticed = true,
            () = tokio::time::sleep(interval) => {}
        }
    }

    /// Waits until nothing has happened for a while.
    async fn settle(&mut self) {
        let deadline = Instant::now() + MAX_POSTPONED;
        while self.noticed && Instant::now() < deadline {
            match tokio::time::timeout(QUIET, self.notices.recv()).await {
                Ok(Some(())) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn compare(&mut self) -> bool {
        // Files that cannot be opened for want of a descriptor have not changed.
        if out_of_descriptors() {
            return false;
        }
        let mut differs = false;
        for (file, fingerprint) in &mut self.seen {
            let now = fingerprint_of(file);
            differs |= now != *fingerprint;
            *fingerprint = now;
        }
        differs
    }

    /// Brings the watches in line with where the files are by now.
    fn watch_directories(&mut self) {
        let mut wanted = BTreeSet::new();
        for file in self.seen.keys() {
            collect_directories(file, &mut wanted, 0);
        }
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        // A directory that was removed and made again has the old name but no watch.
        let stale = |directory: &Path, known: &(u64, u64)| identity(directory) != Some(*known);
        self.watched.retain(|directory, known| {
            let keep = wanted.contains(directory) && !stale(directory, known);
            if !keep {
                // Fails when the directory is gone, and its watch with it.
                let _ = watcher.unwatch(directory);
            }
            keep
        });
        self.all_watched = true;
        for directory in wanted {
            if self.watched.contains_key(&directory) {
                continue;
            }
            let Some(identity) = identity(&directory) else {
                self.all_watched = false;
                continue;
            };
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(directory, identity);
                }
                Err(error) => {
                    self.all_watched = false;
                    if !self.warned {
                        self.warned = true;
                        let directory = directory.display();
                        tracing::warn!(%directory, %error, "cannot watch; polling instead");
                    }
                }
            }
        }
    }
}

/// Whether the system gives us another thread.
fn try_thread() -> io::Result<()> {
    let thread = std::thread::Builder::new().spawn(|| {})?;
    // It does nothing that could fail.
    let _ = thread.join();
    Ok(())
}

/// Our own reading causes such events; taking them for changes would never end.
fn is_reading(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    }
}

fn identity(directory: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(directory).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The directories in which a change can change what `path` leads to: its own, and that of every
/// symlink on the way. Where one is missing, the nearest above it.
fn collect_directories(path: &Path, directories: &mut BTreeSet<PathBuf>, symlinks: usize) {
    if symlinks > MAX_SYMLINKS {
        return;
    }
    let parent_of = |path: &Path| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => PathBuf::from("/"),
    };
    for prefix in path.ancestors().filter(|p| !p.as_os_str().is_empty()) {
        let Ok(target) = fs::read_link(prefix) else {
            continue;
        };
        let parent = parent_of(prefix);
        let rest = path.strip_prefix(prefix).unwrap_or(Path::new(""));
        directories.insert(parent.clone());
        let target = parent.join(target);
        let onward = if rest.as_os_str().is_empty() {
            target
        } else {
            target.join(rest)
        };
        return collect_directories(&onward, directories, symlinks + 1);
    }
    if path.is_dir() {
        directories.insert(path.to_owned());
    }
    let mut directory = parent_of(path);
    while !directory.is_dir() {
        let above = parent_of(&directory);
        if above == directory {
            return;
        }
        directory = above;
    }
    directories.insert(directory);
}

fn out_of_descriptors() -> bool {
    let codes = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    let code = fs::File::open("/")
        .err()
        .and_then(|error| error.raw_os_error());
    code.is_some_and(|code| codes.contains(&code))
}

/// A number that differs when the contents, or the reason why there are none, do.
fn fingerprint_of(path: &Path) -> u64 {
    let mut hash = Xxh3::new();
    if path.is_dir() {
        let mut names: Vec<_> = fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        names.sort();
        for name in names {
            hash.write(name.as_encoded_bytes());
            // Cannot be part of a name.
            hash.write(b"/");
        }
        return hash.finish();
    }
    match source::read_bytes(path, MAX_FILE_BYTES) {
        Ok(bytes) => hash.write(&bytes),
        Err(wrong) => {
            // Not UTF-8, so that no file a load accepts looks the same.
            hash.write(&[0xff]);
            hash.write(wrong.message.as_bytes());
        }
    }
    hash.finish()
}
