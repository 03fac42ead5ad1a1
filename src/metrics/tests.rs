//! What a scrape shows.

use super::*;
use std::collections::HashSet;
use std::io::Write;
use std::process::Command;
use std::process::Stdio;

fn publish_everything(scrape: &mut Scrape) {
    for metric in ALL {
        let labels: Vec<&str> = metric.labels.iter().map(|_| "some \"value\"\n").collect();
        match metric.kind {
            Kind::Counter => scrape.counter(metric, &labels, 7),
            Kind::Gauge => scrape.gauge(metric, &labels, 0.5),
            Kind::Histogram(_) => {}
        }
    }
}

#[track_caller]
fn assert_shows(text: &str, sample: &str) {
    assert!(text.contains(sample), "{sample}\n{text}");
}

fn with_all_histograms() -> Metrics {
    let metrics = Metrics::default();
    for cluster in ["orders", "carts"] {
        metrics.record_session_duration(cluster, Duration::from_secs(2));
        metrics.record_connect_duration(cluster, Duration::from_millis(3));
        metrics.record_check_duration(cluster, Duration::from_millis(4));
        metrics.record_hold_duration(cluster, Duration::from_secs(5));
        metrics.record_request_duration(cluster, StatusClass::Successful, Duration::from_millis(7));
    }
    metrics
}

#[test]
fn a_scrape_shows_every_metric_of_the_table_once() {
    let text = with_all_histograms().render(publish_everything);
    for metric in ALL {
        let header = format!("# TYPE {} ", metric.name);
        assert_eq!(text.matches(&header).count(), 1, "{}\n{text}", metric.name);
        let help = format!("# HELP {} {}\n", metric.name, metric.help);
        assert_eq!(text.matches(&help).count(), 1, "{}\n{text}", metric.name);
    }
    for name in PROCESS {
        assert!(text.contains(&format!("\n{name} ")), "{name}\n{text}");
    }
    let published = text.matches("# TYPE ").count();
    assert_eq!(published, ALL.len() + PROCESS.len(), "{text}");
}

#[test]
fn promtool_accepts_a_scrape() {
    let text = with_all_histograms().render(publish_everything);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is missing: install the Debian package `prometheus`");
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    // It finds the conventional names of the process metrics fault-free too.
    assert!(
        output.status.success() && complaints.trim().is_empty(),
        "{complaints}\n{text}"
    );
}

#[test]
fn every_session_end_has_a_counter_of_its_own() {
    let metrics = Metrics::default();
    let mut positions = HashSet::new();
    for end in every_session_end() {
        metrics.count_session_end(end);
        positions.insert(position(end));
    }
    assert_eq!(positions.len(), SESSION_ENDS);
    let text = metrics.render(|_| {});
    let series = text.matches("evergate_sessions_ended_total{").count();
    assert_eq!(series, SESSION_ENDS);
    let example = r#"evergate_sessions_ended_total{side="client",phase="relay",cause="closed"} 1"#;
    assert_shows(&text, example);
}

#[test]
fn a_session_end_that_never_happened_has_no_series() {
    let text = Metrics::default().render(|_| {});
    assert!(!text.contains("evergate_sessions_ended_total"), "{text}");
}

#[test]
fn series_of_a_removed_cluster_go_away() {
    let metrics = with_all_histograms();
    let before = metrics.render(|scrape| {
        scrape.counter(&names::BACKEND_CONNECTIONS, &["carts", "a"], 9);
    });
    assert_shows(&before, r#"cluster="carts""#);
    metrics.run_upkeep(|cluster| cluster == "orders");
    let after = metrics.render(|_| {});
    assert!(!after.contains(r#"cluster="carts""#), "{after}");
    let kept = r#"evergate_session_duration_seconds_count{cluster="orders"} 1"#;
    assert_shows(&after, kept);
}

#[test]
fn a_backend_that_returns_starts_at_its_own_count() {
    let metrics = Metrics::default();
    let labels = ["orders", "a"];
    metrics.render(|scrape| scrape.counter(&names::BACKEND_CONNECTIONS, &labels, 100));
    let text = metrics.render(|scrape| scrape.counter(&names::BACKEND_CONNECTIONS, &labels, 3));
    let sample = r#"evergate_backend_connections_total{cluster="orders",backend="a"} 3"#;
    assert_shows(&text, sample);
}

#[test]
fn histograms_have_the_buckets_of_the_table() {
    let metrics = with_all_histograms();
    metrics.record_connect_duration("orders", Duration::from_micros(700));
    metrics.run_upkeep(|_| true);
    let text = metrics.render(|_| {});
    for (bound, count) in [("0.0005", 0), ("0.001", 1), ("0.005", 2), ("+Inf", 2)] {
        let sample = format!(
            "evergate_connect_duration_seconds_bucket{{cluster=\"orders\",le=\"{bound}\"}} {count}\n"
        );
        assert_shows(&text, &sample);
    }
}

#[test]
fn a_rejected_reload_shows_until_the_next_good_one() {
    let metrics = Metrics::default();
    metrics.record_first_load();
    metrics.count_reload(false);
    let bad = metrics.render(|_| {});
    assert_shows(&bad, "evergate_config_last_reload_successful 0\n");
    assert_shows(
        &bad,
        "evergate_config_reloads_total{result=\"rejected\"} 1\n",
    );
    metrics.count_reload(true);
    let good = metrics.render(|_| {});
    assert_shows(&good, "evergate_config_last_reload_successful 1\n");
    assert_shows(
        &good,
        "evergate_config_reloads_total{result=\"accepted\"} 1\n",
    );
}

#[test]
fn two_instances_in_one_process_do_not_share_counts() {
    let (one, two) = (Metrics::default(), Metrics::default());
    one.record_session_duration("orders", Duration::from_secs(1));
    one.count_reload(true);
    let text = two.render(|_| {});
    assert!(!text.contains("orders"), "{text}");
    assert_shows(
        &text,
        "evergate_config_reloads_total{result=\"accepted\"} 0\n",
    );
}

#[test]
fn requests_are_timed_by_cluster_and_class() {
    let metrics = with_all_histograms();
    metrics.record_request_duration("orders", StatusClass::None, Duration::from_secs(3600));
    let text = metrics.render(|_| {});
    for sample in [
        "_bucket{cluster=\"orders\",status_class=\"2xx\",le=\"0.005\"} 0",
        "_bucket{cluster=\"orders\",status_class=\"2xx\",le=\"0.01\"} 1",
        "_sum{cluster=\"orders\",status_class=\"2xx\"} 0.007",
        "_bucket{cluster=\"orders\",status_class=\"none\",le=\"30\"} 0",
        "_bucket{cluster=\"orders\",status_class=\"none\",le=\"+Inf\"} 1",
    ] {
        let sample = format!("evergate_http_request_duration_seconds{sample}\n");
        assert_shows(&text, &sample);
    }
    assert!(!text.contains("status_class=\"5xx\""), "{text}");
}

#[test]
fn what_is_not_published_again_is_not_shown_again() {
    let metrics = Metrics::default();
    let labels = ["orders", "a"];
    let before = metrics.render(|scrape| scrape.gauge(&names::BACKEND_UP, &labels, 1.0));
    assert_shows(&before, "evergate_backend_up{");
    let after = metrics.render(|_| {});
    assert!(!after.contains("evergate_backend_up"), "{after}");
}

#[test]
fn metrics_and_their_samples_are_in_order() {
    let text = with_all_histograms().render(|scrape| {
        for backend in ["b", "c", "a"] {
            scrape.counter(&names::BACKEND_CONNECTIONS, &["orders", backend], 1);
        }
    });
    let metrics = text.lines().filter(|line| line.starts_with("# HELP"));
    assert!(
        metrics.clone().count() > 10 && metrics.is_sorted(),
        "{text}"
    );
    let backends: String = ["a", "b", "c"]
        .map(|it| {
            format!("evergate_backend_connections_total{{cluster=\"orders\",backend=\"{it}\"}} 1\n")
        })
        .concat();
    assert_shows(&text, &backends);
    let buckets = "_bucket{cluster=\"orders\",le=\"86400\"} 1\n\
                   evergate_session_duration_seconds_bucket{cluster=\"orders\",le=\"+Inf\"} 1\n\
                   evergate_session_duration_seconds_sum{cluster=\"orders\"} 2\n\
                   evergate_session_duration_seconds_count{cluster=\"orders\"} 1\n";
    assert_shows(&text, buckets);
}

/// The exporter takes some backslashes for its own escapes.
#[test]
fn no_two_labels_look_the_same() {
    let metrics = Metrics::default();
    for (value, escaped) in [
        (r"a\b", r"a\\b"),
        (r"a\\b", r"a\\\\b"),
        (r"a\nb", r"a\\nb"),
        (r#"a\"b"#, r#"a\\\"b"#),
        ("a\\\nb", r"a\\\nb"),
        (r"a\", r"a\\"),
    ] {
        let text = metrics.render(|scrape| scrape.gauge(&names::TLS_NOT_AFTER, &[value], 1.0));
        let sample = format!("_seconds{{file=\"{escaped}\"}} 1\n");
        assert_shows(&text, &sample);
    }
}

#[test]
fn values_are_written_as_numbers_of_prometheus() {
    let text = Metrics::default().render(|scrape| {
        let labels = ["orders", "a\\b\"c\nd"];
        scrape.gauge(&names::BACKEND_LAG_SECONDS, &labels, 0.25);
        scrape.gauge(&names::BACKEND_LAG_BYTES, &labels, 3e12);
        scrape.gauge(&names::BACKEND_WEIGHT, &labels, 100.0);
        scrape.counter(&names::BACKEND_CONNECTIONS, &labels, u64::MAX);
    });
    for (name, value) in [
        ("replication_lag_seconds", "0.25"),
        ("replication_lag_bytes", "3000000000000"),
        ("weight", "100"),
        ("connections_total", "18446744073709551615"),
    ] {
        let sample = format!(
            "evergate_backend_{name}{{cluster=\"orders\",backend=\"a\\\\b\\\"c\\nd\"}} {value}\n"
        );
        assert_shows(&text, &sample);
    }
}
