//! The running account and the final table.

use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::time::Duration;

use crate::cli::demo::ledger::Clock;
use crate::cli::demo::ledger::Doing;
use crate::cli::demo::ledger::Phase;
use crate::cli::demo::ledger::Purpose;
use crate::cli::demo::verdict::Broken;
use crate::cli::demo::verdict::Measured;
use crate::cli::demo::verdict::Promise;

const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";

const LEGEND: &str = "
unknown: writes that were under way when their primary ended; cut: sessions of that primary that
ended between two statements or while they logged in; longest: from a client's connect to its
first answer, holds included
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
        self.print(&outcome(measured));
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
        "writes",
        "unknown",
        "read-only",
        "refused",
        "reads",
        "failed",
        "connects",
        "failed",
        "cut",
        "longest",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    let mut sums = [0; 9];
    let mut longest = Duration::ZERO;
    for phase in Phase::ALL {
        let numbers = numbers(measured, phase);
        for (sum, number) in sums.iter_mut().zip(numbers) {
            *sum += number;
        }
        let counts = measured.records.counts[phase as usize];
        longest = longest.max(counts.longest_connect);
        rows.push(row(phase.as_str(), numbers, counts.longest_connect));
    }
    rows.push(row("all", sums, longest));
    align(&rows)
}

fn row(name: &str, numbers: [u64; 9], longest: Duration) -> [String; 11] {
    let mut row = std::array::from_fn(|_| String::new());
    name.clone_into(&mut row[0]);
    for (cell, number) in row[1..].iter_mut().zip(numbers) {
        *cell = number.to_string();
    }
    row[10] = shown(longest);
    row
}

/// The row's columns between the step's name and the longest connect.
fn numbers(measured: &Measured, phase: Phase) -> [u64; 9] {
    let counts = measured.records.counts[phase as usize];
    let mut numbers = [0; 9];
    numbers[0] = counts.writes;
    numbers[4] = counts.reads;
    numbers[6] = counts.connections;
    let failures = measured.records.failures.iter();
    for failure in failures.filter(|failure| failure.phase == phase) {
        let is_explained = measured.is_explained(failure);
        let column = match (failure.doing, failure.purpose) {
            _ if failure.trouble.is_read_only() => 2,
            (Doing::Connecting, _) if !is_explained => 7,
            (Doing::Connecting | Doing::Idling, _) if is_explained => 8,
            (_, Purpose::Read) => 5,
            (_, Purpose::Write) if is_explained => 1,
            (_, Purpose::Write) => 3,
        };
        numbers[column] += 1;
    }
    numbers
}

/// What became of the writes, and how long there were none.
fn outcome(measured: &Measured) -> String {
    let fate = measured.fate();
    let mut text = format!(
        "\nacknowledged writes  {}, lost {}, doubled {}\n\
         not replicated       {} that only the killed primary had: replication is asynchronous here\n",
        fate.acknowledged, fate.lost, fate.doubled, fate.unreplicated
    );
    for outage in &measured.outages {
        let since = |at: Option<Duration>, from: Duration| {
            at.map_or_else(|| "never".to_owned(), |at| shown(at.saturating_sub(from)))
        };
        text.push_str(&format!(
            "{:<19}  end of the primary seen after {}; writes stood still for {}: {} until the \
             promotion, {} added by Evergate\n",
            match outage.phase {
                Phase::Kill => "failover",
                _ => "switchover",
            },
            since(outage.detected, outage.began),
            since(outage.first_write, outage.began),
            shown(outage.promoted.saturating_sub(outage.began)),
            since(outage.first_write, outage.promoted),
        ));
    }
    text.push('\n');
    text
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

    #[test]
    fn the_table_has_a_row_for_each_step_and_one_for_all() {
        let mut measured = Measured::default();
        for (writes, counts) in (1..).zip(&mut measured.records.counts) {
            counts.writes = writes;
        }
        let table = table(&measured);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 2 + Phase::ALL.len());
        let words: Vec<&str> = lines[8].split_whitespace().collect();
        assert_eq!(words[..3], ["all", "28", "0"]);
        let width = lines[0].len();
        assert!(lines.iter().all(|line| line.len() == width), "{table}");
    }

    #[test]
    fn durations_have_a_unit_that_suits_them() {
        assert_eq!(shown(Duration::from_micros(1_540)), "1.5 ms");
        assert_eq!(shown(Duration::from_millis(12_340)), "12.3 s");
    }
}
