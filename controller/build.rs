//! Turns the manifests that the operator applies into JSON: the binary needs no YAML.

use std::path::Path;
use std::{env, fs};

use serde_json::Value;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let manifests = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../runtimeclass/manifests");
    let crds = manifests.join("crds");
    println!("cargo::rerun-if-changed={}", manifests.display());
    let mut files = fs::read_dir(&crds)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, std::io::Error>>()?;
    files.sort();
    let all = files.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    let out = env::var("OUT_DIR")?;
    fs::write(Path::new(&out).join("crds.json"), serde_json::to_string(&all)?)?;
    let rules = read(&manifests.join("prometheus-rules.yaml"))?;
    fs::write(Path::new(&out).join("prometheus-rules.json"), rules.to_string())?;
    let class = read(&manifests.join("runtimeclass.yaml"))?;
    fs::write(Path::new(&out).join("runtimeclass.json"), class.to_string())?;
    Ok(())
}

fn read(file: &Path) -> Result<Value, Box<dyn std::error::Error>> {
    Ok(serde_saphyr::from_str(&fs::read_to_string(file)?)?)
}
