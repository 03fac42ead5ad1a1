//! One page: samples in, Prometheus text out (text format 0.0.4).
//!
//! Each page has a recorder of its own. The exporter forgets a series only by time, and its
//! counters never go back: a recorder that is kept would go on showing a backend that was
//! removed, and the old counts of one that was removed and added again.

use std::collections::BTreeMap;
use std::fmt;

use metrics::Key;
use metrics::Label;
use metrics::Level;
use metrics::Metadata;
use metrics::Recorder;
use metrics_exporter_prometheus::LabelSet;
use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_exporter_prometheus::PrometheusRecorder;
use metrics_exporter_prometheus::formatting::write_help_line;
use metrics_exporter_prometheus::formatting::write_metric_line;
use metrics_exporter_prometheus::formatting::write_type_line;

use crate::metrics::histogram::Histogram;
use crate::metrics::table::ALL;
use crate::metrics::table::Kind;
use crate::metrics::table::Metric;

/// The media type of the text (Prometheus text format 0.0.4).
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// Takes the samples of one page.
pub struct Scrape {
    recorder: PrometheusRecorder,
    /// The text of each, by name. The exporter's own histograms keep every sample until somebody
    /// empties them, and cannot be given counts: it only formats ours.
    histograms: BTreeMap<&'static str, String>,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Scrape").finish_non_exhaustive()
    }
}

impl Default for Scrape {
    /// Describes every metric and takes the values of the process itself.
    fn default() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for metric in ALL {
            let (name, help) = (metric.name.into(), metric.help.into());
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                // Described where they are written.
                Kind::Histogram(_) => {}
            }
        }
        metrics::with_local_recorder(&recorder, || {
            let process = metrics_process::Collector::default();
            process.describe();
            process.collect();
        });
        Self {
            recorder,
            histograms: BTreeMap::new(),
        }
    }
}

impl Scrape {
    /// `labels` are the values, in the order of the table.
    pub fn counter(&mut self, metric: &'static Metric, labels: &[&str], value: u64) {
        debug_assert_eq!(metric.kind, Kind::Counter, "{}", metric.name);
        let key = key(metric, labels);
        self.recorder
            .register_counter(&key, &METADATA)
            .absolute(value);
    }

    /// `labels` are the values, in the order of the table.
    pub fn gauge(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(metric.kind, Kind::Gauge, "{}", metric.name);
        let key = key(metric, labels);
        self.recorder.register_gauge(&key, &METADATA).set(value);
    }

    /// `labels` are the values, in the order of the table.
    pub(super) fn histogram(
        &mut self,
        metric: &'static Metric,
        labels: &[&str],
        histogram: &Histogram,
    ) {
        let labels = LabelSet::from_key_and_global(&key(metric, labels), &Default::default());
        let name = metric.name;
        let text = self.histograms.entry(name).or_insert_with(|| {
            let mut text = String::new();
            write_help_line(&mut text, name, None, None, metric.help);
            write_type_line(&mut text, name, None, None, "histogram");
            text
        });
        let mut count = 0;
        for (bound, more) in histogram.buckets() {
            count += more;
            let bound = match bound {
                f64::INFINITY => "+Inf".to_owned(),
                bound => bound.to_string(),
            };
            let bound = Some(("le", bound));
            write_metric_line(text, name, Some("bucket"), &labels, bound, count, None);
        }
        let no_bound = None::<(&str, f64)>;
        let sum = histogram.sum().as_secs_f64();
        write_metric_line(text, name, Some("sum"), &labels, no_bound, sum, None);
        write_metric_line(text, name, Some("count"), &labels, no_bound, count, None);
    }

    /// Metrics in alphabetical order, each once with its description.
    pub(super) fn into_text(self) -> String {
        let exported = self.recorder.handle().render();
        let mut families: Vec<String> = exported.split_terminator("\n\n").map(in_order).collect();
        families.extend(self.histograms.into_values());
        families.sort_unstable();
        families.concat()
    }
}

/// The lines of one metric: the exporter has no order. `#` comes before every name, and HELP before TYPE.
fn in_order(family: &str) -> String {
    let mut lines: Vec<&str> = family.lines().collect();
    lines.sort_unstable();
    lines.push("");
    lines.join("\n")
}

fn key(metric: &'static Metric, values: &[&str]) -> Key {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let names = metric.labels.iter();
    let labels: Vec<Label> = names
        .zip(values)
        .map(|(name, value)| Label::new(*name, unambiguous(value)))
        .collect();
    Key::from_parts(metric.name, labels)
}

/// The exporter escapes a value for the text, but takes two backslashes, or one before a quote,
/// for something that is escaped already.
fn unambiguous(value: &str) -> String {
    value.replace('\\', r"\\")
}
