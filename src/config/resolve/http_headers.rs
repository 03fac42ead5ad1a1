//! A route's rules for headers.

use http::HeaderName;
use http::HeaderValue;
use http::header;
use serde_json::Map;
use serde_json::Value as Json;

use crate::config::HeaderRules;
use crate::config::reader::Reader;
use crate::config::request;
use crate::config::resolve::password::REDACTED;
use crate::config::source::Sources;
use crate::config::tree::Node;
use crate::config::values::Wrong;

/// Which way the headers go that a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Request,
    Response,
}

impl Way {
    pub fn key(self) -> &'static str {
        match self {
            Self::Request => "request_headers",
            Self::Response => "response_headers",
        }
    }
}

/// What belongs to one connection (RFC 9110, 7.6.1), frames a body (RFC 9112, 6) or asks before
/// one is sent.
const OWN: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Parts of the names of headers whose values are secrets.
const SECRETS: [&str; 6] = [
    "authorization",
    "cookie",
    "key",
    "password",
    "secret",
    "token",
];

pub(super) fn read(sources: &mut Sources, route: &mut Reader<'_>, way: Way) -> HeaderRules {
    let Some(mut section) = route.optional_section(sources, way.key()) else {
        return HeaderRules::default();
    };
    let rules = HeaderRules {
        remove: read_remove(sources, &mut section),
        set: read_values(sources, &mut section, "set"),
        add: read_values(sources, &mut section, "add"),
    };
    for (name, _) in &rules.set {
        if rules.remove.contains(name) {
            let message = format!("`{name}` is in `remove` and in `set`");
            let help = "take it out of `remove`: `set` leaves no other value";
            sources.error(section.place("remove"), Wrong::new(message, help));
        }
    }
    route.attach(way.key(), section);
    rules
}

fn read_remove(sources: &mut Sources, section: &mut Reader<'_>) -> Vec<HeaderName> {
    let parse = |node: &Node| {
        let name = request::header_name(&node.text()?.value)?;
        refuse_own(&name).map(|()| name)
    };
    section.values(sources, "remove", parse)
}

fn refuse_own(name: &HeaderName) -> Result<(), Wrong> {
    if *name == header::HOST {
        let help = "leave it out: a request reaches the backend with the host that it asks for";
        return Err(Wrong::new("`host` cannot be changed", help));
    }
    if !OWN.contains(&name.as_str()) {
        return Ok(());
    }
    let message = format!("`{name}` belongs to the connection or frames the body");
    let help = "leave it out: Evergate writes it anew on each side";
    Err(Wrong::new(message, help))
}

fn read_values(
    sources: &mut Sources,
    section: &mut Reader<'_>,
    key: &'static str,
) -> Vec<(HeaderName, HeaderValue)> {
    let entries = section.free_map(sources, key);
    let mut found: Vec<(HeaderName, HeaderValue)> = Vec::new();
    let mut shown = Map::new();
    for entry in entries {
        let name = request::header_name(&entry.key);
        let name = match name.and_then(|name| refuse_own(&name).map(|()| name)) {
            Ok(name) => name,
            Err(wrong) => {
                sources.error(entry.key_at, wrong);
                continue;
            }
        };
        if found.iter().any(|(other, _)| *other == name) && entry.key != name.as_str() {
            let message = format!("the header `{name}` stands twice");
            let help = "remove one: upper and lower case are the same";
            sources.error(entry.key_at, Wrong::new(message, help));
            continue;
        }
        match read_value(&entry.value, &name) {
            Ok(value) => {
                if is_secret(&name) && entry.value.is_written() {
                    sources.warn_if_own_file_exposed(entry.value.at);
                }
                shown.insert(name.to_string(), show_value(&name, &entry.value));
                found.push((name, value));
            }
            Err(wrong) => sources.error(entry.value.at, wrong),
        }
    }
    if !entries.is_empty() {
        section.shown(key, Json::Object(shown));
    }
    found
}

/// What is secret is marked, so that nothing that prints a configuration shows it.
pub(super) fn read_value(node: &Node, name: &HeaderName) -> Result<HeaderValue, Wrong> {
    let is_secret = is_secret(name);
    let unsaid = |_| {
        let help = "write printable ASCII characters on one line, without spaces around them";
        Wrong::new(format!("this is not a value that `{name}` can have"), help)
    };
    let parsed = request::header_value(node);
    let mut value = parsed.map_err(|wrong| if is_secret { unsaid(wrong) } else { wrong })?;
    value.set_sensitive(is_secret || !node.is_written());
    Ok(value)
}

/// Whether the value of a header lets its reader in somewhere.
fn is_secret(name: &HeaderName) -> bool {
    SECRETS.iter().any(|part| name.as_str().contains(part))
}

/// As it was written, without what is secret.
pub(super) fn show_value(name: &HeaderName, node: &Node) -> Json {
    match node.text() {
        Ok(text) if node.is_written() && is_secret(name) && !text.value.is_empty() => {
            REDACTED.into()
        }
        Ok(text) => text.written().into(),
        Err(_) => Json::Null,
    }
}
