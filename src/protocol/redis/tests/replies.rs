//! Values as they are read, commands as they are written.

use super::*;
use crate::protocol::redis::command::Login;
use crate::protocol::redis::resp::MAX_LINE_BYTES;

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
