//! Rendezvous hashing: every member bids for the key, the best bid wins.
//!
//! Weighted as in "Weighted Distributed Hash Tables" (Schindelhauer,
//! Schomaker, 2005): the bid is −weight / ln(u) for a hash u of key and member, which
//! shares keys exactly by weight. Removing a member moves its own keys
//! and no others. A pick costs O(n), and there is nothing to build but one hash
//! per member.

use crate::routing::balance::Member;
use crate::routing::balance::hashed::hash_member;
use crate::routing::balance::hashed::mix;
use crate::routing::balance::hashed::position_in_unit_interval;

const MEMBER_SEED: u64 = 0x4556_4752_5244_5653;

#[derive(Debug)]
pub(super) struct Rendezvous {
    bidders: Vec<Bidder>,
}

#[derive(Debug)]
struct Bidder {
    hash: u64,
    /// 1 / weight.
    cost: f64,
}

impl Rendezvous {
    pub(super) fn new(members: &[Member]) -> Self {
        let bidders = members.iter().map(|member| Bidder {
            hash: hash_member(member, MEMBER_SEED),
            cost: 1.0 / f64::from(member.weight.max(1)),
        });
        Self {
            bidders: bidders.collect(),
        }
    }

    pub(super) fn first(&self, key: u64, accepts: &impl Fn(usize) -> bool) -> Option<usize> {
        let mut best: Option<(f64, u64, usize)> = None;
        for (member, bidder) in self.bidders.iter().enumerate() {
            let unit = position_in_unit_interval(mix(key, bidder.hash));
            // The lowest −ln(u) / weight is the highest −weight / ln(u). Equal bids
            // are settled by the name's hash, not by the order of the file.
            let price = -unit.ln() * bidder.cost;
            let wins = best.is_none_or(|(lowest, hash, _)| (price, bidder.hash) < (lowest, hash));
            if wins && accepts(member) {
                best = Some((price, bidder.hash, member));
            }
        }
        best.map(|(_, _, member)| member)
    }
}
