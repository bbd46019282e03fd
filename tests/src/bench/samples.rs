//! Samples of several monitors, taken in turns.

use anyhow::{Context, Result};

use super::{figure::Figure, monitor::Monitor};
use crate::progress;

/// What was measured of each monitor, per name in the order of first measurement. Vireo is the first monitor.
#[derive(Debug, Default)]
pub struct Samples {
    series: Vec<Series>,
}

#[derive(Debug)]
struct Series {
    name: String,
    unit: &'static str,
    monitor: String,
    values: Vec<f64>,
}

/// One measurement.
#[derive(Debug, Clone)]
pub struct Sample {
    /// `group/what`.
    pub name: String,
    /// Of the value.
    pub unit: &'static str,
    /// Lower is better.
    pub value: f64,
}

impl Samples {
    /// Lets each monitor be measured `runs` times, in turns. A first turn fills caches and isn't counted.
    pub fn interleave(
        monitors: &[Monitor],
        runs: usize,
        mut measure: impl FnMut(&Monitor) -> Result<Vec<Sample>>,
    ) -> Result<Self> {
        let mut samples = Self::default();
        for run in 0..=runs {
            let what = if run == 0 { "warming up".to_owned() } else { format!("run {run} of {runs}") };
            progress::step(&what, || {
                for monitor in monitors {
                    let measured = measure(monitor).with_context(|| format!("{}, {what}", monitor.name()))?;
                    progress::note(&format!("{}: {}", monitor.name(), describe(&measured)));
                    if run > 0 {
                        for sample in measured {
                            samples.add(&monitor.name(), sample);
                        }
                    }
                }
                anyhow::Ok(())
            })?;
        }
        Ok(samples)
    }

    /// Counts one more of a monitor's.
    pub fn add(&mut self, monitor: &str, sample: Sample) {
        let known = self.series.iter_mut().find(|series| series.name == sample.name && series.monitor == monitor);
        match known {
            Some(series) => series.values.push(sample.value),
            None => self.series.push(Series {
                name: sample.name,
                unit: sample.unit,
                monitor: monitor.to_owned(),
                values: vec![sample.value],
            }),
        }
    }

    fn of(&self, name: &str, monitor: &str) -> &[f64] {
        let found = self.series.iter().find(|series| series.name == name && series.monitor == monitor);
        found.map_or(&[], |series| &series.values)
    }

    /// Vireo beside each other monitor. `bound` gives the aim for a name and a peer.
    pub fn figures(&self, bound: impl Fn(&str, &str) -> Option<f64>) -> Vec<Figure> {
        let Some(vireo) = self.series.first().map(|series| series.monitor.as_str()) else { return Vec::new() };
        let others = self.series.iter().filter(|series| series.monitor != vireo);
        let beside = |series: &Series| {
            let bound = bound(&series.name, &series.monitor);
            Figure::beside(
                &series.name,
                series.unit,
                self.of(&series.name, vireo),
                (&series.monitor, &series.values),
                bound,
            )
        };
        others.filter_map(beside).collect()
    }

    /// Vireo's values alone.
    pub fn alone(&self, name: &str, unit: &str, bound: Option<f64>) -> Option<Figure> {
        let vireo = self.series.first()?.monitor.as_str();
        Figure::alone(name, unit, self.of(name, vireo), bound)
    }
}

fn describe(samples: &[Sample]) -> String {
    let parts: Vec<String> =
        samples.iter().map(|sample| format!("{} {:.1} {}", sample.name, sample.value, sample.unit)).collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Sample, Samples};
    use crate::bench::monitor::Monitor;

    #[test]
    fn turns_interleave_and_the_first_is_not_counted() {
        let monitors = [Monitor::Vireo(PathBuf::new()), Monitor::Qemu { machine: "microvm", arguments: &[] }];
        let mut order = Vec::new();
        let samples = Samples::interleave(&monitors, 2, |monitor| {
            order.push(monitor.name());
            #[expect(clippy::cast_precision_loss, reason = "a handful")]
            let value = order.len() as f64;
            Ok(vec![Sample { name: "boot/x".to_owned(), unit: "ms", value }])
        });
        let figures =
            samples.unwrap().figures(|name, peer| (name == "boot/x" && peer == "QEMU microvm").then_some(0.5));
        assert_eq!(order.len(), 6);
        assert_eq!(order[..2], ["Vireo", "QEMU microvm"]);
        let [figure] = figures.as_slice() else { panic!("{figures:?}") };
        assert_eq!((figure.vireo, figure.peer, figure.runs, figure.bound), (4.0, Some(5.0), 2, Some(0.5)));
    }
}
