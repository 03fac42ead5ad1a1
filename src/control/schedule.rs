//! What is due when: one heap for everything that recurs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

/// Each key is due once, at the time that was set last.
#[derive(Debug)]
pub struct Schedule<K> {
    due: HashMap<K, Instant>,
    /// May hold entries that `due` has overtaken; they are skipped.
    heap: BinaryHeap<Reverse<(Instant, K)>>,
}

impl<K> Default for Schedule<K>
where
    K: Ord,
{
    fn default() -> Self {
        Self {
            due: HashMap::new(),
            heap: BinaryHeap::new(),
        }
    }
}

impl<K> Schedule<K>
where
    K: Clone + Eq + Hash + Ord,
{
    /// Moves a key to this time.
    pub fn set(&mut self, key: K, at: Instant) {
        if self.due.insert(key.clone(), at) != Some(at) {
            self.heap.push(Reverse((at, key)));
        }
        self.compact();
    }

    /// Moves a key to this time unless it is due earlier.
    pub fn pull(&mut self, key: K, at: Instant) {
        if self.due.get(&key).is_none_or(|due| at < *due) {
            self.set(key, at);
        }
    }

    pub fn remove(&mut self, key: &K) {
        self.due.remove(key);
    }

    /// The time of the first key that is due.
    pub fn next(&mut self) -> Option<Instant> {
        loop {
            let Reverse((at, key)) = self.heap.peek()?;
            if self.due.get(key) == Some(at) {
                return Some(*at);
            }
            self.heap.pop();
        }
    }

    /// Takes the first key that is due by `now`.
    pub fn pop(&mut self, now: Instant) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        let Reverse((_, key)) = self.heap.pop()?;
        self.due.remove(&key);
        Some(key)
    }

    /// Overtaken entries must not grow without bound.
    fn compact(&mut self) {
        if self.heap.len() > 2 * self.due.len() + 64 {
            let due = self.due.iter();
            self.heap = due.map(|(key, at)| Reverse((*at, key.clone()))).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn keys_come_in_the_order_of_their_last_time() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut schedule = Schedule::default();
        schedule.set('a', at(1));
        schedule.set('b', at(2));
        schedule.set('a', at(3));
        schedule.pull('c', at(9));
        schedule.pull('c', at(4));
        schedule.pull('c', at(5));
        schedule.set('d', at(1));
        schedule.remove(&'d');

        assert_eq!(schedule.next(), Some(at(2)));
        assert_eq!(schedule.pop(at(1)), None);
        assert_eq!(schedule.pop(at(9)), Some('b'));
        assert_eq!(schedule.pop(at(9)), Some('a'));
        assert_eq!(schedule.pop(at(9)), Some('c'));
        assert_eq!(schedule.pop(at(9)), None);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn moving_a_key_forever_needs_no_more_room() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        for round in 0..100_000 {
            schedule.set('a', now + Duration::from_nanos(round));
        }
        assert!(schedule.heap.len() < 100);
    }
}
