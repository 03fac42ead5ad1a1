//! The seeds of the fuzz targets, which every test run goes through as well.

/// Each seed of `target`, which has some.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(format!("fuzz/corpus/{target}")).unwrap();
    let seeds: Vec<_> = files
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect();
    assert!(!seeds.is_empty(), "no seeds of {target}");
    seeds
}
