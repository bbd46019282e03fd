//! Load in guests: disks, network, vsock.
//!
//! Vireo's guest and QEMU's are up side by side, each with disks, taps and a context id of its own, and idle but for their turn:
//! row by row, run by run they are asked for the same load (`tests/load`) and say what a unit of it took.
//!
//! - [`rows`]: what is asked for. [`rig`]: the node's side of it, [`networks`] its networks. [`host`]: the host's end of connections.

mod host;
mod networks;
mod rig;
mod rows;

use std::path::Path;

use anyhow::{Context, Result};

use super::{figure::Figure, samples::Samples};
use crate::progress;
use rig::{Rig, Subject};
use rows::{Row, rows};

/// Runs every row that has `only` in its name, or one of several with commas between. `share` is the node's `/vireo`.
pub fn run(share: &Path, runs: usize, only: Option<&str>) -> Result<Vec<Figure>> {
    let rows: Vec<Row> =
        rows().filter(|row| only.is_none_or(|only| only.split(',').any(|part| row.name.contains(part)))).collect();
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut rig = progress::step("guests for load", || Rig::start(share))?;
    let mut samples = Samples::default();
    for row in &rows {
        progress::step(&row.name, || one(&mut rig, row, runs, &mut samples))?;
    }
    let mut figures = samples.figures(|name, _| rows.iter().find(|row| row.name == name).map(|row| row.bound));
    for figure in &mut figures {
        let in_it = rig.restarted.iter().filter(|(row, _)| *row == figure.name);
        figure.restarted = in_it.map(|(_, subject)| subject.name().to_owned()).collect();
    }
    Ok(figures)
}

/// A first turn fills caches and isn't counted.
fn one(rig: &mut Rig, row: &Row, runs: usize, samples: &mut Samples) -> Result<()> {
    for run in 0..=runs {
        let mut said = Vec::new();
        for subject in [Subject::Vireo, Subject::Qemu] {
            let name = subject.name();
            let sample = rig.measure(subject, row).with_context(|| format!("{name}, {}", row.name))?;
            said.push(format!("{name} {:.1} {}", sample.value, sample.unit));
            if run > 0 {
                samples.add(name, sample);
            }
        }
        progress::note(&said.join(", "));
    }
    Ok(())
}
