//! Values that only requests have: hosts, paths, methods and headers. Pure.

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use http::HeaderName;
use http::HeaderValue;
use http::Method;

use crate::config::HostPattern;
use crate::config::tree::Node;
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

pub(super) fn show_host(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Below(suffix) => format!("*{suffix}"),
    }
}

/// The text of a path, for a prefix and for the whole. What requests are normalised from or
/// refused for is refused here too, because it would never match.
pub(super) fn path(node: &Node) -> Result<String, Wrong> {
    let path = &node.text()?.value;
    let mut segments = path.split('/');
    let help = if !path.starts_with('/') {
        "begin it with `/`, as in `/api/`"
    } else if path.len() > MAX_PATH_BYTES {
        "no request has a path that long"
    } else if path.contains(['?', '#']) {
        "routes look at the path alone: leave out what follows `?` or `#`"
    } else if path.contains('*') {
        "a path has no wildcards: `/api/` takes everything below it"
    } else if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        "write other characters as in a URI, `%20` for a space"
    } else if path.contains(['\\', '"', '<', '>', '^', '`', '{', '|', '}'])
        || !is_escaped_well(path)
    {
        "write it as in a URI, with two hexadecimal digits after each `%`"
    } else if !is_spelled_plainly(path) {
        "write letters, digits and `-` `.` `_` `~` as themselves and other escapes in upper case, \
         as in `%2F`: so requests are compared"
    } else if path.contains("//") {
        "write one slash: repeated slashes of a request count as one"
    } else if segments.any(|segment| [".", ".."].contains(&segment)) {
        "write it without `.` and `..`, which requests are freed of first"
    } else {
        return Ok(path.clone());
    };
    Err(Wrong::not("a path", node, help))
}

fn is_escaped_well(path: &str) -> bool {
    let mut parts = path.split('%');
    parts.next();
    parts.all(|part| {
        let digits = part.bytes().take(2);
        digits.filter(u8::is_ascii_hexdigit).count() == 2
    })
}

/// Whether a path that is escaped well has the spelling that requests get before they are compared
/// (RFC 3986, 6.2.2).
fn is_spelled_plainly(path: &str) -> bool {
    let mut parts = path.split('%');
    parts.next();
    parts.all(|part| {
        let digits = part.get(..2).unwrap_or_default();
        let code = u8::from_str_radix(digits, 16).unwrap_or_default();
        let is_unreserved = code.is_ascii_alphanumeric() || b"-._~".contains(&code);
        !is_unreserved && !digits.bytes().any(|digit| digit.is_ascii_lowercase())
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

/// The value of a header.
pub(super) fn header_value(node: &Node) -> Result<HeaderValue, Wrong> {
    let value = &node.text()?.value;
    if value.trim() != value {
        let help = "take them out: they are not part of a header's value";
        let message = format!("{} has spaces around it", node.shown());
        return Err(Wrong::new(message, help));
    }
    let help = "write printable ASCII characters on one line";
    HeaderValue::from_str(value).map_err(|_| Wrong::not("the value of a header", node, help))
}
