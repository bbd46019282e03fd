//! What can't run is refused with one clear error, where the user sees it.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use vireo_runtimeclass::pod::{DESCRIBED, SECRETS_DIR};

use super::{
    Bench, Scenario,
    pod::{PodSpec, vmi},
    shell,
};
use crate::{
    archive::{oci::Image, tar::Tar},
    guest::BLANK_QCOW2,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::each("malformed_annotation_is_refused", malformed_annotation),
    Scenario::each("annotation_that_got_lost_is_refused", lost_annotation),
    Scenario::each("unknown_field_is_refused", unknown_field),
    Scenario::each("absurd_sizes_are_refused", absurd_sizes),
    Scenario::once("networks_that_clash_are_refused", clashes),
    Scenario::each("cpu_that_the_node_lacks_is_refused", no_such_cpu),
    Scenario::each("kernel_that_is_none_is_refused", no_kernel),
    Scenario::each("image_without_a_disk_is_refused", no_disk),
    Scenario::each("image_with_two_disks_is_refused", two_disks),
    Scenario::each("disk_that_is_no_file_is_refused", odd_disks),
    Scenario::once("image_that_names_a_file_of_the_node_is_refused", backing_file),
    Scenario::once("secret_that_can_t_be_read_is_refused", unreadable_secret),
    Scenario::once("long_answers_to_cloud_init_are_refused", long_cloud_init),
    Scenario::each("node_without_kvm_is_refused", no_kvm),
];

/// Runs a pod that must be refused; the error has each of `words` in it.
fn refused(bench: &mut Bench, spec: PodSpec, words: &[&str]) -> Result<()> {
    let mut pod = bench.pod(spec)?;
    let result = pod.create(bench).and_then(|()| pod.start(bench));
    let Err(error) = result else { bail!("it was taken, though {words:?} is expected") };
    let text = error.message();
    for word in words {
        ensure!(text.contains(word), "the error does not say {word:?}: {text}");
    }
    ensure!(!text.trim().contains('\n'), "the error has more than one line: {text}");
    pod.remove(bench)
}

fn malformed_annotation(bench: &mut Bench) -> Result<()> {
    let mut spec = PodSpec::guest();
    spec.annotations.insert("vireo.dev/vmi".to_owned(), "{\"domain\": ".to_owned());
    refused(bench, spec, &["vireo.dev/vmi"])
}

/// The node's containerd has the runtime, but not its `pod_annotations`.
fn lost_annotation(bench: &mut Bench) -> Result<()> {
    let lost = || PodSpec { handler: "without-annotations".to_owned(), ..PodSpec::described(&vmi("")) };
    let words = ["annotation vireo.dev/vmi has not reached", "node-setup/install.sh"];
    let (name, value) = DESCRIBED;
    let environment = vec![(name.to_owned(), value.to_owned())];
    refused(bench, PodSpec { environment, ..lost() }, &words)?;
    let mounts = vec![(format!("{SECRETS_DIR}/answers"), "/etc/containerd".to_owned())];
    refused(bench, PodSpec { mounts, ..lost() }, &words)
}

fn unknown_field(bench: &mut Bench) -> Result<()> {
    let mut spec = vmi("");
    spec["domain"]["devices"]["sound"] = json!({"name": "audio"});
    refused(bench, PodSpec::described(&spec), &["domain.devices.sound"])?;
    let mut spec = vmi("");
    spec["domain"]["cpus"] = 1.into();
    refused(bench, PodSpec::described(&spec), &["domain.cpus"])
}

fn absurd_sizes(bench: &mut Bench) -> Result<()> {
    let cases: [(&str, Value, &str); 5] = [
        ("/domain/cpu/cores", 0.into(), "domain.cpu"),
        ("/domain/cpu/cores", 100_000.into(), "cpu"),
        ("/domain/memory/guest", "0".into(), "memory"),
        ("/domain/memory/guest", "12Pi".into(), "memory"),
        ("/domain/memory/guest", "much".into(), "memory"),
    ];
    for (path, value, word) in cases {
        let mut spec = vmi("");
        *spec.pointer_mut(path).context("the spec has the field")? = value.clone();
        refused(bench, PodSpec::described(&spec), &[word]).with_context(|| format!("{path} = {value}"))?;
    }
    Ok(())
}

fn clashes(bench: &mut Bench) -> Result<()> {
    let interfaces = "/domain/devices/interfaces";
    let cases: [(&str, Value, &[&str]); 5] = [
        (
            interfaces,
            json!([{"name": "default", "masquerade": {}, "ports": [{"port": 70000}]}]),
            &["interfaces[0].ports[0].port: 70000"],
        ),
        (
            interfaces,
            json!([
                {"name": "default", "masquerade": {}, "macAddress": "02:00:00:00:00:01"},
                {"name": "red", "bridge": {}, "macAddress": "02:00:00:00:00:01"},
            ]),
            &["interfaces[1].macAddress: is the address of domain.devices.interfaces[0] already"],
        ),
        ("/networks/0/pod", json!({"vmNetworkCIDR": "10.88.7.0/24"}), &["10.88.7.0/24", "vmNetworkCIDR"]),
        ("/networks/0/pod", json!({"vmIPv6NetworkCIDR": "fd00:88::/120"}), &["fd00:88::/120", "vmIPv6NetworkCIDR"]),
        ("/networks/0", json!({"name": "default", "multus": {"networkName": "red"}}), &["masquerade"]),
    ];
    for (path, value, words) in cases {
        let mut spec = vmi("");
        spec["networks"] = json!([{"name": "default", "pod": {}}]);
        *spec.pointer_mut(path).context("the spec has the field")? = value.clone();
        refused(bench, PodSpec::described(&spec), words).with_context(|| format!("{path} = {value}"))?;
    }
    // It is well said, but nobody has attached it.
    let mut spec = vmi("");
    spec["domain"]["devices"]["interfaces"][0] = json!({"name": "default", "bridge": {}});
    spec["networks"][0] = json!({"name": "default", "multus": {"networkName": "red"}});
    refused(bench, PodSpec::described(&spec), &["the pod has no interface pod", "networks"])
}

fn no_such_cpu(bench: &mut Bench) -> Result<()> {
    let cases = [
        (json!({"model": "Pentium-7"}), "spec.domain.cpu.model: \"Pentium-7\" is not a CPU model"),
        (
            json!({"features": [{"name": "avx512-4vnniw"}]}),
            "spec.domain.cpu.features[0]: \"avx512-4vnniw\" is required",
        ),
        (json!({"dedicatedCpuPlacement": true}), "spec.domain.cpu.dedicatedCpuPlacement: the container has 0 CPUs"),
    ];
    for (cpu, words) in cases {
        let mut spec = vmi("");
        spec["domain"]["cpu"] = cpu;
        refused(bench, PodSpec::described(&spec), &[words])?;
    }
    Ok(())
}

fn no_kernel(bench: &mut Bench) -> Result<()> {
    let field = "firmware.kernelBoot.container.kernelPath: ";
    let cases = [
        ("/boot/nothing", [field, "/boot/nothing"]),
        ("/boot", [field, "directory"]),
        ("/boot/initrd.img", ["kernel: ", "neither a bzImage nor an ELF file"]),
    ];
    for (path, words) in cases {
        let mut spec = vmi("");
        spec["domain"]["firmware"]["kernelBoot"]["container"]["kernelPath"] = path.into();
        refused(bench, PodSpec::described(&spec), &words)?;
    }
    Ok(())
}

/// A pod whose image has this layer.
fn with_image(bench: &mut Bench, layer: Tar, words: &[&str]) -> Result<()> {
    const NAME: &str = "docker.io/library/odd:1";
    let file = "/run/odd-image.tar";
    fs::write(file, Image { reference: NAME, entrypoint: &[], command: &["/none"], layer }.pack())?;
    shell::output(["ctr", "-n", "k8s.io", "images", "import", file])?;
    fs::remove_file(file)?;
    let result = refused(bench, PodSpec { image: NAME.to_owned(), ..PodSpec::container_disk() }, words);
    shell::output(["ctr", "-n", "k8s.io", "images", "rm", "--sync", NAME])?;
    result
}

fn no_disk(bench: &mut Bench) -> Result<()> {
    let mut layer = Tar::default();
    layer.directory("etc");
    with_image(bench, layer, &["/disk"])
}

fn two_disks(bench: &mut Bench) -> Result<()> {
    let mut layer = Tar::default();
    layer.directory("disk");
    layer.file("disk/one.img", 0o644, &[0; 4096]);
    layer.file("disk/two.img", 0o644, &[0; 4096]);
    with_image(bench, layer, &["/disk", "2"])
}

fn odd_disks(bench: &mut Bench) -> Result<()> {
    const IMAGE: &str = "disk/disk.img";
    for word in ["directory", "symbolic link", "FIFO", "character device", "block device", "empty"] {
        let mut layer = Tar::default();
        layer.directory("disk");
        match word {
            "directory" => layer.directory(IMAGE),
            "symbolic link" => layer.symlink(IMAGE, "/etc/passwd"),
            "FIFO" => layer.fifo(IMAGE),
            "character device" => layer.char_device(IMAGE, 1, 5),
            "block device" => layer.block_device(IMAGE, 254, 0),
            _ => layer.file(IMAGE, 0o644, &[]),
        }
        with_image(bench, layer, &[word]).with_context(|| format!("disk image: {word}"))?;
    }
    Ok(())
}

fn backing_file(bench: &mut Bench) -> Result<()> {
    const FILE: &[u8] = b"/etc/shadow";
    let mut image = fs::read(format!("/vireo/guest/{BLANK_QCOW2}"))?;
    // docs/interop/qcow2.txt: where its name is, and how long that is; here behind all that the header has.
    let at = 4096;
    image[8..16].copy_from_slice(&(at as u64).to_be_bytes());
    image[16..20].copy_from_slice(&u32::try_from(FILE.len())?.to_be_bytes());
    image[at..at + FILE.len()].copy_from_slice(FILE);
    let mut layer = Tar::default();
    layer.directory("disk");
    layer.file("disk/disk.qcow2", 0o644, &image);
    with_image(bench, layer, &["backing file \"/etc/shadow\" refused"])
}

fn with_volume(volume: &Value) -> Value {
    let mut spec = vmi("");
    spec["volumes"] = json!([spec["volumes"][0], volume]);
    spec
}

fn unreadable_secret(bench: &mut Bench) -> Result<()> {
    let folder = tempfile::tempdir_in("/run")?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let file = folder.path().join("password");
    fs::write(&file, "the node's own")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let mounted = |spec: &Value, place: &str| {
        let mounts = vec![(format!("{SECRETS_DIR}/{place}"), folder.path().display().to_string())];
        PodSpec { mounts, ..PodSpec::described(spec) }
    };
    let spec = with_volume(&json!({"name": "files", "secret": {"secretName": "files"}}));
    refused(bench, mounted(&spec, "files"), &["spec.volumes[1].secret", "password", "Permission denied"])?;
    // Nobody has mounted it.
    refused(bench, mounted(&spec, "others"), &["spec.volumes[1].secret", "is not mounted at"])?;
    let mut spec = vmi("");
    let source = json!({"secret": {"secretName": "keys"}});
    spec["accessCredentials"] =
        json!([{"userPassword": {"source": source, "propagationMethod": {"qemuGuestAgent": {}}}}]);
    refused(bench, mounted(&spec, "keys-access-cred"), &["accessCredentials[0]", "password", "Permission denied"])
}

fn long_cloud_init(bench: &mut Bench) -> Result<()> {
    let (folder, long) = (tempfile::tempdir_in("/run")?, "x".repeat(2049));
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    fs::write(folder.path().join("userdata"), long.repeat(512))?;
    let cases = [
        (json!({"userData": long}), "cloudInitNoCloud.userData: 2049 bytes; at most 2048"),
        (json!({"secretRef": {"name": "answers"}}), "cloudInitNoCloud.secretRef: the secret mounted at"),
    ];
    for (seed, words) in cases {
        let spec = with_volume(&json!({"name": "seed", "cloudInitNoCloud": seed}));
        let mounts = vec![(format!("{SECRETS_DIR}/seed"), folder.path().display().to_string())];
        refused(bench, PodSpec { mounts, ..PodSpec::described(&spec) }, &[words])?;
    }
    Ok(())
}

fn no_kvm(bench: &mut Bench) -> Result<()> {
    let (here, away) = (Path::new("/dev/kvm"), Path::new("/dev/kvm.away"));
    fs::rename(here, away)?;
    let result = refused(bench, PodSpec::guest(), &["/dev/kvm"]);
    fs::rename(away, here)?;
    result
}
