//! One line of `target/bench.json`.

use serde::{Deserialize, Serialize};

/// A comparison, or a size with an aim of its own. Lower is better in all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// `group/what`, groups being boot, memory and size.
    pub name: String,
    /// Of `vireo` and `peer`.
    pub unit: String,
    /// Median of Vireo's runs.
    pub vireo: f64,
    /// Median of the peer's runs.
    pub peer: Option<f64>,
    /// Who the peer is.
    pub peer_name: Option<String>,
    /// `vireo / peer`.
    pub ratio: Option<f64>,
    /// The aim: for `ratio` if there is one, else for `vireo`.
    pub bound: Option<f64>,
    /// How many runs each median is of.
    pub runs: usize,
    /// Who had to be started anew in between, once for each time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restarted: Vec<String>,
}

impl Figure {
    /// Vireo beside a peer. `None` without samples of both.
    pub fn beside(name: &str, unit: &str, vireo: &[f64], peer: (&str, &[f64]), bound: Option<f64>) -> Option<Self> {
        let (ours, theirs) = (median(vireo)?, median(peer.1)?);
        Some(Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            vireo: ours,
            peer: Some(theirs),
            peer_name: Some(peer.0.to_owned()),
            ratio: (theirs > 0.0).then(|| ours / theirs),
            bound,
            runs: vireo.len().min(peer.1.len()),
            restarted: Vec::new(),
        })
    }

    /// Vireo alone. `None` without samples.
    pub fn alone(name: &str, unit: &str, vireo: &[f64], bound: Option<f64>) -> Option<Self> {
        Some(Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            vireo: median(vireo)?,
            peer: None,
            peer_name: None,
            ratio: None,
            bound,
            runs: vireo.len(),
            restarted: Vec::new(),
        })
    }

    /// Whether the aim is met; `None` without an aim.
    pub fn is_met(&self) -> Option<bool> {
        let measured = self.ratio.unwrap_or(self.vireo);
        self.bound.map(|bound| measured <= bound)
    }
}

/// The middle of the samples; of an even number, the mean of the middle two.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[sorted.len() / 2 - 1], upper) })
}

#[cfg(test)]
mod tests {
    use super::{Figure, median};

    #[test]
    fn a_median_ignores_order_and_outliers() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 1000.0]), Some(9.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_bound_is_on_the_ratio_where_there_is_one() {
        let beside = Figure::beside("boot/x", "ms", &[1.0, 3.0, 2.0], ("QEMU", &[8.0, 8.0]), Some(0.25)).unwrap();
        assert_eq!((beside.vireo, beside.peer, beside.ratio, beside.runs), (2.0, Some(8.0), Some(0.25), 2));
        assert_eq!(beside.is_met(), Some(true));
        let alone = Figure::alone("size/x", "KiB", &[5000.0], Some(4096.0)).unwrap();
        assert_eq!(alone.is_met(), Some(false));
        assert_eq!(Figure::alone("size/x", "KiB", &[5000.0], None).unwrap().is_met(), None);
        assert_eq!(Figure::beside("boot/x", "ms", &[1.0], ("QEMU", &[]), None), None);
    }

    #[test]
    fn the_json_has_the_agreed_fields() {
        let mut figure = Figure::alone("size/vireo-vmm", "KiB", &[5000.0], Some(4096.0)).unwrap();
        let json = serde_json::to_value(&figure).unwrap();
        let expected = serde_json::json!({
            "name": "size/vireo-vmm", "unit": "KiB", "vireo": 5000.0, "peer": null, "peer_name": null, "ratio": null,
            "bound": 4096.0, "runs": 1,
        });
        assert_eq!(json, expected);
        figure.restarted.push("Vireo".to_owned());
        assert_eq!(serde_json::to_value(&figure).unwrap()["restarted"], serde_json::json!(["Vireo"]));
    }
}
