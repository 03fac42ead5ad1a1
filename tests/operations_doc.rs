//! docs/operations.md names every metric, every cause, every event and field of the log and every
//! answer of the proxy's own, and no others.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use evergate::cluster::Cause;
use evergate::metrics;
use evergate::protocol::http::problem::Problem;

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

/// The words in backticks of the first cells below a heading; a cell may have several.
fn words_of_first_cells(section: &str) -> BTreeSet<String> {
    let document = document();
    let (_, body) = document.split_once(section).expect("the section is there");
    let body = body.split("\n## ").next().unwrap_or_default();
    let rows = body.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    let words = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    words.map(str::to_owned).collect()
}

#[test]
fn every_field_that_is_logged_is_documented_and_no_other() {
    let mut logged: BTreeSet<String> = ["timestamp", "level", "message"].map(Into::into).into();
    for code in sources() {
        logged.extend(logged_fields(&code));
    }
    assert_eq!(words_of_first_cells("\n## Log\n"), logged);
}

#[test]
fn every_event_above_debug_is_documented_and_no_other() {
    // Put together from the configuration that was loaded.
    let mut logged: BTreeSet<String> = ["configuration in force: …".to_owned()].into();
    for code in sources() {
        logged.extend(logged_events(&code));
    }
    assert_eq!(words_of_first_cells("\n## Log events\n"), logged);
}

#[test]
fn every_answer_of_the_proxy_is_documented_with_its_status() {
    let known = Problem::ALL.iter().map(|it| it.as_str().to_owned());
    let section = "\n## Answers of the proxy\n";
    assert_eq!(words_of_first_cells(section), known.collect());
    let document = document();
    let (_, body) = document.split_once(section).expect("the section is there");
    for problem in Problem::ALL {
        let (word, status) = (format!("`{}`", problem.as_str()), problem.status());
        let row = body.lines().find(|line| line.contains(&word));
        let row = row.expect("it has a row");
        let cell = format!(" | {} | ", status.as_u16());
        assert!(row.contains(&cell), "{row}");
    }
}

/// The code of the program, without its tests.
fn sources() -> Vec<String> {
    let mut sources = Vec::new();
    let mut folders = vec![PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("run from the package root") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name != "tests.rs") {
                let source = fs::read_to_string(&path).expect("a source file");
                let code = source.split("#[cfg(test)]").next().unwrap_or_default();
                sources.push(code.to_owned());
            }
        }
    }
    sources
}

/// The messages of log macros above DEBUG, but those that are put together.
fn logged_events(code: &str) -> Vec<String> {
    let code = code.replace("env!(\"CARGO_PKG_VERSION\")", "VERSION");
    let calls = ["info!(", "warn!(", "error!("]
        .into_iter()
        .flat_map(|level| code.split(level).skip(1));
    let messages = calls.filter_map(|call| call.split('"').nth(1));
    messages
        .filter(|message| !message.starts_with('{'))
        .map(str::to_owned)
        .collect()
}

/// The names of the fields in every call of a log macro.
fn logged_fields(code: &str) -> Vec<String> {
    // A text among the values that is not the message.
    let code = code.replace("env!(\"CARGO_PKG_VERSION\")", "VERSION");
    let mut fields = Vec::new();
    for level in ["debug!(", "info!(", "warn!(", "error!("] {
        for call in code.split(level).skip(1) {
            // Fields come first; the message is the first text.
            let before_message = call.split('"').next().unwrap_or_default();
            for field in top_level_parts(before_message) {
                let name = field.split('=').next().unwrap_or_default();
                let name = name.trim().trim_start_matches(['%', '?']);
                if !name.is_empty() {
                    fields.push(name.to_owned());
                }
            }
        }
    }
    fields
}

/// Splits at the commas that stand in no brackets.
fn top_level_parts(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (index, character) in text.char_indices() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}
