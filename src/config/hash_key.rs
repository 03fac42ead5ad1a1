//! What consistent hashing hashes: a word, or a kind and a name, as in `header:x-tenant`. Pure.

use http::HeaderName;

use crate::cluster::Name;
use crate::config::HashKey;
use crate::config::keys;
use crate::config::request;
use crate::config::tree::Node;
use crate::config::values;
use crate::config::values::MAX_NAME_BYTES;
use crate::config::values::Wrong;

pub(super) fn hash_key(node: &Node) -> Result<HashKey, Wrong> {
    let word = node.word().unwrap_or_default();
    if let Some((kind, name)) = word.split_once(':') {
        match kind {
            "startup" => return startup(node, name),
            "header" => return header(node, name),
            "cookie" => return cookie(node, name),
            "query" => return query(node, name),
            _ => {}
        }
    }
    Ok(match values::choice(node, keys::HASH_KEYS)? {
        "client_ip_port" => HashKey::ClientIpPort,
        "sni" => HashKey::Sni,
        "user" => HashKey::User,
        "database" => HashKey::Database,
        "path" => HashKey::Path,
        _ => HashKey::ClientIp,
    })
}

fn startup(node: &Node, name: &str) -> Result<HashKey, Wrong> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.".contains(c);
    match name {
        "user" | "database" => Err(Wrong::new(
            format!("{} has a word of its own", node.shown()),
            format!("write `key: {name}`"),
        )),
        _ if is_short(name) && name.chars().all(allowed) => {
            Ok(HashKey::StartupParameter(Name::from(name)))
        }
        _ => Err(Wrong::not(
            "a startup parameter",
            node,
            "as in `startup:application_name` or `startup:app.tenant`",
        )),
    }
}

fn header(node: &Node, name: &str) -> Result<HashKey, Wrong> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
    let parsed = parsed.filter(|_| is_short(name));
    let wrong = || Wrong::not("the name of a header", node, "as in `header:x-tenant`");
    parsed.map(HashKey::Header).ok_or_else(wrong)
}

fn cookie(node: &Node, name: &str) -> Result<HashKey, Wrong> {
    if is_short(name) && request::is_token(name) {
        return Ok(HashKey::Cookie(Name::from(name)));
    }
    let help = "as in `cookie:sid`";
    Err(Wrong::not("the name of a cookie", node, help))
}

/// A name is compared as it stands in the URI, so nothing that must be escaped can match.
fn query(node: &Node, name: &str) -> Result<HashKey, Wrong> {
    let allowed = |c: char| c.is_ascii_graphic() && !"&=#+?\"<>".contains(c);
    if is_short(name) && name.chars().all(allowed) {
        return Ok(HashKey::Query(Name::from(name)));
    }
    let help = "as in `query:tenant`";
    Err(Wrong::not("the name of a query parameter", node, help))
}

fn is_short(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
}
