//! SCRAM-SHA-256 as a client (RFC 5802, RFC 7677), with a lid on what the server may ask for.
//!
//! The mathematics is `postgres-protocol`'s, which also draws the client's nonce from the operating
//! system's randomness: the one value in this module that is not an argument.

use postgres_protocol::authentication::sasl::ChannelBinding;
use postgres_protocol::authentication::sasl::SCRAM_SHA_256;
use postgres_protocol::authentication::sasl::SCRAM_SHA_256_PLUS;
use postgres_protocol::authentication::sasl::ScramSha256;

use crate::protocol::postgres::cursor::Cursor;
use crate::protocol::postgres::frontend;
use crate::protocol::postgres::login::LoginError;

/// The server's default is 4096. The hash is computed that many times, on the thread that watches
/// all backends: 100,000 take it some 20 ms, and a server that could ask for two thousand million
/// would stop it (CVE-2026-42198 was that in another client). pgjdbc draws the line here, too.
const MAX_ITERATIONS: u32 = 100_000;
/// PostgreSQL's own half is 24 characters (CVE-2026-6665 was a long one).
const MAX_NONCE_BYTES: usize = 256;
/// PostgreSQL's is 24 characters of base64.
const MAX_SALT_BYTES: usize = 256;
/// A nonce, a salt, a count and their names.
const MAX_SERVER_MESSAGE_BYTES: usize = 1024;
/// There are two, and room for those to come.
const MAX_MECHANISMS: usize = 16;

/// One exchange.
pub(super) struct Scram {
    exchange: ScramSha256,
}

impl Scram {
    /// Chooses among the offered mechanisms and speaks first.
    ///
    /// `-PLUS` where it is offered and the hash of the server's certificate is known. Known but not
    /// offered is said to the server (flag `y`), so that nobody between can hide the offer.
    pub(super) fn begin(
        offered: &[u8],
        password: &str,
        server_end_point: Option<&[u8]>,
    ) -> Result<(Self, Vec<u8>), LoginError> {
        let offered = mechanisms(offered)?;
        let offers = |name: &str| offered.contains(&name.as_bytes());
        let (mechanism, binding) = match server_end_point {
            Some(hash) if offers(SCRAM_SHA_256_PLUS) => (
                SCRAM_SHA_256_PLUS,
                ChannelBinding::tls_server_end_point(hash.to_vec()),
            ),
            _ if !offers(SCRAM_SHA_256) => return Err(LoginError::Mechanism),
            Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        };
        let exchange = ScramSha256::new(password.as_bytes(), binding);
        let answer = frontend::sasl_initial_response(mechanism, exchange.message());
        Ok((Self { exchange }, answer))
    }

    /// Answers the server's challenge with the proof that we know the password.
    pub(super) fn prove(&mut self, challenge: &[u8]) -> Result<Vec<u8>, LoginError> {
        let own_nonce_bytes = nonce_bytes(self.exchange.message());
        check_challenge(challenge, own_nonce_bytes).map_err(LoginError::Scram)?;
        self.exchange
            .update(challenge)
            .map_err(|_| LoginError::Scram("invalid challenge"))?;
        Ok(frontend::sasl_response(self.exchange.message()))
    }

    /// Checks the server's proof that it knows the password, too.
    pub(super) fn verify_server(mut self, proof: &[u8]) -> Result<(), LoginError> {
        if proof.len() > MAX_SERVER_MESSAGE_BYTES {
            return Err(LoginError::Scram("message too long"));
        }
        self.exchange
            .finish(proof)
            .map_err(|_| LoginError::Scram("the server does not know the password"))
    }
}

/// A list of names that ends with an empty one.
fn mechanisms(offered: &[u8]) -> Result<Vec<&[u8]>, LoginError> {
    let mut rest = Cursor(offered);
    let mut names = Vec::new();
    while names.len() < MAX_MECHANISMS {
        match rest.c_string() {
            Some([]) if rest.is_empty() => return Ok(names),
            Some(name @ [_, ..]) => names.push(name),
            _ => break,
        }
    }
    Err(LoginError::Malformed("AuthenticationSASL"))
}

/// Length of the nonce at the end of a client's first message.
fn nonce_bytes(client_first: &[u8]) -> usize {
    let mut parts = client_first.rsplit(|byte| *byte == b',');
    let nonce = parts.next().and_then(|part| part.strip_prefix(b"r="));
    nonce.map_or(0, <[u8]>::len)
}

/// Whether a challenge, `r=<nonce>,s=<salt>,i=<iterations>`, is worth any work.
fn check_challenge(challenge: &[u8], own_nonce_bytes: usize) -> Result<(), &'static str> {
    if challenge.len() > MAX_SERVER_MESSAGE_BYTES {
        return Err("message too long");
    }
    let mut parts = challenge.split(|byte| *byte == b',');
    let mut attribute = |name: &[u8]| parts.next().and_then(|part| part.strip_prefix(name));
    let nonce = attribute(b"r=").ok_or("no nonce")?;
    let salt = attribute(b"s=").ok_or("no salt")?;
    let iterations = attribute(b"i=").and_then(decimal).ok_or("no iterations")?;
    if nonce.len() > MAX_NONCE_BYTES {
        return Err("nonce too long");
    }
    // A server that adds nothing could replay what it has heard.
    if nonce.len() <= own_nonce_bytes {
        return Err("the server has added nothing to the nonce");
    }
    if salt.is_empty() || salt.len() > MAX_SALT_BYTES {
        return Err("salt empty or too long");
    }
    if !(1..=MAX_ITERATIONS).contains(&iterations) {
        return Err("too many iterations, or none");
    }
    Ok(())
}

fn decimal(text: &[u8]) -> Option<u32> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(nonce: &str, salt: &str, iterations: &str) -> String {
        format!("r={nonce},s={salt},i={iterations}")
    }

    #[test]
    fn a_challenge_of_postgresql_is_accepted() {
        for iterations in ["1", "4096", "100000"] {
            let challenge = challenge("own+server", "c2FsdA==", iterations);
            assert_eq!(check_challenge(challenge.as_bytes(), 4), Ok(()));
        }
    }

    #[test]
    fn challenges_that_cost_too_much_are_refused_before_any_work() {
        let long = "x".repeat(300);
        for (challenge, expected) in [
            (
                challenge("own+", "c2E=", "100001"),
                "too many iterations, or none",
            ),
            (
                challenge("own+", "c2E=", "4294967295"),
                "too many iterations, or none",
            ),
            (
                challenge("own+", "c2E=", "0"),
                "too many iterations, or none",
            ),
            (challenge("own+", "c2E=", "4294967296"), "no iterations"),
            (challenge("own+", "c2E=", "+1"), "no iterations"),
            (challenge("own+", "c2E=", "-1"), "no iterations"),
            (challenge("own+", "c2E=", ""), "no iterations"),
            (challenge(&long, "c2E=", "1"), "nonce too long"),
            (
                challenge("own", "c2E=", "1"),
                "the server has added nothing to the nonce",
            ),
            (challenge("own+", &long, "1"), "salt empty or too long"),
            (challenge("own+", "", "1"), "salt empty or too long"),
            (challenge(&long.repeat(4), "c2E=", "1"), "message too long"),
            ("m=x,r=own+,s=c2E=,i=1".to_owned(), "no nonce"),
            ("r=own+,i=1".to_owned(), "no salt"),
            (String::new(), "no nonce"),
        ] {
            let result = check_challenge(challenge.as_bytes(), 3);
            assert_eq!(result, Err(expected), "{challenge}");
        }
    }

    #[test]
    fn mechanisms_are_a_list_that_ends() {
        assert_eq!(mechanisms(b"A\0BC\0\0"), Ok(vec![&b"A"[..], b"BC"]));
        assert_eq!(mechanisms(b"\0"), Ok(vec![]));
        let too_many = [&b"A\0".repeat(MAX_MECHANISMS)[..], b"\0"].concat();
        for wrong in [&b""[..], b"A", b"A\0", b"A\0\0\0", b"A\0\0B\0\0", &too_many] {
            assert!(mechanisms(wrong).is_err(), "{}", wrong.escape_ascii());
        }
    }
}
