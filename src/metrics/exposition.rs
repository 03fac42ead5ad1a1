//! One scrape: samples in, Prometheus text out. The only file that names the exporter's recorder.

use std::collections::BTreeMap;
use std::fmt;

use metrics::Histogram;
use metrics::Key;
use metrics::Label;
use metrics::Level;
use metrics::Metadata;
use metrics::Recorder;
use metrics_exporter_prometheus::Matcher;
use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_exporter_prometheus::PrometheusRecorder;

use crate::metrics::table::ALL;
use crate::metrics::table::Kind;
use crate::metrics::table::Metric;

/// The media type of the text (Prometheus text format 0.0.4).
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// Takes the samples of one scrape.
pub struct Scrape {
    recorder: PrometheusRecorder,
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
            match metric.kind {
                Kind::Counter => {
                    recorder.describe_counter(metric.name.into(), None, metric.help.into());
                }
                Kind::Gauge => {
                    recorder.describe_gauge(metric.name.into(), None, metric.help.into());
                }
                Kind::Histogram(_) => {}
            }
        }
        metrics::with_local_recorder(&recorder, || {
            let process = metrics_process::Collector::default();
            process.describe();
            process.collect();
        });
        Self { recorder }
    }
}

impl Scrape {
    /// `labels` are the values, in the order of the table.
    pub fn counter(&self, metric: &'static Metric, labels: &[&str], value: u64) {
        debug_assert_eq!(metric.kind, Kind::Counter, "{}", metric.name);
        let key = key(metric, labels);
        self.recorder
            .register_counter(&key, &METADATA)
            .absolute(value);
    }

    /// `labels` are the values, in the order of the table.
    pub fn gauge(&self, metric: &'static Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(metric.kind, Kind::Gauge, "{}", metric.name);
        let key = key(metric, labels);
        self.recorder.register_gauge(&key, &METADATA).set(value);
    }

    /// Joins the texts of this scrape and of the clusters' histograms, each
    /// metric once with its description, in alphabetical order.
    pub(super) fn into_text(self, histograms: impl Iterator<Item = String>) -> String {
        let mut families = BTreeMap::new();
        collect_families(&self.recorder.handle().render(), &mut families);
        for text in histograms {
            collect_families(&text, &mut families);
        }
        let mut text = String::new();
        for family in families.values() {
            text.push_str(&family.description);
            text.push_str(&family.samples);
        }
        text
    }
}

/// A recorder that knows the buckets and texts of all histograms.
pub(super) fn histogram_recorder() -> PrometheusRecorder {
    let mut builder = PrometheusBuilder::new();
    for metric in ALL {
        if let Kind::Histogram(bounds) = metric.kind {
            let name = Matcher::Full(metric.name.to_owned());
            builder = builder
                .set_buckets_for_metric(name, bounds)
                .expect("only empty bounds are refused, and the table has none");
        }
    }
    let recorder = builder.build_recorder();
    for metric in ALL {
        if matches!(metric.kind, Kind::Histogram(_)) {
            recorder.describe_histogram(metric.name.into(), None, metric.help.into());
        }
    }
    recorder
}

/// One cluster's histogram.
pub(super) fn histogram(
    recorder: &PrometheusRecorder,
    metric: &'static Metric,
    cluster: &str,
) -> Histogram {
    recorder.register_histogram(&key(metric, &[cluster]), &METADATA)
}

fn key(metric: &'static Metric, values: &[&str]) -> Key {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let names = metric.labels.iter();
    let labels: Vec<Label> = names
        .zip(values)
        .map(|(name, value)| Label::new(*name, (*value).to_owned()))
        .collect();
    Key::from_parts(metric.name, labels)
}

/// All lines of one metric.
#[derive(Debug, Default)]
struct Family {
    description: String,
    samples: String,
}

/// Sorts the exporter's lines by metric. Each block starts with `# HELP` and
/// `# TYPE`, which name the metric that the samples after them belong to.
fn collect_families(text: &str, families: &mut BTreeMap<String, Family>) {
    let mut current = String::new();
    let mut described = false;
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let name = comment.split(' ').nth(1).unwrap_or_default();
            if name != current {
                name.clone_into(&mut current);
                described = families.contains_key(name);
            }
            let family = families.entry(current.clone()).or_default();
            if !described {
                family.description.push_str(line);
                family.description.push('\n');
            }
        } else if let Some(family) = families.get_mut(&current) {
            family.samples.push_str(line);
            family.samples.push('\n');
        }
    }
}
