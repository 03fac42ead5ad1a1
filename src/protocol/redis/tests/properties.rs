//! What holds of any bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::protocol::corpus::seeds;

#[test]
fn the_corpus_holds() {
    for seed in seeds("redis") {
        fuzz(&seed);
    }
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
