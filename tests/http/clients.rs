//! Clients that people use: no limit on abuse is in their way.

use evergate::config::CertificatePair;

use crate::frames::Client;
use crate::harness::Plan;
use crate::pki::Authority;
use crate::recorder::Recorder;
use crate::recorder::ok;
use crate::support::PATIENCE;
use crate::support::ports::free_addr;
use crate::support::process::output_of;
use crate::support::process::run;
use crate::support::wait_until;
use crate::support::webserver::Nginx;
use crate::world::CHECK;
use crate::world::stage;

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

/// Fifty clients of HTTP/1.1 that never rest, for three seconds; what wrk says of them.
fn hurry(url: &str) -> String {
    // Its own patience of two seconds is for machines that never stall.
    run(&["wrk", "-t1", "-c50", "-d3s", "--timeout", "30s", url])
}

/// `listener`: keys that make `scheme` of it.
#[track_caller]
fn assert_every_request_of_wrk_is_answered(scheme: &str, listener: &str) {
    let web = free_addr();
    let server = format!(
        "keepalive_requests 1000000; server {{ listen {web}; \
         location / {{ return 200 'answer of a real server'; }} }}"
    );
    let nginx = Nginx::http(&server, web);
    let stage = stage(&[web], CHECK, listener);
    let said = hurry(&format!("{scheme}://{}/load", stage.addr));
    // Both lines are there only when there was one.
    assert!(!said.contains("Non-2xx"), "{said}");
    assert!(!said.contains("Socket errors"), "{said}");
    let requests = said.split(" requests in ").next().unwrap();
    let requests = requests.rsplit([' ', '\n']).next().unwrap();
    let requests: usize = requests.parse().unwrap_or_else(|_| panic!("{said}"));
    assert!(requests > 0, "{said}");
    wait_until(PATIENCE, "the server's log has all of them", || {
        nginx.access_log().matches("GET /load ").count() >= requests
    });
}

#[test]
fn every_request_of_wrk_is_answered() {
    assert_every_request_of_wrk_is_answered("http", "");
}

#[test]
fn every_request_of_wrk_is_answered_over_tls() {
    let authority = Authority::new("servers");
    let CertificatePair {
        cert_file,
        key_file,
    } = authority.issue("server", &["a.test"]);
    let tls = format!(
        "tls: {{cert_file: '{}', key_file: '{}'}}",
        cert_file.display(),
        key_file.display()
    );
    assert_every_request_of_wrk_is_answered("https", &tls);
}
