//! Every byte at every place that matters: a request with it is refused, or is one request for
//! everybody who reads it.

use std::sync::Arc;
use std::sync::Mutex;

use crate::frames::Client;
use crate::frames::END_HEADERS;
use crate::frames::END_STREAM;
use crate::frames::GET;
use crate::frames::HEADERS;
use crate::frames::RST_STREAM;
use crate::frames::frame;
use crate::frames::literal;
use crate::harness::Plan;
use crate::harness::Stage;
use crate::recorder::Recorder;
use crate::recorder::ok;

/// What a lenient reader would take for another request; honest, where a body has ended before it.
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";

/// A backend, and the heads of the requests that it has read.
struct Reader {
    backend: Recorder,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Reader {
    fn start() -> (Self, Stage) {
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        let backend = Recorder::answering(move |head| {
            if !head.starts_with("GET /check ") {
                seen.lock().unwrap().push(head.to_owned());
            }
            ok("a")
        });
        let stage = Plan::new(&[backend.addr()]).start();
        (Self { backend, heads }, stage)
    }

    /// The heads since the last time, each of them one that the proxy has written: it gives an id
    /// to each request, and says once how long its body is.
    #[track_caller]
    fn take(&self, shown: &str) -> Vec<String> {
        let heads = std::mem::take(&mut *self.heads.lock().unwrap());
        for head in &heads {
            let lower = head.to_ascii_lowercase();
            let count = |name: &str| lower.matches(&format!("\r\n{name}:")).count();
            assert_eq!(count("x-request-id"), 1, "{shown}: {head:?}");
            assert_eq!(count("host"), 1, "{shown}: {head:?}");
            let lengths = count("content-length") + count("transfer-encoding");
            assert!(lengths <= 1, "{shown}: {head:?}");
            for line in head.split("\r\n") {
                let is_bare = |byte: u8| byte != b'\t' && byte.is_ascii_control();
                assert!(!line.bytes().any(is_bare), "{shown}: {head:?}");
            }
        }
        heads
    }
}

/// A field, and one byte somewhere in it.
type Place = fn(&str, u8, &str) -> Vec<u8>;

const PLACES: [Place; 8] = [
    |name, byte, value| [&[byte][..], format!("{name}: {value}\r\n").as_bytes()].concat(),
    |name, byte, value| {
        let (start, end) = name.split_at(4);
        [
            start.as_bytes(),
            &[byte],
            end.as_bytes(),
            b": ",
            value.as_bytes(),
            b"\r\n",
        ]
        .concat()
    },
    |name, byte, value| [name.as_bytes(), &[byte], b": ", value.as_bytes(), b"\r\n"].concat(),
    |name, byte, value| [name.as_bytes(), b":", &[byte], value.as_bytes(), b"\r\n"].concat(),
    |name, byte, value| [name.as_bytes(), b": ", value.as_bytes(), &[byte], b"\r\n"].concat(),
    |name, byte, value| {
        [
            name.as_bytes(),
            b": ",
            value.as_bytes(),
            b"\r",
            &[byte],
            b"\n",
        ]
        .concat()
    },
    |name, byte, value| {
        [
            name.as_bytes(),
            b": ",
            value.as_bytes(),
            b"\r\n",
            &[byte],
            b"\r\n",
        ]
        .concat()
    },
    |name, byte, value| {
        [
            &b"X: y"[..],
            &[byte],
            name.as_bytes(),
            b": ",
            value.as_bytes(),
            b"\r\n",
        ]
        .concat()
    },
];

/// Security class 1: as many requests at the backend as answers at the client.
#[test]
fn a_byte_anywhere_in_a_field_that_frames_makes_no_second_request() {
    for (name, value) in [("Content-Length", "5"), ("Transfer-Encoding", "chunked")] {
        let (reader, stage) = Reader::start();
        let mut accepted = 0;
        for place in PLACES {
            for byte in 0..=u8::MAX {
                let field = place(name, byte, value);
                let text = String::from_utf8_lossy(&field);
                // Another length, of a body that does not come.
                let digits = text.bytes().filter(u8::is_ascii_digit).count();
                if name == "Content-Length" && digits > 1 {
                    continue;
                }
                let head: &[u8] = b"POST /x HTTP/1.1\r\nHost: a.test\r\n";
                let bytes = [head, &field, b"\r\n0\r\n\r\n", NEXT].concat();
                let answers = stage.raw(&bytes);
                let shown = field.escape_ascii().to_string();
                let heads = reader.take(&shown);
                let good = answers.matches(" 200 OK\r\n").count();
                assert_eq!(heads.len(), good, "{shown}: {answers} {heads:?}");
                let last = answers.rfind("HTTP/1.1 ").unwrap();
                let is_refused = answers[last..].starts_with("HTTP/1.1 400 ");
                // Its body and the next request, or no body and then what is no request.
                assert!(is_refused || good == 2, "{shown}: {answers}");
                accepted += good;
            }
        }
        // White space, tabs, and names of other fields.
        assert!((20..1000).contains(&accepted), "{name}: {accepted}");
        drop(reader.backend);
    }
}

/// Security class 5: HTTP/2 can say what HTTP/1.1 cannot.
#[test]
fn a_byte_anywhere_in_a_head_of_http_2_is_refused_or_stays_where_it_is() {
    let (reader, stage) = Reader::start();
    let mut client = Client::new(&stage);
    assert_eq!(client.get(1), 200);
    let lines = reader.take("a plain request")[0].lines().count();
    // Start, middle and end of each pseudo-header's value, and of a field's name and value.
    for index in 0..GET.len() + 2 {
        for at in 0..3 {
            for byte in 0..=u8::MAX {
                let mut fields: Vec<(Vec<u8>, Vec<u8>)> = GET
                    .iter()
                    .chain(&[("x-test", "test")])
                    .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
                    .collect();
                let text = match index {
                    5 => &mut fields[4].0,
                    index => &mut fields[index].1,
                };
                text.insert(text.len() * at / 2, byte);
                let shown = text.escape_ascii().to_string();
                let block: Vec<u8> = fields
                    .iter()
                    .flat_map(|(name, value)| literal(name, value))
                    .collect();
                let mut client = Client::new(&stage);
                client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block));
                let is_good = is_answered(&mut client);
                let heads = reader.take(&shown);
                assert_eq!(heads.len(), usize::from(is_good), "{shown}: {heads:?}");
                for head in heads {
                    assert_eq!(head.lines().count(), lines + 1, "{shown}: {head:?}");
                    assert_eq!(
                        head.lines().next().unwrap().split(' ').count(),
                        3,
                        "{head:?}"
                    );
                }
            }
        }
    }
}

/// Whether the backend's answer has come, and no refusal.
fn is_answered(client: &mut Client) -> bool {
    while let Some(frame) = client.next() {
        match frame.kind {
            RST_STREAM if frame.stream == 1 => return false,
            HEADERS if frame.stream == 1 => return frame.status() == Some(200),
            _ => {}
        }
    }
    false
}
