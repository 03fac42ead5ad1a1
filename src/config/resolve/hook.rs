//! A cluster's `failover.on_event` list.

use crate::config::CheckKind;
use crate::config::HookAction;
use crate::config::HookConfig;
use crate::config::HookEvent;
use crate::config::keys;
use crate::config::reader::Reader;
use crate::config::resolve::failover::refuse_without_roles;
use crate::config::source::Sources;
use crate::config::tree::Node;
use crate::config::values;
use crate::config::values::Wrong;

/// Longest URL that is asked for: servers take 8000 bytes (RFC 9110, 4.1).
const MAX_URL_BYTES: usize = 8000;

pub(super) fn read(
    sources: &mut Sources,
    failover: &mut Reader<'_>,
    check: &CheckKind,
) -> Vec<HookConfig> {
    let Some(readers) = failover.list_of_sections(sources, "on_event") else {
        return Vec::new();
    };
    let mut hooks = Vec::new();
    let mut shown = Vec::new();
    let mut defaults = Vec::new();
    for mut hook in readers {
        let events = read_events(sources, &mut hook, check);
        let action = read_action(sources, &mut hook);
        let timeout = hook.duration(sources, "timeout");
        let (value, mut unwritten) = hook.finish();
        shown.push(value);
        defaults.append(&mut unwritten);
        hooks.extend(action.map(|action| HookConfig {
            events,
            action,
            timeout,
        }));
    }
    failover.attach_value("on_event", shown.into(), defaults);
    hooks
}

fn read_events(sources: &mut Sources, hook: &mut Reader<'_>, check: &CheckKind) -> Vec<HookEvent> {
    let Some(nodes) = hook.list(sources, "events") else {
        if hook.entry("events").is_none() {
            hook.derived("events", keys::EVENTS.to_vec());
        }
        return HookEvent::ALL.to_vec();
    };
    let mut events = Vec::new();
    for node in nodes {
        let word = match values::choice(node, &keys::EVENTS) {
            Ok(word) => word,
            Err(wrong) => {
                sources.error(node.at, wrong);
                continue;
            }
        };
        let mut all = HookEvent::ALL.into_iter();
        let Some(event) = all.find(|event| event.as_str() == word) else {
            continue;
        };
        if events.contains(&event) {
            let message = format!("the event `{word}` stands twice");
            sources.error(node.at, Wrong::new(message, "remove one"));
        }
        if !matches!(event, HookEvent::BackendDown | HookEvent::BackendUp) {
            refuse_without_roles(sources, node.at, &format!("the event `{word}`"), check);
        }
        events.push(event);
    }
    let shown: Vec<&str> = events.iter().map(|event| event.as_str()).collect();
    hook.attach_value("events", shown.into(), Vec::new());
    events
}

/// Exactly one of `command` and `url`.
fn read_action(sources: &mut Sources, hook: &mut Reader<'_>) -> Option<HookAction> {
    let command = hook.texts(sources, "command");
    if command.iter().any(|word| word.contains('\0')) {
        let wrong = Wrong::new("a command cannot contain NUL", "take it out");
        sources.error(hook.place("command"), wrong);
    }
    // The path of a URL is often the secret of a chat's web hook.
    let show = |(_, shown): &(String, String)| shown.as_str().into();
    let url = hook.read(sources, "url", parse_url, show);
    match (hook.entry("command"), hook.entry("url")) {
        (Some(first), Some(second)) => {
            let wrong = Wrong::new("`url` beside `command`", "write a hook for each");
            sources.conflict(second.key_at, wrong, "the command is here", first.key_at);
            None
        }
        (None, None) => {
            let help = "as in `command: [/usr/local/bin/page]` or `url: https://example.com/hook`";
            sources.error(
                hook.at,
                Wrong::new("a hook needs a `command` or a `url`", help),
            );
            None
        }
        (Some(_), None) => Some(HookAction::Command(command)),
        (None, Some(_)) => url.map(|(url, _)| HookAction::Post(url)),
    }
}

/// A URL, and as much of it as may be shown.
fn parse_url(node: &Node) -> Result<(String, String), Wrong> {
    let text = node.text()?;
    let help = "write `http://` or `https://`, a host and a path, as in `https://example.com/hook`";
    // Not repeated: it may hold a secret.
    let wrong = |message: &str| Wrong::new(message, help);
    let url = text.value.as_str();
    let (scheme, rest) = url
        .split_once("://")
        .filter(|(scheme, _)| ["http", "https"].contains(scheme))
        .ok_or_else(|| wrong("this is not an HTTP URL"))?;
    if url.len() > MAX_URL_BYTES || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong(
            "this URL is too long, or has spaces or other characters that it must not",
        ));
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.contains('@') {
        return Err(wrong("a user in a URL is not supported"));
    }
    if path.contains('#') {
        return Err(wrong("a `#` in a URL is never sent"));
    }
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.ends_with(']'));
    let default_port = if scheme == "https" { ":443" } else { ":80" };
    let address = match has_port {
        true => authority.to_owned(),
        false => format!("{authority}{default_port}"),
    };
    if values::host_and_port_text(&address).is_none() {
        return Err(wrong("this URL has no host, or a wrong one"));
    }
    let shown = match (&text.written, path) {
        (Some(written), _) => written.clone(),
        (None, "" | "/") => url.to_owned(),
        (None, _) => format!("{scheme}://{authority}/***"),
    };
    Ok((text.value.clone(), shown))
}
