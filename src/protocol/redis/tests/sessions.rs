//! Sessions of clients: how they begin, what is refused, what proves a role.

use super::*;
use crate::protocol::redis::opening::MAX_OPENING_BYTES;
use crate::protocol::redis::opening::Opening;
use crate::protocol::redis::opening::OpeningError;
use crate::protocol::redis::opening::judge;
use crate::protocol::redis::refusal::Code;
use crate::protocol::redis::refusal::refusal;

#[test]
fn http_is_refused_before_it_reaches_redis() {
    for bytes in [
        &b"POST / HTTP/1.1\r\n"[..],
        b"post /",
        b"PUT ",
        b"HEAD / HTTP/1.0\r\n",
        b"OPTIONS * HTTP/1.1",
        b"CONNECT a:1 HTTP/1.1",
        b"PRI * HTTP/2.0\r\n",
        b"GET / HTTP/1.1\r\n",
        b"GET /",
        b"get  /index",
        b"GET http://10.0.0.1:6379/ HTTP/1.1",
        b"Host: redis\r\n",
        b"host:\r\n",
        b"\r\n\r\nPOST / HTTP/1.1\r\n",
    ] {
        assert_eq!(
            judge(bytes),
            Err(OpeningError::Http),
            "{}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn redis_is_passed_on() {
    for bytes in [
        &b"*1\r"[..],
        b"*3\r\n$4\r\nPOST\r\n",
        b"*1048576\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"PING\r\n",
        b"ping ",
        b"  PING\r\n",
        b"\r\nPING\r\n",
        b"GET key\r\n",
        b"GET htt\r\n",
        b"GET \r\n",
        b"GET\r\n",
        b"POSTED x\r\n",
        b"AUTH secret\r\n",
    ] {
        assert_eq!(judge(bytes), Ok(Opening::Redis), "{}", bytes.escape_ascii());
    }
    for bytes in [
        &b""[..],
        b"\r\n",
        b"*",
        b"*3",
        b"POST",
        b"GET",
        b"GET ",
        b"GET htt",
        b"P",
    ] {
        assert_eq!(
            judge(bytes),
            Ok(Opening::Incomplete),
            "{}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn other_protocols_and_floods_are_refused() {
    for bytes in [
        &b"\x16\x03\x01"[..],
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\xff",
        b"*x",
        b"*1048577\r\n",
        b"*1073741824\r\n",
        b"*999999999999",
        b"*\r\n",
    ] {
        assert!(
            matches!(judge(bytes), Err(OpeningError::Malformed(_))),
            "{}",
            bytes.escape_ascii()
        );
    }
    let blank = b"\r\n".repeat(100);
    assert!(matches!(judge(&blank), Err(OpeningError::Malformed(_))));
    let endless = vec![b'a'; MAX_OPENING_BYTES + 1];
    assert_eq!(judge(&endless), Err(OpeningError::TooLong));
    assert_eq!(judge(&endless[1..]), Ok(Opening::Incomplete));
}

#[test]
fn a_refusal_is_one_line() {
    assert_eq!(
        refusal(Code::Loading, "no primary\r\n+OK"),
        b"-LOADING no primary  +OK\r\n"
    );
    for code in [Code::Err, Code::MasterDown, Code::ReadOnly, Code::TryAgain] {
        let long = refusal(code, &"\u{e9}".repeat(1000));
        assert!(long.len() < 600);
        assert!(value(&long).error().is_some());
    }
}

#[test]
fn errors_at_the_top_level_prove_a_role() {
    let mut follower = ServerFollower::new();
    let stream = [
        &b"+OK\r\n"[..],
        b"$27\r\n-READONLY in a value\r\n+OK\r\n\r\n",
        b"*2\r\n-READONLY nested\r\n*1\r\n$-1\r\n",
        b"%1\r\n+k\r\n-LOADING nested\r\n",
        b"|1\r\n+k\r\n-LOADING remark\r\n:1\r\n",
        b"-ERR other\r\n",
        b"-READONLYX no such code\r\n",
    ]
    .concat();
    assert_eq!(follower.on_server(&stream), []);
    assert!(follower.is_between_replies());
    for (error, proof) in [
        (
            "READONLY You can't write against a read only replica.",
            Proof::ReadOnly,
        ),
        ("UNBLOCKED force unblock", Proof::ReadOnly),
        ("REDIRECT 10.0.0.1:6379", Proof::ReadOnly),
        (
            "LOADING Redis is loading the dataset in memory",
            Proof::Loading,
        ),
        ("MASTERDOWN Link with MASTER is down", Proof::PrimaryDown),
        (
            "NOREPLICAS Not enough good replicas to write.",
            Proof::TooFewReplicas,
        ),
        ("CLUSTERDOWN", Proof::ClusterDown),
    ] {
        let line = format!("-{error}\r\n");
        assert_eq!(follower.on_server(line.as_bytes()), [proof], "{error}");
    }
}

#[test]
fn replies_end_where_they_end() {
    for reply in [
        &b"$5\r\nab\r\nc\r\n"[..],
        b"$0\r\n\r\n",
        b"*2\r\n*0\r\n%1\r\n+a\r\n$1\r\nb\r\n",
        b">2\r\n+invalidate\r\n*-1\r\n",
        b"|1\r\n+a\r\n+b\r\n_\r\n",
    ] {
        let mut follower = ServerFollower::new();
        for byte in &reply[..reply.len() - 1] {
            follower.on_server(&[*byte]);
            assert!(!follower.is_between_replies());
        }
        follower.on_server(&reply[reply.len() - 1..]);
        assert!(follower.is_between_replies(), "{}", reply.escape_ascii());
    }
}

#[test]
fn what_is_no_reply_is_not_followed() {
    for bytes in [
        &b"+FULLRESYNC 8c3d7a8a 1\r\n"[..],
        b"+CONTINUE\r\n",
        b"$3\r\nRDBx",
        b"$EOF:0123456789012345678901234567890123456789\r\n",
        b"\n",
        b"+OK\n",
        b"*99999999999999999999\r\n",
        b"*9999999999999999\r\n",
        b"*+1\r\n",
        b"$-2\r\n",
        b"\x15\x03\x03\0\x02\x02\n",
    ] {
        let mut follower = ServerFollower::new();
        follower.on_server(bytes);
        assert!(follower.is_transparent(), "{}", bytes.escape_ascii());
        assert_eq!(follower.on_server(b"-READONLY\r\n"), []);
    }
}
