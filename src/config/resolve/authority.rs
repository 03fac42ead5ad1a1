//! A cluster's `failover.authority` section.

use std::collections::HashMap;
use std::num::NonZeroU16;

use crate::config::AuthorityConfig;
use crate::config::CheckKind;
use crate::config::Host;
use crate::config::reader::Reader;
use crate::config::resolve::password;
use crate::config::source::Sources;
use crate::config::values;
use crate::config::values::Wrong;

/// Which kind has a use for a key.
const KEYS_BY_KIND: &[(&str, &str)] = &[
    ("port", "patroni"),
    ("tls", "patroni"),
    ("sentinels", "sentinel"),
    ("service", "sentinel"),
    ("user", "sentinel"),
    ("password", "sentinel"),
    ("password_file", "sentinel"),
];

/// With fewer, the majority is gone as soon as one of them is.
const ENOUGH_SENTINELS: usize = 3;

pub(super) fn read(
    sources: &mut Sources,
    failover: &mut Reader<'_>,
    check: &CheckKind,
    cluster_has_tls: bool,
) -> Option<AuthorityConfig> {
    let mut section = failover.optional_section(sources, "authority")?;
    let kind = section.choice(sources, "kind");
    if kind.is_empty() {
        // Reported; which keys belong here is unknown.
        return None;
    }
    for (key, of) in KEYS_BY_KIND {
        if let Some(entry) = section.entry(key)
            && *of != kind
        {
            let message = format!("`{key}` has no meaning for an authority of kind `{kind}`");
            let wrong = Wrong::new(message, format!("it belongs to kind {of}"));
            sources.error(entry.key_at, wrong);
        }
    }
    refuse_other_database(sources, &section, kind, check);
    let authority = match kind {
        "sentinel" => read_sentinel(sources, &mut section),
        _ => read_patroni(sources, &mut section, cluster_has_tls),
    };
    failover.attach("authority", section);
    authority
}

/// An authority is believed over what a backend says about itself, so it must know that backend.
fn refuse_other_database(
    sources: &mut Sources,
    section: &Reader<'_>,
    kind: &str,
    check: &CheckKind,
) {
    let (database, fits) = match kind {
        "sentinel" => ("redis", matches!(check, CheckKind::Redis(_))),
        _ => ("postgres", matches!(check, CheckKind::Postgres(_))),
    };
    if fits {
        return;
    }
    let checked = check.as_str();
    let message = format!("`{kind}` goes with a check of kind `{database}`, not `{checked}`");
    let help = match check {
        CheckKind::Http(http) if http.roles.is_some() && kind == "patroni" => {
            "remove `authority`, as the check asks Patroni already, or check with `kind: postgres`"
                .to_owned()
        }
        _ => format!("write `protocol: {database}` in the cluster, or remove `authority`"),
    };
    sources.error(section.place("kind"), Wrong::new(message, help));
}

fn read_patroni(
    sources: &mut Sources,
    section: &mut Reader<'_>,
    cluster_has_tls: bool,
) -> Option<AuthorityConfig> {
    let port = section.count(sources, "port");
    let tls = section.flag(sources, "tls");
    if tls && !cluster_has_tls {
        let message = "Patroni is asked over TLS, but the cluster has no `tls` settings";
        let help = "add `tls: {mode: verify_full, ca_file: …}` to the cluster";
        sources.error(section.place("tls"), Wrong::new(message, help));
    }
    let port = NonZeroU16::new(u16::try_from(port?).ok()?)?;
    Some(AuthorityConfig::Patroni { port, tls })
}

fn read_sentinel(sources: &mut Sources, section: &mut Reader<'_>) -> Option<AuthorityConfig> {
    let sentinels = read_sentinels(sources, section);
    let service = section.text(sources, "service").unwrap_or_default();
    if section.entry("service").is_some() && service.is_empty() {
        let help = "write the name after `sentinel monitor` in sentinel.conf";
        sources.error(
            section.place("service"),
            Wrong::new("`service` is empty", help),
        );
    }
    let user = section.text(sources, "user");
    let password = password::read(sources, section);
    if let Some(entry) = section.entry("user")
        && !password::is_written(section)
    {
        let message = "Sentinel logs in a user with a password only";
        let help = "add `password_file`, or remove `user`";
        sources.error(entry.key_at, Wrong::new(message, help));
    }
    Some(AuthorityConfig::Sentinel {
        sentinels,
        service,
        user,
        password,
    })
}

fn read_sentinels(sources: &mut Sources, section: &mut Reader<'_>) -> Vec<(Host, NonZeroU16)> {
    let Some(nodes) = section.list(sources, "sentinels") else {
        if section.entry("sentinels").is_none() {
            let message = "an authority of kind `sentinel` needs the key `sentinels`";
            let help =
                "as in `sentinels: [s1.internal:26379, s2.internal:26379, s3.internal:26379]`";
            sources.error(section.place("kind"), Wrong::new(message, help));
        }
        return Vec::new();
    };
    let mut sentinels = Vec::new();
    let mut seen = HashMap::new();
    let mut shown = Vec::new();
    for node in nodes {
        let (host, port) = match values::host_and_port(node) {
            Ok(address) => address,
            Err(mut wrong) => {
                wrong.message = format!("{} is not a Sentinel's address", node.shown());
                wrong.help = Some("write `host:port`, as in `s1.internal:26379`".to_owned());
                sources.error(node.at, wrong);
                continue;
            }
        };
        let address = format!("{host}:{port}");
        if let Some(first) = seen.insert(address.clone(), node.at) {
            let message = format!("the Sentinel `{address}` stands twice, and would vote twice");
            let wrong = Wrong::new(message, "remove one");
            sources.conflict(node.at, wrong, "the other one is here", first);
        }
        shown.push(address);
        sentinels.push((host, port));
    }
    if nodes.len() < ENOUGH_SENTINELS {
        let message = "with fewer than three Sentinels there is no majority once one of them fails";
        let help = "name all of them; Redis recommends at least three";
        sources.warn(section.place("sentinels"), Wrong::new(message, help));
    }
    section.attach_value("sentinels", shown.into(), Vec::new());
    sentinels
}
