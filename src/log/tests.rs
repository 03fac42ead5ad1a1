//! What reaches stderr, and what happens when stderr is stuck.

use super::*;
use std::sync::Mutex;
use std::sync::mpsc::Sender;
use std::sync::mpsc::channel;

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(format: LogFormat, events: impl FnOnce()) -> String {
    let out = Shared::default();
    let queue = Queue::start(out.clone()).unwrap();
    let subscriber = tracing_subscriber::registry()
        .with(targets(LogLevel::Info))
        .with(line_layer(format, queue.clone()));
    tracing::subscriber::with_default(subscriber, events);
    queue.flush(Duration::from_secs(10));
    let bytes = out.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

const HOSTILE: &str =
    "a\nlevel=ERROR \"x\" \r\u{1b}[31m cause=closed \u{9b}31m\u{202e}\u{2028}{\"level\":\"x\"}";

fn log_hostile() {
    let error = io::Error::other(HOSTILE);
    tracing::info!(sni = HOSTILE, display = %HOSTILE, debug = ?HOSTILE, %error, "{HOSTILE}");
}

#[test]
fn hostile_strings_stay_in_one_text_line() {
    let text = logged(LogFormat::Text, log_hostile);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.trim_end().contains(is_steering), "{text:?}");
    for field in ["sni", "display", "debug", "error"] {
        assert!(
            text.contains(&format!(" {field}=\"")),
            "{field} is not quoted in {text}"
        );
    }
}

#[test]
fn hostile_strings_stay_in_one_json_value() {
    let text = logged(LogFormat::Json, log_hostile);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.trim_end().contains(is_steering), "{text:?}");
    let event: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(event["level"], "INFO");
    for field in ["message", "sni", "display"] {
        assert_eq!(event[field], HOSTILE, "{field}");
    }
}

#[test]
fn plain_values_are_not_quoted() {
    let text = logged(LogFormat::Text, || {
        tracing::info!(cluster = "orders", rank = 3, address = ?std::net::Ipv4Addr::LOCALHOST, "backend is down");
    });
    let expected = " INFO backend is down cluster=orders rank=3 address=127.0.0.1\n";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn libraries_are_only_heard_when_something_is_wrong() {
    let text = logged(LogFormat::Text, || {
        tracing::info!(target: "hyper", "chatter");
        tracing::warn!(target: "hyper", "trouble");
        tracing::debug!("detail");
    });
    assert!(text.contains("trouble") && !text.contains("chatter") && !text.contains("detail"));
}

/// Blocks in its first write until the sender goes away, like a full pipe.
struct Stuck(Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn stuck() -> (Queue, Sender<()>) {
    let (unblock, blocked) = channel();
    (Queue::start(Stuck(blocked)).unwrap(), unblock)
}

#[test]
fn a_stuck_stderr_drops_lines_and_counts_them() {
    let (queue, unblock) = stuck();
    let lines = MAX_QUEUED_LINES as u64 + 500;
    for _ in 0..lines {
        queue.push(b"line\n".to_vec());
    }
    let dropped = queue.dropped.load(Ordering::Relaxed);
    // One line may be in the writing thread's hands.
    assert!((499..=500).contains(&dropped), "{dropped}");
    drop(unblock);
    queue.flush(Duration::from_secs(10));
    assert_eq!(queue.queued_bytes.load(Ordering::Relaxed), 0);
    assert_eq!(queue.dropped.load(Ordering::Relaxed), dropped);
}

#[test]
fn long_lines_cannot_fill_the_memory() {
    let (queue, unblock) = stuck();
    for _ in 0..100 {
        queue.push(vec![b'x'; MAX_QUEUED_BYTES / 10]);
    }
    assert!(queue.queued_bytes.load(Ordering::Relaxed) <= MAX_QUEUED_BYTES);
    assert_eq!(queue.dropped.load(Ordering::Relaxed), 90);
    drop(unblock);
}

#[test]
fn the_end_does_not_wait_for_a_stuck_stderr() {
    let (queue, _unblock) = stuck();
    queue.push(b"line\n".to_vec());
    // Returns although nobody will ever say that the line is written.
    queue.flush(Duration::from_millis(50));
}

/// Fails `failures` times, each time after half of what it was given.
struct Flaky {
    out: Shared,
    failures: u32,
    half_done: bool,
}

impl Write for Flaky {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failures == 0 {
            return self.out.write(bytes);
        }
        self.half_done = !self.half_done;
        if self.half_done {
            return self.out.write(&bytes[..bytes.len() / 2]);
        }
        self.failures -= 1;
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_loses_lines_but_never_joins_two() {
    let out = Shared::default();
    let queue = Queue::start(Flaky {
        out: out.clone(),
        failures: 1,
        half_done: false,
    })
    .unwrap();
    for line in ["first\n", "second\n", "third\n"] {
        queue.push(line.into());
    }
    queue.flush(Duration::from_secs(10));
    let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text, "fir\nsecond\nthird\n");
    assert_eq!(queue.dropped.load(Ordering::Relaxed), 1);
}
