//! The configuration as an operator meets it: files in, a value or all problems out.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use evergate::config;

/// Broken files that must exist, so that nobody prunes them by mistake.
const MIN_BROKEN_FILES: usize = 60;

#[test]
fn every_broken_file_gets_its_exact_messages() {
    // Set to rewrite the expected messages; then read the difference.
    let bless = std::env::var_os("EVERGATE_BLESS").is_some();
    let files = yaml_files("tests/config/broken");
    let count = files.len();
    let mut wrong = Vec::new();
    for path in files {
        let shown = match config::load(&path) {
            Ok(_) => "loads, but should not\n".to_owned(),
            Err(problems) => problems.to_string(),
        };
        let expected_path = path.with_extension("txt");
        if bless {
            fs::write(&expected_path, &shown).unwrap();
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if shown != expected {
            let path = path.display();
            wrong.push(format!("{path}\nexpected:\n{expected}\nfound:\n{shown}"));
        }
        assert!(!shown.starts_with("loads"), "{} loads", path.display());
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(count >= MIN_BROKEN_FILES, "{count} files");
}

#[test]
fn every_example_loads_without_a_warning() {
    let files = yaml_files("examples/configs");
    assert!(!files.is_empty());
    for path in files {
        let loaded = config::load(&path);
        let loaded = loaded.unwrap_or_else(|problems| panic!("{}\n{problems}", path.display()));
        assert_eq!(loaded.warnings, [], "{}", path.display());
    }
}

fn yaml_files(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(directory)).unwrap();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    files
}
