//! `evergate explain` of a PostgreSQL listener says what the proxy does.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;

use crate::postgres::sessions::saying;
use crate::postgres::wire::Wire;
use crate::support::PATIENCE;
use crate::support::evergate::Evergate;
use crate::support::evergate::evergate;
use crate::support::ports::RefusingPort;
use crate::support::ports::free_addr;
use crate::support::talk::CHECKS;
use crate::support::wait_until;

/// Cluster `a` has one of each kind of backend; `b` and `c` have one each that serves.
struct Scene {
    evergate: Evergate,
    listens: SocketAddr,
    socket: String,
    yaml: String,
    _dead: RefusingPort,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        let (listens, dead) = (free_addr(), RefusingPort::new());
        let yaml = file(listens, &socket, dead.addr());
        let evergate = Evergate::start(&yaml);
        let scene = Self {
            evergate,
            listens,
            socket: format!("unix:{}", socket.display()),
            yaml,
            _dead: dead,
            _dir: dir,
        };
        scene.operator(&["drain", "a/a4"]);
        scene
    }

    #[track_caller]
    fn operator(&self, command: &[&str]) -> String {
        let output = evergate(&[command, &["--admin", &self.socket]].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn explain(&self, arguments: &[&str]) -> String {
        self.operator(&[&["explain"], arguments].concat())
    }

    fn generation(&self) -> u64 {
        let status = self.evergate.get("/api/v1/status").json();
        status["generation"].as_u64().unwrap()
    }

    fn sessions(&self) -> Vec<Value> {
        let answer = self.evergate.get("/api/v1/sessions").json();
        answer["sessions"].as_array().unwrap().clone()
    }
}

fn file(listens: SocketAddr, socket: &Path, dead: SocketAddr) -> String {
    let [a, weightless, drained, b, c] = [b"a", b"w", b"d", b"b", b"c"].map(saying);
    let check = format!("health_check: {{kind: tcp, {}", &CHECKS[1..]);
    let one = |name: &str, addr: SocketAddr| format!("{{name: {name}, address: \"{addr}\"}}");
    let several = format!(
        "{}, {}, {{name: a3, address: \"{weightless}\", weight: 0}}, {}",
        one("a1", a),
        one("a2", dead),
        one("a4", drained)
    );
    let cluster = |name: &str, backends: &str| {
        format!("  {name}: {{protocol: postgres, backends: [{backends}], {check}}}\n")
    };
    let clusters = [
        cluster("a", &several),
        cluster("b", &one("b1", b)),
        cluster("c", &one("c1", c)),
    ];
    format!(
        "admin: {{bind: \"{}\", socket: {}}}\nclusters:\n{}\
         listeners:\n  l:\n    bind: \"{listens}\"\n    cluster: c\n    routes:\n\
         \x20     - {{database: orders, user: app, cluster: a}}\n      - {{database: orders, cluster: b}}\n",
        free_addr(),
        socket.display(),
        clusters.concat()
    )
}

/// Went wrong once: a user who names no database asks for the one of that name, and was explained
/// the way of nobody in particular.
#[test]
fn a_login_is_explained_with_its_route_and_its_server() {
    let scene = Scene::new();
    for (user, database, route, cluster, server) in [
        (
            "app",
            "orders",
            "route 1 (database: orders, user: app)",
            "a",
            "a1",
        ),
        ("other", "orders", "route 2 (database: orders)", "b", "b1"),
        ("orders", "", "route 2 (database: orders)", "b", "b1"),
        ("app", "Orders", "the listener's cluster", "c", "c1"),
        ("app", "", "the listener's cluster", "c", "c1"),
    ] {
        let mut arguments = vec!["--listener", "l", "--user", user];
        if !database.is_empty() {
            arguments.extend(["--database", database]);
        }
        let told = scene.explain(&arguments);
        for line in [
            format!("route     {route}\n"),
            format!("cluster   {cluster}\n"),
            format!("=> the client goes to {server}\n"),
        ] {
            assert!(told.contains(&line), "{user}/{database}: {told}");
        }
        // What it says is what happens.
        let mut wire = Wire::connect(scene.listens);
        wire.begin(&[("user", user), ("database", database)]);
        assert_eq!(wire.server_name(), cluster, "{user}/{database}");
    }
}

#[test]
fn everybody_who_is_passed_over_is_named_with_the_reason() {
    let scene = Scene::new();
    let login = [
        "--listener",
        "l",
        "--user",
        "app",
        "--database",
        "orders",
        "--source",
        "192.0.2.7",
    ];
    let told = scene.explain(&login);
    for part in [
        "client    192.0.2.7\n",
        "wants     role any\n",
        "picked      a1: the policy picks it; 0 sessions, weight 100, ",
        "excluded    a2: down (connect_refused); ",
        "excluded    a3: its weight is 0; ",
        "excluded    a4: an operator has set drain; ",
        &format!("table     {}\n", scene.generation()),
    ] {
        assert!(told.contains(part), "{part:?} in {told}");
    }
    // The operator's word is in the next table.
    let before = scene.generation();
    scene.operator(&["ready", "a/a4"]);
    wait_until(PATIENCE, "a4 is ready", || {
        let told = scene.explain(&login);
        told.contains("=> the client goes to one of a1, a4\n")
    });
    let json = scene.explain(&[&login[..], &["--json"]].concat());
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json["generation"].as_u64().unwrap() > before, "{json}");
    assert_eq!(
        json["generation"].as_u64().unwrap(),
        scene.generation(),
        "{json}"
    );
    scene.operator(&["maintenance", "a/a4"]);
    scene.operator(&["drain", "a/a1"]);
    wait_until(PATIENCE, "nobody is left", || {
        let told = scene.explain(&login);
        told.contains("an operator has set maintenance")
            && told.contains("=> nobody is eligible: the client waits up to 15 s\n")
    });
}

#[test]
fn a_live_session_is_explained_until_its_server_has_left_the_file() {
    let scene = Scene::new();
    let mut wire = Wire::connect(scene.listens);
    wire.begin(&[("user", "app"), ("database", "orders")]);
    let session = scene.sessions()[0].clone();
    assert_eq!(
        (&session["cluster"], &session["backend"]),
        (&"a".into(), &"a1".into())
    );
    let id = session["id"].to_string();
    let explain = || scene.explain(&["--session", &id]);
    let told = explain();
    for part in [
        &format!("session   {id}, relay, for "),
        "backend   a1\nfate      it lives as long as its peers like\nlistener  l\n",
        "cluster   a\n",
        "picked      a1: the policy picks it; 1 sessions, ",
        "excluded    a2: down (connect_refused); ",
        "=> now, the client goes to a1\n",
        &format!("table     {}\n", scene.generation()),
    ] {
        assert!(told.contains(part), "{part:?} in {told}");
    }

    scene.operator(&["drain", "a/a1"]);
    wait_until(PATIENCE, "its server drains", || {
        let told = explain();
        told.contains("fate      it may go on for ")
            && told.contains("s (backend_drained)\n")
            && told.contains("excluded    a1: an operator has set drain; ")
    });

    let without = "{name: a1, ";
    assert!(scene.yaml.contains(without));
    scene
        .evergate
        .reload(&scene.yaml.replace(without, "{name: a9, "));
    let told = explain();
    assert!(
        told.contains("its backend is not in the file any more"),
        "{told}"
    );
    assert!(!told.contains(" a1: "), "{told}");
    assert_eq!(wire.server_name(), "a", "it goes on");
}
