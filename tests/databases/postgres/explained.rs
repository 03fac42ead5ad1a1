//! `evergate explain` of roles: who is passed over for what, before a failover, in the midst of a
//! split brain, and after it.

use serde_json::Value;

use super::stage::LIMIT;
use super::stage::Stage;
use super::stage::is_on;
use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::evergate::evergate;
use crate::support::wait_until;

#[track_caller]
fn explain(stage: &Stage, arguments: &[&str]) -> String {
    let admin = stage.evergate.admin().to_string();
    let output = evergate(&[&["explain", "--admin", &admin], arguments].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until the explanation has all of these.
#[track_caller]
fn wait_to_be_told(stage: &Stage, arguments: &[&str], parts: &[&str]) {
    wait_until(PATIENCE, &format!("{arguments:?}: {parts:?}"), || {
        let told = explain(stage, arguments);
        parts.iter().all(|part| told.contains(part))
    });
}

fn generation(stage: &Stage) -> u64 {
    let status = stage.evergate.get("/api/v1/status").json();
    status["generation"].as_u64().unwrap()
}

/// The number of the one session.
#[track_caller]
fn only_session(stage: &Stage) -> String {
    let answer = stage.evergate.get("/api/v1/sessions").json();
    let sessions: &Vec<Value> = answer["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 1, "{answer}");
    sessions[0]["id"].to_string()
}

#[test]
fn roles_are_explained_through_a_failover() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(1);
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    let (write, read) = (["--listener", "write"], ["--listener", "read"]);
    let before = generation(&stage);
    wait_to_be_told(
        &stage,
        &write,
        &[
            "wants     role primary\n",
            "picked      n1: the policy picks it; ",
            "excluded    n2: its role is replica (claims_replica); ",
            "=> the client goes to n1\n",
        ],
    );
    wait_to_be_told(
        &stage,
        &read,
        &[
            "wants     role replica, fallback none\n",
            "picked      n2: the policy picks it; ",
            "excluded    n1: its role is primary (claims_primary); ",
            "=> the client goes to n2\n",
        ],
    );
    let mut reader = stage.reader().unwrap();
    assert!(is_on(&mut reader, new));
    let id = only_session(&stage);
    let session = ["--session", id.as_str()];
    wait_to_be_told(
        &stage,
        &session,
        &[
            "backend   n2\nfate      it lives",
            "=> now, the client goes to n2\n",
        ],
    );
    drop(reader);

    // Both claim.
    let mut writer = stage.writer().unwrap();
    assert!(is_on(&mut writer, old));
    new.promote();
    stage.wait_for_role(old, "fenced", "split_brain");
    wait_to_be_told(
        &stage,
        &write,
        &[
            "excluded    n1: its role is fenced (split_brain); ",
            "excluded    n2: its role is fenced (split_brain); ",
            "=> nobody is eligible: the client waits up to 60 s\n",
        ],
    );
    assert!(generation(&stage) > before);

    old.kill_9();
    wait_to_be_told(
        &stage,
        &write,
        &[
            "excluded    n1: down (",
            "picked      n2: the policy picks it; ",
            "=> the client goes to n2\n",
        ],
    );
    let mut writer = stage.writer().unwrap();
    assert!(is_on(&mut writer, new), "what it says is what happens");
    old.start();
    wait_to_be_told(
        &stage,
        &write,
        &["excluded    n1: its role is fenced (stale_timeline); "],
    );
}
