//! docs/operations.md names every metric and every cause, and no others.

use std::collections::BTreeSet;
use std::fs;

use evergate::cluster::Cause;
use evergate::metrics;

fn document() -> String {
    fs::read_to_string("docs/operations.md").expect("run from the package root")
}

/// The first cells of the table rows below a heading.
fn first_cells(section: &str) -> BTreeSet<String> {
    let document = document();
    let start = document.find(section).expect("the section is there");
    let body = &document[start + section.len()..];
    let body = body.split("\n## ").next().unwrap_or_default();
    let rows = body.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells: BTreeSet<_> = rows
        .filter_map(|row| row.split_once('`'))
        .map(|(cell, _)| cell.to_owned())
        .collect();
    assert!(!cells.is_empty(), "no table below {section}");
    cells
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_exists() {
    let table = metrics::ALL.iter().map(|metric| metric.name);
    let known: BTreeSet<_> = table
        .chain(metrics::PROCESS.iter().copied())
        .map(str::to_owned)
        .collect();
    assert_eq!(first_cells("\n## Metrics\n"), known);
}

#[test]
fn every_metric_is_documented_with_its_kind_labels_and_help() {
    let document = document();
    for metric in metrics::ALL {
        let kind = match metric.kind {
            metrics::Kind::Counter => "counter",
            metrics::Kind::Gauge => "gauge",
            metrics::Kind::Histogram(_) => "histogram",
        };
        let labels: Vec<_> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
        let labels = if labels.is_empty() {
            "–".to_owned()
        } else {
            labels.join(", ")
        };
        let row = format!(
            "| `{}` | {kind} | {labels} | {} |\n",
            metric.name, metric.help
        );
        assert!(document.contains(&row), "missing: {row}");
    }
}

#[test]
fn every_cause_is_documented_and_every_documented_cause_exists() {
    let known: BTreeSet<_> = Cause::ALL.iter().map(|c| c.as_str().to_owned()).collect();
    assert_eq!(first_cells("\n## Causes\n"), known);
}

#[test]
fn metrics_named_in_the_text_exist() {
    let document = document();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = document.split(|c| !is_part(c));
    let named: BTreeSet<_> = words.filter(|word| word.starts_with("evergate_")).collect();
    assert!(!named.is_empty());
    for word in named {
        let base = word.strip_suffix("_bucket").unwrap_or(word);
        let exists = metrics::ALL.iter().any(|metric| metric.name == base);
        assert!(exists, "{word} is no metric");
    }
}
