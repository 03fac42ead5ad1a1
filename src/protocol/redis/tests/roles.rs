//! Who is the primary: as servers and Sentinels tell it.

use super::*;
use crate::protocol::redis::replication::AttachedReplica;
use crate::protocol::redis::replication::InfoRole;
use crate::protocol::redis::replication::Replication;
use crate::protocol::redis::replication::ReplyError;
use crate::protocol::redis::replication::Role;
use crate::protocol::redis::sentinel::Quorum;
use crate::protocol::redis::sentinel::Watched;
use crate::protocol::redis::sentinel::peers;
use crate::protocol::redis::sentinel::primary_address;

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
