//! What Prometheus reads.

use std::collections::{BTreeMap, BTreeSet};

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::catalogue::ALL;

/// The value of a series, as it is written.
pub(super) fn value(registry: &Registry, series: &str) -> Option<f64> {
    let mut text = String::new();
    encode_registry(&mut text, registry).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

/// What `promtool check metrics` objects to, but for KubeVirt's own sins.
#[test]
fn names_follow_prometheus_rules() {
    /// Counters of KubeVirt's that count nothing.
    const TIMES: &str = "_status_last_transition_timestamp_seconds";
    /// Units that are no base units.
    const ODD: [&str; 7] = ["_ms", "_milliseconds", "_minutes", "_hours", "_kilobytes", "_megabytes", "_percent"];
    let mut names = BTreeSet::new();
    for metric in ALL {
        let name = metric.name;
        assert!(names.insert(name), "{name} twice");
        assert!(name.starts_with("kubevirt_"), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'), "{name}");
        assert!(
            !metric.help.is_empty() && !metric.help.ends_with('.') && !metric.help.contains(['\n', '\\']),
            "{name}"
        );
        let is_counter = matches!(metric.kind, MetricType::Counter);
        assert_eq!(is_counter, name.ends_with("_total") || name.ends_with(TIMES), "{name}");
        assert!(!ODD.iter().any(|unit| name.contains(unit)), "{name}");
        for ending in ["_sum", "_count", "_bucket"] {
            assert!(!name.ends_with(ending), "{name}: that is a histogram's");
        }
        if matches!(metric.kind, MetricType::Histogram) {
            assert!(name.ends_with("_seconds"), "{name}");
        }
    }
}

/// A page, as strictly as Prometheus' own linter reads one: every sample below its metric's head, each series once.
pub(super) fn read(page: &str) -> BTreeMap<String, f64> {
    let (mut helped, mut typed) = (BTreeSet::new(), BTreeSet::new());
    let (mut current, mut kind) = (String::new(), String::new());
    let mut series = BTreeMap::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(helped.insert(name.to_owned()) && help.ends_with('.'), "{line}");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, of) = rest.split_once(' ').unwrap();
            assert!(typed.insert(name.to_owned()) && helped.contains(name), "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&of), "{line}");
            (current, kind) = (name.to_owned(), of.to_owned());
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let plain = name.split('{').next().unwrap();
        let ending = plain.strip_prefix(&current).unwrap_or_else(|| panic!("{line}: below {current}"));
        let endings: &[&str] = if kind == "histogram" { &["_sum", "_count", "_bucket"] } else { &[""] };
        assert!(endings.contains(&ending), "{line}");
        assert!(series.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{line}: twice");
    }
    assert!(page.ends_with('\n') || page.is_empty());
    series
}

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtimeclass/manifests");

/// Rules: what they record or call, and their expressions.
fn rules() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(format!("{MANIFESTS}/prometheus-rules.yaml")).unwrap();
    let manifest: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    let groups = manifest["spec"]["groups"].as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    rules.map(|rule| (text(&rule["record"]) + &text(&rule["alert"]), text(&rule["expr"]))).collect()
}

/// Everything that the dashboard asks for.
fn asked_by_the_dashboard(value: &serde_json::Value, asked: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if ["expr", "definition", "query"].contains(&name.as_str()) => {
                        asked.push(text.to_owned());
                    }
                    _ => asked_by_the_dashboard(value, asked),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| asked_by_the_dashboard(value, asked)),
        _ => {}
    }
}

/// KubeVirt's metrics that an expression names.
fn named(expression: &str) -> impl Iterator<Item = &str> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_' || character == ':';
    let words = expression.split(move |character| !is_part(character));
    words.filter(|word| word.starts_with("kubevirt_") || word.contains(":kubevirt_"))
}

/// An alert about a metric that nobody has is never given.
#[test]
fn rules_and_dashboards_name_what_there_is() {
    let rules = rules();
    let mut there: BTreeSet<String> = rules.iter().map(|(name, _)| name.clone()).collect();
    for metric in ALL {
        match metric.kind {
            MetricType::Histogram => {
                there.extend(["_bucket", "_count", "_sum"].map(|ending| metric.name.to_owned() + ending));
            }
            _ => drop(there.insert(metric.name.to_owned())),
        }
    }
    let mut asked: Vec<_> = rules.iter().map(|(_, expression)| expression.clone()).collect();
    let of_rules = asked.len();
    let dashboard = std::fs::read_to_string(format!("{MANIFESTS}/grafana-dashboard.json")).unwrap();
    asked_by_the_dashboard(&serde_json::from_str(&dashboard).unwrap(), &mut asked);
    assert!(of_rules > 40 && asked.len() > of_rules + 20, "{} {of_rules}", asked.len());
    for expression in &asked {
        assert!(!expression.is_empty());
        for name in named(expression) {
            assert!(there.contains(name), "{name} in {expression}");
        }
    }
}

#[test]
fn everything_is_documented() {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let names = ALL.iter().map(|metric| metric.name.to_owned()).chain(rules().into_iter().map(|(name, _)| name));
    for name in names {
        assert!(docs.contains(&format!("`{name}`")), "{name} isn't in docs/metrics.md");
    }
}
