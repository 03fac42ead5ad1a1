//! Values that only requests have: hosts, paths, methods and headers. Pure.

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use http::HeaderName;
use http::HeaderValue;
use http::Method;

use crate::config::HostPattern;
use crate::config::tree::Node;
use crate::config::tree::Text;
use crate::config::values;
use crate::config::values::Wrong;

/// Longest path of a route: no request's target is longer with any `max_uri`.
const MAX_PATH_BYTES: usize = 8 << 10;
/// Methods of RFC 9110 and RFC 5789; others may be written, unless they look like one of these.
const METHODS: [&str; 9] = [
    "get", "head", "post", "put", "delete", "patch", "options", "connect", "trace",
];

/// A token of RFC 9110, 5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}

/// `example.com`, `*.example.com`, `10.0.0.1` or `[::1]`; never a port.
pub(super) fn host(node: &Node) -> Result<HostPattern, Wrong> {
    let lower = node.text()?.value.to_ascii_lowercase();
    if lower == "*" {
        let help = "leave `host` out to take every host";
        return Err(Wrong::not("a host", node, help));
    }
    if let Some(below) = lower.strip_prefix("*.") {
        if is_name(below) {
            return Ok(HostPattern::Below(format!(".{below}")));
        }
    } else if is_name(&lower) || lower.parse::<Ipv4Addr>().is_ok() {
        return Ok(HostPattern::Exact(lower));
    } else if let Some(address) = bracketed(&lower) {
        return Ok(HostPattern::Exact(format!("[{address}]")));
    }
    let help = match values::host_and_port_text(&lower) {
        Some(_) => "write it without the port, which routes do not look at",
        None => "write a host without port, as in `search.example.com` or `*.example.com`",
    };
    Err(Wrong::not("a host", node, help))
}

/// A name without the dot at the end, which clients leave out.
fn is_name(text: &str) -> bool {
    values::is_host_name(text) && !text.ends_with('.')
}

fn bracketed(text: &str) -> Option<Ipv6Addr> {
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// A host with or without port, as the `Host` header has it.
pub(super) fn is_authority(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let is_host =
        |host: &str| is_name(host) || host.parse::<Ipv4Addr>().is_ok() || bracketed(host).is_some();
    is_host(&lower) || values::host_and_port_text(&lower).is_some()
}

pub(super) fn show_host(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Below(suffix) => format!("*{suffix}"),
    }
}

/// The text of a path, for a prefix and for the whole.
pub(super) fn path(node: &Node) -> Result<String, Wrong> {
    let path = &node.text()?.value;
    let wrong = |help: &str| Err(Wrong::not("a path", node, help));
    if path.len() > MAX_PATH_BYTES {
        return wrong("no request has a path that long");
    }
    if !path.starts_with('/') {
        return wrong("begin it with `/`, as in `/api/`");
    }
    if path.contains(['?', '#']) {
        return wrong("routes look at the path alone: leave out what follows `?` or `#`");
    }
    if path.contains('*') {
        return wrong("a path has no wildcards: `/api/` takes everything below it");
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return wrong("write other characters as in a URI, `%20` for a space");
    }
    if path
        .split('/')
        .any(|segment| [".", ".."].contains(&segment))
    {
        return wrong("write it without `.` and `..`, as requests are compared");
    }
    if !is_escaped_well(path) {
        return wrong("two hexadecimal digits follow a `%`, as in `%20`");
    }
    Ok(path.clone())
}

fn is_escaped_well(path: &str) -> bool {
    let mut parts = path.split('%');
    parts.next();
    parts.all(|part| {
        let digits = part.bytes().take(2);
        digits.filter(u8::is_ascii_hexdigit).count() == 2
    })
}

/// Methods are case-sensitive (RFC 9110, 9.1).
pub(super) fn method(node: &Node) -> Result<Method, Wrong> {
    let text = &node.text()?.value;
    let near = values::nearest(text, METHODS.into_iter()).map(str::to_ascii_uppercase);
    match (Method::from_bytes(text.as_bytes()), near) {
        (Ok(method), None) => Ok(method),
        (Ok(method), Some(near)) if near == *text => Ok(method),
        (_, Some(near)) => {
            let help = format!("did you mean `{near}`?");
            Err(Wrong::not("a method", node, &help))
        }
        (Err(_), None) => Err(Wrong::not("a method", node, "as in `GET` or `POST`")),
    }
}

/// The name of a header, lower case.
pub(super) fn header_name(text: &str) -> Result<HeaderName, Wrong> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
        let shown: String = text.chars().filter(|c| !c.is_control()).take(60).collect();
        let message = match text {
            "" => "the name of a header is empty".to_owned(),
            _ => format!("`{shown}` is not the name of a header"),
        };
        Wrong::new(message, "write letters, digits and `-`, as in `x-tenant`")
    })
}

/// The value of a header. What came from the environment is marked, so that nothing shows it.
pub(super) fn header_value(node: &Node) -> Result<HeaderValue, Wrong> {
    let Text { value, written } = node.text()?;
    if value.trim() != value {
        let help = "take them out: they are not part of a header's value";
        let message = format!("{} has spaces around it", node.shown());
        return Err(Wrong::new(message, help));
    }
    let mut parsed = HeaderValue::from_str(value).map_err(|_| {
        let help = "write printable ASCII characters on one line";
        Wrong::not("the value of a header", node, help)
    })?;
    parsed.set_sensitive(written.is_some());
    Ok(parsed)
}
