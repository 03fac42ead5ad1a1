//! Hash keys of consistent hashing at layer 4.
//!
//! Everything here is stable across versions, platforms and instances: a
//! change would move every key, and a test holds the values.

use std::net::IpAddr;
use std::net::SocketAddr;

use xxhash_rust::xxh3::Xxh3;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::config::HashKey;

/// Seeds differ, so that a client's address and a name that spells the same
/// bytes do not land on the same place.
const ADDRESS_SEED: u64 = 0x4556_4752_4144_4452;
const NAME_SEED: u64 = 0x4556_4752_4e41_4d45;
const WORD_SEED: u64 = 0x4556_4752_574f_5244;

/// What is known of a client when a backend is picked.
#[derive(Debug, Clone, Copy)]
pub struct KeySource<'a> {
    /// The client's address; behind a trusted PROXY header, the one in the header.
    pub client: SocketAddr,
    pub sni: Option<&'a str>,
    pub login: LoginKeys<'a>,
}

/// What a client says of itself when it logs in, as far as its protocol is understood.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoginKeys<'a> {
    pub user: Option<&'a str>,
    pub database: Option<&'a str>,
    /// The value of the parameter that the cluster hashes.
    pub parameter: Option<&'a str>,
}

/// Stable across versions, instances and restarts: xxh3 of the key's bytes.
///
/// An IPv4 client is the same whether it came over an IPv4 or a dual-stack
/// socket. Server names are compared as DNS does: case and a final dot do not
/// matter. A client without the name that is hashed is hashed by its address.
pub fn hash_key(key: &HashKey, source: KeySource<'_>) -> u64 {
    let login = source.login;
    let word = match key {
        HashKey::Sni => return source.sni.map_or_else(|| by_address(source), hash_name),
        HashKey::ClientIp => None,
        HashKey::ClientIpPort => {
            return hash_address(source.client.ip(), Some(source.client.port()));
        }
        HashKey::User => login.user,
        HashKey::Database => login.database,
        HashKey::StartupParameter(_)
        | HashKey::Header(_)
        | HashKey::Cookie(_)
        | HashKey::Query(_)
        | HashKey::Path => login.parameter,
    };
    match word {
        Some(word) => xxh3_64_with_seed(word.as_bytes(), WORD_SEED),
        None => by_address(source),
    }
}

fn by_address(source: KeySource<'_>) -> u64 {
    hash_address(source.client.ip(), None)
}

fn hash_address(address: IpAddr, port: Option<u16>) -> u64 {
    // 16 bytes of address and 2 of port at most.
    let mut bytes = [0; 18];
    let mut len = match address.to_canonical() {
        IpAddr::V4(address) => {
            bytes[..4].copy_from_slice(&address.octets());
            4
        }
        IpAddr::V6(address) => {
            bytes[..16].copy_from_slice(&address.octets());
            16
        }
    };
    if let Some(port) = port {
        bytes[len..len + 2].copy_from_slice(&port.to_be_bytes());
        len += 2;
    }
    xxh3_64_with_seed(&bytes[..len], ADDRESS_SEED)
}

fn hash_name(name: &str) -> u64 {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut hasher = Xxh3::with_seed(NAME_SEED);
    // In pieces: lower case without an allocation, however long the name is.
    for piece in name.as_bytes().chunks(64) {
        let mut lower = [0; 64];
        let lower = &mut lower[..piece.len()];
        lower.copy_from_slice(piece);
        lower.make_ascii_lowercase();
        hasher.update(lower);
    }
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source<'a>(client: &str, sni: Option<&'a str>) -> KeySource<'a> {
        KeySource {
            client: client.parse().expect("an address and a port"),
            sni,
            login: LoginKeys::default(),
        }
    }

    #[test]
    fn the_port_counts_only_where_it_is_asked_for() {
        let (one, two) = (source("10.0.0.1:1", None), source("10.0.0.1:2", None));
        assert_eq!(
            hash_key(&HashKey::ClientIp, one),
            hash_key(&HashKey::ClientIp, two)
        );
        assert_ne!(
            hash_key(&HashKey::ClientIpPort, one),
            hash_key(&HashKey::ClientIpPort, two)
        );
    }

    #[test]
    fn a_mapped_ipv4_client_is_the_ipv4_client() {
        let (plain, mapped) = (
            source("10.0.0.1:1", None),
            source("[::ffff:10.0.0.1]:1", None),
        );
        for key in [HashKey::ClientIp, HashKey::ClientIpPort, HashKey::Sni] {
            assert_eq!(hash_key(&key, plain), hash_key(&key, mapped));
        }
    }

    #[test]
    fn a_server_name_is_the_same_in_any_case_and_with_a_final_dot() {
        let long = "x".repeat(200);
        for name in ["db.example.com", &long] {
            let lower = hash_key(&HashKey::Sni, source("10.0.0.1:1", Some(name)));
            let upper = format!("{}.", name.to_uppercase());
            assert_eq!(
                lower,
                hash_key(&HashKey::Sni, source("10.0.0.2:2", Some(&upper)))
            );
        }
    }

    #[test]
    fn without_a_server_name_the_address_is_the_key() {
        let client = source("10.0.0.1:1", None);
        assert_eq!(
            hash_key(&HashKey::Sni, client),
            hash_key(&HashKey::ClientIp, client)
        );
    }

    /// A change of these values moves the keys of every user on upgrade.
    #[test]
    fn keys_are_what_they_are_in_every_version() {
        let v4 = source("192.0.2.7:4321", Some("db.example.com"));
        let v6 = source("[2001:db8::7]:4321", None);
        let hashes = [
            hash_key(&HashKey::ClientIp, v4),
            hash_key(&HashKey::ClientIpPort, v4),
            hash_key(&HashKey::Sni, v4),
            hash_key(&HashKey::ClientIp, v6),
        ];
        let expected = [
            0x296c_247d_1480_bee1,
            0xe00e_0f99_f299_a336,
            0x526d_f1f6_93a0_01d1,
            0x2117_d203_7a41_6eea,
        ];
        assert_eq!(hashes, expected);
    }
}
