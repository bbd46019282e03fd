//! Samples as they are written: labels, values, and the types of metrics that count.
//!
//! Label values are what others wrote, a guest's agent too: they are escaped and bounded here, and nowhere else. A label
//! without a value isn't written, which Prometheus takes for the same.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, EncodeMetric, GaugeValueEncoder, LabelSetEncoder,
    MetricEncoder,
};
use prometheus_client::metrics::{MetricType, TypedMetric};

use super::catalogue::Metric;

/// The longest value of a label, bytes: names of objects have at most 253.
const MAX_VALUE: usize = 256;

/// Labels with their values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Labels<'a>(pub(super) Vec<(&'static str, Cow<'a, str>)>);

impl<'a> Labels<'a> {
    pub(super) fn new<const N: usize>(labels: [(&'static str, &'a str); N]) -> Self {
        Self(labels.into_iter().map(|(name, value)| (name, Cow::Borrowed(value))).collect())
    }

    /// The same, and these.
    pub(super) fn and<const N: usize>(&self, labels: [(&'static str, &'a str); N]) -> Self {
        let more = labels.into_iter().map(|(name, value)| (name, Cow::Borrowed(value)));
        Self(self.0.iter().cloned().chain(more).collect())
    }

    /// The same, for keeps.
    pub(super) fn owned(self) -> Labels<'static> {
        Labels(self.0.into_iter().map(|(name, value)| (name, Cow::Owned(value.into_owned()))).collect())
    }
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        for (name, value) in self.0.iter().filter(|(_, value)| !value.is_empty()) {
            let mut label = encoder.encode_label();
            let mut key = label.encode_label_key()?;
            key.write_str(name)?;
            let mut text = key.encode_label_value()?;
            for character in value[..value.floor_char_boundary(MAX_VALUE)].chars() {
                match character {
                    '\\' => text.write_str("\\\\")?,
                    '"' => text.write_str("\\\"")?,
                    '\n' => text.write_str("\\n")?,
                    other => text.write_char(other)?,
                }
            }
            text.finish()?;
        }
        Ok(())
    }
}

/// The value of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    Whole(i64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        i64::try_from(value).map_or(Self::Real(f64::INFINITY), Self::Whole)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl EncodeGaugeValue for Value {
    fn encode(&self, encoder: &mut GaugeValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => value.encode(encoder),
            Self::Real(value) => value.encode(encoder),
        }
    }
}

/// Writes all samples of a metric; nothing where there are none.
pub(super) fn write<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &Metric,
    samples: impl IntoIterator<Item = (Labels<'a>, Value)>,
) -> fmt::Result {
    let mut samples = samples.into_iter().peekable();
    if samples.peek().is_none() {
        return Ok(());
    }
    let help = format!("{}.", metric.help);
    let mut family = encoder.encode_descriptor(metric.name, &help, None, metric.kind)?;
    for (labels, value) in samples {
        // A counter's sample is written as a gauge's: the library would add to its name what it has already.
        if labels.0.iter().all(|(_, value)| value.is_empty()) {
            family.encode_gauge(&value)?;
        } else {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
    }
    Ok(())
}

/// A counter whose name is whole; clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Total(Arc<AtomicU64>);

impl Total {
    pub(super) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl TypedMetric for Total {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Total {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&Value::from(self.0.load(Ordering::Relaxed)))
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::text::encode_registry;
    use prometheus_client::registry::Registry;

    use super::super::catalogue;
    use super::*;

    #[derive(Debug)]
    struct Hostile;

    impl Collector for Hostile {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            let long = "ä".repeat(MAX_VALUE);
            let samples = [
                (Labels::new([("name", "a\"} 7\nup 1\\"), ("os", "")]), Value::Whole(1)),
                (Labels::new([("name", long.as_str())]), Value::Real(0.5)),
                (Labels::new([("os", "")]), Value::from(u64::MAX)),
            ];
            write(&mut encoder, &catalogue::VM_STARTING, samples)?;
            write(&mut encoder, &catalogue::VM_RUNNING, [])
        }
    }

    #[test]
    fn what_others_wrote_stays_in_its_label() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Hostile));
        let mut text = String::new();
        encode_registry(&mut text, &registry).unwrap();
        let name = catalogue::VM_STARTING.name;
        let lines: Vec<_> = text.lines().skip(1).collect();
        let short = "ä".repeat(MAX_VALUE / 2);
        assert_eq!(
            lines,
            [
                format!("# TYPE {name} counter"),
                format!(r#"{name}{{name="a\"}} 7\nup 1\\"}} 1"#),
                format!(r#"{name}{{name="{short}"}} 0.5"#),
                format!("{name} inf"),
            ]
        );
    }
}
