//! The running account and the final table.

use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::time::Duration;

use crate::cli::demo::ledger::Clock;
use crate::cli::demo::measure::Measured;
use crate::cli::demo::measure::Phase;
use crate::cli::demo::verdict::Broken;
use crate::cli::demo::verdict::Promise;
use crate::cli::demo::verdict::since;

const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";

const LEGEND: &str = "
failed: requests without a good answer, connections that reached no backend; cut: connections
that ended with their backend while no request was waiting; to detect: until the routing table
knew; to recover: until clients were served accordingly
";

/// Whether the account may be coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    Coloured,
}

/// Writes to stdout.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    pub clock: Clock,
    pub style: Style,
}

impl Style {
    /// Colours only for a terminal whose user has not declined them (no-color.org).
    pub fn detect() -> Self {
        let declined = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if io::stdout().is_terminal() && !declined {
            Self::Coloured
        } else {
            Self::Plain
        }
    }

    fn paint(self, colour: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("{colour}{text}{RESET}"),
        }
    }
}

impl Account {
    /// One line of the account: when, in which step, what.
    pub fn say(&self, phase: Phase, what: &str) {
        let time = format!("{:7.3} s", self.clock.now().as_secs_f64());
        let time = self.style.paint(DIM, &time);
        let step = self.style.paint(BOLD, &format!("{:<6}", phase.as_str()));
        self.print(&format!("{time}  {step}  {what}\n"));
    }

    /// Text of several lines that belongs to the line before.
    pub fn quote(&self, text: &str) {
        for line in text.lines() {
            self.print(format!("{:21}{line}", "").trim_end());
            self.print("\n");
        }
    }

    /// Prints the table, the promises and the verdict.
    pub fn conclude(&self, measured: &Measured, broken: &[Broken]) {
        self.print("\n");
        self.print(&table(measured));
        self.print(LEGEND);
        self.print("\n");
        for promise in Promise::ALL {
            let mut found = broken
                .iter()
                .filter(|one| one.promise == promise)
                .peekable();
            if found.peek().is_none() {
                let kept = self.style.paint(GREEN, "kept  ");
                self.print(&format!("{kept}  {}\n", promise.as_str()));
            }
            for one in found {
                let mark = self.style.paint(RED, "BROKEN");
                self.print(&format!("{mark}  {}: {}\n", promise.as_str(), one.found));
            }
        }
        let count = Promise::ALL
            .iter()
            .filter(|promise| broken.iter().any(|one| one.promise == **promise))
            .count();
        let verdict = match count {
            0 => format!("all {} promises were kept", Promise::ALL.len()),
            count => format!("{count} of {} promises were broken", Promise::ALL.len()),
        };
        self.print(&format!("\n{verdict}\n"));
    }

    pub fn print(&self, text: &str) {
        // A reader that went away (`| head`) does not change the verdict.
        let _ = io::stdout().write_all(text.as_bytes());
    }
}

/// A duration for people: milliseconds, and from 10 s on seconds.
pub fn shown(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

/// The final table: a row for each phase, and their sum.
fn table(measured: &Measured) -> String {
    let header = [
        "step",
        "requests",
        "failed",
        "connections",
        "failed",
        "cut",
        "to detect",
        "to recover",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    let mut sums = [0; 5];
    for phase in Phase::ALL {
        let counts = measured.records.counts(phase, measured.kill.as_ref());
        let counts = [
            counts.requests,
            counts.failed_requests,
            counts.connections,
            counts.failed_connections,
            counts.cut,
        ];
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
        let (detect, recover) = times(measured, phase);
        rows.push(row(phase.as_str(), counts, detect, recover));
    }
    rows.push(row("all", sums, None, None));
    align(&rows)
}

fn row(
    name: &str,
    counts: [u64; 5],
    detect: Option<Duration>,
    recover: Option<Duration>,
) -> [String; 8] {
    let [requests, failed, connections, refused, cut] = counts.map(|count| count.to_string());
    let [detect, recover] =
        [detect, recover].map(|took| took.map_or_else(|| "-".to_owned(), shown));
    [
        name.to_owned(),
        requests,
        failed,
        connections,
        refused,
        cut,
        detect,
        recover,
    ]
}

/// Time until the routing table knew, and until clients were served accordingly.
fn times(measured: &Measured, phase: Phase) -> (Option<Duration>, Option<Duration>) {
    let Measured {
        records,
        kill,
        back,
        drain,
        reload,
        ..
    } = measured;
    match phase {
        Phase::Start | Phase::End => None,
        Phase::Kill => kill.map(|kill| (kill.began, kill.detected, records.recovered(&kill))),
        Phase::Return => back.map(|back| (back.began, back.up, back.first_session)),
        Phase::Drain => drain.map(|drain| (drain.began, Some(drain.in_force), drain.emptied)),
        Phase::Reload => reload.map(|reload| (reload.began, reload.in_force, reload.first_session)),
    }
    .map_or((None, None), |(began, detected, recovered)| {
        (since(began, detected), since(began, recovered))
    })
}

/// The first column to the left, the others to the right.
fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let widths = rows.iter().map(|row| row[column].chars().count());
            let width = widths.max().unwrap_or(0);
            if column == 0 {
                text.push_str(&format!("{cell:<width$}"));
            } else {
                text.push_str(&format!("  {cell:>width$}"));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::measure::Failure;
    use crate::cli::demo::measure::Kill;
    use crate::cli::demo::measure::Kind;
    use crate::cli::demo::measure::What;

    #[test]
    fn the_table_has_a_row_for_each_step_and_one_for_all() {
        let mut measured = Measured::default();
        measured.records.answered = [1, 2, 3, 4, 5, 6];
        let table = table(&measured);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 2 + Phase::ALL.len());
        let words: Vec<&str> = lines[7].split_whitespace().collect();
        assert_eq!(words, ["all", "21", "0", "0", "0", "0", "-", "-"]);
        let width = lines[0].len();
        assert!(lines.iter().all(|line| line.len() == width), "{table}");
    }

    #[test]
    fn what_ended_with_its_backend_is_cut_and_what_reached_none_has_failed() {
        let mut measured = Measured {
            kill: Some(Kill {
                backend: "db-2",
                sessions: 1,
                began: Duration::from_millis(10),
                done: Duration::from_millis(12),
                detected: None,
            }),
            ..Measured::default()
        };
        for begun in [11, 13] {
            measured.records.failures.push(Failure {
                phase: Phase::Kill,
                session: begun,
                kind: Kind::Short,
                backend: None,
                begun: Duration::from_millis(begun),
                at: Duration::from_millis(14),
                what: What::NotGreeted,
            });
        }
        let table = table(&measured);
        let row = table.lines().nth(2).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[..6], ["kill", "0", "0", "2", "1", "1"]);
    }

    #[test]
    fn durations_have_a_unit_that_suits_them() {
        assert_eq!(shown(Duration::from_micros(1_540)), "1.5 ms");
        assert_eq!(shown(Duration::from_millis(12_340)), "12.3 s");
    }
}
