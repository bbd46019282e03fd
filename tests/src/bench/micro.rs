//! The VMM's own micro-benches (criterion, `vmm/benches`), run here and read back from what criterion keeps.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::figure::Figure;
use crate::progress;

/// Short: what is told is the order of magnitude.
const OPTIONS: [&str; 6] = ["--warm-up-time", "0.5", "--measurement-time", "1", "--sample-size", "20"];

/// Runs them; criterion keeps its data in `folder`, which is replaced.
pub fn run(folder: &Path) -> Result<Vec<Figure>> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    progress::step("micro-benches of the VMM", || {
        let mut command = Command::new("cargo");
        command.args(["bench", "--package", "vireo-vmm", "--bench", "*", "--"]).args(OPTIONS);
        let output = command.env("CRITERION_HOME", folder).stdin(Stdio::null()).output().context("run cargo bench")?;
        ensure!(output.status.success(), "cargo bench: {}", String::from_utf8_lossy(&output.stderr));
        read(folder)
    })
}

/// A figure for each `<name>/new/estimates.json` below a folder.
fn read(folder: &Path) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let estimates = next.join("new/estimates.json");
        if estimates.is_file() {
            let name = next.strip_prefix(folder)?.display().to_string().replace(", ", "_").replace(' ', "_");
            let content: Value = serde_json::from_slice(&fs::read(&estimates)?)?;
            let median = content["median"]["point_estimate"].as_f64();
            let median = median.with_context(|| format!("{}: no median", estimates.display()))?;
            figures.extend(Figure::alone(&format!("micro/{name}"), "ns", &[median], None));
            continue;
        }
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    figures.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use std::fs;

    #[test]
    fn medians_are_found_below_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for (name, median) in [("queue/drain and parse, all", 17.5), ("raw/read/4096", 400.0)] {
            let new = folder.path().join(name).join("new");
            fs::create_dir_all(&new).unwrap();
            fs::write(new.join("estimates.json"), format!(r#"{{"median": {{"point_estimate": {median}}}}}"#)).unwrap();
        }
        let figures = super::read(folder.path()).unwrap();
        let told: Vec<_> = figures.iter().map(|figure| (figure.name.as_str(), figure.vireo)).collect();
        assert_eq!(told, [("micro/queue/drain_and_parse_all", 17.5), ("micro/raw/read/4096", 400.0)]);
    }
}
