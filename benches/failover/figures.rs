//! What runs add up to, as text and as Markdown.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use std::time::Instant;

/// What the clients of one stack saw in one run.
#[derive(Debug, Clone)]
pub struct Sample {
    pub name: &'static str,
    /// The longest time without an answer, less the oracle's.
    pub added_outage: Duration,
    /// From the event until its flight recorder says that the primary is lost.
    pub detected_after: Option<Duration>,
    /// At least one of its clients never came back.
    pub stuck: bool,
    /// How often each class of error occurred.
    pub errors: BTreeMap<String, usize>,
    pub failed_connections: Option<usize>,
    /// Statements that reached a node that is not primary any more.
    pub read_only_errors: Option<usize>,
    /// `None`: the load only reads.
    pub writes: Option<Writes>,
}

/// What became of the writes of one run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Writes {
    /// Acknowledged by another server when the new primary already took writes.
    pub by_loser: usize,
    /// Of these, the ones that began when Evergate knew of the new primary. `None`: it did not.
    pub by_known_loser: Option<usize>,
    /// Acknowledged, and not on the primary of the end; those of the loser included.
    pub lost: usize,
    /// On the primary more than once.
    pub doubled: usize,
}

/// What all stacks made of one event.
#[derive(Debug, Clone)]
pub struct Run {
    /// One for each stack and one for the oracle, always in the same order.
    pub samples: Vec<Sample>,
    /// The longest time in which nothing came back to the oracle, not even an error.
    pub silence: Duration,
}

/// All runs of one event.
#[derive(Debug, Clone)]
pub struct Table {
    event: &'static str,
    counted_runs: usize,
    stalled_runs: usize,
    failed_runs: usize,
    /// In the order of the first run.
    rows: Vec<Vec<Sample>>,
}

/// A longer silence of the oracle is the machine's, and hides what the stacks do: some servers live
/// in every event, and the oracle asks each of them every 10 ms.
pub const MAX_SILENCE: Duration = Duration::from_millis(100);

const HEAD: [&str; 11] = [
    "stack",
    "added outage p50",
    "p99",
    "detected p50 / p99",
    "failed new connections",
    "reached a demoted node",
    "accepted by a loser",
    "once it was known",
    "acknowledged and lost",
    "doubled",
    "errors in a run",
];

impl Table {
    pub fn new(event: &'static str) -> Self {
        Self {
            event,
            counted_runs: 0,
            stalled_runs: 0,
            failed_runs: 0,
            rows: Vec::new(),
        }
    }

    /// Counts for all stacks or, when the machine stalled, for none.
    pub fn add(&mut self, run: Run) {
        if run.silence > MAX_SILENCE {
            self.stalled_runs += 1;
            return;
        }
        self.counted_runs += 1;
        self.rows.resize(run.samples.len(), Vec::new());
        for (row, sample) in self.rows.iter_mut().zip(run.samples) {
            row.push(sample);
        }
    }

    /// The cluster broke, or a stack was not ready for the event: there is nothing to compare.
    pub fn add_a_failed_run(&mut self) {
        self.failed_runs += 1;
    }

    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = format!("### {}, {}\n\n", self.event, self.runs());
        text += &line(&HEAD.map(str::to_owned));
        text += &line(&HEAD.map(|_| "---".to_owned()));
        for row in &self.rows {
            text += &line(&cells(row));
        }
        text
    }

    fn runs(&self) -> String {
        let (counted, stalled, failed) = (self.counted_runs, self.stalled_runs, self.failed_runs);
        let all = counted + stalled + failed;
        format!("{counted} of {all} runs count ({stalled} stalled, {failed} failed)")
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}, {}", self.event, self.runs())?;
        let mut lines = vec![HEAD.map(str::to_owned)];
        lines.extend(self.rows.iter().map(|row| cells(row)));
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
        let widths: Vec<usize> = (0..HEAD.len()).filter_map(width).collect();
        for line in &lines {
            let cells = line.iter().zip(&widths);
            let cells: Vec<String> = cells
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

fn cells(row: &[Sample]) -> [String; HEAD.len()] {
    let mut outages: Vec<Duration> = row.iter().map(|sample| sample.added_outage).collect();
    outages.sort_unstable();
    let writes =
        |count: fn(&Writes) -> usize| total(row, |sample| sample.writes.as_ref().map(count));
    let known = |sample: &Sample| sample.writes.and_then(|writes| writes.by_known_loser);
    [
        row[0].name.to_owned(),
        milliseconds(percentile(&outages, 50)),
        milliseconds(percentile(&outages, 99)),
        detections_of(row),
        total(row, |sample| sample.failed_connections),
        total(row, |sample| sample.read_only_errors),
        writes(|it| it.by_loser),
        total(row, known),
        writes(|it| it.lost),
        writes(|it| it.doubled),
        errors_of(row),
    ]
}

/// Over all runs.
fn total(row: &[Sample], count: impl Fn(&Sample) -> Option<usize>) -> String {
    let counts: Option<Vec<usize>> = row.iter().map(count).collect();
    counts.map_or("–".to_owned(), |counts| {
        counts.iter().sum::<usize>().to_string()
    })
}

/// Over the runs in which it was noticed at all.
fn detections_of(row: &[Sample]) -> String {
    let detections = row.iter().filter_map(|sample| sample.detected_after);
    let mut detections: Vec<Duration> = detections.collect();
    detections.sort_unstable();
    if detections.is_empty() {
        return "–".to_owned();
    }
    let [half, most] = [50, 99].map(|percent| milliseconds(percentile(&detections, percent)));
    format!("{half} / {most}")
}

/// The mean of a run, most frequent first, and how often a client never came back.
fn errors_of(row: &[Sample]) -> String {
    let mut classes: BTreeMap<&str, usize> = BTreeMap::new();
    for (class, count) in row.iter().flat_map(|sample| &sample.errors) {
        *classes.entry(class).or_default() += count;
    }
    let mut classes: Vec<(&str, usize)> = classes.into_iter().collect();
    classes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mean = |count: usize| count as f64 / row.len() as f64;
    let mut shown: Vec<String> = classes
        .iter()
        .map(|(class, count)| format!("{class}: {:.1}", mean(*count)))
        .collect();
    let stuck = row.iter().filter(|sample| sample.stuck).count();
    if stuck > 0 {
        shown.push(format!("a client stuck for 40 s: {:.1}", mean(stuck)));
    }
    if shown.is_empty() {
        shown.push("–".to_owned());
    }
    shown.join(", ")
}

/// The longest time between two of these, which are in the order of time.
pub fn longest_gap(
    first: Instant,
    between: impl Iterator<Item = Instant>,
    last: Instant,
) -> Duration {
    let mut longest = Duration::ZERO;
    let mut previous = first;
    for at in between.chain([last]) {
        longest = longest.max(at.saturating_duration_since(previous));
        previous = at;
    }
    longest
}

/// The nearest rank; of 20 runs the 99th is the worst.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

fn milliseconds(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
