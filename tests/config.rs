//! The configuration as an operator meets it: files in, a value or all problems out.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use evergate::config;
use evergate::config::Host;
use evergate::config::Loaded;
use proptest::prelude::*;
use serde_json::Value as Json;

/// What every config of these tests needs besides its subject.
const LISTENER: &str = "listeners: {main: {bind: '127.0.0.1:5432', cluster: db}}\n";
const CLUSTER: &str = "clusters: {db: {backends: ['a:1', 'b:1']}}\n";

/// Broken files that must exist, so that nobody prunes them by mistake.
const MIN_BROKEN_FILES: usize = 235;

#[test]
fn every_broken_file_gets_its_exact_messages() {
    // Set to rewrite the expected messages; then read the difference.
    let bless = std::env::var_os("EVERGATE_BLESS").is_some();
    // A checkout has its own idea of permissions, and a secret that all may read is a warning.
    let secret = fs::Permissions::from_mode(0o600);
    fs::set_permissions("tests/config/broken/short.token", secret).unwrap();
    let files = yaml_files("tests/config/broken");
    let count = files.len();
    let mut wrong = Vec::new();
    for path in files {
        let shown = match config::load(&path) {
            Ok(_) => "loads, but should not\n".to_owned(),
            Err(problems) => problems.to_string(),
        };
        let expected_path = path.with_extension("txt");
        if bless {
            fs::write(&expected_path, &shown).unwrap();
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if shown != expected {
            let path = path.display();
            wrong.push(format!("{path}\nexpected:\n{expected}\nfound:\n{shown}"));
        }
        assert!(!shown.starts_with("loads"), "{} loads", path.display());
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(count >= MIN_BROKEN_FILES, "{count} files");
}

#[test]
fn many_clusters_share_a_long_list_by_an_alias() {
    let list: String = (0..1000)
        .map(|n| format!("      - 10.0.{}.{}:5432\n", n / 250, n % 250 + 1))
        .collect();
    let shared: String = (1..100)
        .map(|n| format!("  c{n}: {{backends: *all}}\n"))
        .collect();
    let text = format!(
        "version: 1\nclusters:\n  c0:\n    backends: &all\n{list}{shared}\
         listeners:\n  l: {{bind: \"127.0.0.1:15432\", cluster: c0}}\n"
    );
    let loaded = config::load_text(Path::new("evergate.yaml"), &text);
    let loaded = loaded.unwrap_or_else(|problems| panic!("{problems}"));
    let backends = loaded.config.clusters.iter().map(|c| c.backends.len());
    assert_eq!(backends.collect::<Vec<_>>(), [1000; 100]);
}

#[test]
fn every_example_loads_without_a_warning() {
    let files = yaml_files("examples/configs");
    for path in files {
        let loaded = config::load(&path);
        let loaded = loaded.unwrap_or_else(|problems| panic!("{}\n{problems}", path.display()));
        assert_eq!(loaded.warnings, [], "{}", path.display());
    }
}

#[test]
fn every_yaml_block_of_the_documentation_loads() {
    let mut files = files_of("docs", "md");
    files.extend(files_of(".", "md"));
    let mut blocks = 0;
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        for (line, block) in yaml_blocks(&text) {
            blocks += 1;
            let whole = complete(&block);
            if let Err(problems) = config::load_text(&path, &whole) {
                panic!("{} line {line}:\n{block}\n{problems}", path.display());
            }
        }
    }
    assert!(blocks > 0);
}

#[test]
fn the_documentation_names_every_key_with_its_default() {
    let text = fs::read_to_string("docs/configuration.md").unwrap();
    let mut keys = BTreeSet::new();
    collect_keys(&config::schema(), &mut keys);
    assert!(keys.len() > 100, "{} keys", keys.len());
    for (key, default) in keys {
        let row = text.lines().find(|line| {
            line.contains(&format!("`{key}`")) && default.as_ref().is_none_or(|d| line.contains(d))
        });
        assert!(row.is_some(), "no line names `{key}` and {default:?}");
    }
}

#[test]
fn the_checked_in_schema_is_current() {
    let current = format!("{:#}\n", config::schema());
    if std::env::var_os("EVERGATE_BLESS").is_some() {
        fs::write("docs/schema.json", &current).unwrap();
    }
    let checked_in = fs::read_to_string("docs/schema.json").unwrap_or_default();
    assert!(
        checked_in == current,
        "run `evergate schema > docs/schema.json`"
    );
}

#[test]
fn the_full_reference_has_every_key_of_the_schema() {
    let text = fs::read_to_string("examples/configs/full-reference.yaml").unwrap();
    let mut keys = BTreeSet::new();
    collect_keys(&config::schema(), &mut keys);
    for (key, _) in keys {
        assert!(text.contains(&format!("{key}:")), "{key}");
    }
}

#[test]
fn the_minimal_file_gets_the_documented_defaults() {
    let loaded = config::load(Path::new("examples/configs/minimal.yaml")).unwrap();
    let cluster = &loaded.config.clusters[0];
    assert_eq!(cluster.health_check.interval, Duration::from_secs(1));
    assert_eq!(cluster.health_check.timeout, Duration::from_millis(800));
    assert_eq!(cluster.failover.hold.max_sessions, 10_000);
    assert_eq!(cluster.backends[0].host, Host::Name("pg1.internal".into()));
    assert_eq!(loaded.config.max_connections, 10_000);
    let admin = loaded.config.admin.unwrap().bind.unwrap();
    assert!(admin.ip().is_loopback());
}

#[test]
fn the_effective_configuration_marks_what_was_not_written() {
    let text = format!("version: 1\nzone: a\n{CLUSTER}{LISTENER}");
    let effective = load_text(&text).effective;
    let defaults: Vec<&str> = effective["defaults"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pointer| pointer.as_str().unwrap())
        .collect();
    assert_eq!(effective["config"]["zone"], "a");
    assert!(!defaults.contains(&"/zone"));
    assert!(defaults.contains(&"/clusters/db/health_check/interval"));
    for pointer in defaults {
        assert!(effective["config"].pointer(pointer).is_some(), "{pointer}");
    }
}

#[test]
fn a_timeout_that_is_not_written_gives_way_to_a_short_interval() {
    let cluster = "clusters: {db: {backends: ['a:1'], health_check: {interval: 20ms}}}\n";
    let loaded = load_text(&format!("version: 1\n{cluster}{LISTENER}"));
    let check = &loaded.config.clusters[0].health_check;
    assert_eq!(check.timeout, Duration::from_millis(20));
    assert_eq!(check.fast_interval, Duration::from_millis(20));
}

#[test]
fn a_token_is_read_and_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    fs::write(&token, "correct-horse-battery\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    let text = format!("version: 1\nadmin: {{token_file: token}}\n{CLUSTER}{LISTENER}");
    let path = directory.path().join("main.yaml");
    fs::write(&path, text).unwrap();

    let loaded = config::load(&path).unwrap();

    let admin = loaded.config.admin.as_ref().unwrap();
    let secret = admin.token.as_ref().unwrap();
    assert_eq!(secret.expose(), "correct-horse-battery");
    assert!(!format!("{loaded:?}").contains("correct-horse"));
    assert!(!loaded.effective.to_string().contains("correct-horse"));
    assert!(loaded.files.contains(&token));
    let warning = loaded.warnings[0].to_string();
    assert!(warning.contains("everyone may read it"), "{warning}");
}

#[test]
fn a_key_that_everyone_may_read_is_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("proxy.key");
    fs::write(&key, "").unwrap();
    let cluster =
        "clusters: {db: {backends: ['a:1'], tls: {cert_file: c.pem, key_file: proxy.key}}}\n";
    let path = directory.path().join("main.yaml");
    fs::write(&path, format!("version: 1\n{cluster}{LISTENER}")).unwrap();
    for (mode, warnings) in [(0o644, 1), (0o640, 0)] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(config::load(&path).unwrap().warnings.len(), warnings);
    }
}

#[test]
fn a_variable_in_free_text_is_served_as_it_was_written() {
    // Set by cargo for every test.
    let check = "health_check: {send: 'AUTH ${CARGO_PKG_NAME}'}";
    let cluster = format!("clusters: {{db: {{backends: ['a:1'], {check}}}}}\n");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("main.yaml");
    fs::write(&path, format!("version: 1\n{cluster}{LISTENER}")).unwrap();

    let loaded = config::load(&path).unwrap();

    let shown = &loaded.effective["config"]["clusters"]["db"]["health_check"]["send"];
    assert_eq!(shown, "AUTH ${CARGO_PKG_NAME}");
    let sent = format!("{:?}", loaded.config.clusters[0].health_check.kind);
    let expected = format!("{:?}", b"AUTH evergate".to_vec());
    assert!(sent.contains(&expected), "{sent}");
}

#[test]
fn includes_are_merged_in_the_order_of_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let parts = directory.path().join("conf.d");
    fs::create_dir(&parts).unwrap();
    for name in ["b", "a"] {
        let part = format!("clusters: {{{name}: {{backends: ['x:1']}}}}\n");
        fs::write(parts.join(format!("{name}.yaml")), part).unwrap();
    }
    // Not for us: an editor's swap file.
    fs::write(parts.join(".c.yaml"), "no: yaml: at all").unwrap();
    let path = directory.path().join("main.yaml");
    let text = format!("version: 1\ninclude: conf.d/*.yaml\n{CLUSTER}{LISTENER}");
    fs::write(&path, text).unwrap();

    let loaded = config::load(&path).unwrap();

    let names: Vec<&str> = loaded.config.clusters.iter().map(|c| &*c.name).collect();
    assert_eq!(names, ["a", "b", "db"]);
    // The directory too, so that a new file in it is noticed.
    assert!(loaded.files.contains(&parts));
}

#[test]
fn a_fifo_is_refused_and_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo.yaml");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let problems = config::load(&path).unwrap_err().to_string();
    assert!(problems.contains("is not a regular file"), "{problems}");
    let device = config::load(Path::new("/dev/zero")).unwrap_err();
    assert!(device.to_string().contains("is not a regular file"));
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("large.yaml");
    fs::write(&path, "#".repeat(5 * 1024 * 1024)).unwrap();
    let problems = config::load(&path).unwrap_err().to_string();
    assert!(problems.contains("is larger than"), "{problems}");
}

#[test]
fn check_exits_with_the_documented_codes() {
    let check = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_evergate"));
        command.arg("check").args(arguments).output().unwrap()
    };
    let valid = check(&["-c", "examples/configs/minimal.yaml"]);
    assert_eq!(valid.status.code(), Some(0));
    let summary = String::from_utf8(valid.stdout).unwrap();
    assert!(summary.ends_with("valid: 1 listener, 1 cluster, 2 backends\n"));

    let broken = check(&["-c", "tests/config/broken/several.yaml"]);
    assert_eq!(broken.status.code(), Some(1));
    let shown = String::from_utf8(broken.stderr).unwrap();
    let expected = fs::read_to_string("tests/config/broken/several.txt").unwrap();
    assert!(shown.starts_with(&expected), "{shown}");
    assert!(shown.ends_with("several.yaml: 8 errors\n"), "{shown}");

    // Valid as text, but the certificates are not there.
    let unusable = check(&["-c", "examples/configs/tls-terminate.yaml"]);
    assert_eq!(unusable.status.code(), Some(1));
    let shown = String::from_utf8(unusable.stderr).unwrap();
    assert!(shown.contains("certs/orders.pem"), "{shown}");

    assert_eq!(check(&[]).status.code(), Some(2));
}

#[test]
fn a_flood_of_problems_is_cut_off_and_says_so() {
    let mut text = "version: 1\n".to_owned();
    for number in 0..500 {
        text.push_str(&format!("unknown{number}: 1\n"));
    }
    let problems = config::load_text(Path::new("flood.yaml"), &text).unwrap_err();
    assert!(problems.0.len() < 150);
    assert!(problems.to_string().contains("more problems are not shown"));
}

/// The message says which limit ended the work; nothing behind it was read or expanded.
#[test]
fn bombs_are_refused_at_a_limit() {
    const TOO_DEEP: &str = "nested more than 32 levels deep";
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let uses = vec![format!("*a{}", level - 1); 9].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{uses}]\n"));
    }
    let steps = (0..2000).map(|depth| format!("{}a:\n", " ".repeat(depth)));
    let bombs = [
        (laughs, "aliases (`*name`) repeat too much"),
        ("[".repeat(2_000_000), TOO_DEEP),
        ("{a: ".repeat(500_000), TOO_DEEP),
        ("- ".repeat(1_000_000), TOO_DEEP),
        (steps.collect(), TOO_DEEP),
        ("? ".repeat(200_000), "not valid YAML"),
        ("a: 5\n".repeat(5_000), "more problems are not shown"),
    ];
    for (bomb, limit) in bombs {
        let shown: String = bomb.chars().take(30).collect();
        let problems = config::load_text(Path::new("bomb.yaml"), &bomb).unwrap_err();
        let said = problems.0.iter().any(|one| one.message.contains(limit));
        assert!(said, "{shown}: {:?}", problems.0.first());
        assert!(problems.0.len() <= 101, "{shown}: {}", problems.0.len());
    }
}

#[test]
fn ten_thousand_backends_load() {
    let backends: Vec<String> = (0..10_000)
        .map(|n| format!("'10.0.{}.{}:1'", n / 250, n % 250))
        .collect();
    let cluster = format!(
        "clusters: {{db: {{backends: [{}]}}}}\n",
        backends.join(", ")
    );
    let loaded = load_text(&format!("version: 1\n{cluster}{LISTENER}"));
    assert_eq!(loaded.config.clusters[0].backends.len(), 10_000);
}

#[test]
fn an_alias_stands_for_what_it_names() {
    let clusters = "clusters:\n  db: {backends: ['a:1'], connect: &c {attempts: 7}}\n  \
                    other: {backends: ['b:1'], connect: *c}\n";
    let loaded = load_text(&format!("version: 1\n{clusters}{LISTENER}"));
    assert_eq!(loaded.config.clusters[1].connect.attempts.get(), 7);
}

#[test]
fn the_fuzz_corpus_does_not_panic() {
    let entries = fs::read_dir("fuzz/corpus/config").unwrap();
    let mut count = 0;
    for entry in entries {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        if let Err(problems) = config::load_text(Path::new("fuzz.yaml"), &text) {
            assert!(!problems.to_string().is_empty());
        }
        count += 1;
    }
    assert!(count > 0);
}

/// Edits of what is broken from the start would reach nothing but the parser of YAML.
#[test]
fn the_configuration_that_is_mutated_is_valid() {
    let loaded = load_text(MUTATED);
    let protocols = loaded.config.clusters.iter().map(|it| it.protocol);
    assert!(protocols.count() > 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn a_mutated_configuration_never_panics(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), edit()), 1..6),
    ) {
        // Not the full reference: its size would make ten thousand runs slow.
        let mut text: Vec<char> = MUTATED.chars().collect();
        for (place, edit) in edits {
            let place = place.index(text.len().max(1)).min(text.len());
            match edit {
                Edit::Insert(inserted) => {
                    text.splice(place..place, inserted.chars());
                }
                Edit::Remove(count) => {
                    let end = (place + count).min(text.len());
                    text.drain(place..end);
                }
            }
        }
        let text: String = text.into_iter().collect();
        if let Err(problems) = config::load_text(Path::new("mutated.yaml"), &text) {
            prop_assert!(!problems.0.is_empty());
            prop_assert!(!problems.to_string().is_empty());
        }
    }
}

const MUTATED: &str = "\
version: 1
clusters:
  db:
    backends: [a:1, {address: '[::1]:2', name: b, weight: 5, tier: 1}]
    health_check: {kind: http, interval: 1s, expect: [200-299, 301], path: /x}
    balance: {policy: consistent_hash, hash: {key: sni, bounded_load: 1.25}}
    failover: {hold: {for: 15s, max_sessions: 5}, slow_start: 1h30m}
    tls: {mode: verify_ca, ca_file: ca.pem, alpn: [h2]}
  pg:
    protocol: postgres
    backends: [c:1]
    health_check: {user: me, password: secret, database: x}
    failover:
      on_demoted: {grace: 5s}
      on_fenced: sever
      authority: {kind: patroni, port: 8008}
      on_event: [{events: [primary_lost], command: [/bin/page]}, {url: 'https://a.b/c'}]
  web:
    protocol: http
    backends: [w:1, w:2]
    tls: {alpn: [h2]}
    balance: {policy: consistent_hash, hash: {key: 'header:x-a'}}
    http:
      version: 2
      retry: {attempts: 1, budget: 0.2, statuses: [503], hedge: {percentile: 0.9}}
      sticky: {cookie: a, secret: '0123456789abcdef', max_age: 1d}
      outlier: {latency_factor: 2.5, max_ejected: 0.3}
listeners:
  web:
    bind: 0.0.0.0:80
    routes:
      - {host: '*.a.b', path: /x/, method: [GET, PUT], header: {x-a: b, x-c: {present: true}}, cluster: web}
      - {path: {exact: /}, cluster: web, request_headers: {set: {x-a: '${A:-b}'}, add: {x-b: c}, remove: [x-c]}}
      - {path: /y, cluster: web, rate_limit: {requests: 5, burst: 9}, timeout: 1s}
    http: {max_head: 16KiB, max_body: 1GiB, trusted: [10.0.0.0/8], access_log: {sample: 0.5}}
  read:
    bind: 0.0.0.0:5433
    cluster: pg
    routes: [{database: a, user: b, cluster: pg}]
    role: replica
    max_lag: {bytes: 16MiB}
    fallback: primary
  main:
    bind: 0.0.0.0:5432
    routes: [{sni: '*.example.com', cluster: db}]
    allow: [10.0.0.0/8, '::1']
    max_connections: ${N:-7}
admin: {bind: none}
";

#[derive(Debug, Clone)]
enum Edit {
    Insert(String),
    Remove(usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let tokens = [
        "\n",
        "\t",
        " ",
        "  ",
        ":",
        "-",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "!t ",
        "'",
        "\"",
        "|",
        ">",
        "#",
        "%",
        "@",
        "~",
        "null",
        "true",
        "-1",
        "1e999",
        "99999999999999999999999",
        "0x10",
        "${",
        "$",
        "${A:-b}",
        "\u{0}",
        "\u{feff}",
        "\u{202e}",
        "é",
        "<<: ",
        "? ",
        "---\n",
        "...\n",
        ".nan",
        "s",
        "1.5s",
        "16MiB",
        "passthrough",
    ];
    prop_oneof![
        prop::sample::select(tokens.to_vec()).prop_map(|token| Edit::Insert(token.to_owned())),
        any::<char>().prop_map(|c| Edit::Insert(c.to_string())),
        (1..12_usize).prop_map(Edit::Remove),
    ]
}

fn load_text(text: &str) -> Loaded {
    let loaded = config::load_text(Path::new("test.yaml"), text);
    loaded.unwrap_or_else(|problems| panic!("{problems}"))
}

/// The parts that a fragment in the documentation leaves out.
fn complete(block: &str) -> String {
    let has = |key: &str| block.lines().any(|line| line.starts_with(key));
    let mut whole = String::new();
    if !has("version:") {
        whole.push_str("version: 1\n");
    }
    if !has("clusters:") {
        let name = block.split("cluster: ").nth(1).unwrap_or("db");
        let name = name
            .split([',', '}', '\n', ' '])
            .next()
            .expect("split gives one part");
        whole.push_str(&format!("clusters: {{{name}: {{backends: ['a:1']}}}}\n"));
    }
    if !has("listeners:") {
        let mut lines = block
            .lines()
            .skip_while(|line| !line.starts_with("clusters:"));
        let name = lines
            .nth(1)
            .map_or("db", |line| line.trim().trim_end_matches(':'));
        let name = if has("clusters:") { name } else { "db" };
        whole.push_str(&format!(
            "listeners: {{main: {{bind: '127.0.0.1:1', cluster: {name}}}}}\n"
        ));
    }
    whole + block
}

/// Every ```yaml block with the line it begins at.
fn yaml_blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        match &mut open {
            Some(_) if line.trim_start().starts_with("```") => blocks.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
            None if line.trim() == "```yaml" => open = Some((index + 2, String::new())),
            None => {}
        }
    }
    blocks
}

/// Names and defaults of all keys of a schema.
fn collect_keys(schema: &Json, keys: &mut BTreeSet<(String, Option<String>)>) {
    match schema {
        Json::Object(fields) => {
            if let Some(Json::Object(properties)) = fields.get("properties") {
                for (name, property) in properties {
                    let default = property.get("default").map(|default| match default {
                        Json::String(text) => text.clone(),
                        other => other.to_string(),
                    });
                    keys.insert((name.clone(), default));
                }
            }
            for field in fields.values() {
                collect_keys(field, keys);
            }
        }
        Json::Array(items) => items.iter().for_each(|item| collect_keys(item, keys)),
        _ => {}
    }
}

fn yaml_files(directory: &str) -> Vec<PathBuf> {
    let files = files_of(directory, "yaml");
    assert!(!files.is_empty(), "{directory}");
    files
}

fn files_of(directory: &str, kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect(directory);
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == kind))
        .collect();
    files.sort();
    files
}
