//! Reads a manifest: one YAML document (JSON is YAML too) with one `VirtualMachine`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vireo_runtimeclass::kubevirt::v1::VirtualMachine;
use vireo_runtimeclass::parse_virtual_machine;

/// No manifest is longer, bytes: more does not fit into etcd.
const MAX_LEN: u64 = 3 << 19;
/// As much of a manifest may be repeated by aliases, in YAML nodes.
const MAX_ALIASED: usize = 10_000;

/// Reads the manifest at `path`.
pub(super) fn read(path: &Path) -> Result<VirtualMachine> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("manifest {name}"))?;
    let mut text = String::new();
    file.take(MAX_LEN + 1).read_to_string(&mut text).with_context(|| format!("manifest {name}"))?;
    ensure!(text.len() as u64 <= MAX_LEN, "manifest {name}: longer than {MAX_LEN} bytes");
    parse(&text).with_context(|| format!("manifest {name}"))
}

fn parse(text: &str) -> Result<VirtualMachine> {
    let options = serde_saphyr::options! {
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIASED },
    };
    let document: Value = serde_saphyr::from_str_with_options(text, options)?;
    Ok(parse_virtual_machine(document)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: &str = "
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: a}
spec:
  runStrategy: Always
  template:
    spec:
      domain:
        memory: {guest: 1.5Gi}
        cpu: {cores: 2}
        devices: {}
";

    #[test]
    fn yaml() {
        let vm = parse(VM).unwrap();
        assert_eq!(vm.metadata.name.as_deref(), Some("a"));
        assert_eq!(vm.spec.template.spec.domain.guest_memory(), Some(3 << 29));
        assert_eq!(vm.spec.template.spec.domain.vcpus(), Some(2));
    }

    #[test]
    fn refusals() {
        let error = parse(&VM.replace("cores", "coars")).unwrap_err().to_string();
        assert_eq!(error, "spec.template.spec.domain.cpu.coars: unknown field");
        assert!(parse("a: [").is_err());
        assert!(parse("").is_err());
        assert!(parse(&format!("{VM}---{VM}")).is_err());
        let laughs = (0..40).fold("a0: &a0 [x]\n".to_owned(), |text, n| {
            format!("{text}a{}: &a{} [{}]\n", n + 1, n + 1, vec![format!("*a{n}"); 10].join(", "))
        });
        assert!(parse(&laughs).is_err());
        let missing = read(Path::new("/none.yaml")).unwrap_err();
        assert!(format!("{missing:#}").starts_with("manifest /none.yaml: No such file"));
        assert!(read(Path::new("/dev/zero")).is_err());
    }
}
