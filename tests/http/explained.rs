//! `evergate explain` of an HTTP listener says what the proxy does.

use crate::recorder::Recorder;
use crate::support::evergate::evergate;
use crate::support::http;
use crate::world::CHECK;
use crate::world::Client;
use crate::world::stage;

const ROUTES: &str = "routes: [\
    {host: '*.test', path: /logs, method: [GET, POST], cluster: web}, \
    {path: {exact: /health}, header: {x-tenant: acme}, cluster: web}]";

#[test]
fn a_request_is_explained_with_its_route_and_why_others_are_not_taken() {
    let backends = ["a", "b"].map(Recorder::named);
    let addrs = backends.each_ref().map(Recorder::addr);
    let hashed =
        format!("{CHECK}, balance: {{policy: consistent_hash, hash: {{key: 'header:x-tenant'}}}}");
    let stage = stage(&addrs, &hashed, ROUTES);
    let admin = stage.evergate.admin().to_string();
    let explain = |arguments: &[&str]| {
        let words = [
            &["explain", "--admin", &admin, "--listener", "web"],
            arguments,
        ]
        .concat();
        let output = evergate(&words);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let told = explain(&[
        "--host",
        "A.Test:80",
        "--path",
        "/logs/x?y=1",
        "--header",
        "X-Tenant: acme",
    ]);
    assert!(
        told.contains("route     route 1 (host: *.test, path: /logs, method: GET POST)"),
        "{told}"
    );
    assert!(
        told.contains("not 2 ") && told.contains("another path"),
        "{told}"
    );
    assert!(told.contains("consistent_hash by header acme"), "{told}");
    // What it says is what happens.
    let request = "GET /logs/x?y=1 HTTP/1.1\r\nHost: a.test\r\nX-Tenant: acme\r\n\r\n";
    let reply = Client::connect(stage.addr).unwrap().ask(request).unwrap();
    let at = usize::from(reply.body == b"b");
    let outcome = format!("=> the client goes to {}", addrs[at]);
    assert!(told.contains(&outcome), "{told}");

    let told = explain(&["--host", "a.test", "--path", "/logs", "--method", "PUT"]);
    assert!(told.contains("route     the listener's cluster"), "{told}");
    assert!(told.contains("another method"), "{told}");
    let told = explain(&["--path", "/health", "--header", "X-Tenant: other"]);
    assert!(told.contains("header x-tenant does not match"), "{told}");
    assert!(told.contains("another host"), "{told}");
}

#[test]
fn what_is_no_request_is_refused_with_the_reason() {
    let backend = Recorder::named("a");
    let stage = stage(&[backend.addr()], CHECK, "");
    let admin = stage.evergate.admin();
    let path = "/api/v1/explain?listener=web&host=a.test&path=/%2e./x";
    let answer = http::get(admin, path).unwrap();
    assert_eq!(answer.status, 404, "{answer:?}");
    assert!(answer.text().contains("dot segments"), "{}", answer.text());
}
