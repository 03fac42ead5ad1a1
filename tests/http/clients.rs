//! Clients that people use: no limit on abuse is in their way.

use crate::frames::Client;
use crate::harness::Plan;
use crate::recorder::Recorder;
use crate::recorder::ok;
use crate::support::process::output_of;

#[test]
fn h2load_nghttp_and_curl_are_no_flood() {
    let backend = Recorder::answering(|head| match head.starts_with("GET /large") {
        true => ok(&"x".repeat(1 << 20)),
        false => ok("small"),
    });
    let stage = Plan::new(&[backend.addr()]).start();
    let small = format!("http://{}/", stage.addr);
    let large = format!("http://{}/large", stage.addr);
    let output = |command: &[&str]| {
        let output = output_of(command, &[]);
        assert!(output.status.success(), "{command:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };

    let said = output(&["h2load", "-n", "5000", "-c", "4", "-m", "100", &small]);
    assert!(
        said.contains("5000 succeeded, 0 failed, 0 errored"),
        "{said}"
    );
    // A window of 1 kB: a frame of DATA and two of WINDOW_UPDATE for every kilobyte.
    let said = output(&[
        "h2load", "-n", "40", "-c", "1", "-m", "8", "-w", "10", &large,
    ]);
    assert!(said.contains("40 succeeded, 0 failed, 0 errored"), "{said}");

    // nghttp builds the tree of priorities that browsers used to build.
    let said = output(&["nghttp", "-n", "-s", "-m", "100", &small]);
    assert_eq!(said.matches(" 200 ").count(), 100, "{said}");

    let curl = ["curl", "-sS", "--http2-prior-knowledge", "-o", "/dev/null"];
    let code = ["-w", "%{http_code} %{http_version} %{size_download}"];
    let said = output(&[&curl[..], &code, &[&large]].concat());
    assert_eq!(said, format!("200 2 {}", 1 << 20));
    let upload = "y".repeat(100_000);
    let said = output(&[&curl[..], &code, &["--data-raw", &upload, &small]].concat());
    assert_eq!(said, "200 2 5");

    let labels = [("cause", "flood")];
    let floods = stage
        .evergate
        .metric("evergate_sessions_ended_total", &labels);
    assert_eq!(floods.unwrap_or(0.0), 0.0);
    assert_eq!(Client::new(&stage).get(1), 200);
}
