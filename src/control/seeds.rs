//! Runs a simulation over many seeds, on all processors.

use std::sync::Mutex;
use std::thread;

/// `EVERGATE_SEEDS` replaces the count; with `EVERGATE_SEED` that one is run instead of
/// all, its result is printed, and there is nothing to return.
///
/// A seed fails by panicking; saying which one is the simulation's business.
pub fn run<T>(
    count: u64,
    simulate: impl Fn(u64) -> T + Sync,
    add: impl Fn(&mut T, T) + Sync,
) -> Option<(u64, T)>
where
    T: Default + Send + std::fmt::Debug,
{
    let read = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
    if let Some(seed) = read("EVERGATE_SEED") {
        println!("{:?}", simulate(seed));
        return None;
    }
    let seeds = read("EVERGATE_SEEDS").unwrap_or(count);
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let sum = Mutex::new(T::default());
    thread::scope(|scope| {
        for first in 0..threads {
            let (sum, simulate, add) = (&sum, &simulate, &add);
            scope.spawn(move || {
                for seed in (first..seeds).step_by(threads as usize) {
                    let one = simulate(seed);
                    add(&mut sum.lock().unwrap(), one);
                }
            });
        }
    });
    Some((seeds, sum.into_inner().unwrap()))
}
