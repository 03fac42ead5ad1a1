//! What must outlive the process, on disk: one file per cluster, so that a bad one
//! stops nobody else's cluster.
//!
//! A file is replaced as a whole or not at all. One that cannot be read is an error
//! for a person to look at: forgetting silently would unfence an old primary.

use std::fs;
use std::fs::DirBuilder;
use std::fs::File;
use std::fs::TryLockError;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::control::failover::Memory;

/// The format that is written.
const VERSION: u32 = 1;
/// Locked by the process that uses the directory.
const LOCK: &str = "lock";
/// Files that are being written, or were when the process was killed.
const UNFINISHED: &str = ".saving-";
/// A GTID set has at most 1 MiB; nothing else in a memory is longer than a name.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// File systems allow 255 bytes.
const MAX_NAME_BYTES: usize = 200;

/// Why the state could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("state directory {}: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "state directory {}: another Evergate uses it; give each its own `state_dir`",
        path.display()
    )]
    Locked { path: PathBuf },
    #[error("state file {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "state file {}: {reason}. It remembers who was fenced: restore it, or move it away after \
         making sure that no old primary of the cluster can come back as one",
        path.display()
    )]
    Corrupt { path: PathBuf, reason: String },
    #[error(
        "state file {}: written by another version of Evergate (format {found}, this one has {VERSION}); \
         run that version or a newer one",
        path.display()
    )]
    Version { path: PathBuf, found: u32 },
}

/// The directory, for this process alone.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Unlocked by the system when it is closed, however the process ends.
    _lock: File,
}

#[derive(Deserialize)]
struct Envelope {
    version: u32,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    cluster: &'a str,
    memory: &'a Memory,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    #[serde(rename = "version")]
    _version: u32,
    cluster: String,
    memory: Memory,
}

impl StateDir {
    /// Creates the directory if it is missing, and locks it.
    ///
    /// # Errors
    /// It cannot be created or written to, or another process uses it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::Directory {
            path: path.to_owned(),
            source,
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(path).map_err(failed)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let path = path.to_owned();
                return Err(StateError::Locked { path });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let dir = Self {
            path: path.to_owned(),
            _lock: lock,
        };
        dir.remove_unfinished().map_err(failed)?;
        Ok(dir)
    }

    /// What is remembered of a cluster; an empty memory if nothing was ever saved.
    ///
    /// # Errors
    /// The file cannot be read, is damaged or was written by another version.
    pub fn load(&self, cluster: &str) -> Result<Memory, StateError> {
        let path = self.file_of(cluster);
        let corrupt = |reason: String| StateError::Corrupt {
            path: path.clone(),
            reason,
        };
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Memory::default()),
            Err(source) => return Err(StateError::File { path, source }),
        };
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(corrupt("too large".to_owned()));
        }
        let parsed: Result<Envelope, _> = serde_json::from_slice(&text);
        let found = parsed.map_err(|error| corrupt(error.to_string()))?.version;
        if found != VERSION {
            return Err(StateError::Version { path, found });
        }
        let parsed: Result<Saved, _> = serde_json::from_slice(&text);
        let saved = parsed.map_err(|error| corrupt(error.to_string()))?;
        if saved.cluster != cluster {
            let reason = format!("it belongs to the cluster {:?}", saved.cluster);
            return Err(corrupt(reason));
        }
        Ok(saved.memory)
    }

    /// Saves; once this returns, a crash of the machine does not lose it.
    ///
    /// # Errors
    /// Nothing was changed: what was saved before is still there.
    pub fn save(&self, cluster: &str, memory: &Memory) -> Result<(), StateError> {
        let path = self.file_of(cluster);
        let written = Written {
            version: VERSION,
            cluster,
            memory,
        };
        self.replace(&path, &written)
            .map_err(|source| StateError::File { path, source })
    }

    fn replace(&self, path: &Path, written: &Written) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(written)?;
        text.push(b'\n');
        // Readable by the owner alone.
        let mut file = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.path)?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        // The new name is on disk only now.
        File::open(&self.path)?.sync_all()
    }

    /// A crash in the middle of saving leaves them behind.
    fn remove_unfinished(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn file_of(&self, cluster: &str) -> PathBuf {
        self.path.join(format!("{}.json", escape(cluster)))
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = File::open(path)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// A file name of its own for every cluster name, on every file system.
fn escape(cluster: &str) -> String {
    let mut name = String::new();
    for byte in cluster.bytes() {
        match byte {
            // Lower case only: some file systems take `A` and `a` for the same.
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    if name.len() > MAX_NAME_BYTES {
        name.truncate(MAX_NAME_BYTES);
        name.push_str(&format!("-{:016x}", xxh3_64(cluster.as_bytes())));
    }
    name
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    /// A memory as a later version of this one could have saved it.
    fn memory(timeline: u32) -> Memory {
        let text = format!(
            r#"{{"established": "pg2",
                "deposed": [{{"name": "pg1", "timeline": 1}}],
                "postgres": {{"system_identifier": 18446744073709551615,
                              "timelines": {{"18446744073709551615": {timeline}}}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn file(temp: &TempDir) -> PathBuf {
        temp.path().join("orders.json")
    }

    fn opened() -> (TempDir, StateDir) {
        let temp = TempDir::new().unwrap();
        let dir = StateDir::open(temp.path()).unwrap();
        (temp, dir)
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let (temp, dir) = opened();
        assert_eq!(dir.load("orders").unwrap(), Memory::default());
        dir.save("orders", &memory(1)).unwrap();
        dir.save("orders", &memory(2)).unwrap();
        dir.save("other", &Memory::default()).unwrap();
        drop(dir);
        let dir = StateDir::open(temp.path()).unwrap();
        assert_eq!(dir.load("orders").unwrap(), memory(2));
        assert_eq!(dir.load("other").unwrap(), Memory::default());
    }

    #[test]
    fn only_the_owner_may_read_it() {
        let temp = TempDir::new().unwrap();
        let path = temp.path().join("below").join("state");
        let dir = StateDir::open(&path).unwrap();
        dir.save("orders", &memory(1)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("orders.json")), 0o600);
    }

    #[test]
    fn a_directory_serves_one_process() {
        let (temp, dir) = opened();
        let error = StateDir::open(temp.path()).unwrap_err();
        assert!(matches!(error, StateError::Locked { .. }), "{error}");
        assert!(error.to_string().contains("another Evergate uses it"));
        drop(dir);
        StateDir::open(temp.path()).unwrap();
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it_and_stays_as_it_is() {
        let (temp, dir) = opened();
        dir.save("orders", &memory(1)).unwrap();
        let whole = fs::read(file(&temp)).unwrap();
        let mut damaged: Vec<Vec<u8>> = (0..whole.len() - 2)
            .map(|end| whole[..end].to_vec())
            .collect();
        damaged.push(b"\0\xff garbage".to_vec());
        damaged.push([&whole[..], b"x"].concat());
        damaged.push(br#"{"version": 1, "cluster": "orders"}"#.to_vec());
        damaged.push(br#"{"version": 1, "cluster": "other", "memory": {}}"#.to_vec());
        damaged.push(br#"{"version": 1, "cluster": "orders", "memory": {"x": 1}}"#.to_vec());
        damaged.push(vec![b' '; MAX_FILE_BYTES as usize + 1]);
        for text in damaged {
            fs::write(file(&temp), &text).unwrap();
            let error = dir.load("orders").unwrap_err();
            assert!(matches!(error, StateError::Corrupt { .. }), "{error}");
            assert!(error.to_string().contains("orders.json"), "{error}");
            assert_eq!(fs::read(file(&temp)).unwrap(), text);
        }
        assert_eq!(dir.load("other").unwrap(), Memory::default());
    }

    #[test]
    fn the_file_of_another_version_is_left_alone() {
        let (temp, dir) = opened();
        let text = r#"{"version": 2, "whatever": []}"#;
        fs::write(file(&temp), text).unwrap();
        let error = dir.load("orders").unwrap_err();
        assert!(
            matches!(error, StateError::Version { found: 2, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("another version"));
    }

    #[test]
    fn what_a_crash_left_behind_is_removed() {
        let (temp, dir) = opened();
        drop(dir);
        let left = temp.path().join(format!("{UNFINISHED}x1"));
        fs::write(&left, "half").unwrap();
        let dir = StateDir::open(temp.path()).unwrap();
        assert!(!left.exists());
        dir.save("orders", &memory(1)).unwrap();
        let names = fs::read_dir(temp.path()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["lock", "orders.json"]);
    }

    #[test]
    fn a_failed_save_keeps_what_was_there() {
        let (temp, dir) = opened();
        dir.save("orders", &memory(1)).unwrap();
        // A directory cannot be replaced by a file, whoever tries.
        fs::create_dir_all(temp.path().join("blocked.json/x")).unwrap();
        let error = dir.save("blocked", &memory(2)).unwrap_err();
        assert!(error.to_string().contains("blocked.json"), "{error}");
        assert_eq!(dir.load("orders").unwrap(), memory(1));
        assert!(matches!(
            dir.load("blocked").unwrap_err(),
            StateError::File { .. }
        ));
        let left = fs::read_dir(temp.path()).unwrap();
        let left = left.filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with(UNFINISHED)
        });
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_that_names_it() {
        let temp = TempDir::new().unwrap();
        let blocked = temp.path().join("file");
        fs::write(&blocked, "").unwrap();
        for path in [blocked.clone(), blocked.join("below")] {
            let error = StateDir::open(&path).unwrap_err();
            assert!(matches!(error, StateError::Directory { .. }), "{error}");
            assert!(error.to_string().contains("file"), "{error}");
        }
        // Nothing can be created here, not even by root.
        assert!(StateDir::open(Path::new("/proc/evergate")).is_err());
    }

    #[test]
    fn every_cluster_name_has_a_file_of_its_own() {
        let long = "x".repeat(300);
        let names = [
            "orders",
            "Orders",
            "a/b",
            "a%2fb",
            "a b",
            ".",
            "..",
            "",
            "lock",
            "é",
            &long,
            &long[1..],
        ];
        let mut files: Vec<String> = names.iter().map(|name| escape(name)).collect();
        for file in &files {
            assert!(
                file.len() < 250 && !file.contains(['/', '.', ' ']),
                "{file}"
            );
        }
        files.sort();
        files.dedup();
        assert_eq!(files.len(), names.len());
    }
}
