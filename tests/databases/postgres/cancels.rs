//! K5: cancels come all the while, for sessions that live and for those that died with their
//! server, and hit whom they are meant for or nobody.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;

use super::raw::Raw;
use super::raw::cancel;
use super::stage::LIMIT;
use super::stage::Stage;
use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::wait_until;

const VICTIMS: usize = 5;
const BYSTANDERS: usize = 5;
/// Keys of the dead that are tried: fewer than an address may guess wrong.
const OLD_KEYS: usize = 50;
const CANCELED: &str = "57014";

/// Sessions that ask to be cancelled, and sessions that do not.
struct Crowd {
    addr: SocketAddr,
    /// Of the victims, while they live.
    keys: [Mutex<Vec<u8>>; VICTIMS],
    dead: Mutex<Vec<Vec<u8>>>,
    cancelled: [AtomicU64; VICTIMS],
    undisturbed: [AtomicU64; BYSTANDERS],
    /// What bystanders were told instead of an answer.
    told: Mutex<BTreeSet<String>>,
    is_over: AtomicBool,
}

impl Crowd {
    fn before(addr: SocketAddr) -> Self {
        Self {
            addr,
            keys: Default::default(),
            dead: Mutex::default(),
            cancelled: Default::default(),
            undisturbed: Default::default(),
            told: Mutex::default(),
            is_over: AtomicBool::new(false),
        }
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Acquire)
    }

    /// Sleeps until it is cancelled, again and again; comes back when its server is gone.
    fn be_victim(&self, number: usize) {
        while self.goes_on() {
            // A server that is just dying may still let it in.
            let Ok(mut session) = Raw::try_log_in(self.addr, b"") else {
                continue;
            };
            self.keys[number].lock().unwrap().clone_from(&session.key);
            while self.goes_on() {
                session.ask("select pg_sleep(600)");
                if session.outcome().as_deref() != Some(CANCELED) {
                    break;
                }
                self.cancelled[number].fetch_add(1, Ordering::AcqRel);
            }
            let key = std::mem::take(&mut *self.keys[number].lock().unwrap());
            self.dead.lock().unwrap().push(key);
        }
    }

    /// Has something to lose at any moment.
    fn be_bystander(&self, number: usize) {
        while self.goes_on() {
            let Ok(mut session) = Raw::try_log_in(self.addr, b"") else {
                continue;
            };
            while self.goes_on() {
                session.ask("select pg_sleep(0.005)");
                if let Some(told) = session.outcome() {
                    self.told.lock().unwrap().insert(told);
                    break;
                }
                self.undisturbed[number].fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    /// Cancels every victim, over and over, and now and then one that is dead.
    fn be_canceller(&self) {
        let mut old_keys = 0;
        while self.goes_on() {
            for key in &self.keys {
                let key = key.lock().unwrap().clone();
                if !key.is_empty() {
                    cancel(self.addr, &key);
                }
            }
            let dead = self.dead.lock().unwrap().clone();
            if let Some(key) = dead.get(old_keys % dead.len().max(1))
                && old_keys < OLD_KEYS
            {
                cancel(self.addr, key);
                old_keys += 1;
            }
            thread::yield_now();
        }
    }

    #[track_caller]
    fn wait_for_more(&self, what: &str) {
        let counts = || {
            let all = self.cancelled.iter().chain(&self.undisturbed);
            all.map(|count| count.load(Ordering::Acquire))
                .collect::<Vec<_>>()
        };
        let before = counts();
        wait_until(PATIENCE, what, || {
            let now = counts();
            now.iter()
                .zip(&before)
                .all(|(now, before)| *now >= before + 5)
        });
    }
}

#[test]
fn cancels_during_a_failover_never_hit_another() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(1);
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    let crowd = Crowd::before(stage.write);
    thread::scope(|scope| {
        for number in 0..VICTIMS {
            let crowd = &crowd;
            scope.spawn(move || crowd.be_victim(number));
        }
        for number in 0..BYSTANDERS {
            let crowd = &crowd;
            scope.spawn(move || crowd.be_bystander(number));
        }
        scope.spawn(|| crowd.be_canceller());
        let story = scope.spawn(|| {
            crowd.wait_for_more("everybody before the failover");
            assert_eq!(*crowd.told.lock().unwrap(), BTreeSet::new());
            old.kill_9();
            new.promote();
            crowd.wait_for_more("everybody on the new primary");
            // Its sessions have their numbers and secrets from another server.
            old.start();
            stage.wait_for_role(old, "fenced", "stale_timeline");
            crowd.wait_for_more("everybody beside the old primary");
        });
        let told = story.join();
        crowd.is_over.store(true, Ordering::Release);
        // Who sleeps now has nobody left to wake it.
        let _ = new.try_sql(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'",
        );
        told.unwrap();
    });
    let dead = crowd.dead.lock().unwrap().len();
    assert!(dead >= VICTIMS, "{dead} keys outlived their sessions");
    let told = crowd.told.lock().unwrap();
    println!("bystanders were told {told:?}");
    assert!(!told.is_empty(), "their primary died");
    assert!(!told.contains(CANCELED), "{told:?}");
}
