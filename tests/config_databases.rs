//! What a configuration says of databases: roles, checks that log in, fences and hooks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use evergate::cluster::WantedRole;
use evergate::config;
use evergate::config::AuthorityConfig;
use evergate::config::CheckKind;
use evergate::config::ClusterConfig;
use evergate::config::Fallback;
use evergate::config::HashKey;
use evergate::config::HookAction;
use evergate::config::HookEvent;
use evergate::config::ListenerConfig;
use evergate::config::Loaded;
use evergate::config::MaxLag;
use evergate::config::Protocol;
use evergate::config::SessionPolicy;

#[test]
fn a_check_asks_in_the_protocol_of_its_cluster() {
    let CheckKind::Postgres(check) = cluster("protocol: postgres").health_check.kind else {
        panic!("not a PostgreSQL check");
    };
    assert_eq!(check.user.as_deref(), Some("evergate"));
    assert_eq!(check.database.as_deref(), Some("postgres"));
    assert!(check.password.is_none());
    let CheckKind::MySql(check) = cluster("protocol: mysql").health_check.kind else {
        panic!("not a MySQL check");
    };
    assert_eq!(check.user.as_deref(), Some("evergate"));
    assert_eq!(check.database, None);
    let CheckKind::Redis(check) = cluster("protocol: redis").health_check.kind else {
        panic!("not a Redis check");
    };
    assert_eq!((check.user, check.database), (None, None));
    // The bytes of a session stay unseen and the roles are known all the same.
    let mixed = cluster("health_check: {kind: postgres, port: 5433}");
    assert_eq!(mixed.protocol, Protocol::Tcp);
    assert!(mixed.health_check.kind.tells_roles());
    assert_eq!(mixed.health_check.port.map(Into::into), Some(5433));
}

#[test]
fn a_service_may_tell_its_role_by_two_paths() {
    let check = "health_check: {kind: http, primary_path: /primary, replica_path: /replica}";
    let CheckKind::Http(check) = cluster(check).health_check.kind else {
        panic!("not an HTTP check");
    };
    let roles = check.roles.unwrap();
    assert_eq!((&*roles.primary, &*roles.replica), ("/primary", "/replica"));
}

#[test]
fn a_password_is_never_shown() {
    const PASSWORD: &str = "correct-horse";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let path = directory.path().join("main.yaml");
    // Its own text, a file, and a variable; the file of each that holds the secret is world-readable.
    for (key, warnings) in [
        (format!("password: {PASSWORD}"), 1),
        ("password_file: password".to_owned(), 1),
        // Set by cargo for every test.
        ("password: '${CARGO_PKG_NAME}'".to_owned(), 0),
    ] {
        let text = whole(
            &format!("protocol: redis, health_check: {{user: me, {key}}}"),
            "",
        );
        fs::write(&path, text).unwrap();
        for path in [&path, &file] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        }

        let loaded = config::load(&path).unwrap();

        let CheckKind::Redis(check) = &loaded.config.clusters[0].health_check.kind else {
            panic!("not a Redis check");
        };
        let expected = [PASSWORD, env!("CARGO_PKG_NAME")];
        assert!(expected.contains(&check.password.as_ref().unwrap().expose()));
        assert_eq!(loaded.warnings.len(), warnings, "{key}");
        assert_eq!(loaded.files.contains(&file), key.contains("_file"));
        let check = &loaded.effective["config"]["clusters"]["db"]["health_check"];
        assert!(check["password"] == "***" || check["password_file"].is_string());
        for shown in [
            format!("{loaded:?}"),
            loaded.effective.to_string(),
            loaded.warnings.iter().map(ToString::to_string).collect(),
        ] {
            assert!(!shown.contains(PASSWORD), "{shown}");
        }
    }
}

#[test]
fn sessions_of_a_lost_primary_have_a_policy_each() {
    let failover = cluster("protocol: postgres").failover;
    assert_eq!(
        failover.on_demoted,
        SessionPolicy::Grace(Duration::from_secs(5))
    );
    assert_eq!(failover.on_fenced, SessionPolicy::Sever);
    assert_eq!(failover.on_lagging, SessionPolicy::Keep);
    let written =
        "protocol: mysql, failover: {on_demoted: sever, on_fenced: keep, on_lagging: {grace: 1m}}";
    let loaded = load(&whole(written, ""));
    let failover = &loaded.config.clusters[0].failover;
    assert_eq!(failover.on_demoted, SessionPolicy::Sever);
    assert_eq!(failover.on_fenced, SessionPolicy::Keep);
    assert_eq!(
        failover.on_lagging,
        SessionPolicy::Grace(Duration::from_secs(60))
    );
    let shown = &loaded.effective["config"]["clusters"]["db"]["failover"];
    assert_eq!(shown["on_demoted"], "sever");
    assert_eq!(shown["on_lagging"]["grace"], "1m");
}

#[test]
fn an_authority_is_read_with_its_defaults() {
    let patroni = cluster("protocol: postgres, failover: {authority: {kind: patroni}}");
    let Some(AuthorityConfig::Patroni { port, tls }) = patroni.failover.authority else {
        panic!("not Patroni");
    };
    assert_eq!((port.get(), tls), (8008, false));
    let sentinels = "sentinels: ['s1:26379', '[::1]:26379', 's3:26379']";
    let redis =
        format!("protocol: redis, failover: {{authority: {{kind: sentinel, {sentinels}}}}}");
    let Some(AuthorityConfig::Sentinel {
        sentinels, service, ..
    }) = cluster(&redis).failover.authority
    else {
        panic!("not Sentinel");
    };
    let shown: Vec<String> = sentinels.iter().map(|(h, p)| format!("{h}:{p}")).collect();
    assert_eq!(shown, ["s1:26379", "[::1]:26379", "s3:26379"]);
    assert_eq!(service, "mymaster");
}

#[test]
fn a_hook_is_told_of_everything_unless_it_chooses() {
    let hooks = "[{command: [/bin/page, -u]}, \
                  {events: [split_brain], url: 'https://hooks.example.com/T0/secret', timeout: 2s}]";
    let loaded = load(&whole(
        &format!("protocol: postgres, failover: {{on_event: {hooks}}}"),
        "",
    ));
    let hooks = &loaded.config.clusters[0].failover.hooks;
    assert_eq!(hooks[0].events, HookEvent::ALL);
    assert_eq!(hooks[0].timeout, Duration::from_secs(10));
    let command = vec!["/bin/page".to_owned(), "-u".to_owned()];
    assert_eq!(hooks[0].action, HookAction::Command(command));
    assert_eq!(hooks[1].events, [HookEvent::SplitBrain]);
    let url = "https://hooks.example.com/T0/secret".to_owned();
    assert_eq!(hooks[1].action, HookAction::Post(url));
    let shown = &loaded.effective["config"]["clusters"]["db"]["failover"]["on_event"][1];
    assert_eq!(shown["url"], "https://hooks.example.com/***");
}

#[test]
fn a_listener_states_what_its_sessions_need() {
    for (written, expected) in [
        ("max_lag: 5s", Some(MaxLag::Time(Duration::from_secs(5)))),
        ("max_lag: 16MiB", Some(MaxLag::Bytes(16 << 20))),
        ("max_lag: {bytes: 1.5KiB}", Some(MaxLag::Bytes(1536))),
        ("fallback: primary", None),
    ] {
        let listener = listener("protocol: postgres", &format!("role: replica, {written}"));
        assert_eq!(listener.intent.role, WantedRole::Replica);
        assert_eq!(listener.intent.max_lag, expected, "{written}");
        let fallback = match expected {
            Some(_) => Fallback::Nobody,
            None => Fallback::Primary,
        };
        assert_eq!(listener.intent.fallback, fallback);
    }
    assert_eq!(listener("", "").intent, config::Intent::ANY);
}

#[test]
fn a_listener_speaks_what_its_clusters_speak_unless_it_relays_unseen() {
    for (word, expected) in [
        ("postgres", Protocol::Postgres),
        ("mysql", Protocol::MySql),
        ("redis", Protocol::Redis),
        ("tcp", Protocol::Tcp),
    ] {
        let protocol = format!("protocol: {word}");
        assert_eq!(listener(&protocol, "").protocol, expected);
        assert_eq!(listener(&protocol, "protocol: tcp").protocol, Protocol::Tcp);
    }
}

#[test]
fn routes_of_postgres_choose_by_database_and_user() {
    let routes = "routes: [{database: a, user: b, cluster: db}, {user: b, cluster: db}, {database: a, cluster: db}]";
    let routes = listener("protocol: postgres", routes).routes;
    assert_eq!(routes[0].database.as_deref(), Some("a"));
    assert_eq!(routes[0].user.as_deref(), Some("b"));
    assert_eq!((&routes[1].database, &routes[1].sni), (&None, &None));
    assert_eq!(routes.len(), 3);
}

#[test]
fn postgres_clients_find_the_name_of_their_protocol_in_tls() {
    let tls = "tls: {cert_file: a.pem, key_file: a.key, optional: true}";
    let ended = listener("protocol: postgres", tls);
    assert!(!ended.tls_passthrough);
    let tls = ended.tls.unwrap();
    assert_eq!(tls.alpn, ["postgresql"]);
    assert!(tls.optional);
    let passed = listener("protocol: postgres", "tls: passthrough");
    assert!(passed.tls_passthrough && passed.tls.is_none());
}

#[test]
fn what_is_hashed_may_come_from_the_login() {
    for (word, expected) in [
        ("user", HashKey::User),
        ("database", HashKey::Database),
        (
            "startup:app.tenant",
            HashKey::StartupParameter("app.tenant".into()),
        ),
    ] {
        let hash = format!("{{policy: consistent_hash, hash: {{key: '{word}'}}}}");
        let loaded = load(&whole(&format!("protocol: postgres, balance: {hash}"), ""));
        let balance = &loaded.config.clusters[0].balance;
        assert_eq!(balance.key, expected);
        let shown = &loaded.effective["config"]["clusters"]["db"]["balance"]["hash"];
        assert_eq!(shown["key"], word);
    }
}

#[test]
fn what_works_today_and_hurts_tomorrow_is_a_warning() {
    let tls = "tls: {cert_file: a.pem, key_file: a.key}";
    let sentinels = "failover: {authority: {kind: sentinel, sentinels: ['s1:1', 's2:1']}}";
    for (cluster, listener, top, expected) in [
        ("protocol: postgres", "role: primary", "", Some("state_dir")),
        ("protocol: postgres", "role: any", "", None),
        (
            "protocol: postgres",
            "role: primary",
            "state_dir: /nowhere/at/all\n",
            None,
        ),
        (
            "protocol: postgres, tls: {}",
            tls,
            "",
            Some("bind the channel"),
        ),
        ("protocol: postgres", tls, "", None),
        ("protocol: mysql, tls: {}", tls, "", None),
        (
            "protocol: mysql",
            tls,
            "",
            Some("send the password over it"),
        ),
        ("protocol: mysql, tls: {}", "", "", Some("caching_sha2")),
        (
            &format!("protocol: redis, {sentinels}"),
            "",
            "",
            Some("majority"),
        ),
    ] {
        let loaded = load(&format!("{top}{}", whole(cluster, listener)));
        let shown: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), usize::from(expected.is_some()), "{shown:?}");
        if let Some(expected) = expected {
            assert!(shown[0].contains(expected), "{}", shown[0]);
        }
    }
}

fn cluster(keys: &str) -> ClusterConfig {
    load(&whole(keys, "")).config.clusters.remove(0)
}

fn listener(cluster: &str, keys: &str) -> ListenerConfig {
    load(&whole(cluster, keys)).config.listeners.remove(0)
}

/// A file with one cluster and one listener that have these keys besides what they need.
fn whole(cluster: &str, listener: &str) -> String {
    format!(
        "version: 1\nclusters: {{db: {{backends: ['a:1', 'b:1'], {cluster}}}}}\n\
         listeners: {{main: {{bind: '127.0.0.1:5432', cluster: db, {listener}}}}}\n"
    )
}

fn load(text: &str) -> Loaded {
    let loaded = config::load_text(Path::new("test.yaml"), text);
    loaded.unwrap_or_else(|problems| panic!("{problems}"))
}
