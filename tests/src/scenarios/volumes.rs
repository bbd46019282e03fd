//! What a pod mounts reaches the guest: claims as disks of its own, secrets and their like as small disks, keys through its agent.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{
    Bench, Scenario,
    eventually::LIMIT,
    pod::{PodSpec, vmi},
    shell,
};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::each("what_a_pod_mounts_reaches_the_guest", volumes)];

const PRIVATE: &str = "/var/run/kubevirt-private";
/// The pod's user, which a VM's container has if nobody says another.
const USER: u32 = 107;

fn volumes(bench: &mut Bench) -> Result<()> {
    let folder = tempfile::tempdir_in("/run")?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
    let image = folder.path().join("block.img");
    fs::copy("/vireo/guest/disk.img", &image)?;
    shell::output(["modprobe", "loop"])?;
    let image = image.to_str().context("a path")?;
    let device = shell::output(["losetup", "--find", "--show", image])?.trim().to_owned();
    let result = with_device(bench, folder.path(), &device);
    shell::output(["losetup", "--detach", &device])?;
    result
}

fn with_device(bench: &mut Bench, folder: &Path, device: &str) -> Result<()> {
    let empty = folder.join("empty");
    fs::create_dir(&empty)?;
    chown(&empty, Some(USER), Some(USER))?;
    let secrets = ["files", "answers", "keys"].map(|name| folder.join(name));
    write(&secrets[0], "1", &[("greeting", "hello"), (".dotted", "file")])?;
    write(&secrets[1], "1", &[("userdata", "#cloud-config of a secret\n")])?;
    write(&secrets[2], "1", &[("me", "ssh-rsa FIRST me\n")])?;

    let mut spec = vmi("");
    spec["domain"]["firmware"]["kernelBoot"]["container"]["initrdPath"] = "/agent/initrd".into();
    let names = ["block", "empty", "config", "files", "drive"];
    let disks = spec["domain"]["devices"]["disks"].as_array_mut().context("a list")?;
    disks.extend(names.map(|name| json!({"name": name, "disk": {"bus": "virtio"}})));
    spec["volumes"].as_array_mut().context("a list")?.extend([
        json!({"name": "block", "persistentVolumeClaim": {"claimName": "block"}}),
        json!({"name": "empty", "dataVolume": {"name": "empty"}}),
        json!({"name": "config", "configMap": {"name": "files", "volumeLabel": "OEMDRV"}}),
        json!({"name": "files", "secret": {"secretName": "files"}}),
        json!({"name": "drive", "cloudInitConfigDrive": {"secretRef": {"name": "answers"}}}),
    ]);
    let way = json!({"qemuGuestAgent": {"users": ["root"]}});
    let drive = json!({"configDrive": {}});
    let source = json!({"secret": {"secretName": "keys"}});
    spec["accessCredentials"] = json!([
        {"sshPublicKey": {"source": source, "propagationMethod": way}},
        {"sshPublicKey": {"source": source, "propagationMethod": drive}},
        {"userPassword": {"source": source, "propagationMethod": {"qemuGuestAgent": {}}}},
    ]);
    let mut pod = PodSpec::described(&spec);
    pod.annotations.insert("vireo.dev/claims".to_owned(), r#"{"empty": {"capacity": "8Mi"}}"#.to_owned());
    pod.writes = true;
    pod.devices = vec![("/dev/block".to_owned(), device.to_owned())];
    for (place, folder) in [
        ("vmi-disks/empty", &empty),
        ("config-map/config", &secrets[0]),
        ("secret/files", &secrets[0]),
        ("secret/drive", &secrets[1]),
        ("secret/keys-access-cred", &secrets[2]),
    ] {
        pod.mounts.push((format!("{PRIVATE}/{place}"), folder.display().to_string()));
    }
    for round in ["one", "two"] {
        let pod = bench.boot(pod.clone())?;
        let mut console = pod.attach(bench)?;
        // The agent finds its user here, and what sets passwords.
        console.send("mkdir -p /etc /root; echo root:x:0:0:root:/root:/bin/sh > /etc/passwd\n")?;
        console.send(
            "rm -f /bin/chpasswd; printf '#!/bin/sh\\ncat > /password\\n' > /bin/chpasswd; chmod 755 /bin/chpasswd\n",
        )?;
        console.send("/agent/start; for d in vdb vdd vde vdf; do mkdir -p /$d; mount /dev/$d /$d; done\n")?;
        console.send("tr a-z A-Z < /vdb/etc/vireo-disk; cat /sys/block/vdc/size; cat /vdb/kept /vdd/greeting /vde/.dotted; echo\n")?;
        console.wait_for("THE FAST GUEST'S DISK", LIMIT)?;
        console.wait_for("16384", LIMIT)?;
        if round == "two" {
            console.wait_for("kept in the claim", LIMIT)?;
        }
        console.wait_for("hellofile", LIMIT)?;
        console.send("label() { dd if=/dev/$1 bs=1 skip=32808 count=32 2> /dev/null; }\n")?;
        console
            .send("cat /vdf/openstack/latest/* /sys/block/vde/serial; label vdd; label vdf; echo read $((1 + 1))\n")?;
        let seen = console.wait_for("read 2", LIMIT)?;
        for word in ["#cloud-config of a secret", "\"0\":\"ssh-rsa FIRST me\"", "OEMDRV", "config-2", "files"] {
            ensure!(seen.contains(word), "no {word} in {seen}");
        }
        console.send("echo kept in the claim > /vdb/kept; umount /vdb\n")?;
        let keys = |word: &str| {
            format!("until grep {word} /root/.ssh/authorized_keys; do sleep 1; done; echo saw $((2 + 1))\n")
        };
        if round == "one" {
            console.send(&keys("FIRST"))?;
            console.wait_for("saw 3", LIMIT)?;
            console.send("until [ -s /password ]; do sleep 1; done; cat /password; echo told $((2 + 2))\n")?;
            let password = console.wait_for("told 4", LIMIT)?;
            ensure!(password.contains("me:ssh-rsa FIRST me"), "{password}");
            write(&secrets[2], "2", &[("me", "ssh-rsa SECOND me\n")])?;
            console.send(&keys("SECOND"))?;
            console.wait_for("saw 3", LIMIT)?;
            console.send("grep -c ssh-rsa /root/.ssh/authorized_keys; echo counted $((4 + 1))\n")?;
            ensure!(console.wait_for("counted 5", LIMIT)?.contains("\n1\r"), "the first key is gone");
            write(&secrets[2], "3", &[("me", "ssh-rsa FIRST me\n")])?;
        }
        pod.remove(bench)?;
        ensure!(fs::metadata(empty.join("disk.img"))?.len() == 8 << 20, "the claim's image is of its size");
    }
    Ok(())
}

/// Puts a version of a secret in the place of the one before, as the kubelet does.
fn write(folder: &Path, version: &str, files: &[(&str, &str)]) -> Result<()> {
    let new = folder.join(format!("..{version}"));
    fs::create_dir_all(&new)?;
    for path in [folder, &new] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    for (name, content) in files {
        fs::write(new.join(name), content)?;
    }
    symlink(format!("..{version}"), folder.join("..data_tmp"))?;
    Ok(fs::rename(folder.join("..data_tmp"), folder.join("..data"))?)
}
