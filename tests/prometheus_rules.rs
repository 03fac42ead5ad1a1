//! The alerts in contrib/prometheus fire when they should.

use std::process::Command;

#[test]
fn alerts_fire_when_they_should() {
    for arguments in [
        ["check", "rules", "contrib/prometheus/alerts.yaml"],
        ["test", "rules", "contrib/prometheus/alerts_test.yaml"],
    ] {
        let output = Command::new("promtool")
            .args(arguments)
            .output()
            .expect("promtool is missing: install the Debian package `prometheus`");
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
}

#[test]
fn alerts_use_metrics_that_exist() {
    let rules = std::fs::read_to_string("contrib/prometheus/alerts.yaml")
        .expect("run from the package root");
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named = rules.split(|c| !is_part(c));
    let mut seen = 0;
    for word in named.filter(|word| word.starts_with("evergate_")) {
        let exists = evergate::metrics::ALL.iter().any(|m| m.name == word);
        assert!(exists, "{word} is no metric");
        seen += 1;
    }
    assert!(seen > 0);
}
