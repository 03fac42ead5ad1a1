//! What reaches stderr.

use super::*;
use std::sync::Mutex;

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
    queue.0.flush(Duration::from_secs(10));
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
