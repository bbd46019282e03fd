//! `install.sh` on folders that stand for a node.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BINARIES: [&str; 3] = ["containerd-shim-vireo-v2", "vireo-vmm", "vireo"];
const BLOCK: &str = "
# BEGIN vireo (install.sh writes and removes these lines)
[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.vireo]
  runtime_type = \"io.containerd.vireo.v2\"
  pod_annotations = [\"vireo.dev/*\", \"k8s.v1.cni.cncf.io/*\", \"sidecar.istio.io/*\"]
  privileged_without_host_devices = true
# END vireo
";

struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    /// A node with this containerd configuration.
    fn new(containerd_config: Option<&str>) -> Self {
        let node = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(node.at("from")).unwrap();
        for name in BINARIES {
            let path = node.at("from").join(name);
            fs::write(&path, name).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        if let Some(text) = containerd_config {
            fs::create_dir_all(node.at("root/etc/containerd")).unwrap();
            fs::write(node.config(), text).unwrap();
        }
        node
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn config(&self) -> PathBuf {
        self.at("root/etc/containerd/config.toml")
    }

    fn install(&self, arguments: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh");
        let mut command = Command::new("sh");
        command.arg(script).arg("--bin").arg(self.at("from")).args(arguments).env("DESTDIR", self.at("root"));
        command.output().unwrap()
    }

    fn installed(&self, arguments: &[&str]) -> String {
        let output = self.install(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Every file below the root.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.at("root")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files.sort();
        files
    }
}

#[test]
fn installs_once_and_leaves_nothing() {
    let config = "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    sandbox_image = \"x\"\n";
    let node = Node::new(Some(config));
    let first = node.installed(&[]);
    assert!(first.contains("restart containerd"), "{first}");
    assert_eq!(fs::read_to_string(node.config()).unwrap(), format!("{config}{BLOCK}"));
    assert_eq!(fs::read_to_string(node.at("root/etc/vireo/config.json")).unwrap(), "{}\n");
    let huge_pages = fs::read_to_string(node.at("root/etc/tmpfiles.d/vireo.conf")).unwrap();
    assert_eq!(huge_pages, "w /sys/kernel/mm/transparent_hugepage/shmem_enabled - - - - advise\n");
    assert_eq!(fs::read_to_string(node.at("root/etc/modules-load.d/vireo.conf")).unwrap(), "tun\nvhost_net\n");
    assert_eq!(node.files().len(), BINARIES.len() + 4);
    let inodes = || node.files().iter().map(|path| fs::metadata(path).unwrap().ino()).collect::<Vec<_>>();
    let before = inodes();

    assert_eq!(node.installed(&[]), "");
    assert_eq!(inodes(), before);

    // A new binary takes the place of the old one, which a running process keeps.
    fs::write(node.at("from/vireo-vmm"), "newer").unwrap();
    assert!(node.installed(&[]).ends_with("vireo-vmm: installed\n"));
    assert_eq!(fs::read_to_string(node.at("root/usr/local/bin/vireo-vmm")).unwrap(), "newer");

    node.installed(&["--uninstall"]);
    assert_eq!(fs::read_to_string(node.config()).unwrap(), config);
    assert_eq!(node.files(), [node.config()]);
    node.installed(&["--uninstall"]);
}

#[test]
fn a_node_without_configuration_gets_one() {
    let node = Node::new(None);
    node.installed(&[]);
    assert_eq!(fs::read_to_string(node.config()).unwrap(), format!("version = 2\n{BLOCK}"));
    assert_eq!(node.installed(&[]), "");
    node.installed(&["--uninstall"]);
    assert_eq!(node.files(), [""; 0].map(PathBuf::from));
}

#[test]
fn every_version_of_the_configuration() {
    for (version, plugin) in
        [(2, "io.containerd.grpc.v1.cri"), (3, "io.containerd.cri.v1.runtime"), (4, "io.containerd.cri.v1.runtime")]
    {
        // No end of line at the end, either.
        let node = Node::new(Some(&format!("# ours\nversion = {version}\nroot = \"/x\"")));
        node.installed(&[]);
        let text = fs::read_to_string(node.config()).unwrap();
        assert!(text.contains("root = \"/x\"\n\n# BEGIN"), "{text}");
        assert!(text.contains(&format!("[plugins.\"{plugin}\".containerd.runtimes.vireo]")), "{text}");
    }
    let node = Node::new(Some("root = \"/x\"\n"));
    let output = node.install(&[]);
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("has version 1; containerd config migrate"));
    assert_eq!(fs::read_to_string(node.config()).unwrap(), "root = \"/x\"\n");
}

#[test]
fn what_an_admin_wrote_stays() {
    let own =
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.vireo]\n  runtime_type = \"x\"\n";
    let node = Node::new(Some(own));
    assert!(node.installed(&[]).contains("has a runtime vireo that is not from here"));
    assert_eq!(fs::read_to_string(node.config()).unwrap(), own);

    let config = node.at("root/etc/vireo/config.json");
    fs::write(&config, "{\"vmm\": \"/x\"}").unwrap();
    node.installed(&[]);
    assert_eq!(fs::read_to_string(&config).unwrap(), "{\"vmm\": \"/x\"}");

    let (kernel, initrd) = (node.at("kernel"), node.at("initrd"));
    fs::write(&kernel, "").unwrap();
    fs::write(&initrd, "").unwrap();
    let names = [kernel.to_str().unwrap(), initrd.to_str().unwrap()];
    node.installed(&["--guest-kernel", names[0], "--guest-initrd", names[1]]);
    let expected = format!("{{\"guestKernel\": \"{}\", \"guestInitrd\": \"{}\"}}\n", names[0], names[1]);
    assert_eq!(fs::read_to_string(&config).unwrap(), expected);
    let read = vireo_shim::node_config::NodeConfig::read(&config).unwrap();
    assert_eq!((read.guest_kernel, read.guest_initrd), (Some(kernel), Some(initrd)));
}

#[test]
fn mistakes_are_named_and_change_nothing() {
    let node = Node::new(None);
    fs::create_dir_all(node.at("root")).unwrap();
    for (arguments, expected) in [
        (&["--nonsense"][..], "unknown argument --nonsense"),
        (&["--guest-kernel"], "--guest-kernel needs a value"),
        (&["--bin", "/none"], "/none/containerd-shim-vireo-v2 is missing"),
    ] {
        let output = node.install(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(expected), "{error}");
        assert_eq!(node.files().len(), 0);
    }
    let output = node.install(&["--guest-kernel", "/none"]);
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("/none is no file"));
}
