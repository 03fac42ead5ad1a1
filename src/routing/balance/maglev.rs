//! Maglev hashing: a lookup table that members fill in turns.
//!
//! "Maglev: A Fast and Reliable Software Network Load Balancer" (Eisenbud et al.,
//! NSDI 2016), section 3.4. A pick is one look into the table and shares
//! are even to within 1 %. The price: when a member goes, a few keys of others
//! move as well (section 5.3), which ring and rendezvous hashing avoid.

use crate::routing::balance::Member;
use crate::routing::balance::hashed::by_name;
use crate::routing::balance::hashed::hash_member;
use crate::routing::balance::hashed::mix;
use crate::routing::balance::hashed::position_in_unit_interval;

const OFFSET_SEED: u64 = 0x4556_4752_4d4f_4646;
const SKIP_SEED: u64 = 0x4556_4752_4d53_4b50;
const SIZE_SEED: u64 = 0x4556_4752_4d53_495a;

/// Primes, each at least 100 times the members it is for, as the paper advises.
/// The first serves up to 655 members (256 KiB), the second up to
/// 10,485 (4 MiB), the third is for everyone else (64 MiB).
///
/// Two tables of different sizes have next to nothing in common, so a cluster that grows passes
/// from one to the next by and by: while it doubles, a growing share of the keys asks the larger.
const SIZES: [usize; 3] = [65_537, 1_048_583, 16_777_259];
const ENTRIES_PER_MEMBER: usize = 100;

/// Entries looked at before the other members are asked in another order: enough
/// to meet an open one by chance unless most are closed.
const MAX_STEPS: u64 = 64;

#[derive(Debug)]
pub(super) struct Maglev {
    table: Table,
    /// The next larger one, and the share of the keys that asks it.
    larger: Option<(Table, f64)>,
}

impl Maglev {
    pub(super) fn new(members: &[Member], configured: usize) -> Self {
        let sizes = sizes(configured);
        Self {
            table: Table::new(members, sizes.size),
            larger: sizes
                .larger
                .map(|(size, share)| (Table::new(members, size), share)),
        }
    }

    pub(super) fn first(&self, key: u64, accepts: &impl Fn(usize) -> bool) -> Option<usize> {
        match &self.larger {
            Some((larger, share)) if position_in_unit_interval(mix(key, SIZE_SEED)) < *share => {
                larger.first(key, accepts)
            }
            _ => self.table.first(key, accepts),
        }
    }
}

/// Sizes of the tables for so many members.
struct Sizes {
    size: usize,
    larger: Option<(usize, f64)>,
}

fn sizes(members: usize) -> Sizes {
    let mut size = SIZES[0];
    for larger in &SIZES[1..] {
        let most = size / ENTRIES_PER_MEMBER;
        let beyond = members.saturating_sub(most) as f64 / most as f64;
        if beyond < 1.0 {
            let larger = (beyond > 0.0).then_some((*larger, beyond));
            return Sizes { size, larger };
        }
        size = *larger;
    }
    Sizes { size, larger: None }
}

#[derive(Debug)]
struct Table {
    entries: Vec<u32>,
}

impl Table {
    fn new(members: &[Member], size: usize) -> Self {
        let entries = if members.is_empty() {
            Vec::new()
        } else {
            fill(members, size)
        };
        Self { entries }
    }

    /// The entry of the key, then entries that depend on the key and the attempt.
    fn first(&self, key: u64, accepts: &impl Fn(usize) -> bool) -> Option<usize> {
        let size = self.entries.len() as u64;
        if size == 0 {
            return None;
        }
        (0..MAX_STEPS)
            .map(|attempt| {
                let hash = if attempt == 0 { key } else { mix(key, attempt) };
                self.entries[(hash % size) as usize] as usize
            })
            .find(|owner| accepts(*owner))
    }
}

/// One member's way through the table: a permutation of its entries.
struct Claim {
    position: u32,
    next: usize,
    skip: usize,
    /// Entries it gets in the end, and those it has.
    share: u64,
    taken: u64,
}

fn fill(members: &[Member], size: usize) -> Vec<u32> {
    let mut claims = claims(members, size);
    let rounds = (size / members.len()).max(1) as u64;
    let mut table = vec![0; size];
    let mut free = FreeEntries::all(size);
    for round in 1..=rounds {
        for claim in &mut claims {
            // A turn per round, several for the heavy and none in some for the light.
            let due = claim.share * round / rounds;
            while claim.taken < due {
                let entry = claim.next_free(&free, size);
                free.take(entry);
                table[entry] = claim.position;
                claim.taken += 1;
            }
        }
    }
    table
}

/// The members by name, with their shares of the table by largest remainder.
fn claims(members: &[Member], size: usize) -> Vec<Claim> {
    let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    let mut given = 0;
    let mut passed = 0;
    let claims = by_name(members).into_iter().map(|position| {
        let member = &members[position as usize];
        passed += u64::from(member.weight);
        // Rounding the running sum, not each share, makes the shares add up to the size.
        let share = size as u64 * passed / total - given;
        given += share;
        Claim {
            position,
            next: (hash_member(member, OFFSET_SEED) % size as u64) as usize,
            skip: (hash_member(member, SKIP_SEED) % (size as u64 - 1)) as usize + 1,
            share,
            taken: 0,
        }
    });
    claims.collect()
}

impl Claim {
    fn next_free(&mut self, free: &FreeEntries, size: usize) -> usize {
        loop {
            let entry = self.next;
            self.next += self.skip;
            if self.next >= size {
                self.next -= size;
            }
            if free.contains(entry) {
                return entry;
            }
        }
    }
}

/// One bit per entry: small enough for the cache where the table is not.
struct FreeEntries {
    words: Vec<u64>,
}

impl FreeEntries {
    fn all(size: usize) -> Self {
        Self {
            words: vec![u64::MAX; size.div_ceil(64)],
        }
    }

    fn contains(&self, entry: usize) -> bool {
        self.words[entry / 64] >> (entry % 64) & 1 == 1
    }

    fn take(&mut self, entry: usize) {
        self.words[entry / 64] &= !(1 << (entry % 64));
    }
}
