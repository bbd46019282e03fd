//! What a pod mounts reaches the guest: claims as disks of its own, secrets and their like as small disks, keys through its agent.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use vireo_runtimeclass::pod::{PRIVATE_DIR, SERVICE_ACCOUNT_DIR};

use super::{
    Bench, Scenario,
    eventually::LIMIT,
    pod::{PodSpec, vmi},
    shell,
};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::each("what_a_pod_mounts_reaches_the_guest", volumes)];

/// The pod's user, which a VM's container has if nobody says another.
pub(super) const USER: u32 = 107;

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
    let [empty, host] = ["empty", "host"].map(|name| folder.join(name));
    for own in [&empty, &host] {
        fs::create_dir(own)?;
        chown(own, Some(USER), Some(USER))?;
    }
    let secrets = ["files", "answers", "keys", "setup", "account", "self"].map(|name| folder.join(name));
    write(&secrets[1], "1", &[("userdata", "#cloud-config of a secret\n")])?;
    write(&secrets[2], "1", &[("me", "ssh-rsa FIRST me\n")])?;
    write(&secrets[3], "1", &[("autounattend.xml", "<unattend/>\n")])?;
    write(&secrets[4], "1", &[("namespace", "of an account\n"), ("token", "ey.J.x\n")])?;
    write(&secrets[5], "1", &[("labels", "app=\"mine\"\n")])?;

    let mut spec = vmi("");
    spec["domain"]["firmware"]["kernelBoot"]["container"]["initrdPath"] = "/agent/initrd".into();
    let names = ["block", "empty", "config", "files", "drive", "setup", "account", "self", "host"];
    let disks = spec["domain"]["devices"]["disks"].as_array_mut().context("a list")?;
    disks.extend(names.map(|name| json!({"name": name, "disk": {"bus": "virtio"}})));
    spec["volumes"].as_array_mut().context("a list")?.extend([
        json!({"name": "block", "persistentVolumeClaim": {"claimName": "block"}}),
        json!({"name": "empty", "dataVolume": {"name": "empty"}}),
        json!({"name": "config", "configMap": {"name": "files", "volumeLabel": "OEMDRV"}}),
        json!({"name": "files", "secret": {"secretName": "files"}}),
        json!({"name": "drive", "cloudInitConfigDrive": {"secretRef": {"name": "answers"}}}),
        json!({"name": "setup", "sysprep": {"configMap": {"name": "setup"}}}),
        json!({"name": "account", "serviceAccount": {"serviceAccountName": "default"}}),
        json!({"name": "self", "downwardAPI": {"fields": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
        json!({"name": "host", "hostDisk": {"path": "/data/host.img", "type": "DiskOrCreate", "capacity": "4Mi"}}),
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
    pod.annotations
        .insert("vireo.dev/claims".to_owned(), r#"{"empty": {"capacity": "8Mi", "preallocation": true}}"#.to_owned());
    pod.writes = true;
    pod.devices = vec![("/dev/block".to_owned(), device.to_owned())];
    pod.mounts.push((SERVICE_ACCOUNT_DIR.to_owned(), secrets[4].display().to_string()));
    for (place, folder) in [
        ("vmi-disks/empty", &empty),
        ("vmi-disks/host", &host),
        ("sysprep/setup", &secrets[3]),
        ("downwardapi/self", &secrets[5]),
        ("config-map/config", &secrets[0]),
        ("secret/files", &secrets[0]),
        ("secret/drive", &secrets[1]),
        ("secret/keys-access-cred", &secrets[2]),
    ] {
        pod.mounts.push((format!("{PRIVATE_DIR}/{place}"), folder.display().to_string()));
    }
    for (round, greeting) in [("one", "hello"), ("two", "servus")] {
        write(&secrets[0], round, &[("greeting", greeting), (".dotted", "file")])?;
        let pod = bench.boot(pod.clone())?;
        let mut console = pod.attach(bench)?;
        // The agent finds its user here, and what sets passwords.
        console.send("mkdir -p /etc /root; echo root:x:0:0:root:/root:/bin/sh > /etc/passwd\n")?;
        console.send(
            "rm -f /bin/chpasswd; printf '#!/bin/sh\\ncat > /password\\n' > /bin/chpasswd; chmod 755 /bin/chpasswd\n",
        )?;
        console
            .send("/agent/start; for d in vdb vdd vde vdf vdg vdh vdi; do mkdir -p /$d; mount /dev/$d /$d; done\n")?;
        console.send("tr a-z A-Z < /vdb/etc/vireo-disk; cat /sys/block/vdc/size; cat /vdb/kept /vdd/greeting /vde/.dotted; echo\n")?;
        console.wait_for("THE FAST GUEST'S DISK", LIMIT)?;
        console.wait_for("16384", LIMIT)?;
        if round == "two" {
            console.wait_for("kept in the claim", LIMIT)?;
        }
        console.wait_for(&format!("{greeting}file"), LIMIT)?;
        console.send("label() { dd if=/dev/$1 bs=1 skip=32808 count=32 2> /dev/null; }\n")?;
        console
            .send("cat /vdf/openstack/latest/* /sys/block/vde/serial; label vdd; label vdf; echo read $((1 + 1))\n")?;
        let seen = console.wait_for("read 2", LIMIT)?;
        for word in ["#cloud-config of a secret", "\"0\":\"ssh-rsa FIRST me\"", "OEMDRV", "config-2", "files"] {
            ensure!(seen.contains(word), "no {word} in {seen}");
        }
        console.send("head -c 16 /dev/vdj; cat /vd[ghi]/*; cat /sys/block/vd[gj]/serial /sys/block/vdj/size\n")?;
        console.send("label vdg; echo read $((2 + 2))\n")?;
        let seen = console.wait_for("read 4", LIMIT)?;
        for word in ["<unattend/>", "unattendCD", "of an account", "ey.J.x", "app=\"mine\"", "setup8192"] {
            ensure!(seen.contains(word), "no {word} in {seen}");
        }
        ensure!(round == "one" || seen.contains("kept on the node"), "{seen}");
        // What the kubelet changes under a running machine is the next one's.
        write(&secrets[0], "meanwhile", &[("greeting", "changed")])?;
        console.send("echo 3 > /proc/sys/vm/drop_caches; cat /vdd/greeting; echo = read $((3 + 2))\n")?;
        console.wait_for(&format!("{greeting}= read 5"), LIMIT)?;
        console.send("echo kept on the node > /dev/vdj; echo kept in the claim > /vdb/kept; umount /vdb; sync\n")?;
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
        let image = fs::metadata(empty.join("disk.img"))?;
        ensure!(image.len() == 8 << 20, "the claim's image is of its size");
        ensure!(image.blocks() * 512 >= image.len(), "its space is taken: {} blocks", image.blocks());
    }
    Ok(())
}

/// Puts a version of a secret in the place of the one before, as the kubelet does.
pub(super) fn write(folder: &Path, version: &str, files: &[(&str, &str)]) -> Result<()> {
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
