//! Replies, roles, openings and followed streams, case by case and by property.

use proptest::collection::vec;
use proptest::prelude::*;

use super::command::Login;
use super::follower::Proof;
use super::follower::ServerFollower;
use super::opening::MAX_OPENING_BYTES;
use super::opening::Opening;
use super::opening::OpeningError;
use super::opening::judge;
use super::refusal::Code;
use super::refusal::refusal;
use super::replication::AttachedReplica;
use super::replication::InfoRole;
use super::replication::Link;
use super::replication::Replication;
use super::replication::ReplyError;
use super::replication::Role;
use super::resp::MAX_LINE_BYTES;
use super::resp::ReplyReader;
use super::resp::RespError;
use super::resp::Value;
use super::sentinel::Quorum;
use super::sentinel::Watched;
use super::sentinel::peers;
use super::sentinel::primary_address;
use super::*;

const MAX_BYTES: usize = 1 << 20;

fn read(bytes: &[u8]) -> Result<Option<Value>, RespError> {
    ReplyReader::new(MAX_BYTES).read(&mut &bytes[..])
}

fn value(bytes: &[u8]) -> Value {
    read(bytes).unwrap().unwrap()
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

#[test]
fn every_type_of_both_versions_is_read() {
    for (bytes, expected) in [
        (&b"+OK\r\n"[..], Value::Line(b"OK".to_vec())),
        (b"-ERR no\r\n", Value::Error(b"ERR no".to_vec())),
        (b":-42\r\n", Value::Integer(-42)),
        (b"$5\r\na\r\nbc\r\n", bulk("a\r\nbc")),
        (b"$0\r\n\r\n", bulk("")),
        (b"$-1\r\n", Value::Null),
        (b"*-1\r\n", Value::Null),
        (b"_\r\n", Value::Null),
        (b"*0\r\n", Value::Array(Vec::new())),
        (b"#t\r\n", Value::Boolean(true)),
        (b"#f\r\n", Value::Boolean(false)),
        (b",1.5\r\n", Value::Line(b"1.5".to_vec())),
        (
            b"(12345678901234567890\r\n",
            Value::Line(b"12345678901234567890".to_vec()),
        ),
        (b"!6\r\nERR no\r\n", Value::Error(b"ERR no".to_vec())),
        (b"=6\r\ntxt:ab\r\n", bulk("ab")),
        (b"~1\r\n:1\r\n", Value::Array(vec![Value::Integer(1)])),
        (b">1\r\n:1\r\n", Value::Array(vec![Value::Integer(1)])),
        (
            b"%1\r\n$1\r\na\r\n:1\r\n",
            Value::Map(vec![bulk("a"), Value::Integer(1)]),
        ),
        (b"|1\r\n+k\r\n+v\r\n:1\r\n", Value::Integer(1)),
        (
            b"*2\r\n*1\r\n:1\r\n|1\r\n+k\r\n+v\r\n*0\r\n",
            Value::Array(vec![
                Value::Array(vec![Value::Integer(1)]),
                Value::Array(Vec::new()),
            ]),
        ),
    ] {
        assert_eq!(read(bytes), Ok(Some(expected)), "{}", bytes.escape_ascii());
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Ok(None), "{end}");
        }
    }
}

#[test]
fn bytes_after_a_reply_stay_with_the_caller() {
    let mut reader = ReplyReader::new(MAX_BYTES);
    let mut bytes = &b"*1\r\n+a\r\n:7\r\n"[..];
    assert!(reader.read(&mut bytes).unwrap().is_some());
    assert!(reader.is_between_replies());
    assert_eq!(bytes, b":7\r\n");
    assert_eq!(reader.read(&mut bytes), Ok(Some(Value::Integer(7))));
}

#[test]
fn bombs_are_refused_by_their_announcement() {
    let too_long = Err(RespError::TooLong {
        max_bytes: MAX_BYTES,
    });
    for bytes in [
        &b"*1073741824\r\n"[..],
        b"*9223372036854775807\r\n",
        b"%9223372036854775807\r\n",
        b"|4611686018427387904\r\n",
        b"$1073741824\r\n",
        b"$9223372036854775807\r\n",
        b"*2\r\n$1048576\r\n",
    ] {
        assert_eq!(read(bytes), too_long, "{}", bytes.escape_ascii());
    }
    let nested = b"*1\r\n".repeat(17);
    assert_eq!(read(&nested), Err(RespError::TooDeep));
    assert_eq!(read(&nested[..16 * 4]), Ok(None));
    let endless = vec![b'+'; MAX_LINE_BYTES + 1];
    assert!(matches!(read(&endless), Err(RespError::Malformed(_))));
    let mut drip = ReplyReader::new(1000);
    let mut last = drip.read(&mut &b"*300\r\n"[..]);
    while last == Ok(None) {
        last = drip.read(&mut &b"$1\r\na\r\n"[..]);
    }
    assert_eq!(last, Err(RespError::TooLong { max_bytes: 1000 }));
}

#[test]
fn what_is_no_reply_is_refused() {
    for bytes in [
        &b"\r\n"[..],
        b"OK\r\n",
        b"+OK\n",
        b":x\r\n",
        b":\r\n",
        b"$-2\r\n",
        b"$?\r\n",
        b"*?\r\n",
        b"$1\r\nabc",
        b"#x\r\n",
        b"_x\r\n",
        b"=2\r\nab\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
    ] {
        let refused = read(bytes);
        assert!(
            matches!(refused, Err(RespError::Malformed(_))),
            "{}: {refused:?}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn commands_are_arrays_of_strings() {
    let login = Login {
        user: Some("probe"),
        password: "p w\r\n",
    };
    assert_eq!(
        command::auth(login),
        b"*3\r\n$4\r\nAUTH\r\n$5\r\nprobe\r\n$5\r\np w\r\n\r\n"
    );
    let words = |bytes: &[u8]| -> Vec<String> {
        let value = value(bytes);
        let words = value.elements().unwrap().iter().map(Value::text);
        words.map(|word| word.unwrap().to_owned()).collect()
    };
    let old = Login {
        user: None,
        ..login
    };
    assert_eq!(words(&command::auth(old)), ["AUTH", "p w\r\n"]);
    assert_eq!(
        words(&command::hello(3, Some(old), "evergate")),
        [
            "HELLO", "3", "AUTH", "default", "p w\r\n", "SETNAME", "evergate"
        ]
    );
    assert_eq!(
        words(&command::hello(2, None, "evergate")),
        ["HELLO", "2", "SETNAME", "evergate"]
    );
    assert_eq!(
        words(&command::info("replication")),
        ["INFO", "replication"]
    );
    assert_eq!(words(&command::role()), ["ROLE"]);
    for (sent, verb) in [
        (
            command::sentinel_primary_address("m"),
            "get-master-addr-by-name",
        ),
        (command::sentinel_primary("m"), "master"),
        (command::sentinel_peers("m"), "sentinels"),
        (command::sentinel_quorum("m"), "ckquorum"),
    ] {
        assert_eq!(words(&sent), ["SENTINEL", verb, "m"]);
    }
}

#[test]
fn roles_are_typed() {
    let primary = value(
        b"*3\r\n$6\r\nmaster\r\n:3129659\r\n*1\r\n*3\r\n$9\r\n127.0.0.1\r\n$4\r\n9001\r\n$7\r\n3129242\r\n",
    );
    assert_eq!(
        Role::parse(&primary),
        Ok(Role::Primary {
            offset: 3_129_659,
            replicas: vec![AttachedReplica {
                host: "127.0.0.1".to_owned(),
                port: 9001,
                offset: 3_129_242,
            }],
        })
    );
    for (link, expected) in [
        ("connected", Link::Connected),
        ("sync", Link::Synchronizing),
        ("connect", Link::Connecting),
        ("handshake", Link::Connecting),
        ("brand new", Link::Unknown),
    ] {
        let replica = Value::Array(vec![
            bulk("slave"),
            bulk("db1"),
            Value::Integer(6379),
            bulk(link),
            Value::Integer(-1),
        ]);
        let role = Role::Replica {
            primary_host: "db1".to_owned(),
            primary_port: 6379,
            link: expected,
            offset: None,
        };
        assert_eq!(Role::parse(&replica), Ok(role));
    }
    let sentinel = value(b"*2\r\n$8\r\nsentinel\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n");
    let watched = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(Role::parse(&sentinel), Ok(Role::Sentinel { watched }));
    let loading = value(b"-LOADING Redis is loading the dataset in memory\r\n");
    assert!(
        matches!(Role::parse(&loading), Err(ReplyError::Refused(text)) if text.starts_with("LOADING"))
    );
    for bytes in [
        &b"*0\r\n"[..],
        b"+master\r\n",
        b"*3\r\n+master\r\n:-1\r\n*0\r\n",
        b"*3\r\n+master\r\n:1\r\n*1\r\n:1\r\n",
        b"*5\r\n+slave\r\n+h\r\n:70000\r\n+sync\r\n:1\r\n",
    ] {
        assert_eq!(
            Role::parse(&value(bytes)),
            Err(ReplyError::Unexpected("ROLE"))
        );
    }
}

const OLD_ID: &str = "8c3d7a8ac5b3e0b2d4b5a1c0e4f5a6b7c8d9e0f1";

fn info(text: &str) -> Result<Replication, ReplyError> {
    Replication::parse(&bulk(&text.replace('\n', "\r\n")))
}

#[test]
fn info_tells_of_replication_and_promotion() {
    let zeros = "0".repeat(40);
    let old = info(&format!(
        "# Replication\nrole:master\nconnected_slaves:1\nslave0:ip=::1,port=1,state=online\n\
         master_replid:{OLD_ID}\nmaster_replid2:{zeros}\nmaster_repl_offset:900\n\
         second_repl_offset:-1\n"
    ))
    .unwrap();
    assert_eq!(old.role, Some(InfoRole::Primary));
    assert_eq!((old.offset, old.previous_offset), (Some(900), None));
    assert_eq!(old.previous_replication_id, None);
    let new = info(&format!(
        "role:master\nmaster_replid:{}\nmaster_replid2:{OLD_ID}\nmaster_repl_offset:950\n\
         second_repl_offset:901\n",
        "a".repeat(40)
    ))
    .unwrap();
    assert_eq!(new.previous_offset, Some(901));
    assert!(new.was_promoted_from(&old));
    assert!(!old.was_promoted_from(&new));
    assert!(!old.was_promoted_from(&Replication::default()));
    let replica = info(
        "role:slave\nmaster_host:db1\nmaster_port:6379\nmaster_link_status:down\n\
         master_sync_in_progress:1\n# Persistence\nloading:1\n",
    )
    .unwrap();
    assert_eq!(replica.primary_host.as_deref(), Some("db1"));
    assert_eq!(replica.primary_port, Some(6379));
    assert_eq!(
        (
            replica.is_link_up,
            replica.is_synchronizing,
            replica.is_loading
        ),
        (Some(false), Some(true), Some(true))
    );
    for text in [
        "role:emperor",
        "master_replid:short",
        "master_repl_offset:x",
        "loading:maybe",
    ] {
        assert!(info(text).is_err(), "{text}");
    }
    assert!(Replication::parse(&Value::Integer(1)).is_err());
}

#[test]
fn sentinels_answer_in_both_versions() {
    let address = value(b"*2\r\n$8\r\n10.0.0.1\r\n$4\r\n6379\r\n");
    assert_eq!(
        primary_address(&address),
        Ok(Some(("10.0.0.1".to_owned(), 6379)))
    );
    assert_eq!(primary_address(&Value::Null), Ok(None));
    assert!(primary_address(&value(b"*1\r\n+a\r\n")).is_err());
    let fields = "+ip\r\n+10.0.0.2\r\n+port\r\n+26379\r\n+flags\r\n+sentinel,s_down\r\n";
    for head in ["*6", "%3"] {
        let reply = value(format!("*1\r\n{head}\r\n{fields}").as_bytes());
        let peers = peers(&reply).unwrap();
        assert_eq!(peers.len(), 1);
        assert_eq!((peers[0].host.as_str(), peers[0].port), ("10.0.0.2", 26379));
        assert_eq!(peers[0].flags, ["sentinel", "s_down"]);
    }
    let more = "+config-epoch\r\n+7\r\n+quorum\r\n:2\r\n+num-other-sentinels\r\n+2\r\n";
    let watched = Watched::parse(&value(format!("%6\r\n{fields}{more}").as_bytes())).unwrap();
    assert_eq!(
        (
            watched.config_epoch,
            watched.quorum,
            watched.other_sentinels
        ),
        (7, 2, 2)
    );
    assert!(watched.has_flag("s_down") && !watched.has_flag("down"));
    let unknown = value(b"-ERR No such master with that name\r\n");
    assert!(matches!(peers(&unknown), Err(ReplyError::Refused(_))));
    assert!(matches!(
        Watched::parse(&unknown),
        Err(ReplyError::Refused(_))
    ));
    let reached = b"+OK 3 usable Sentinels. Quorum and failover authorization can be reached\r\n";
    assert_eq!(
        Quorum::parse(&value(reached)),
        Ok(Quorum::Reached { usable: 3 })
    );
    let missing = value(b"-NOQUORUM 1 usable Sentinels. Not enough available Sentinels\r\n");
    assert!(matches!(Quorum::parse(&missing), Ok(Quorum::Missing(_))));
    assert!(Quorum::parse(&unknown).is_err());
}

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

#[test]
fn the_corpus_holds() {
    let seeds = std::fs::read_dir("fuzz/corpus/redis").unwrap();
    let count = seeds
        .map(|seed| fuzz(&std::fs::read(seed.unwrap().path()).unwrap()))
        .count();
    assert!(count > 0, "no seeds");
}

/// Any reply, as bytes.
fn reply() -> impl Strategy<Value = Vec<u8>> {
    let text = || vec(any::<u8>(), 0..12);
    let line = (prop_oneof![Just('+'), Just('-')], "[ -~]{0,60}")
        .prop_map(|(kind, text)| format!("{kind}x{text}\r\n").into_bytes());
    let bulk = text().prop_map(|text| {
        let head = format!("${}\r\n", text.len()).into_bytes();
        [&head[..], &text, b"\r\n"].concat()
    });
    let number = any::<i64>().prop_map(|number| format!(":{number}\r\n").into_bytes());
    let null = prop_oneof![Just("$-1\r\n"), Just("*-1\r\n"), Just("_\r\n")];
    let leaf = prop_oneof![
        line,
        bulk,
        number,
        null.prop_map(|null| null.as_bytes().to_vec())
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        (
            prop_oneof![Just('*'), Just('%'), Just('>')],
            vec(inner, 0..6),
        )
            .prop_map(|(kind, mut parts)| {
                if kind == '%' {
                    parts.truncate(parts.len() / 2 * 2);
                }
                let count = if kind == '%' {
                    parts.len() / 2
                } else {
                    parts.len()
                };
                [format!("{kind}{count}\r\n").into_bytes(), parts.concat()].concat()
            })
    })
}

proptest! {
    #[test]
    fn any_replies_in_any_cut_are_followed(
        replies in vec(reply(), 1..8),
        chunk_bytes in 1_usize..40,
    ) {
        let mut follower = ServerFollower::new();
        let mut reader = ReplyReader::new(MAX_BYTES);
        for reply in &replies {
            let stream = [&reply[..], b"-READONLY no\r\n"].concat();
            let mut proofs = Vec::new();
            let mut values = Vec::new();
            for chunk in stream.chunks(chunk_bytes) {
                proofs.extend(follower.on_server(chunk));
                let mut chunk = chunk;
                while let Some(value) = reader.read(&mut chunk).unwrap() {
                    values.push(value);
                }
            }
            prop_assert_eq!(proofs, [Proof::ReadOnly]);
            prop_assert!(follower.is_between_replies());
            prop_assert_eq!(values.len(), 2);
            prop_assert_eq!(&values[0], &value(reply));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300), reply in reply(), at: usize) {
        let mut changed = reply;
        let at = at % changed.len();
        changed[at] = bytes.first().copied().unwrap_or(0);
        for choice in 0..3 {
            fuzz(&[&[choice], &bytes[..]].concat());
            fuzz(&[&[choice], &changed[..]].concat());
        }
    }
}
