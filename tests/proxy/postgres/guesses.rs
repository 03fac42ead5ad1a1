//! Class 23: strangers try cancel keys by the ten thousand, from many addresses. Nobody's query is
//! cancelled, nobody waits for them, and nothing of them is kept.

use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;

use evergate::protocol::postgres::CancelKey;
use evergate::protocol::postgres::frontend;
use evergate::protocol::postgres::sqlstate::SqlState;

use crate::postgres::cancel::sleep;
use crate::postgres::cases::before;
use crate::postgres::wire::Wire;
use crate::support::PATIENCE;
use crate::support::SetWhenDropped;
use crate::support::postgres::Postgres;
use crate::support::talk::connect_from;
use crate::support::wait_until;

const STRANGERS: u8 = 4;
/// Of each stranger, who comes from all of them in turn.
const ADDRESSES: u32 = 200;
const GUESSES: u32 = 25_000;
/// What fills the pools that are kept for later.
const FIRST_GUESSES: u32 = 2_000;
/// A leak of a hundred bytes a guess would be twice as much.
const MAX_GROWTH_BYTES: u64 = 5 << 20;
const BYSTANDERS: u32 = 4;

/// Each one is another key for the session's process, and none is its own.
fn guess(stranger: u8, from: u32, to: u32, key: &CancelKey, listens: SocketAddr) {
    for number in from..to {
        let secret = (number << 8 | u32::from(stranger)).to_be_bytes();
        if secret == *key.secret() {
            continue;
        }
        let wrong = CancelKey::new(key.process_id(), &secret).unwrap();
        let last = u8::try_from(number % ADDRESSES).unwrap();
        let address = Ipv4Addr::new(127, 8, stranger, last + 1);
        let mut stream = connect_from(address, listens);
        let request = frontend::cancel_request(&wrong);
        stream.write_all(&request).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "no word is said");
    }
}

fn guess_all(from: u32, to: u32, key: &CancelKey, listens: SocketAddr) {
    thread::scope(|scope| {
        for stranger in 0..STRANGERS {
            scope.spawn(move || guess(stranger, from, to, key, listens));
        }
    });
}

#[test]
fn a_hundred_thousand_guesses_from_many_addresses_disturb_nobody_and_leave_nothing() {
    let postgres = Postgres::start();
    let (evergate, listens) = before(&[postgres.addr()], &[], &[]);
    let (mut victim, key) = Wire::login(listens);
    sleep(&mut victim, &postgres);
    let (is_over, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let unknown = [("cause", "cancel_unknown")];
    let metric = "evergate_sessions_ended_total";
    let grown = thread::scope(|scope| {
        let _ends = SetWhenDropped(&is_over);
        for _ in 0..BYSTANDERS {
            scope.spawn(|| {
                let (mut wire, _) = Wire::login(listens);
                while !is_over.load(Ordering::Acquire) {
                    let answer = wire.query("select pg_sleep(0.01)");
                    assert!(answer.error.is_none(), "{answer:?}");
                    answers.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        guess_all(0, FIRST_GUESSES, &key, listens);
        let before = (evergate.rss_bytes(), answers.load(Ordering::Acquire));
        guess_all(FIRST_GUESSES, GUESSES, &key, listens);
        let after = (evergate.rss_bytes(), answers.load(Ordering::Acquire));
        assert!(after.1 > before.1, "bystanders were answered all the while");
        after.0.saturating_sub(before.0)
    });
    let guesses = f64::from(GUESSES) * f64::from(STRANGERS);
    wait_until(PATIENCE, "every guess is counted", || {
        // One may have been the key itself, and was not tried.
        evergate.metric(metric, &unknown) >= Some(guesses - 1.0)
    });
    println!(
        "{guesses} guesses, {} answers, grown by {grown} bytes",
        answers.into_inner()
    );
    assert!(grown < MAX_GROWTH_BYTES, "{grown} bytes");
    for cause in ["cancel_forwarded", "cancel_failed"] {
        let count = evergate.metric(metric, &[("cause", cause)]);
        assert_eq!(count.unwrap_or(0.0), 0.0, "{cause}");
    }
    // The session sleeps on, and its client may cancel it.
    // A stranger's address may share its limit, which is forgotten within moments.
    wait_until(PATIENCE, "its own client may", || {
        let mut own = connect_from(Ipv4Addr::new(127, 9, 9, 9), listens);
        own.write_all(&frontend::cancel_request(&key)).unwrap();
        assert_eq!(own.read(&mut [0]).unwrap(), 0);
        evergate.metric(metric, &[("cause", "cancel_forwarded")]) == Some(1.0)
    });
    let error = victim.until_ready().error.expect("it is cancelled now");
    assert_eq!(error.sqlstate, Some(SqlState::QUERY_CANCELED));
}
