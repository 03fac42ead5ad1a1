//! `http.outlier` of a cluster: when the answers of a backend eject it.

use crate::config::OutlierConfig;
use crate::config::reader::Reader;
use crate::config::resolve::cluster::narrow;
use crate::config::source::Sources;
use crate::config::values;
use crate::config::values::Wrong;

/// What may eject; with all of them off nothing does.
const CAUSES: [&str; 4] = [
    "consecutive_5xx",
    "consecutive_gateway",
    "success_rate_factor",
    "latency_factor",
];

pub(super) fn read(
    sources: &mut Sources,
    http: &mut Reader<'_>,
    backends: usize,
) -> Option<OutlierConfig> {
    let mut outlier = http.switched_section(sources, "outlier")?;
    let errors = sources.count_errors();
    let config = OutlierConfig {
        consecutive_5xx: count(sources, &mut outlier, "consecutive_5xx"),
        consecutive_gateway: count(sources, &mut outlier, "consecutive_gateway"),
        success_rate_factor: ratio(sources, &mut outlier, "success_rate_factor"),
        latency_factor: ratio(sources, &mut outlier, "latency_factor"),
        min_requests: count(sources, &mut outlier, "min_requests"),
        min_backends: count(sources, &mut outlier, "min_backends") as usize,
        interval: outlier.duration(sources, "interval"),
        base_ejection: outlier.duration(sources, "base_ejection"),
        max_ejection: outlier.duration(sources, "max_ejection"),
        max_ejected: ratio(sources, &mut outlier, "max_ejected"),
    };
    // A wrong value reads as zero, from which nothing follows.
    if sources.count_errors() == errors {
        refuse_contradictions(sources, &outlier, &config);
        refuse_unreachable(sources, &outlier, &config, backends);
    }
    http.attach("outlier", outlier);
    Some(config)
}

fn count(sources: &mut Sources, outlier: &mut Reader<'_>, name: &'static str) -> u32 {
    outlier.count(sources, name).map_or(0, narrow)
}

fn ratio(sources: &mut Sources, outlier: &mut Reader<'_>, name: &'static str) -> f64 {
    outlier.ratio(sources, name).unwrap_or_default()
}

fn refuse_contradictions(sources: &mut Sources, outlier: &Reader<'_>, config: &OutlierConfig) {
    let (base, max) = (config.base_ejection, config.max_ejection);
    if base > max {
        let (base, max) = (values::show_duration(base), values::show_duration(max));
        let message = format!("`base_ejection` {base} is longer than `max_ejection` {max}");
        let help = "shorten `base_ejection`, or lengthen `max_ejection`";
        let key = match outlier.entry("base_ejection") {
            Some(_) => "base_ejection",
            None => "max_ejection",
        };
        sources.error(outlier.place(key), Wrong::new(message, help));
    }
    if config.latency_factor > 0.0 && config.latency_factor <= 1.0 {
        let message = "with this `latency_factor` a backend as fast as the others is ejected";
        let help = "write a factor above 1, as in `5`, or 0 for never";
        let at = outlier.place("latency_factor");
        sources.error(at, Wrong::new(message, help));
    }
    let is_on = [
        config.consecutive_5xx > 0,
        config.consecutive_gateway > 0,
        config.success_rate_factor > 0.0,
        config.latency_factor > 0.0,
    ];
    if !is_on.contains(&true) {
        let message = "everything that could eject a backend is switched off";
        let help = format!("remove `outlier`, or raise one of {}", CAUSES.join(", "));
        sources.error(outlier.at, Wrong::new(message, help));
    }
}

/// Limits that so few backends never reach.
fn refuse_unreachable(
    sources: &mut Sources,
    outlier: &Reader<'_>,
    config: &OutlierConfig,
    backends: usize,
) {
    if backends == 1 {
        let message = "`outlier` never ejects the only backend";
        sources.error(
            outlier.at,
            Wrong::new(message, "remove it, or add a backend"),
        );
        return;
    }
    if let Some(entry) = outlier.entry("min_backends")
        && config.min_backends > backends
    {
        let message = format!("`min_backends` is more than the {backends} that there are");
        let help = "lower it: with fewer none is compared with the others";
        sources.error(entry.key_at, Wrong::new(message, help));
    }
}
