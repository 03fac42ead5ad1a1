//! One scrape: samples in, Prometheus text out (text format 0.0.4).
//!
//! Samples come object by object and leave metric by metric: each metric has a buffer of its
//! own, which is kept for the next scrape.

use std::fmt::Display;
use std::fmt::Write;
use std::sync::LazyLock;

use crate::metrics::histogram::Histogram;
use crate::metrics::process::Process;
use crate::metrics::table::ALL;
use crate::metrics::table::Kind;
use crate::metrics::table::Metric;

/// The media type of the text (Prometheus text format 0.0.4).
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Positions in the table, by the alphabet.
static ALPHABETICAL: LazyLock<Vec<usize>> = LazyLock::new(|| {
    let mut positions: Vec<usize> = (0..ALL.len()).collect();
    positions.sort_by_key(|position| ALL[*position].name);
    positions
});

/// Takes the samples of one scrape.
#[derive(Debug)]
pub struct Scrape {
    /// The samples of each metric, in the order of the table.
    samples: Vec<String>,
}

impl Default for Scrape {
    fn default() -> Self {
        Self {
            samples: vec![String::new(); ALL.len()],
        }
    }
}

impl Scrape {
    /// `labels` are the values, in the order of the table.
    pub fn counter(&mut self, metric: &'static Metric, labels: &[&str], value: u64) {
        debug_assert_eq!(metric.kind, Kind::Counter, "{}", metric.name);
        self.sample(metric, "", labels, None, value);
    }

    /// `labels` are the values, in the order of the table.
    pub fn gauge(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(metric.kind, Kind::Gauge, "{}", metric.name);
        // Most are small and whole, and those are written much faster.
        let whole = value as i32;
        if f64::from(whole) == value {
            self.sample(metric, "", labels, None, whole);
        } else {
            self.sample(metric, "", labels, None, value);
        }
    }

    /// `labels` are the values, in the order of the table.
    pub(super) fn histogram(
        &mut self,
        metric: &'static Metric,
        labels: &[&str],
        histogram: &Histogram,
    ) {
        let mut count = 0;
        for (bound, more) in histogram.buckets() {
            count += more;
            self.sample(metric, "_bucket", labels, Some(bound), count);
        }
        let sum = histogram.sum().as_secs_f64();
        self.sample(metric, "_sum", labels, None, sum);
        self.sample(metric, "_count", labels, None, count);
    }

    /// `bound` is the label `le` of a histogram's bucket.
    fn sample(
        &mut self,
        metric: &'static Metric,
        suffix: &str,
        labels: &[&str],
        bound: Option<f64>,
        value: impl Display,
    ) {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        let out = &mut self.samples[metric.position];
        out.push_str(metric.name);
        out.push_str(suffix);
        let mut separator = '{';
        for (name, label) in metric.labels.iter().zip(labels) {
            out.push(separator);
            out.push_str(name);
            out.push_str("=\"");
            push_escaped(out, label);
            out.push('"');
            separator = ',';
        }
        if let Some(bound) = bound {
            out.push(separator);
            // Writing to a string cannot fail.
            let _ = match bound {
                f64::INFINITY => write!(out, "le=\"+Inf\""),
                bound => write!(out, "le=\"{bound}\""),
            };
            separator = ',';
        }
        out.push_str(if separator == ',' { "} " } else { " " });
        let _ = writeln!(out, "{value}");
    }

    /// Each metric once with its description, in alphabetical order, then the values of the
    /// process itself. Leaves the buffers empty for the next scrape.
    pub(super) fn take_text(&mut self, process: &Process) -> String {
        let samples: usize = self.samples.iter().map(String::len).sum();
        // Descriptions are some 200 bytes each.
        let mut text = String::with_capacity(samples + ALL.len() * 256);
        for position in ALPHABETICAL.iter() {
            let (metric, samples) = (ALL[*position], &mut self.samples[*position]);
            if !samples.is_empty() {
                let kind = match metric.kind {
                    Kind::Counter => "counter",
                    Kind::Gauge => "gauge",
                    Kind::Histogram(_) => "histogram",
                };
                describe(&mut text, metric.name, kind, metric.help);
                text.push_str(samples);
                samples.clear();
            }
        }
        for sample in process.samples() {
            describe(&mut text, sample.name, sample.kind, sample.help);
            let _ = writeln!(text, "{} {}", sample.name, sample.value);
        }
        text
    }
}

fn describe(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn push_escaped(out: &mut String, label: &str) {
    if !label
        .bytes()
        .any(|byte| matches!(byte, b'\\' | b'"' | b'\n'))
    {
        return out.push_str(label);
    }
    for character in label.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}
