//! The demo's line protocol: every answer names who gave it and what it answers, so that a
//! lost, doubled or damaged one is found.
//!
//! `hello BACKEND` greets; `SESSION NUMBER PAYLOAD` is answered by `BACKEND SESSION NUMBER PAYLOAD`.

/// What a health check sends, and what the answer to it contains.
pub const PING: &str = "ping";
pub const PONG: &str = "pong";

/// Payloads differ in length so that lines end at all places of a buffer.
const MIN_PAYLOAD_BYTES: u64 = 8;
const PAYLOAD_LENGTHS: u64 = 700;

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongAnswer {
    /// It answers a request that had its answer already.
    Duplicated,
    Corrupted,
}

pub fn greeting(backend: &str) -> String {
    format!("hello {backend}\n")
}

/// The backend that a greeting names.
pub fn greeter(line: &str) -> Option<&str> {
    line.strip_prefix("hello ")?.strip_suffix('\n')
}

pub fn request(session: u64, number: u64) -> String {
    format!("{session} {number} {}\n", payload(session, number))
}

/// What a backend answers to any line.
pub fn answer(backend: &str, line: &str) -> String {
    match line.trim_end_matches('\n') {
        PING => format!("{PONG} {backend}\n"),
        request => format!("{backend} {request}\n"),
    }
}

/// Holds an answer to the request it should be for.
///
/// # Errors
/// What is wrong with it.
pub fn check(line: &str, backend: &str, session: u64, number: u64) -> Result<(), WrongAnswer> {
    if line == answer(backend, &request(session, number)) {
        return Ok(());
    }
    let mut words = line.split(' ');
    let same_session = words.next() == Some(backend)
        && words.next().and_then(|word| word.parse().ok()) == Some(session);
    let other: Option<u64> = words.next().and_then(|word| word.parse().ok());
    match other {
        Some(other) if same_session && other < number => Err(WrongAnswer::Duplicated),
        _ => Err(WrongAnswer::Corrupted),
    }
}

/// The same letters for the same request, others for any other.
fn payload(session: u64, number: u64) -> String {
    let seed = session.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number;
    let mut random = fastrand::Rng::with_seed(seed);
    let length = MIN_PAYLOAD_BYTES + random.u64(..PAYLOAD_LENGTHS);
    (0..length).map(|_| random.alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_request_is_good() {
        let line = answer("db-1", &request(7, 3));
        assert_eq!(check(&line, "db-1", 7, 3), Ok(()));
    }

    #[test]
    fn a_second_answer_to_an_earlier_request_is_a_duplicate() {
        let line = answer("db-1", &request(7, 2));
        assert_eq!(check(&line, "db-1", 7, 3), Err(WrongAnswer::Duplicated));
    }

    #[test]
    fn anything_else_is_corrupted() {
        let good = answer("db-1", &request(7, 3));
        let cut = &good[..good.len() - 2];
        let mixed = answer("db-1", &request(8, 3));
        let elsewhere = answer("db-2", &request(7, 3));
        let later = answer("db-1", &request(7, 4));
        for line in [cut, &mixed, &elsewhere, &later, "", "db-1", "\n"] {
            assert_eq!(check(line, "db-1", 7, 3), Err(WrongAnswer::Corrupted));
        }
    }

    #[test]
    fn a_greeting_names_its_backend() {
        assert_eq!(greeter(&greeting("db-1")), Some("db-1"));
        assert_eq!(greeter("hello db-1"), None);
    }

    #[test]
    fn a_check_gets_its_answer() {
        assert!(answer("db-1", "ping\n").contains(PONG));
    }
}
