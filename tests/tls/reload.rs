//! Certificates that change while the proxy runs.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use evergate::config::Config;
use evergate::config::Intent;
use evergate::config::KeepaliveConfig;
use evergate::config::ListenerConfig;
use evergate::config::ListenerTlsConfig;
use evergate::config::LogConfig;
use evergate::config::LogFormat;
use evergate::config::LogLevel;
use evergate::config::Protocol;
use evergate::tls::TlsMaterial;
use rustls::HandshakeKind;
use rustls::version::TLS13;

use crate::block_on;
use crate::dial;
use crate::listener_tls;
use crate::pki;
use crate::pki::Authority;
use crate::talk;

fn listener(name: &str, tls: ListenerTlsConfig) -> ListenerConfig {
    ListenerConfig {
        protocol: Protocol::Tcp,
        intent: Intent::ANY,
        tls_passthrough: false,
        name: name.into(),
        bind: "127.0.0.1:0".parse().unwrap(),
        cluster: None,
        routes: Vec::new(),
        tls: Some(tls),
        allow: Vec::new(),
        deny: Vec::new(),
        proxy_protocol: None,
        max_connections: 1,
        idle_timeout: Duration::ZERO,
        handshake_timeout: Duration::from_secs(1),
        keepalive: KeepaliveConfig {
            idle: Duration::ZERO,
            interval: Duration::ZERO,
            probes: 0,
            user_timeout: Duration::ZERO,
        },
        backlog: 1,
        http: None,
    }
}

fn config(listeners: Vec<ListenerConfig>) -> Config {
    Config {
        state_dir: None,
        clusters: Vec::new(),
        listeners,
        admin: None,
        log: LogConfig {
            format: LogFormat::Text,
            level: LogLevel::Error,
        },
        workers: 1.try_into().unwrap(),
        zone: None,
        drain_timeout: Duration::ZERO,
        shutdown_delay: Duration::ZERO,
        max_connections: 1,
    }
}

#[test]
fn unchanged_files_keep_the_tickets_of_clients() {
    let ours = Authority::new("ours");
    let kept = listener_tls(vec![ours.issue("kept", &["db.example"])]);
    let renewed = listener_tls(vec![ours.issue("renewed", &["db.example"])]);
    let config = config(vec![listener("kept", kept), listener("renewed", renewed)]);
    let before = TlsMaterial::load(&config).unwrap();
    ours.issue("renewed", &["db.example"]);
    let after = TlsMaterial::reload(&config, &before).unwrap();
    for (name, expected) in [
        ("kept", HandshakeKind::Resumed),
        ("renewed", HandshakeKind::Full),
    ] {
        let client = Arc::new(ours.trusting(&[&TLS13]));
        block_on(async {
            talk(dial(&before.acceptors[name], &client, "db.example").await).await;
            let (_, second) = talk(dial(&after.acceptors[name], &client, "db.example").await).await;
            assert_eq!(
                second.get_ref().1.handshake_kind(),
                Some(expected),
                "{name}"
            );
        });
    }
}

#[test]
fn a_renewed_certificate_is_served_after_the_reload() {
    let ours = Authority::new("ours");
    let pair = ours.issue("pair", &["db.example"]);
    let config = config(vec![listener("pg", listener_tls(vec![pair.clone()]))]);
    let before = TlsMaterial::load(&config).unwrap();
    let old = pki::certificate(&pair);
    ours.issue("pair", &["db.example"]);
    let new = pki::certificate(&pair);
    assert_ne!(old, new);
    let after = TlsMaterial::reload(&config, &before).unwrap();
    let client = Arc::new(pki::trusting_anything());
    for (material, expected) in [(&before, old), (&after, new)] {
        let (_, client) = block_on(dial(&material.acceptors["pg"], &client, "db.example"));
        let sent = client.unwrap().get_ref().1.peer_certificates().unwrap()[0].clone();
        assert_eq!(sent, expected);
    }
}

#[test]
fn a_bad_pair_is_refused_and_the_old_one_goes_on() {
    let ours = Authority::new("ours");
    let pair = ours.issue("pair", &["db.example"]);
    let config = config(vec![listener("pg", listener_tls(vec![pair.clone()]))]);
    let material = TlsMaterial::load(&config).unwrap();
    assert_eq!(material.acceptors["pg"].expiries()[0].path, pair.cert_file);
    let other = ours.issue("other", &["db.example"]);
    fs::copy(&other.key_file, &pair.key_file).unwrap();
    let errors = TlsMaterial::reload(&config, &material).unwrap_err();
    assert_eq!(errors.len(), 1);
    let text = errors[0].to_string();
    assert!(text.starts_with("listener `pg`: "), "{text}");
    assert!(
        text.contains("the key does not belong to the certificate"),
        "{text}"
    );
    let client = Arc::new(ours.trusting(&[&TLS13]));
    block_on(async {
        talk(dial(&material.acceptors["pg"], &client, "db.example").await).await;
    });
}
