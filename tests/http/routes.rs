//! Which requests go where, and how soon a new file counts.

use std::io::Write;
use std::net::TcpStream;

use crate::harness::Plan;
use crate::harness::read_answer;
use crate::harness::status;
use crate::recorder::Recorder;

const ROUTES: &str = "routes: [\
    {host: a.test, cluster: host}, \
    {host: '*.b.test', cluster: wildcard}, \
    {path: /api, cluster: prefix}, \
    {path: {exact: /api/health}, cluster: exact}, \
    {path: /api, method: [PUT, DELETE], cluster: method}, \
    {header: {x-tenant: acme}, cluster: header}]";

const NAMES: [&str; 7] = [
    "default", "host", "wildcard", "prefix", "exact", "method", "header",
];

fn plan(backends: &[Recorder], routes: &str) -> Plan {
    let clusters = NAMES.iter().zip(backends);
    let plan = clusters.fold(Plan::default(), |plan, (name, backend)| {
        plan.cluster(name, &[backend.addr()], "")
    });
    plan.listener(routes)
}

#[track_caller]
fn asked(client: &mut TcpStream, head: &str) -> String {
    let request = format!("{head}Content-Length: 0\r\n\r\n");
    client.write_all(request.as_bytes()).unwrap();
    let answer = read_answer(client);
    assert_eq!(status(&answer), 200, "{head}: {answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    body.to_owned()
}

#[test]
fn each_request_takes_its_closest_route_on_one_connection() {
    let backends = NAMES.map(Recorder::named);
    let stage = plan(&backends, ROUTES).start();
    let mut client = stage.connect();
    let probes = [
        ("GET / HTTP/1.1\r\nHost: c.test\r\n", "default"),
        ("GET / HTTP/1.1\r\nHost: A.Test:8080\r\n", "host"),
        ("GET /api HTTP/1.1\r\nHost: a.test\r\n", "host"),
        ("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n", "host"),
        ("GET / HTTP/1.1\r\nHost: x.y.b.test\r\n", "wildcard"),
        ("GET / HTTP/1.1\r\nHost: b.test\r\n", "default"),
        ("GET /api HTTP/1.1\r\nHost: c.test\r\n", "prefix"),
        ("GET /api/x?y=/z HTTP/1.1\r\nHost: c.test\r\n", "prefix"),
        ("GET /apix HTTP/1.1\r\nHost: c.test\r\n", "default"),
        ("GET /x/../api/./y HTTP/1.1\r\nHost: c.test\r\n", "prefix"),
        ("GET //api//y HTTP/1.1\r\nHost: c.test\r\n", "prefix"),
        ("GET /api/health HTTP/1.1\r\nHost: c.test\r\n", "exact"),
        ("GET /api/health?x HTTP/1.1\r\nHost: c.test\r\n", "exact"),
        ("PUT /api/x HTTP/1.1\r\nHost: c.test\r\n", "method"),
        ("PUT /api/health HTTP/1.1\r\nHost: c.test\r\n", "exact"),
        (
            "GET / HTTP/1.1\r\nHost: c.test\r\nX-Tenant: acme\r\n",
            "header",
        ),
        (
            "GET / HTTP/1.1\r\nHost: c.test\r\nX-Tenant: Acme\r\n",
            "default",
        ),
        (
            "GET /api HTTP/1.1\r\nHost: c.test\r\nX-Tenant: acme\r\n",
            "prefix",
        ),
    ];
    for (head, name) in probes {
        assert_eq!(asked(&mut client, head), name, "{head}");
    }
}

#[test]
fn a_listener_without_a_default_answers_404() {
    let backend = Recorder::named("a");
    let routes = "routes: [{path: /api, cluster: web}]";
    let plan = Plan::new(&[backend.addr()])
        .listener(routes)
        .without_default();
    let stage = plan.start();
    let answer = stage.raw(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&answer), 404, "{answer}");
    assert!(
        answer.ends_with("no_route: No route takes this request.\n"),
        "{answer}"
    );
    assert_eq!(backend.text(), "");
}

#[test]
fn a_reload_counts_from_the_next_request_of_a_connection_that_lasts() {
    let backends = NAMES.map(Recorder::named);
    let before = plan(&backends, "routes: [{path: /api, cluster: prefix}]");
    let stage = before.start();
    let mut client = stage.connect();
    let head = "GET /api HTTP/1.1\r\nHost: c.test\r\n";
    assert_eq!(asked(&mut client, head), "prefix");
    let after = plan(
        &backends,
        "routes: [{path: /api, cluster: exact, response_headers: {set: {x-new: '1'}}}]",
    );
    stage.evergate.reload(&after.yaml(stage.addr));
    assert_eq!(asked(&mut client, head), "exact");
    client
        .write_all(b"GET /api HTTP/1.1\r\nHost: c.test\r\n\r\n")
        .unwrap();
    assert!(read_answer(&mut client).contains("\r\nx-new: 1\r\n"));
}
