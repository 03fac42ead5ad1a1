//! Body of the fuzz target: the same bytes as a client's first ones, as a server's stream in
//! transit, and as a server's answers to a probe.

use crate::protocol::postgres::error::ServerError;
use crate::protocol::postgres::follow::Event;
use crate::protocol::postgres::follow::FollowError;
use crate::protocol::postgres::follow::IssuedKey;
use crate::protocol::postgres::follow::ServerFollower;
use crate::protocol::postgres::frame::MAX_PROBE_MESSAGE_BYTES;
use crate::protocol::postgres::frame::next_message;
use crate::protocol::postgres::login::ChannelBinding;
use crate::protocol::postgres::login::Cleartext;
use crate::protocol::postgres::login::Credentials;
use crate::protocol::postgres::login::Login;
use crate::protocol::postgres::login::LoginStep;
use crate::protocol::postgres::rows::Answer;
use crate::protocol::postgres::rows::AnswerStep;
use crate::protocol::postgres::startup;
use crate::protocol::postgres::startup::MAX_STARTUP_BYTES;
use crate::protocol::postgres::startup::Opening;
use crate::protocol::postgres::startup::Request;

/// No panic, whatever comes; what was decided stays decided; splits make no difference.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    first_bytes(data);
    stream_in_transit(data);
    answers_to_a_probe(data);
}

fn first_bytes(data: &[u8]) {
    match startup::parse(data) {
        Ok(Opening::Incomplete { needed }) => {
            assert!(needed > data.len() && needed <= MAX_STARTUP_BYTES);
        }
        Ok(Opening::Complete {
            length,
            request: Request::Startup(startup),
        }) => {
            assert_eq!(startup.as_bytes(), &data[..length]);
            assert!(!startup.user().is_empty() && !startup.database().is_empty());
            for (name, value) in startup.parameters() {
                if let Ok(name) = str::from_utf8(name) {
                    assert!(startup.parameter(name).is_some() && startup.option(name).is_some());
                }
                let _ = str::from_utf8(value).map(|name| startup.option(name));
            }
            let _ = (startup.replication(), startup.application_name());
        }
        Ok(Opening::Complete { .. } | Opening::Tls) | Err(_) => {}
    }
    let more = [data, b"\0"].concat();
    if !matches!(startup::parse(data), Ok(Opening::Incomplete { .. })) {
        assert_eq!(startup::parse(&more), startup::parse(data));
    }
}

/// What a follower saw and let pass, fed in chunks of this size.
fn followed(data: &[u8], chunk_bytes: usize) -> (Vec<u8>, Vec<Event>, Option<FollowError>) {
    let key = IssuedKey {
        process_id: Some(7),
        random: [0xaa; 32],
    };
    let mut follower = ServerFollower::issuing(key);
    let (mut passed, mut events, mut failure) = (data.to_vec(), Vec::new(), None);
    for chunk in passed.chunks_mut(chunk_bytes) {
        let fed = follower.feed(chunk, |event| events.push(event));
        assert!(fed.is_ok() || failure.is_none(), "an error is told once");
        failure = failure.or(fed.err());
    }
    assert_eq!(follower.is_following(), failure.is_none());
    (passed, events, failure)
}

fn stream_in_transit(data: &[u8]) {
    let whole = followed(data, data.len().max(1));
    for chunk_bytes in [1, 2, 3, 5, 7, 64] {
        assert_eq!(followed(data, chunk_bytes), whole);
    }
    let (passed, events, _) = whole;
    let sevens = [0xaa; 32];
    for (at, (before, after)) in data.iter().zip(&passed).enumerate() {
        assert!(
            before == after || *after == sevens[0] || *after == 7 || *after == 0,
            "byte {at} was changed to something that was not issued"
        );
    }
    let mut rest = data;
    let mut ready_seen = 0;
    while let Ok(Some(message)) = next_message(rest, usize::MAX) {
        ready_seen += usize::from(message.tag == b'Z');
        rest = &rest[message.length..];
    }
    let ready_told = events
        .iter()
        .filter(|event| matches!(event, Event::ReadyForQuery(_)));
    assert!(ready_told.count() <= ready_seen);
}

fn answers_to_a_probe(data: &[u8]) {
    let _ = ServerError::parse(data).to_string();
    let (mut login, _startup) = Login::new(&Credentials {
        user: "probe",
        database: "postgres",
        password: Some("secret"),
        application_name: "fuzz",
        cleartext: Cleartext::Send,
        binding: ChannelBinding::Unavailable,
    });
    let mut answer = Answer::new();
    let mut is_logged_in = false;
    let mut rest = data;
    while let Ok(Some(message)) = next_message(rest, MAX_PROBE_MESSAGE_BYTES) {
        if is_logged_in {
            match answer.on_message(message.tag, message.body) {
                Ok(AnswerStep::Wait) => {}
                Ok(AnswerStep::Done(Ok(rows))) => {
                    let _ = rows.first("a");
                }
                Ok(AnswerStep::Done(Err(_))) | Err(_) => return,
            }
        } else {
            match login.on_message(message.tag, message.body) {
                Ok(step) => is_logged_in = matches!(step, LoginStep::Ready(_)),
                Err(_) => return,
            }
        }
        rest = &rest[message.length..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::corpus::seeds;

    #[test]
    fn the_corpus_holds() {
        for seed in seeds("postgres") {
            fuzz(&seed);
        }
    }

    #[test]
    fn every_cut_and_every_changed_byte_of_the_corpus_holds() {
        let mut count = 0;
        for mut bytes in seeds("postgres") {
            bytes.truncate(600);
            count += bytes.len();
            for at in 0..bytes.len() {
                fuzz(&bytes[..at]);
                let kept = bytes[at];
                for changed in [0, 1, 0x7f, 0x80, 0xff, kept ^ 0x20] {
                    bytes[at] = changed;
                    fuzz(&bytes);
                }
                bytes[at] = kept;
            }
        }
        assert!(count > 0, "empty seeds");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
            fuzz(&bytes);
        }

        #[test]
        fn random_messages_never_panic(
            messages in vec((any::<u8>(), vec(any::<u8>(), 0..40)), 0..20),
        ) {
            let bytes: Vec<u8> = messages
                .iter()
                .flat_map(|(tag, body)| {
                    let length = (4 + body.len() as u32).to_be_bytes();
                    [&[*tag], &length[..], body].concat()
                })
                .collect();
            fuzz(&bytes);
        }
    }
}
