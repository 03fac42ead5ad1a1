//! Holds the lock file to deny.toml, without a program that has to be installed first.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

#[test]
fn no_banned_crate_is_in_the_lock_file() {
    let banned = list_after("deny = [", "{ crate = ");
    let lock = fs::read_to_string("Cargo.lock").unwrap();
    let locked: BTreeSet<&str> = lock
        .lines()
        .filter_map(|line| line.strip_prefix("name = "))
        .map(|name| name.trim_matches('"'))
        .collect();
    assert!(locked.contains("tokio"), "Cargo.lock was not understood");
    let found: Vec<_> = banned
        .iter()
        .filter(|name| locked.contains(name.as_str()))
        .collect();
    assert!(found.is_empty(), "deny.toml bans {found:?}");
}

#[test]
fn every_crate_has_an_allowed_licence() {
    let allowed = list_after("allow = [", "");
    let refused: Vec<_> = packages()
        .iter()
        .filter_map(|package| {
            let licence = package["license"].as_str().unwrap_or("");
            let fits = satisfies(licence, &allowed);
            (!fits).then(|| format!("{}: {licence:?}", package["name"]))
        })
        .collect();
    assert!(
        refused.is_empty(),
        "not covered by deny.toml:\n{}",
        refused.join("\n")
    );
}

#[test]
fn every_crate_comes_from_the_registry() {
    let foreign: Vec<_> = packages()
        .iter()
        .filter(|package| package["name"] != "evergate")
        .filter(|package| {
            let source = package["source"].as_str().unwrap_or("a path");
            !source.starts_with("registry+")
        })
        .map(|package| package["id"].to_string())
        .collect();
    assert!(foreign.is_empty(), "neither git nor paths: {foreign:?}");
}

#[test]
fn licence_expressions_are_understood() {
    let allowed: BTreeSet<String> = ["MIT", "ISC"].map(String::from).into();
    assert!(satisfies("MIT", &allowed));
    assert!(satisfies("GPL-3.0 OR MIT", &allowed));
    assert!(satisfies("MIT/GPL-3.0", &allowed));
    assert!(satisfies("ISC AND (GPL-3.0 OR MIT)", &allowed));
    assert!(!satisfies("ISC AND GPL-3.0", &allowed));
    assert!(!satisfies("(GPL-3.0 OR MPL-2.0) AND MIT", &allowed));
    assert!(!satisfies("MIT WITH some-exception", &allowed));
    assert!(!satisfies("", &allowed));
}

/// The quoted string of each line of the list that `opening` starts in deny.toml.
fn list_after(opening: &str, prefix: &str) -> BTreeSet<String> {
    let text = fs::read_to_string("deny.toml").unwrap();
    let found: BTreeSet<String> = text
        .lines()
        .skip_while(|line| *line != opening)
        .skip(1)
        .take_while(|line| *line != "]")
        .filter_map(|line| line.trim_start().strip_prefix(prefix)?.strip_prefix('"'))
        .filter_map(|rest| rest.split('"').next())
        .map(String::from)
        .collect();
    assert!(!found.is_empty(), "deny.toml has no `{opening}`");
    found
}

/// What the build for Linux is made of: only these crates are sure to be downloaded.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--offline", "--locked"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {errors}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().clone();
    assert!(packages.len() > 50, "only {} packages", packages.len());
    packages
}

/// SPDX expressions as they occur: `A OR B`, `A/B`, `A AND (B OR C)`.
fn satisfies(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.trim();
    if let Some(parts) = split_outside_parentheses(expression, " OR ") {
        return parts.iter().any(|part| satisfies(part, allowed));
    }
    if let Some(parts) = split_outside_parentheses(expression, "/") {
        return parts.iter().any(|part| satisfies(part, allowed));
    }
    if let Some(parts) = split_outside_parentheses(expression, " AND ") {
        return parts.iter().all(|part| satisfies(part, allowed));
    }
    match expression.strip_prefix('(') {
        Some(rest) => rest
            .strip_suffix(')')
            .is_some_and(|within| satisfies(within, allowed)),
        None => allowed.contains(expression),
    }
}

/// `None` when the separator does not occur at the top level.
fn split_outside_parentheses<'a>(text: &'a str, separator: &str) -> Option<Vec<&'a str>> {
    let mut parts = Vec::new();
    let mut depth = 0_i32;
    let mut start = 0;
    for (index, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 && index >= start && text[index..].starts_with(separator) {
            parts.push(&text[start..index]);
            start = index + separator.len();
        }
    }
    parts.push(&text[start..]);
    (parts.len() > 1).then_some(parts)
}
