//! What the embedded servers hold, and how it gets from one to another.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::cli::demo::MEMBERS;

/// Anything but zero.
const SYSTEM_IDENTIFIER: u64 = 7_000_000_000_000_000_001;
/// Where the first row would be in the write-ahead log, and how long a row is there.
const FIRST_LSN: u64 = 0x0100_0000;
const ROW_BYTES: u64 = 128;
const LOG_FILE_BITS: u32 = 24;

/// All servers' contents. One lock: there are three servers.
#[derive(Debug)]
pub struct History {
    copies: Mutex<[Copy; MEMBERS]>,
}

/// One server's content and role.
#[derive(Debug, Clone)]
pub struct Copy {
    pub timeline: u32,
    /// Whom it follows; `None` = it is a primary.
    pub upstream: Option<usize>,
    pub is_running: bool,
    /// Identifiers in the order of their writes.
    pub rows: Vec<u64>,
}

impl History {
    /// The first server is primary, the others follow it.
    pub fn new() -> Self {
        let copy = |upstream| Copy {
            timeline: 1,
            upstream,
            is_running: true,
            rows: Vec::new(),
        };
        let copies = std::array::from_fn(|index| copy((index > 0).then_some(0)));
        Self {
            copies: Mutex::new(copies),
        }
    }

    /// `None`: it is a replica, or not running.
    pub fn write(&self, server: usize, row: u64) -> Option<()> {
        let copy = &mut self.lock()[server];
        (copy.is_running && copy.upstream.is_none()).then(|| copy.rows.push(row))
    }

    /// Every follower gets what its upstream has written: asynchronous replication.
    pub fn replicate(&self) {
        let mut copies = self.lock();
        for follower in 0..MEMBERS {
            let Some(upstream) = copies[follower].upstream else {
                continue;
            };
            if !copies[follower].is_running || !copies[upstream].is_running {
                continue;
            }
            let [source, target] = copies
                .get_disjoint_mut([upstream, follower])
                .expect("nobody follows himself");
            // A history that has gone another way cannot be continued.
            if source.rows.starts_with(&target.rows) {
                target
                    .rows
                    .extend_from_slice(&source.rows[target.rows.len()..]);
                target.timeline = source.timeline;
            }
        }
    }

    pub fn set_running(&self, server: usize, is_running: bool) {
        self.lock()[server].is_running = is_running;
    }

    /// It writes a history of its own from here on.
    pub fn promote(&self, server: usize) {
        let copy = &mut self.lock()[server];
        copy.upstream = None;
        copy.timeline += 1;
    }

    pub fn follow(&self, server: usize, upstream: usize) {
        self.lock()[server].upstream = Some(upstream);
    }

    /// Forgets what the other does not have, as pg_rewind does.
    pub fn rewind(&self, server: usize, to: usize) {
        let mut copies = self.lock();
        let same = std::iter::zip(&copies[server].rows, &copies[to].rows);
        let common = same.take_while(|(own, other)| own == other).count();
        copies[server].rows.truncate(common);
    }

    pub fn read<T>(&self, server: usize, read: impl FnOnce(&Copy) -> T) -> T {
        read(&self.lock()[server])
    }

    fn lock(&self) -> MutexGuard<'_, [Copy; MEMBERS]> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Copy {
    /// The answer to the question of the role probe: names and values.
    pub fn facts(&self) -> Vec<(&'static str, Option<String>)> {
        let is_primary = self.upstream.is_none();
        let position = FIRST_LSN + ROW_BYTES * self.rows.len() as u64;
        let lsn = format!("{:X}/{:X}", position >> 32, position as u32);
        let segment = (position as u32) >> LOG_FILE_BITS;
        let wal_file = format!("{:08X}{:08X}{segment:08X}", self.timeline, position >> 32);
        let flag = |is_set| Some(if is_set { "t" } else { "f" }.to_owned());
        vec![
            ("in_recovery", flag(!is_primary)),
            ("writable", flag(true)),
            ("system_identifier", Some(SYSTEM_IDENTIFIER.to_string())),
            ("wal_file", is_primary.then_some(wal_file)),
            ("timeline", (!is_primary).then(|| self.timeline.to_string())),
            ("received_lsn", Some(lsn.clone())),
            ("replayed_lsn", (!is_primary).then_some(lsn)),
            ("connections_used", Some("1".to_owned())),
            ("connections_allowed", Some("1000".to_owned())),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followers_get_what_the_primary_wrote_and_not_what_a_dead_one_did_not_send() {
        let history = History::new();
        history.write(0, 1).unwrap();
        history.replicate();
        history.write(0, 2).unwrap();
        history.set_running(0, false);
        history.replicate();
        assert_eq!(history.read(1, |copy| copy.rows.clone()), [1]);
        assert_eq!(history.write(0, 3), None, "it is dead");
        assert_eq!(history.write(1, 3), None, "it is a replica");
    }

    #[test]
    fn a_promotion_starts_a_timeline_that_followers_and_the_rewound_go_along_with() {
        let history = History::new();
        history.write(0, 1).unwrap();
        history.promote(1);
        history.follow(2, 1);
        history.write(1, 2).unwrap();
        history.follow(0, 1);
        history.replicate();
        assert_eq!(
            history.read(2, |copy| (copy.timeline, copy.rows.clone())),
            (2, vec![2])
        );
        assert_eq!(history.read(0, |copy| copy.timeline), 1, "it diverged");
        history.rewind(0, 1);
        history.replicate();
        assert_eq!(
            history.read(0, |copy| (copy.timeline, copy.rows.clone())),
            (2, vec![2])
        );
    }
}
