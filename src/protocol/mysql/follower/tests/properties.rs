//! What holds of any session.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What a client may do, with the answer and the state after it.
#[derive(Debug, Clone)]
enum Act {
    Statement { in_transaction: bool },
    Select { rows: usize, in_transaction: bool },
    Fails { is_plain: bool },
    CloseStatement,
    Statistics,
}

fn act() -> impl Strategy<Value = Act> {
    let flag = any::<bool>();
    prop_oneof![
        flag.prop_map(|in_transaction| Act::Statement { in_transaction }),
        (0_usize..5, flag).prop_map(|(rows, in_transaction)| Act::Select {
            rows,
            in_transaction
        }),
        flag.prop_map(|is_plain| Act::Fails { is_plain }),
        Just(Act::CloseStatement),
        Just(Act::Statistics),
    ]
}

impl Act {
    /// Command, answer, and the state that is right after it.
    fn play(
        &self,
        capabilities: Capabilities,
        before: SessionState,
    ) -> (Vec<u8>, Vec<Vec<u8>>, SessionState) {
        let status = |open: bool| if open { IN_TRANSACTION } else { AUTOCOMMIT };
        let after = |open: bool| if open { InTransaction } else { Idle };
        match *self {
            Self::Statement {
                in_transaction: open,
            } => (query("DO 1"), vec![ok(status(open))], after(open)),
            Self::Select {
                rows,
                in_transaction: open,
            } => {
                let answer = result_set(capabilities, rows, status(open));
                (query("SELECT a, b"), answer, after(open))
            }
            Self::Fails { is_plain } => {
                let sql = if is_plain {
                    "DELETE FROM t"
                } else {
                    "CALL p()"
                };
                let unchanged = is_plain && before == Idle;
                let after = if unchanged { Idle } else { Unknown };
                (query(sql), vec![error(1, "no")], after)
            }
            Self::CloseStatement => (command(0x19, b"\x01\0\0\0"), Vec::new(), before),
            Self::Statistics => (command(0x09, b""), vec![b"Uptime".to_vec()], before),
        }
    }
}

proptest! {
    #[test]
    fn any_session_in_any_cut_is_followed(
        acts in vec(act(), 1..12),
        deprecated: bool,
        chunk_bytes in 1_usize..60,
    ) {
        let capabilities = if deprecated { DEPRECATED } else { OLD };
        let mut session = follower(capabilities);
        let mut right = Idle;
        for act in acts {
            let (sent, answer, after) = act.play(capabilities, right);
            for chunk in sent.chunks(chunk_bytes) {
                session.on_client(chunk);
            }
            let answer = packets(&answer);
            for chunk in answer.chunks(chunk_bytes) {
                prop_assert_eq!(session.state(), Busy);
                session.on_server(chunk);
            }
            prop_assert_eq!(session.state(), after, "{:?}", act);
            right = after;
        }
    }

    #[test]
    fn random_packets_never_panic(
        payloads in vec((any::<bool>(), vec(any::<u8>(), 0..30)), 0..20),
        setup: u8,
    ) {
        let mut data = vec![setup];
        for (from_server, payload) in payloads {
            let sequence = u8::from(from_server);
            let framed = message(sequence, &payload);
            data.push((framed.len() as u8) << 1 | sequence);
            data.extend_from_slice(&framed);
        }
        fuzz(&data);
    }
}
