//! Round robin, weighted and smooth.
//!
//! The turns of one round are computed when the table is built; a pick takes
//! the next turn from a cursor that all workers share. Members of the same
//! weight form a class. The classes' turns are laid out by earliest deadline
//! first: the k-th turn of a class with share s may not start before k/s and
//! must come before (k+1)/s. Such a schedule always exists (Liu and Layland,
//! 1973), and it means that after any number of turns each class has had its
//! exact share, rounded up or down. Within a class, members take turns in
//! order. The sequence of 10,000 equal members thus has one entry, not 10,000.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::routing::balance::Member;
use crate::routing::balance::View;

/// Longest round. Weights whose round would be longer are rounded to fit, which
/// changes a class's share by at most 1/65,536 of all sessions.
const MAX_TURNS: u64 = 65_536;

/// Turns that may fall to a closed or warming member before the members are
/// looked at one by one.
const MAX_SKIPS: usize = 64;

#[derive(Debug)]
pub(super) struct RoundRobin {
    classes: Vec<Class>,
    round: Vec<Turn>,
}

/// Members of one weight.
#[derive(Debug)]
struct Class {
    members: Vec<u32>,
    turns_per_round: u64,
}

#[derive(Debug)]
struct Turn {
    class: u32,
    /// Turns of the same class before this one in the round.
    earlier: u32,
}

impl RoundRobin {
    pub(super) fn new(members: &[Member]) -> Self {
        let mut by_weight: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (position, member) in (0..).zip(members) {
            by_weight
                .entry(member.weight.max(1))
                .or_default()
                .push(position);
        }
        let weights = by_weight
            .iter()
            .map(|(weight, members)| u64::from(*weight) * members.len() as u64)
            .collect();
        let turns = turns_of(weights);
        let round = lay_out(&turns);
        let classes = by_weight
            .into_values()
            .zip(turns)
            .map(|(members, turns_per_round)| Class {
                members,
                turns_per_round,
            })
            .collect();
        Self { classes, round }
    }

    pub(super) fn pick(
        &self,
        cursor: &AtomicU64,
        random: &mut fastrand::Rng,
        view: &impl View,
    ) -> Option<usize> {
        if self.round.is_empty() {
            return None;
        }
        let mut warming = None;
        for _ in 0..MAX_SKIPS {
            // A skipped turn is used up: else the successor of a closed member had two.
            let member = self.at(cursor.fetch_add(1, Ordering::Relaxed));
            if !view.open(member) {
                continue;
            }
            let warmth = view.warmth(member);
            if warmth >= 1.0 || random.f64() < warmth {
                return Some(member);
            }
            warming = warming.or(Some(member));
        }
        warming.or_else(|| self.next_open(cursor, view))
    }

    /// The member whose turn it is when `cursor` turns were taken before.
    fn at(&self, cursor: u64) -> usize {
        let length = self.round.len() as u64;
        let turn = &self.round[(cursor % length) as usize];
        let class = &self.classes[turn.class as usize];
        let taken = (cursor / length)
            .wrapping_mul(class.turns_per_round)
            .wrapping_add(u64::from(turn.earlier));
        class.members[(taken % class.members.len() as u64) as usize] as usize
    }

    fn next_open(&self, cursor: &AtomicU64, view: &impl View) -> Option<usize> {
        let members: usize = self.classes.iter().map(|class| class.members.len()).sum();
        let start = (cursor.load(Ordering::Relaxed) % members as u64) as usize;
        (start..members)
            .chain(0..start)
            .find(|member| view.open(*member))
    }
}

/// Turns per round for each class: the weights in lowest terms, or rounded to
/// fit [`MAX_TURNS`].
fn turns_of(weights: Vec<u64>) -> Vec<u64> {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor);
    let total: u64 = weights.iter().sum();
    if divisor == 0 || total / divisor <= MAX_TURNS {
        return weights.iter().map(|weight| weight / divisor).collect();
    }
    weights
        .iter()
        .map(|weight| (weight * MAX_TURNS / total).max(1))
        .collect()
}

fn greatest_common_divisor(left: u64, right: u64) -> u64 {
    if right == 0 {
        left
    } else {
        greatest_common_divisor(right, left % right)
    }
}

/// Orders the turns of a round: earliest deadline first among the turns that may
/// start. Ties go to the class that comes first.
fn lay_out(turns: &[u64]) -> Vec<Turn> {
    let length: u64 = turns.iter().sum();
    let mut sleeping = BinaryHeap::new();
    let mut ready = BinaryHeap::new();
    for class in 0..turns.len() {
        sleeping.push(Reverse((0, class, 0)));
    }
    let mut round = Vec::with_capacity(length as usize);
    for now in 0..length {
        while let Some(Reverse((start, class, earlier))) = sleeping.peek().copied()
            && start <= now
        {
            sleeping.pop();
            let deadline = ((earlier + 1) * length).div_ceil(turns[class]);
            ready.push(Reverse((deadline, class, earlier)));
        }
        let Some(Reverse((_, class, earlier))) = ready.pop() else {
            break;
        };
        round.push(Turn {
            class: class as u32,
            earlier: earlier as u32,
        });
        let next: u64 = earlier + 1;
        sleeping.push(Reverse((next * length / turns[class], class, next)));
    }
    round
}
