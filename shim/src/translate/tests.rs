use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};

use serde_json::{Value, json};
use vireo_runtimeclass::parse_vmi;
use vireo_vmm::config::{
    BlockSize, BootConfig, BootDevice, CacheMode, ConsoleKind, CpuModel, ErrorPolicy, FirmwareConfig, HugePageSize,
    ImageFormat, TopologyConfig,
};

use super::*;

/// A container's image and OCI spec, and what else a machine is made from.
struct Pod {
    dir: tempfile::TempDir,
    oci: Value,
    node: NodeConfig,
    nic: bool,
    limits: RateLimits,
    claims: Claims,
    hostname: Option<&'static str>,
}

impl Pod {
    /// An image with the files `names`, each holding its own name, in a container without limits.
    fn new(names: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let oci = json!({"ociVersion": "1.1.0", "process": {"cwd": "/", "user": {"uid": 1000, "gid": 1001}}});
        Self {
            dir,
            oci,
            node: NodeConfig::default(),
            nic: false,
            limits: RateLimits::default(),
            claims: Claims::default(),
            hostname: None,
        }
    }

    fn limits(mut self, memory: u64, quota: i64, period: u64) -> Self {
        let cpu = json!({"quota": quota, "period": period});
        self.oci["linux"] = json!({"resources": {"memory": {"limit": memory}, "cpu": cpu}});
        self
    }

    fn translate(&self, spec: Option<&Value>) -> Result<LaunchPlan, TranslateError> {
        self.translate_on(null(), spec)
    }

    fn translate_on(&self, kvm: File, spec: Option<&Value>) -> Result<LaunchPlan, TranslateError> {
        let oci: Spec = serde_json::from_value(self.oci.clone()).unwrap();
        let spec = spec.map(|spec| parse_vmi(&spec.to_string()).unwrap());
        let place = Place::Pod { oci: &oci, rootfs: self.dir.path(), claims: &self.claims };
        compose(self.source(spec.as_ref(), place), kvm)
    }

    fn source<'a>(&'a self, spec: Option<&'a VirtualMachineInstanceSpec>, place: Place<'a>) -> Source<'a> {
        let nic = || PlannedNic {
            name: "default".into(),
            taps: vec![null(), null()],
            vhosts: vec![null(), null()],
            link_up: true,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: Some(1400),
            ip_argument: Some("ip=10.0.2.2::10.0.2.1:255.255.255.0::eth0:off".into()),
            autoconf: None,
        };
        let nics = self.nic.then(nic).into_iter().collect();
        Source { name: "pod", hostname: self.hostname, spec, limits: &self.limits, place, node: &self.node, nics }
    }

    fn refusal(&self, spec: Option<&Value>) -> String {
        chain(&self.translate(spec).unwrap_err())
    }
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

/// An error and its causes, as a user sees them.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// The content of one of a plan's files: its name.
fn content(plan: &LaunchPlan, index: FdIndex) -> String {
    let fd = plan.fds[usize::from(index.0)].try_clone().unwrap();
    std::io::read_to_string(File::from(fd)).unwrap()
}

fn is_writable(plan: &LaunchPlan, index: FdIndex) -> bool {
    let fd = plan.fds[usize::from(index.0)].try_clone().unwrap();
    File::from(fd).write_at(b"x", 0).is_ok()
}

fn boot_of(plan: &LaunchPlan) -> (String, Option<String>, String) {
    let BootConfig::Kernel { kernel, initrd, cmdline } = &plan.machine.boot else { panic!("{:?}", plan.machine.boot) };
    (content(plan, *kernel), initrd.map(|initrd| content(plan, initrd)), cmdline.clone())
}

const DEBIAN: &[&str] = &["disk/debian.img", "boot/vmlinuz", "boot/initrd.img"];

#[test]
fn a_mere_container_is_enough() {
    let mut pod = Pod::new(DEBIAN).limits(1 << 30, 150_000, 100_000);
    pod.nic = true;
    let plan = pod.translate(None).unwrap();
    assert_eq!(plan.machine.vcpus, 2);
    // 1 GiB less 16 MiB, of that 1/129 for page tables, down to whole MiB.
    assert_eq!(plan.machine.memory, MemoryConfig { size: 1000 << 20, hugepages: None });
    assert_eq!(plan.machine.disks.len(), 1);
    assert_eq!(content(&plan, plan.machine.disks[0].image), "disk/debian.img");
    assert!(!plan.machine.disks[0].readonly);
    let cmdline = "console=ttyS0 root=/dev/vda rw ip=10.0.2.2::10.0.2.1:255.255.255.0::eth0:off";
    assert_eq!(boot_of(&plan), ("boot/vmlinuz".into(), Some("boot/initrd.img".into()), cmdline.into()));
    assert_eq!(plan.machine.console, ConsoleKind::Serial);
    assert!(plan.machine.rng);
    assert_eq!((plan.machine.nics[0].mac, plan.machine.nics[0].mtu), ([2, 0, 0, 0, 0, 1], Some(1400)));
    assert_eq!(plan.jail, JailConfig { uid: 1000, gid: 1001 });
}

#[test]
fn without_limits_there_are_defaults() {
    let mut pod = Pod::new(DEBIAN);
    pod.oci["process"]["user"] = json!({"uid": 0, "gid": 0});
    let plan = pod.translate(None).unwrap();
    assert_eq!((plan.machine.vcpus, plan.machine.memory.size), (1, 512 << 20));
    assert_eq!(plan.jail, JailConfig { uid: 107, gid: 107 });
    let cpu_without_period = pod.limits(1 << 30, 250_000, 0);
    assert_eq!(cpu_without_period.translate(None).unwrap().machine.vcpus, 3);
}

#[test]
fn a_spec_decides() {
    let spec = json!({
        "domain": {
            "cpu": {"cores": 2, "sockets": 2},
            "memory": {"guest": "100M"},
            "firmware": {"kernelBoot": {
                "kernelArgs": "console=ttyS0 console=hvc0 quiet",
                "container": {"image": "x", "kernelPath": "/k/linux", "initrdPath": "/k/ram"},
            }},
            "devices": {
                "disks": [
                    {"name": "b", "disk": {"bus": "virtio", "readonly": true}, "serial": "SER"},
                    {"name": "a"},
                ],
            },
        },
        "volumes": [
            {"name": "a", "containerDisk": {"image": "x", "path": "/disk/a.img"}},
            {"name": "b", "containerDisk": {"image": "x", "path": "/disk/b.img"}},
            {"name": "c", "containerDisk": {"image": "x", "path": "/other/c.img"}},
        ],
    });
    let mut pod = Pod::new(&["disk/a.img", "disk/b.img", "other/c.img", "k/linux", "k/ram"]);
    pod.nic = true;
    let plan = pod.translate(Some(&spec)).unwrap();
    assert_eq!((plan.machine.vcpus, plan.machine.memory.size), (4, 95 << 20));
    let disks: Vec<_> = plan.machine.disks.iter().map(|d| (d.name.as_str(), content(&plan, d.image))).collect();
    assert_eq!(disks, [("b", "disk/b.img".into()), ("a", "disk/a.img".into()), ("c", "other/c.img".into())]);
    assert!(plan.machine.disks[0].readonly && !plan.machine.disks[1].readonly);
    assert_eq!(plan.machine.disks[0].serial.as_deref(), Some("SER"));
    // What a user wrote stays as it is.
    let cmdline = "console=ttyS0 console=hvc0 quiet";
    assert_eq!(boot_of(&plan), ("k/linux".into(), Some("k/ram".into()), cmdline.into()));
    assert_eq!(plan.machine.console, ConsoleKind::Virtio);
    assert!(!plan.machine.rng);
}

#[test]
fn the_root_is_where_the_partition_table_says() {
    let pod = Pod::new(DEBIAN);
    let cmdline = |disk: &[u8]| {
        fs::write(pod.dir.path().join("disk/debian.img"), disk).unwrap();
        boot_of(&pod.translate(None).unwrap()).2
    };
    let mut disk = vec![0; 4096];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(cmdline(&disk), "console=ttyS0 root=/dev/vda rw");
    disk[450] = 0x83;
    assert_eq!(cmdline(&disk), "console=ttyS0 root=/dev/vda1 rw");
    disk[446] = 0x33;
    assert_eq!(cmdline(&disk), "console=ttyS0 root=/dev/vda rw");
    disk[512..520].copy_from_slice(b"EFI PART");
    assert_eq!(cmdline(&disk), "console=ttyS0 root=/dev/vda1 rw");
    assert_eq!(cmdline(&[&b"QFI\xfb"[..], &[0; 1020]].concat()), "console=ttyS0 root=/dev/vda1 rw", "as published");
}

#[test]
fn disks_behave_as_the_spec_says() {
    let pod = Pod::new(&["disk/a.img", "boot/vmlinuz"]);
    let disk = |disk: Value, multi_queue: bool| {
        let mut spec = json!({
            "domain": {"cpu": {"cores": 3}, "devices": {"disks": [disk], "blockMultiQueue": multi_queue}},
            "volumes": [{"name": "a", "containerDisk": {"image": "x"}}],
        });
        spec["domain"]["devices"]["disks"][0]["name"] = json!("a");
        pod.translate(Some(&spec)).unwrap().machine.disks.remove(0)
    };
    let plain = disk(json!({}), false);
    assert_eq!(
        (plain.cache, plain.on_error, plain.queues),
        (CacheMode::None, ErrorPolicy::Stop, 1),
        "KubeVirt's defaults"
    );
    assert_eq!((plain.block_size, plain.shareable), (BlockSize::default(), false));
    let custom = json!({"custom": {"logical": 4096, "physical": 8192}});
    let other = json!({"cache": "writethrough", "errorPolicy": "enospace", "blockSize": custom});
    let other = disk(other, true);
    assert_eq!((other.cache, other.on_error), (CacheMode::Writethrough, ErrorPolicy::StopOnNoSpace));
    assert_eq!(other.queues, 3);
    assert!(disk(json!({"shareable": true}), false).shareable);
    assert!(plain.ring && disk(json!({"io": "native"}), false).ring);
    assert!(!disk(json!({"io": "threads"}), false).ring);
    assert_eq!(other.block_size, BlockSize { logical: 4096, physical: 8192 });
    let cdrom = disk(json!({"cdrom": {"bus": "virtio"}, "blockSize": {"matchVolume": {}}}), false);
    assert!(cdrom.readonly && cdrom.overlay.is_none());
    assert!(cdrom.block_size.logical.is_power_of_two());
}

#[test]
fn a_container_disk_is_read_and_an_overlay_written() {
    let pod = Pod::new(&["disk/a.img", "boot/vmlinuz"]);
    let spec = |readonly: bool| {
        json!({
            "domain": {"devices": {"disks": [{"name": "a", "disk": {"readonly": readonly}}]}},
            "volumes": [{"name": "a", "containerDisk": {"image": "x"}}],
        })
    };
    for spec in [None, Some(spec(false)), Some(spec(true))] {
        let plan = pod.translate(spec.as_ref()).unwrap();
        let [disk] = &plan.machine.disks[..] else { panic!("one disk") };
        assert_eq!(disk.format, ImageFormat::Detect);
        assert_eq!(disk.overlay.is_none(), disk.readonly);
        let writable = |index: FdIndex| {
            let fd = &plan.fds[usize::from(index.0)];
            File::from(fd.try_clone().unwrap()).write_at(b"x", 0).is_ok()
        };
        assert!(!writable(disk.image), "nothing writes to the image");
        assert!(disk.overlay.is_none_or(writable));
    }
}

#[test]
fn the_nodes_kernel_serves_images_without_one() {
    let mut pod = Pod::new(&["disk/a.img"]);
    let node = tempfile::tempdir().unwrap();
    fs::write(node.path().join("k"), "node's kernel").unwrap();
    pod.node.guest_kernel = Some(node.path().join("k"));
    let plan = pod.translate(None).unwrap();
    assert_eq!(boot_of(&plan), ("node's kernel".into(), None, "console=ttyS0 root=/dev/vda rw".into()));
    pod.node.guest_initrd = Some(node.path().join("none"));
    let expected = format!("the node's guestInitrd: {}/none does not exist", node.path().display());
    assert_eq!(pod.refusal(None), expected);
    // A spec with neither disk nor kernel of its own is a machine too.
    pod.node.guest_initrd = None;
    let plan = pod.translate(Some(&json!({"domain": {"devices": {}}}))).unwrap();
    assert_eq!((boot_of(&plan).2.as_str(), plan.machine.disks.len()), ("console=ttyS0", 0));
}

/// A node with firmware: files that hold their own names.
fn node_with_firmware(pod: &mut Pod) -> tempfile::TempDir {
    let node = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = node.path().join(name);
        fs::write(&path, name).unwrap();
        Some(path)
    };
    (pod.node.bios, pod.node.efi_code, pod.node.efi_variables) = (file("bios"), file("code"), file("variables"));
    node
}

#[test]
fn an_image_without_a_kernel_boots_by_bios() {
    let mut pod = Pod::new(&["disk/a.img"]);
    let node = node_with_firmware(&mut pod);
    let plan = pod.translate(None).unwrap();
    let BootConfig::Firmware { firmware, order, log: false } = &plan.machine.boot else { panic!("{:?}", plan.machine) };
    let FirmwareConfig::Bios { image, serial: false } = firmware else { panic!("{firmware:?}") };
    assert_eq!((content(&plan, *image).as_str(), &order[..]), ("bios", &[BootDevice::Disk(0)][..]));
    assert_eq!(plan.machine.console, ConsoleKind::Serial);
    // Without anything on the disk side there is nothing that firmware could boot.
    assert!(pod.refusal(Some(&json!({"domain": {"devices": {}}}))).starts_with("nothing to boot: "));
    pod.node.bios = Some(node.path().join("none"));
    let expected = format!(
        "BIOS; install the package seabios on the node, or name a file as bios in /etc/vireo/config.json: {}/none does not \
         exist",
        node.path().display()
    );
    assert_eq!(pod.refusal(None), expected);
}

#[test]
fn a_bootloader_goes_before_the_images_kernel() {
    let mut pod = Pod::new(&["disk/a.img", "disk/b.img", "boot/vmlinuz"]);
    let _node = node_with_firmware(&mut pod);
    pod.nic = true;
    let spec = |bootloader: Value| {
        json!({
            "domain": {
                "firmware": {"bootloader": bootloader},
                "devices": {
                    "disks": [{"name": "a"}, {"name": "b", "bootOrder": 1}],
                    "interfaces": [{"name": "default", "masquerade": {}}],
                },
            },
            "networks": [{"name": "default", "pod": {}}],
            "volumes": [
                {"name": "a", "containerDisk": {"image": "x", "path": "/disk/a.img"}},
                {"name": "b", "containerDisk": {"image": "x", "path": "/disk/b.img"}},
            ],
        })
    };
    let plan = pod.translate(Some(&spec(json!({"bios": {"useSerial": true}})))).unwrap();
    let BootConfig::Firmware { firmware, order, .. } = &plan.machine.boot else { panic!("{:?}", plan.machine) };
    assert!(matches!(firmware, FirmwareConfig::Bios { serial: true, .. }));
    assert_eq!(order, &[BootDevice::Disk(1)]);

    let mut efi = spec(json!({"efi": {}}));
    efi["domain"]["devices"]["interfaces"][0]["bootOrder"] = json!(2);
    pod.node.firmware_log = true;
    let plan = pod.translate(Some(&efi)).unwrap();
    let BootConfig::Firmware { firmware, order, log: true } = &plan.machine.boot else { panic!("{:?}", plan.machine) };
    let FirmwareConfig::Efi { code, variables } = firmware else { panic!("{firmware:?}") };
    assert_eq!((content(&plan, *code).as_str(), order), ("code", &vec![BootDevice::Disk(1), BootDevice::Nic(0)]));
    // The variables are a copy that can be written to and not change its size.
    let own = File::from(plan.fds[usize::from(variables.0)].try_clone().unwrap());
    own.write_at(b"V", 0).unwrap();
    own.set_len(1).unwrap_err();
    let mut bytes = [0; 9];
    own.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"Variables");
    assert_eq!(fs::read_to_string(pod.node.efi_variables.unwrap()).unwrap(), "variables");
}

#[test]
fn persistent_variables_live_in_the_pods_claim_and_are_locked() {
    let mut pod = Pod::new(&["disk/a.img"]);
    let _node = node_with_firmware(&mut pod);
    let spec = json!({
        "domain": {"devices": {}, "firmware": {"bootloader": {"efi": {"persistent": true}}}},
        "volumes": [{"name": "a", "containerDisk": {"image": "x"}}],
    });
    let place = "/var/lib/libvirt/qemu/nvram";
    let unmounted = pod.refusal(Some(&spec));
    let path = "spec.domain.firmware.bootloader.efi.persistent";
    assert!(unmounted.starts_with(&format!("{path}: the claim is not mounted at {place}; ")), "{unmounted}");
    let claim = tempfile::tempdir().unwrap();
    pod.oci["mounts"] = json!([{"destination": place, "type": "bind", "source": claim.path()}]);
    let denied = pod.refusal(Some(&spec));
    assert!(denied.starts_with(&format!("{path}: the claim mounted at {place}: ")), "root's alone: {denied}");
    chown(claim.path(), Some(1000), None).unwrap();

    let file = claim.path().join("VARS.fd");
    let variables = |plan: &LaunchPlan| {
        let BootConfig::Firmware { firmware: FirmwareConfig::Efi { variables, .. }, .. } = &plan.machine.boot else {
            panic!("{:?}", plan.machine.boot)
        };
        File::from(plan.fds[usize::from(variables.0)].try_clone().unwrap())
    };
    let plan = pod.translate(Some(&spec)).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "variables");
    assert_eq!(file.metadata().unwrap().uid(), 1000);
    variables(&plan).write_at(b"V", 0).unwrap();
    let second = pod.refusal(Some(&spec));
    assert!(second.contains("VARS.fd is in use by another VM"), "{second}");
    drop(plan);
    let plan = pod.translate(Some(&spec)).unwrap();
    assert_eq!(std::io::read_to_string(variables(&plan)).unwrap(), "Variables", "what was written is there again");
    drop(plan);
    // A copy that was cut short.
    fs::write(&file, [0; 9]).unwrap();
    drop(pod.translate(Some(&spec)).unwrap());
    assert_eq!(fs::read_to_string(&file).unwrap(), "variables");
}

#[test]
fn bad_images_are_refused_by_name() {
    let none =
        "disk \"containerdisk\": the image has no /disk folder; a containerDisk image holds one disk image there";
    assert_eq!(Pod::new(&["boot/vmlinuz"]).refusal(None), none);
    let two = "disk \"containerdisk\": /disk holds 2 files; exactly one disk image is needed there, or the volume's containerDisk.path";
    assert_eq!(Pod::new(&["disk/a", "disk/b", "boot/vmlinuz"]).refusal(None), two);
    let directory = "disk \"containerdisk\": /disk/a is a directory; an image file is needed";
    assert_eq!(Pod::new(&["disk/a/b", "boot/vmlinuz"]).refusal(None), directory);
    let kernel = "kernel of the image: /boot/vmlinuz is a directory; a regular file is needed";
    assert_eq!(Pod::new(&["disk/a", "boot/vmlinuz/x"]).refusal(None), kernel);
    let initrds = "the image has 2 files /boot/initrd*; leave one, or name it in domain.firmware.kernelBoot";
    assert_eq!(Pod::new(&["disk/a", "boot/vmlinuz", "boot/initrd.1", "boot/initrd.2"]).refusal(None), initrds);

    let host_disk = json!({
        "domain": {"devices": {}},
        "volumes": [{"name": "a", "hostDisk": {"path": "/etc/shadow", "type": "Disk"}}],
    });
    let expected = "spec.volumes[0].hostDisk: the folder is not mounted at /var/run/kubevirt-private/vmi-disks/a; the pod has to mount it there";
    assert_eq!(Pod::new(DEBIAN).refusal(Some(&host_disk)), expected);

    let kernel = json!({"domain": {"devices": {}, "firmware": {"kernelBoot": {"container": {"kernelPath": "/nope"}}}}});
    let expected = "spec.domain.firmware.kernelBoot.container.kernelPath: /nope does not exist";
    assert_eq!(Pod::new(DEBIAN).refusal(Some(&kernel)), expected);
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let guest = |guest: &str| json!({"domain": {"devices": {}, "memory": {"guest": guest}}});
    let pod = Pod::new(DEBIAN).limits(256 << 20, -1, 100_000);
    let expected = "guest memory 256 MiB does not fit the container's memory limit of 256 MiB, which has to hold 18 MiB for the machine as well";
    assert_eq!(pod.refusal(Some(&guest("256Mi"))), expected);
    assert_eq!(pod.translate(Some(&guest("238Mi"))).unwrap().machine.memory.size, 238 << 20);

    let small = "container memory limit 20 MiB: too small for a guest; at least 49 MiB are needed";
    assert_eq!(Pod::new(DEBIAN).limits(20 << 20, -1, 0).refusal(None), small);
    assert!(Pod::new(DEBIAN).limits(49 << 20, -1, 0).translate(None).is_ok());
    let many = "container cpu limit of 300 CPUs: a machine has at most 254 vCPUs; lower it, or set domain.cpu";
    assert_eq!(Pod::new(DEBIAN).limits(1 << 30, 30_000_000, 100_000).refusal(None), many);

    // Huge pages are not charged to the memory limit, and a guest is made of whole ones.
    let mut huge = guest("1Gi");
    huge["domain"]["memory"]["hugepages"] = json!({"pageSize": "1Gi"});
    let expected = MemoryConfig { size: 1 << 30, hugepages: Some(HugePageSize::Size1G) };
    assert_eq!(pod.translate(Some(&huge)).unwrap().machine.memory, expected);
    let huge = json!({"domain": {"devices": {}, "memory": {"hugepages": {"pageSize": "1Gi"}}}});
    let below = "guest memory of 536870912 bytes is less than one page of the asked size";
    assert_eq!(Pod::new(DEBIAN).refusal(Some(&huge)), below);
    let memory = MemoryConfig { size: 64 << 20, hugepages: Some(HugePageSize::Size2M) };
    let limited = |limit: u64| check_huge_pages(memory, |size| if size == "2MB" { limit } else { 0 });
    assert_eq!(limited(64 << 20), Ok(()));
    let expected = "spec.domain.memory.hugepages: the guest's 64 MiB do not fit the container's limit of 62 MiB for \
                    hugepages-2Mi; set resources.limits[hugepages-2Mi] to the guest's memory";
    assert_eq!(limited(62 << 20).unwrap_err().to_string(), expected);
    assert_eq!(check_huge_pages(MemoryConfig { hugepages: None, ..memory }, |_| 0), Ok(()));
}

#[test]
fn local_machines() {
    let pod = Pod::new(&["k", "root.img"]);
    let jail = JailConfig { uid: 7, gid: 8 };
    let place = Place::Local { folder: pod.dir.path(), ephemeral: &["forgotten".to_owned()], jail };
    let run = |container: Value, volume: Value| {
        let spec = json!({
            "domain": {"devices": {}, "firmware": {"kernelBoot": {"container": container}}},
            "volumes": [volume],
        });
        let spec = parse_vmi(&spec.to_string()).unwrap();
        compose(pod.source(Some(&spec), place), null()).map_err(|error| chain(&error))
    };
    let kernel = || json!({"kernelPath": "k", "image": "local"});
    let disk = || json!({"name": "a", "hostDisk": {"path": "root.img", "type": "Disk"}});
    let plan = run(kernel(), disk()).unwrap();
    assert_eq!(boot_of(&plan), ("k".into(), None, "console=ttyS0 root=/dev/vda rw".into()));
    assert_eq!(content(&plan, plan.machine.disks[0].image), "root.img");
    assert_eq!(plan.jail, jail);
    assert_eq!(plan.machine.disks[0].format, ImageFormat::Raw);
    fs::copy(pod.dir.path().join("root.img"), pod.dir.path().join("root.qcow2")).unwrap();
    let plan = run(kernel(), json!({"name": "a", "hostDisk": {"path": "root.qcow2", "type": "Disk"}})).unwrap();
    assert_eq!((plan.machine.disks[0].format, plan.machine.disks[0].overlay), (ImageFormat::Qcow2, None));
    let plan = run(kernel(), json!({"name": "forgotten", "hostDisk": {"path": "root.img", "type": "Disk"}})).unwrap();
    assert!(plan.machine.disks[0].overlay.is_some());
    assert!(!is_writable(&plan, plan.machine.disks[0].image), "the guest writes elsewhere");
    let claim = run(kernel(), json!({"name": "a", "ephemeral": {"persistentVolumeClaim": {"claimName": "c"}}}));
    let expected =
        "spec.template.spec.volumes[0].ephemeral: vireo run knows no claims; use hostDisk, and vireo run --ephemeral";
    assert_eq!(claim.unwrap_err(), expected);
    let image = run(json!({"kernelPath": "k", "image": "debian"}), disk()).unwrap_err();
    assert!(
        image.starts_with("spec.template.spec.domain.firmware.kernelBoot.container.image: vireo run pulls no images"),
        "{image}"
    );
    let disk = json!({"name": "a", "containerDisk": {"image": "debian"}});
    assert_eq!(
        run(kernel(), disk).unwrap_err(),
        "spec.template.spec.volumes[0].containerDisk: vireo run pulls no images; use hostDisk with a file of this machine"
    );
}

#[test]
fn a_seed_for_cloud_init_is_made_read_only() {
    let mut pod = Pod::new(&["disk/a.img", "boot/vmlinuz"]);
    let spec = json!({
        "domain": {
            "devices": {"disks": [{"name": "root"}, {"name": "seed", "disk": {"bus": "virtio"}, "serial": "s"}]},
            "firmware": {"uuid": "5d307ca9-b3ef-428c-8861-06e72d69f223"},
        },
        "volumes": [
            {"name": "root", "containerDisk": {"image": "x"}},
            {"name": "seed", "cloudInitNoCloud": {"userDataBase64": "I2Nsb3VkLWNvbmZpZw==", "networkData": "version: 2"}},
        ],
    });
    let plan = pod.translate(Some(&spec)).unwrap();
    let seed = &plan.machine.disks[1];
    assert_eq!((seed.format, seed.readonly, seed.overlay), (ImageFormat::Raw, true, None));
    assert_eq!(seed.serial.as_deref(), Some("s"));
    let file = File::from(plan.fds[usize::from(seed.image.0)].try_clone().unwrap());
    let mut image = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut image, 0).unwrap();
    for words in ["#cloud-config", "version: 2", r#""instance-id":"5d307ca9-b3ef-428c-8861-06e72d69f223""#, "\"pod\""] {
        assert!(image.windows(words.len()).any(|window| window == words.as_bytes()), "{words}");
    }
    pod.hostname = Some("web");
    let seed = self::image(&pod.translate(Some(&spec)).unwrap(), 1);
    assert!(holds(&seed, r#""local-hostname":"web""#), "the pod's own host name, where it has one");
    // No file of the image, so that it's the same for an admin's machine.
    let dir = tempfile::tempdir().unwrap();
    let place = Place::Local { folder: dir.path(), jail: JailConfig { uid: 7, gid: 8 }, ephemeral: &[] };
    let spec = json!({"domain": {"devices": {}}, "volumes": [{"name": "a", "cloudInitNoCloud": {"userData": "x"}}]});
    let spec = parse_vmi(&spec.to_string()).unwrap();
    let mut pod = Pod::new(&["bios"]);
    pod.node.bios = Some(pod.dir.path().join("bios"));
    assert!(compose(pod.source(Some(&spec), place), null()).unwrap().machine.disks[0].readonly);
}

#[test]
fn there_is_a_balloon_unless_it_is_not_wanted_or_of_no_use() {
    let pod = Pod::new(DEBIAN);
    let has = |spec: Option<&Value>| pod.translate(spec).unwrap().machine.balloon;
    assert!(has(None));
    assert!(has(Some(&json!({"domain": {"devices": {}}}))));
    assert!(!has(Some(&json!({"domain": {"devices": {"autoattachMemBalloon": false}}}))));
    let huge = json!({"domain": {"memory": {"guest": "64Mi", "hugepages": {"pageSize": "2Mi"}}, "devices": {}}});
    assert!(!has(Some(&huge)));
}

#[test]
fn the_machine_says_what_kubevirts_would() {
    let mut pod = Pod::new(DEBIAN);
    let identity = |pod: &Pod, spec: Option<&Value>| pod.translate(spec).unwrap().machine.identity;
    let named = identity(&pod, None);
    assert_eq!(uuid::Uuid::from_bytes(named.uuid).get_version_num(), 5, "made of the name");
    assert_eq!(named.system.manufacturer.as_deref(), Some("KubeVirt"));
    assert_eq!((named.system.product.as_deref(), named.system.serial), (Some("None"), None));

    pod.oci["annotations"] = json!({"io.kubernetes.cri.sandbox-uid": "11111111-2222-3333-4444-555555555555"});
    assert_eq!(identity(&pod, None).uuid[..4], [0x11; 4], "the pod's own");

    let spec = json!({"domain": {
        "firmware": {"uuid": "5d307ca9-b3ef-428c-8861-06e72d69f223", "serial": "S1"},
        "chassis": {"asset": "A1", "sku": ""},
        "devices": {},
    }});
    let told = identity(&pod, Some(&spec));
    assert_eq!((told.uuid[0], told.system.serial.as_deref()), (0x5D, Some("S1")));
    assert_eq!((told.chassis.asset.as_deref(), told.chassis.sku), (Some("A1"), None));
}

#[test]
fn processors_are_laid_out_hidden_and_bound() {
    let mut pod = Pod::new(DEBIAN).limits(1 << 30, 400_000, 100_000);
    let spec = json!({"domain": {
        "cpu": {"sockets": 2, "threads": 2, "model": "host-passthrough", "dedicatedCpuPlacement": true},
        "features": {"kvm": {"hidden": true}},
        "devices": {},
    }});
    let refusal = pod.refusal(Some(&spec));
    assert!(
        refusal.starts_with("spec.domain.cpu.dedicatedCpuPlacement: the container has 0 CPUs of its own for 4 vCPUs; "),
        "{refusal}"
    );
    pod.oci["linux"]["resources"]["cpu"]["cpus"] = json!("2-4,9-11");
    let cpu = pod.translate(Some(&spec)).unwrap().machine.cpu;
    assert_eq!(cpu.topology, Some(TopologyConfig { sockets: 2, cores: 1, threads: 2 }));
    assert_eq!((cpu.model, cpu.hide_kvm, cpu.pins), (CpuModel::HostPassthrough, true, vec![2, 3, 4, 9]));
    // Where the container sizes the guest, the emulator's CPU is one of its own.
    let isolated = json!({"domain": {
        "cpu": {"dedicatedCpuPlacement": true, "isolateEmulatorThread": true},
        "devices": {},
    }});
    pod.oci["linux"]["resources"]["cpu"]["cpus"] = json!("2-5");
    let plan = pod.translate(Some(&isolated)).unwrap();
    let placement = plan.placement.unwrap();
    assert_eq!((plan.machine.vcpus, plan.machine.cpu.pins, placement.others), (3, vec![2, 3, 4], vec![5]));
    let odd = json!({"domain": {"cpu": {"sockets": 70, "cores": 3}, "devices": {}}});
    let refusal = pod.refusal(Some(&odd));
    assert!(
        refusal.starts_with("spec.domain.cpu: 70 sockets of 3 cores of 1 threads: APIC ids go up to 278, "),
        "{refusal}"
    );
}

#[test]
fn models_and_features_that_the_node_lacks_are_refused_by_name() {
    let pod = Pod::new(DEBIAN);
    let refusal = |cpu: Value| {
        let kvm = File::options().read(true).write(true).open("/dev/kvm").unwrap();
        chain(&pod.translate_on(kvm, Some(&json!({"domain": {"cpu": cpu, "devices": {}}}))).unwrap_err())
    };
    let model = refusal(json!({"model": "Pentium-7"}));
    assert!(model.starts_with("spec.domain.cpu.model: \"Pentium-7\" is not a CPU model known to vireo"), "{model}");
    let feature = refusal(json!({"features": [{"name": "fpu"}, {"name": "avx512-4vnniw", "policy": "require"}]}));
    let expected = "spec.domain.cpu.features[1]: \"avx512-4vnniw\" is required, which this host's KVM does not offer";
    assert_eq!(feature, expected);
}

#[test]
fn vsock_is_there_when_it_is_asked_for() {
    let pod = Pod::new(DEBIAN);
    let asked = json!({"domain": {"devices": {"autoattachVSOCK": true}}});
    assert_eq!(pod.translate(Some(&asked)).unwrap().machine.vsock, Some(VsockConfig { cid: 3 }));
    assert_eq!(pod.translate(None).unwrap().machine.vsock, None);
    let spec = parse_vmi(&asked.to_string()).unwrap();
    let place = Place::Local { folder: pod.dir.path(), ephemeral: &[], jail: JailConfig { uid: 1, gid: 1 } };
    let refused = compose(pod.source(Some(&spec), place), null()).unwrap_err();
    assert!(chain(&refused).starts_with("spec.template.spec.domain.devices.autoattachVSOCK: "), "{refused}");
}

#[test]
fn an_ephemeral_claim_is_read_as_the_pods_user_and_an_overlay_written() {
    let mut pod = Pod::new(DEBIAN);
    // Where the pod's user may look: `Pod`'s own folder is root's.
    let claim = tempfile::tempdir().unwrap();
    let image = claim.path().join("disk.img");
    fs::write(&image, "the claim's").unwrap();
    fs::set_permissions(claim.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&image, fs::Permissions::from_mode(0o640)).unwrap();
    chown(&image, Some(0), Some(5000)).unwrap();
    let spec = json!({
        "domain": {"devices": {}},
        "volumes": [{"name": "data", "ephemeral": {"persistentVolumeClaim": {"claimName": "c"}}}],
    });
    let unmounted = pod.refusal(Some(&spec));
    let place = "/var/run/kubevirt-private/vmi-disks/data";
    assert!(
        unmounted.starts_with(&format!("spec.volumes[0].ephemeral: the claim is not mounted at {place}; ")),
        "{unmounted}"
    );
    pod.oci["mounts"] = json!([{"destination": place, "type": "bind", "source": claim.path()}]);
    let denied = pod.refusal(Some(&spec));
    let expected =
        format!("spec.volumes[0].ephemeral: the claim mounted at {place}: disk.img can't be opened: Permission denied");
    assert!(denied.starts_with(&expected), "{denied}");
    pod.oci["process"]["user"]["additionalGids"] = json!([5000]);
    let plan = pod.translate(Some(&spec)).unwrap();
    let disk = &plan.machine.disks[0];
    assert_eq!(content(&plan, disk.image), "the claim's");
    assert!(disk.overlay.is_some() && disk.format == ImageFormat::Detect);
    assert!(!is_writable(&plan, disk.image));
    fs::remove_file(&image).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &image).unwrap();
    let link = pod.refusal(Some(&spec));
    assert!(link.contains(&format!("the claim mounted at {place}: disk.img is a symbolic link")), "{link}");
}

/// A folder where the pod's user may look and write, mounted for a test's volume.
fn mount(pod: &mut Pod, place: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    chown(dir.path(), Some(1000), None).unwrap();
    if pod.oci.get("mounts").is_none() {
        pod.oci["mounts"] = json!([]);
    }
    let mount = json!({"destination": place, "type": "bind", "source": dir.path()});
    pod.oci["mounts"].as_array_mut().unwrap().push(mount);
    dir
}

fn with_volume(volume: impl Into<Value>) -> Value {
    let volume = volume.into();
    json!({"domain": {"devices": {}}, "volumes": [volume]})
}

#[test]
fn a_claims_own_image_is_made_where_there_is_none() {
    let mut pod = Pod::new(DEBIAN);
    let spec = with_volume(json!({"name": "data", "persistentVolumeClaim": {"claimName": "c"}}));
    let unmounted = pod.refusal(Some(&spec));
    let expected = "spec.volumes[0].persistentVolumeClaim: the claim is not mounted at /var/run/kubevirt-private/vmi-disks/data; \
        the pod has to mount it there, or have it as the device /dev/data in block mode";
    assert_eq!(unmounted, expected);
    let claim = mount(&mut pod, "/var/run/kubevirt-private/vmi-disks/data");
    let read_only = with_volume(json!({"name": "data", "persistentVolumeClaim": {"claimName": "c", "readOnly": true}}));
    assert!(pod.refusal(Some(&read_only)).ends_with("disk.img does not exist"), "nothing is made to be read");
    pod.claims = vireo_runtimeclass::parse_claims(r#"{"data": {"capacity": "3Mi"}}"#).unwrap();
    let plan = pod.translate(Some(&spec)).unwrap();
    let disk = &plan.machine.disks[0];
    assert_eq!((disk.format, disk.readonly, disk.overlay), (ImageFormat::Raw, false, None));
    assert!(is_writable(&plan, disk.image));
    let made = claim.path().join("disk.img").metadata().unwrap();
    assert_eq!((made.len(), made.uid(), made.gid()), (3 << 20, 1000, 1001));
    let data_volume = with_volume(json!({"name": "data", "dataVolume": {"name": "c"}}));
    assert!(is_writable(&pod.translate(Some(&data_volume)).unwrap(), disk.image));
    let plan = pod.translate(Some(&read_only)).unwrap();
    assert!(plan.machine.disks[0].readonly && !is_writable(&plan, plan.machine.disks[0].image));

    let image = claim.path().join("disk.img");
    fs::write(&image, b"QFI\xfb and so on").unwrap();
    let qcow2 = pod.refusal(Some(&spec));
    assert!(qcow2.contains("disk starts like a qcow2 image; a guest's own disk has to be raw"), "{qcow2}");
    for (make, word) in [
        (Box::new(|| std::os::unix::fs::symlink("/etc/passwd", &image).unwrap()) as Box<dyn Fn()>, "a symbolic link"),
        (Box::new(|| fs::create_dir(&image).unwrap()), "a directory"),
    ] {
        fs::remove_file(&image).unwrap();
        make();
        let refusal = pod.refusal(Some(&spec));
        assert!(refusal.contains(&format!("vmi-disks/data: disk.img is {word}")), "{refusal}");
    }
    pod.claims = vireo_runtimeclass::parse_claims(r#"{"other": {}}"#).unwrap();
    let expected = "vireo.dev/claims: other: the machine has no persistentVolumeClaim or dataVolume of this name";
    assert_eq!(pod.refusal(Some(&spec)), expected);
}

#[test]
fn a_folder_of_the_node_is_used_where_the_kubelet_mounts_it() {
    let mut pod = Pod::new(DEBIAN);
    let folder = mount(&mut pod, "/var/run/kubevirt-private/vmi-disks/data");
    let disk = |kind: &str| json!({"name": "data", "hostDisk": {"path": "/srv/vms/web.img", "type": kind}});
    let missing = pod.refusal(Some(&with_volume(disk("Disk"))));
    assert!(missing.starts_with("spec.volumes[0].hostDisk: the folder mounted at "), "{missing}");
    assert!(missing.ends_with("web.img does not exist"), "{missing}");
    let mut new = disk("DiskOrCreate");
    let unsized_ = pod.refusal(Some(&with_volume(new.clone())));
    assert!(unsized_.ends_with("web.img is missing or empty, and without a capacity none is made"), "{unsized_}");
    new["hostDisk"]["capacity"] = json!("2Mi");
    assert!(is_writable(&pod.translate(Some(&with_volume(new))).unwrap(), FdIndex(1)));
    assert_eq!(folder.path().join("web.img").metadata().unwrap().len(), 2 << 20);
    assert!(pod.translate(Some(&with_volume(disk("Disk")))).is_ok());
}

/// All bytes of a disk's image.
fn image(plan: &LaunchPlan, disk: usize) -> Vec<u8> {
    let file = File::from(plan.fds[usize::from(plan.machine.disks[disk].image.0)].try_clone().unwrap());
    let mut image = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut image, 0).unwrap();
    image
}

fn holds(image: &[u8], words: &str) -> bool {
    image.windows(words.len()).any(|window| window == words.as_bytes())
}

#[test]
fn small_disks_hold_what_the_kubelet_mounts() {
    let private = "/var/run/kubevirt-private";
    for (place, source, label) in [
        (format!("{private}/config-map/files"), json!({"configMap": {"name": "c", "volumeLabel": "OEMDRV"}}), "OEMDRV"),
        (format!("{private}/secret/files"), json!({"secret": {"secretName": "c"}}), "cfgdata"),
        (
            format!("{private}/downwardapi/files"),
            json!({"downwardAPI": {"fields": [{"path": "autounattend.xml"}]}}),
            "cfgdata",
        ),
        (
            "/var/run/secrets/kubernetes.io/serviceaccount".to_owned(),
            json!({"serviceAccount": {"serviceAccountName": "c"}}),
            "cfgdata",
        ),
        (format!("{private}/sysprep/files"), json!({"sysprep": {"configMap": {"name": "c"}}}), "unattendCD"),
    ] {
        let mut pod = Pod::new(DEBIAN);
        let mut volume = source.clone();
        volume["name"] = json!("files");
        let field = source.as_object().unwrap().keys().next().unwrap().clone();
        let spec = with_volume(volume);
        let refusal = pod.refusal(Some(&spec));
        assert!(refusal.starts_with(&format!("spec.volumes[0].{field}: the ")), "{refusal}");
        assert!(refusal.ends_with(&format!("is not mounted at {place}; the pod has to mount it there")), "{refusal}");
        let folder = mount(&mut pod, &place);
        if field == "sysprep" {
            let refusal = pod.refusal(Some(&spec));
            assert!(refusal.ends_with("has no autounattend.xml and no unattend.xml"), "{refusal}");
        }
        let file = folder.path().join("autounattend.xml");
        fs::write(&file, "what is in it").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        let unreadable = pod.refusal(Some(&spec));
        assert!(unreadable.contains("autounattend.xml can't be opened: Permission denied"), "{unreadable}");
        chown(&file, Some(1000), None).unwrap();
        let plan = pod.translate(Some(&spec)).unwrap();
        let disk = &plan.machine.disks[0];
        assert_eq!((disk.readonly, disk.serial.as_deref(), disk.format), (true, Some("files"), ImageFormat::Raw));
        let image = image(&plan, 0);
        assert!(holds(&image, "what is in it") && holds(&image, label), "{field}");
    }
}

#[test]
fn cloud_init_is_told_what_secrets_hold() {
    let mut pod = Pod::new(DEBIAN);
    pod.oci["annotations"] = json!({"io.kubernetes.cri.sandbox-namespace": "shop"});
    let spec = with_volume(json!({"name": "seed", "cloudInitConfigDrive": {
        "secretRef": {"name": "s"}, "networkDataSecretRef": {"name": "n"},
    }}));
    let at = "spec.volumes[0].cloudInitConfigDrive";
    let place = "/var/run/kubevirt-private/secret/seed";
    let expected = format!("{at}.secretRef: the secret is not mounted at {place}; the pod has to mount it there");
    assert_eq!(pod.refusal(Some(&spec)), expected);
    // As KubeVirt's pods mount it: a file for each key, and an empty folder of one that isn't there.
    let _folder = mount(&mut pod, &format!("{place}/userdata"));
    assert_eq!(pod.refusal(Some(&spec)), format!("{at}.secretRef: has no userdata and no userData"));
    let files = tempfile::tempdir().unwrap();
    let file = |pod: &mut Pod, key: &str, content: &str| {
        let path = files.path().join(key);
        fs::write(&path, content).unwrap();
        let mounts = pod.oci["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": format!("{place}/{key}"), "type": "bind", "source": path}));
        path
    };
    let user = file(&mut pod, "userData", "#cloud-config of the secret");
    let network = pod.refusal(Some(&spec));
    assert_eq!(
        network,
        format!("{at}.networkDataSecretRef: the secret is not mounted at {place}; the pod has to mount it there")
    );
    file(&mut pod, "networkdata", &"n".repeat(5000));
    let image = image(&pod.translate(Some(&spec)).unwrap(), 0);
    for words in ["#cloud-config of the secret", &"n".repeat(5000), "config-2", "\"instance_id\":\"pod.shop\""] {
        assert!(holds(&image, words), "{words}");
    }
    fs::write(&user, "x".repeat((1 << 20) + 1)).unwrap();
    let large = pod.refusal(Some(&spec));
    assert!(large.starts_with(&format!("{at}.secretRef: userData is too large: ")), "{large}");
    fs::set_permissions(&user, fs::Permissions::from_mode(0o400)).unwrap();
    let unreadable = pod.refusal(Some(&spec));
    assert!(unreadable.contains("userData can't be opened: Permission denied"), "{unreadable}");
}

#[test]
fn an_empty_disk_is_as_large_as_it_says_and_takes_no_space() {
    let pod = Pod::new(DEBIAN);
    let spec = json!({
        "domain": {"devices": {"disks": [{"name": "scratch", "serial": "S1"}]}},
        "volumes": [{"name": "scratch", "emptyDisk": {"capacity": "10G"}}],
    });
    let plan = pod.translate(Some(&spec)).unwrap();
    let disk = &plan.machine.disks[0];
    assert_eq!((disk.format, disk.overlay, disk.serial.as_deref()), (ImageFormat::Raw, None, Some("S1")));
    let file = File::from(plan.fds[usize::from(disk.image.0)].try_clone().unwrap());
    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.len(), metadata.blocks(), metadata.nlink()), (10_000_003_072, 0, 0));
}
