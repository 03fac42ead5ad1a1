//! A change of a watched file is noticed, however it is made; and nothing else is.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use evergate::config::FileWatcher;

/// Far above the debounce time and the polling interval.
const DEADLINE: Duration = Duration::from_secs(30);
/// Longer than the debounce time, for what must not be noticed.
const A_WHILE: Duration = Duration::from_millis(700);

#[tokio::test]
async fn a_file_written_in_place_is_noticed() {
    let (_keep, path) = watched_file();
    let mut watcher = FileWatcher::new(std::slice::from_ref(&path));
    fs::write(&path, "two").unwrap();
    noticed(&mut watcher).await;
}

#[tokio::test]
async fn a_file_renamed_over_another_is_noticed_each_time() {
    let (directory, path) = watched_file();
    let mut watcher = FileWatcher::new(std::slice::from_ref(&path));
    for round in 0..3 {
        let fresh = directory.path().join("fresh");
        fs::write(&fresh, format!("round {round}")).unwrap();
        fs::rename(&fresh, &path).unwrap();
        noticed(&mut watcher).await;
    }
}

#[tokio::test]
async fn a_removed_file_and_its_return_are_noticed() {
    let (_keep, path) = watched_file();
    let mut watcher = FileWatcher::new(std::slice::from_ref(&path));
    fs::remove_file(&path).unwrap();
    noticed(&mut watcher).await;
    fs::write(&path, "one").unwrap();
    noticed(&mut watcher).await;
}

#[tokio::test]
async fn a_swap_of_symlinks_as_kubernetes_does_it_is_noticed_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    publish(root, 0);
    symlink("..data/main.yaml", root.join("main.yaml")).unwrap();
    let mut watcher = FileWatcher::new(&[root.join("main.yaml")]);
    for version in 1..4 {
        publish(root, version);
        noticed(&mut watcher).await;
    }
}

#[tokio::test]
async fn the_target_of_a_symlink_in_another_directory_is_watched() {
    let here = tempfile::tempdir().unwrap();
    let there = tempfile::tempdir().unwrap();
    let target = there.path().join("real.yaml");
    fs::write(&target, "one").unwrap();
    let link = here.path().join("main.yaml");
    symlink(&target, &link).unwrap();
    let mut watcher = FileWatcher::new(&[link]);
    fs::write(&target, "two").unwrap();
    noticed(&mut watcher).await;
}

#[tokio::test]
async fn a_directory_that_is_removed_and_made_again_stays_watched() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("conf");
    let path = inner.join("main.yaml");
    fs::create_dir(&inner).unwrap();
    fs::write(&path, "one").unwrap();
    let mut watcher = FileWatcher::new(std::slice::from_ref(&path));
    fs::remove_dir_all(&inner).unwrap();
    noticed(&mut watcher).await;
    fs::create_dir(&inner).unwrap();
    fs::write(&path, "two").unwrap();
    noticed(&mut watcher).await;
    fs::write(&path, "three").unwrap();
    noticed(&mut watcher).await;
}

#[tokio::test]
async fn a_new_file_in_a_watched_directory_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let mut watcher = FileWatcher::new(&[directory.path().to_owned()]);
    fs::write(directory.path().join("new.yaml"), "").unwrap();
    noticed(&mut watcher).await;
}

#[tokio::test]
async fn a_half_written_file_is_seen_as_a_whole() {
    use std::io::Write;
    let (_keep, path) = watched_file();
    let mut watcher = FileWatcher::new(std::slice::from_ref(&path));
    let mut file = fs::File::create(&path).unwrap();
    for part in 0..10 {
        write!(file, "part {part}").unwrap();
    }
    drop(file);
    noticed(&mut watcher).await;
    assert!(fs::read_to_string(&path).unwrap().ends_with("part 9"));
    not_noticed(&mut watcher).await;
}

#[tokio::test]
async fn the_same_contents_and_other_files_are_no_change() {
    let (directory, path) = watched_file();
    let mut watcher = FileWatcher::new(std::slice::from_ref(&path));
    fs::write(&path, "one").unwrap();
    fs::write(directory.path().join("other"), "x").unwrap();
    not_noticed(&mut watcher).await;
}

#[tokio::test]
async fn a_change_is_not_lost_when_the_wait_is_cancelled() {
    let (_keep, path) = watched_file();
    let mut watcher = FileWatcher::new(std::slice::from_ref(&path));
    fs::write(&path, "two").unwrap();
    for _ in 0..20 {
        // Shorter than the debounce time: cancelled in the middle of it, unless the machine stalls.
        let wait = Duration::from_millis(10);
        if tokio::time::timeout(wait, watcher.changed()).await.is_ok() {
            return;
        }
    }
    noticed(&mut watcher).await;
}

#[tokio::test]
async fn a_new_set_of_files_keeps_what_was_seen_of_the_old() {
    let (directory, path) = watched_file();
    let mut watcher = FileWatcher::new(std::slice::from_ref(&path));
    fs::write(&path, "two").unwrap();
    let second = directory.path().join("second.yaml");
    watcher.set_files(&[path, second]);
    noticed(&mut watcher).await;
}

fn watched_file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("the scratch directory is ours");
    let path = directory.path().join("main.yaml");
    fs::write(&path, "one").expect("the scratch directory is ours");
    (directory, path)
}

/// A new version of a volume: files in a directory of their own, then one rename.
fn publish(root: &Path, version: u32) {
    let name = format!("..version_{version}");
    fs::create_dir(root.join(&name)).expect("the scratch directory is ours");
    fs::write(root.join(&name).join("main.yaml"), format!("{version}"))
        .expect("the scratch directory is ours");
    symlink(&name, root.join("..data_tmp")).expect("the scratch directory is ours");
    fs::rename(root.join("..data_tmp"), root.join("..data"))
        .expect("the scratch directory is ours");
    if let Some(old) = version.checked_sub(1) {
        fs::remove_dir_all(root.join(format!("..version_{old}")))
            .expect("the scratch directory is ours");
    }
}

async fn noticed(watcher: &mut FileWatcher) {
    let change = tokio::time::timeout(DEADLINE, watcher.changed()).await;
    change.expect("the change is noticed");
}

async fn not_noticed(watcher: &mut FileWatcher) {
    let change = tokio::time::timeout(A_WHILE, watcher.changed()).await;
    assert!(change.is_err(), "noticed a change that was none");
}
