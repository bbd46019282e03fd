use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use super::*;
use crate::config::{
    AutoconfAnswers, AutoconfConfig, BlockSize, ConsoleKind, CpuConfig, DiskConfig, FdIndex, HugePageSize,
    IdentityConfig, Ipv4Answers, Ipv6Answers, Rate, RateLimit, VsockConfig,
};
use crate::tap::open_tap;

/// A config that passes, and its files; needs a `/dev/kvm`.
struct Good {
    dir: TempDir,
    config: MachineConfig,
    fds: Vec<OwnedFd>,
}

const KVM: u16 = 0;
const KERNEL: u16 = 1;
const INITRD: u16 = 2;
const DISK: u16 = 3;
const SEED: u16 = 4;

fn write(path: &Path, size: u64) {
    File::create(path).unwrap().set_len(size).unwrap();
}

fn read_write() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

impl Good {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, size) in [("kernel", 1 << 20), ("initrd", 1 << 20), ("disk", 4096), ("seed", 512)] {
            write(&dir.path().join(name), size);
        }
        let open = |name: &str| OwnedFd::from(File::open(dir.path().join(name)).unwrap());
        let fds = vec![
            read_write().open("/dev/kvm").unwrap().into(),
            open("kernel"),
            open("initrd"),
            read_write().open(dir.path().join("disk")).unwrap().into(),
            open("seed"),
        ];
        let disk = |name, index, readonly| DiskConfig { readonly, ..DiskConfig::new(name, FdIndex(index)) };
        let config = MachineConfig {
            name: "vm".into(),
            kvm: FdIndex(KVM),
            vcpus: 2,
            cpu: CpuConfig::default(),
            memory: MemoryConfig { size: 64 << 20, hugepages: None },
            boot: BootConfig::Kernel {
                kernel: FdIndex(KERNEL),
                initrd: Some(FdIndex(INITRD)),
                cmdline: "console=ttyS0".into(),
            },
            disks: vec![disk("root", DISK, false), disk("seed", SEED, true)],
            nics: Vec::new(),
            rng: true,
            balloon: false,
            vsock: None,
            identity: IdentityConfig::default(),
            console: ConsoleKind::Serial,
        };
        Self { dir, config, fds }
    }

    fn replace(&mut self, index: u16, fd: impl Into<OwnedFd>) {
        self.fds[usize::from(index)] = fd.into();
    }

    fn open(&self, name: &str, options: &OpenOptions) -> File {
        options.open(self.dir.path().join(name)).unwrap()
    }

    fn error(self) -> String {
        check(self.config, self.fds).unwrap_err().to_string()
    }
}

/// What the change makes of a good config.
fn error(change: impl FnOnce(&mut Good)) -> String {
    let mut good = Good::new();
    change(&mut good);
    good.error()
}

fn nic(mac: [u8; 6]) -> NicConfig {
    NicConfig::new("default", vec![FdIndex(5)], mac)
}

#[test]
fn a_good_config_becomes_a_plan() {
    let mut good = Good::new();
    good.config.disks[0].serial = Some("D23YZ9W6WA5DJ487".into());
    let plan = check(good.config, good.fds).unwrap();
    assert_eq!((plan.vcpus, plan.memory.size), (2, 64 << 20));
    assert_eq!(plan.disks[0].serial.unwrap(), *b"D23YZ9W6WA5DJ487\0\0\0\0");
    assert!(matches!(plan.boot, BootPlan::Kernel(KernelPlan { initrd: Some(_), .. })) && plan.disks[1].readonly);
}

fn firmware(g: &mut Good, firmware: FirmwareConfig, order: Vec<BootDevice>) {
    g.config.boot = BootConfig::Firmware { firmware, order, log: false };
}

/// Makes a BIOS of the kernel.
fn bios_for_kernel(g: &Good) {
    let mut bios = vec![0; 64 << 10];
    bios[(64 << 10) - 16] = 0xEA;
    fs::write(g.dir.path().join("kernel"), bios).unwrap();
}

#[test]
fn firmware_becomes_a_plan() {
    let mut good = Good::new();
    bios_for_kernel(&good);
    let bios = FirmwareConfig::Bios { image: FdIndex(KERNEL), serial: true };
    firmware(&mut good, bios, vec![BootDevice::Disk(1), BootDevice::Disk(0)]);
    // Nothing names the initrd.
    good.fds.remove(usize::from(INITRD));
    good.config.disks[0].image = FdIndex(INITRD);
    good.config.disks[1].image = FdIndex(DISK);
    let plan = check(good.config, good.fds).unwrap();
    let BootPlan::Firmware(plan) = plan.boot else { panic!("{:?}", plan.boot) };
    assert_eq!(plan.order, [BootDevice::Disk(1), BootDevice::Disk(0)]);
    assert!(matches!(plan.flash, FlashPlan::Bios { size: 0x1_0000, serial: true, .. }));
}

#[test]
fn wrong_firmware_is_named_by_its_path() {
    let bios = || FirmwareConfig::Bios { image: FdIndex(KERNEL), serial: false };
    let efi = || FirmwareConfig::Efi { code: FdIndex(KERNEL), variables: FdIndex(DISK) };
    let message = error(|g| firmware(g, bios(), Vec::new()));
    assert!(message.starts_with("boot.firmware.image: is no BIOS: "), "{message}");
    let message = error(|g| firmware(g, efi(), Vec::new()));
    assert!(message.starts_with("boot.firmware.code: is no EFI code: "), "{message}");
    let volume = |g: &Good, name: &str| {
        let mut bytes = vec![0; 4096];
        bytes[40..44].copy_from_slice(b"_FVH");
        fs::write(g.dir.path().join(name), bytes).unwrap();
    };
    let message = error(|g| {
        volume(g, "kernel");
        volume(g, "disk");
        firmware(g, efi(), Vec::new());
    });
    assert!(message.starts_with("boot.firmware.variables: holds no EFI variables: "), "{message}");
    let message = error(|g| {
        volume(g, "kernel");
        firmware(g, efi(), Vec::new());
        g.replace(DISK, g.open("disk", OpenOptions::new().read(true)));
    });
    assert_eq!(message, "boot.firmware.variables: is not open for writing");
    let message = error(|g| {
        firmware(g, bios(), Vec::new());
        g.config.memory.size = 32 << 20;
    });
    assert_eq!(message, "memory.size: 33554432 bytes is less than the 64 MiB that firmware needs");
}

#[test]
fn a_boot_order_names_what_is_there_once() {
    let order = |order: Vec<BootDevice>| {
        error(|g| {
            bios_for_kernel(g);
            let bios = FirmwareConfig::Bios { image: FdIndex(KERNEL), serial: false };
            firmware(g, bios, order);
        })
    };
    let there = [BootDevice::Disk(0), BootDevice::Disk(0)];
    assert_eq!(order(there.to_vec()), "boot.order[1]: Disk(0) is not there, or stands in the order already");
    assert!(order(vec![BootDevice::Disk(2)]).starts_with("boot.order[0]: Disk(2)"));
    assert!(order(vec![BootDevice::Nic(0)]).starts_with("boot.order[0]: Nic(0)"));
}

#[test]
fn numbers_out_of_range_are_named() {
    assert_eq!(error(|g| g.config.vcpus = 0), "vcpus: 0 is not between 1 and 254");
    assert_eq!(error(|g| g.config.vcpus = 255), "vcpus: 255 is not between 1 and 254");
    assert_eq!(error(|g| g.config.vcpus = u32::MAX), "vcpus: 4294967295 is not between 1 and 254");
    let range = "is not between 2 MiB and 1024 GiB";
    assert_eq!(error(|g| g.config.memory.size = 0), format!("memory.size: 0 bytes {range}"));
    assert_eq!(error(|g| g.config.memory.size = u64::MAX), format!("memory.size: {} bytes {range}", u64::MAX));
    let odd = (64 << 20) + 4096;
    assert_eq!(error(|g| g.config.memory.size = odd), format!("memory.size: {odd} bytes is not a multiple of 1 MiB"));
    assert_eq!(
        error(|g| g.config.memory = MemoryConfig { size: 65 << 20, hugepages: Some(HugePageSize::Size2M) }),
        format!("memory.size: {} bytes is not a multiple of 2 MiB", 65 << 20)
    );
}

#[test]
fn kernel_and_initrd_must_fit_in_memory() {
    let text = error(|g| {
        write(&g.dir.path().join("initrd"), 64 << 20);
    });
    let files = (64 << 20) + (1 << 20);
    let memory = 64 << 20;
    assert_eq!(
        text,
        format!(
            "boot.initrd: {files} bytes of kernel and initrd don't fit in {memory} bytes of RAM; give the guest more memory"
        )
    );
}

#[test]
fn text_is_bounded() {
    let cmdline = |text: String| {
        error(|g| {
            let BootConfig::Kernel { cmdline, .. } = &mut g.config.boot else { unreachable!() };
            *cmdline = text;
        })
    };
    assert_eq!(cmdline("x".repeat(2048)), "boot.cmdline: 2048 bytes are more than the 2047 that a kernel takes");
    assert_eq!(cmdline("quiet\0init=/bin/sh".into()), "boot.cmdline: contains a NUL byte");
    assert_eq!(error(|g| g.config.name.clear()), r#"name: "" is not 1 to 253 bytes without control characters"#);
    assert_eq!(
        error(|g| g.config.disks[1].name = "a\nb".into()),
        r#"disks[1].name: "a\nb" is not 1 to 253 bytes without control characters"#
    );
    assert!(error(|g| g.config.name = "n".repeat(60_000)).len() < 400);
    for serial in ["123456789012345678901", "tab\t", "ä"] {
        assert_eq!(
            error(|g| g.config.disks[0].serial = Some(serial.into())),
            format!("disks[0].serial: {serial:?} is not at most 20 printable ASCII characters")
        );
    }
}

#[test]
fn each_file_is_named_once() {
    assert_eq!(
        error(|g| g.config.disks[1].image = FdIndex(9)),
        "disks[1].image: names file 9, but 5 came with the config"
    );
    assert_eq!(
        error(|g| g.config.disks[1].image = FdIndex(KERNEL)),
        "disks[1].image: names file 1, which something else uses already"
    );
    assert_eq!(error(|g| drop(g.config.disks.pop())), "fds: file 4 came with the config, but nothing names it");
}

#[test]
fn a_kernel_is_a_regular_file() {
    assert_eq!(
        error(|g| g.replace(KERNEL, File::open("/dev/null").unwrap())),
        "boot.kernel: is a character device; a regular file is needed"
    );
    assert_eq!(error(|g| write(&g.dir.path().join("initrd"), 0)), "boot.initrd: is empty");
    assert_eq!(
        error(|g| g.replace(KERNEL, g.open("kernel", OpenOptions::new().write(true)))),
        "boot.kernel: is not open for reading"
    );
    assert_eq!(
        error(|g| g.replace(KERNEL, g.open("kernel", OpenOptions::new().read(true).custom_flags(libc::O_PATH)))),
        "boot.kernel: is not open for reading"
    );
}

#[test]
fn a_disk_is_a_raw_image() {
    let kind = |found| format!("disks[0].image: is {found}; an image file or a block device is needed");
    assert_eq!(error(|g| g.replace(DISK, File::open(g.dir.path()).unwrap())), kind("a directory"));
    assert_eq!(error(|g| g.replace(DISK, read_write().open("/dev/null").unwrap())), kind("a character device"));
    assert_eq!(error(|g| g.replace(DISK, std::io::pipe().unwrap().0)), kind("a FIFO"));
    let socket = std::os::unix::net::UnixStream::pair().unwrap().0;
    assert_eq!(error(|g| g.replace(DISK, socket)), kind("a socket"));
    let link = error(|g| {
        let path = g.dir.path().join("link");
        std::os::unix::fs::symlink("disk", &path).unwrap();
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        g.replace(DISK, OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap());
    });
    assert_eq!(link, kind("a symbolic link"));
    assert_eq!(error(|g| write(&g.dir.path().join("disk"), 0)), "disks[0].image: is empty");
}

#[test]
fn a_disks_queues_and_blocks_are_bounded() {
    let disk = |change: fn(&mut DiskConfig)| error(|g| change(&mut g.config.disks[0]));
    assert_eq!(disk(|d| d.queues = 0), "disks[0].queues: 0 is not between 1 and 32");
    assert_eq!(disk(|d| d.queues = 33), "disks[0].queues: 33 is not between 1 and 32");
    for (logical, physical) in [(0, 0), (256, 512), (513, 1024), (512, 513), (4096, 512), (8192, 8192), (512, 4 << 20)]
    {
        let mut good = Good::new();
        good.config.disks[0].block_size = BlockSize { logical, physical };
        let expected = "powers of two are needed, 512 to 4096 bytes and no less up to 2 MiB";
        assert_eq!(good.error(), format!("disks[0].block_size: {logical} and {physical}; {expected}"));
    }
}

#[test]
fn an_overlay_is_an_empty_file_over_an_image_that_is_only_read() {
    let overlaid = |base: &OpenOptions, size, readonly| {
        let mut good = Good::new();
        good.replace(DISK, good.open("disk", base));
        write(&good.dir.path().join("overlay"), size);
        let overlay = good.open("overlay", &read_write());
        good.config.disks[0].overlay = Some(FdIndex(u16::try_from(good.fds.len()).unwrap()));
        good.config.disks[0].readonly = readonly;
        good.fds.push(overlay.into());
        check(good.config, good.fds).map(|plan| plan.disks[0].overlay.is_some()).map_err(|error| error.to_string())
    };
    let reads = OpenOptions::new().read(true).clone();
    assert_eq!(overlaid(&reads, 0, false), Ok(true));
    assert_eq!(overlaid(&reads, 512, false).unwrap_err(), "disks[0].overlay: is not empty");
    assert_eq!(overlaid(&reads, 0, true).unwrap_err(), "disks[0].overlay: is of no use to a read-only disk");
    assert_eq!(overlaid(&read_write(), 0, false).unwrap_err(), "disks[0].image: is read-only, but open for writing");
}

#[test]
fn a_disk_is_open_for_what_it_does() {
    let open = |options: &OpenOptions| error(|g| g.replace(DISK, g.open("disk", options)));
    assert_eq!(open(OpenOptions::new().read(true)), "disks[0].image: is not open for writing");
    assert_eq!(open(OpenOptions::new().write(true)), "disks[0].image: is not open for reading");
    assert_eq!(
        open(OpenOptions::new().read(true).append(true)),
        "disks[0].image: is open with O_APPEND, which must not be"
    );
    assert_eq!(
        error(|g| g.replace(SEED, g.open("seed", &read_write()))),
        "disks[1].image: is read-only, but open for writing"
    );
}

#[test]
fn a_written_image_has_one_disk() {
    assert_eq!(
        error(|g| g.replace(SEED, g.open("disk", OpenOptions::new().read(true)))),
        "disks[1].image: is the image of disks[0] already, and one of the two can write"
    );
    let mut readers = Good::new();
    readers.config.disks[0].readonly = true;
    readers.replace(DISK, readers.open("seed", OpenOptions::new().read(true)));
    assert!(check(readers.config, readers.fds).is_ok(), "two readers may share");
}

#[test]
fn kvm_is_the_kvm_device() {
    let kind = |found| format!("kvm: is {found}; /dev/kvm is needed");
    assert_eq!(error(|g| g.replace(KVM, read_write().open("/dev/null").unwrap())), kind("another character device"));
    assert_eq!(error(|g| g.replace(KVM, g.open("seed", &read_write()))), kind("a regular file"));
    assert_eq!(error(|g| g.replace(KVM, File::open("/dev/kvm").unwrap())), "kvm: is not open for writing");
}

#[test]
fn limits_are_checked() {
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    let disk = |bytes, operations| error(|g| g.config.disks[1].limit = RateLimit { bytes, operations });
    let most = 1_u64 << 48;
    let range = format!("is not between 1 and {most}; leave the limit out where there is none");
    assert_eq!(disk(rate(0, 1), None), format!("disks[1].limit.bytes.per_second: 0 {range}"));
    assert_eq!(disk(None, rate(most + 1, 1)), format!("disks[1].limit.operations.per_second: {} {range}", most + 1));
    let burst = |least| format!("is not between {least} and {most}; queues need what 2 ms let pass");
    assert_eq!(disk(None, rate(5, 0)), format!("disks[1].limit.operations.burst: 0 {}", burst(1)));
    assert_eq!(disk(rate(1000, 1), None), format!("disks[1].limit.bytes.burst: 1 {}", burst(2)));
    assert_eq!(disk(rate(1, most + 1), None), format!("disks[1].limit.bytes.burst: {} {}", most + 1, burst(1)));
    let card = |change: fn(&mut NicConfig, RateLimit)| {
        let mut nic = nic([0x52, 0x54, 0, 1, 2, 3]);
        change(&mut nic, RateLimit { bytes: rate(0, 0), operations: None });
        error(|g| g.config.nics.push(nic))
    };
    assert_eq!(
        card(|nic, limit| nic.receive_limit = limit),
        format!("nics[0].receive_limit.bytes.per_second: 0 {range}")
    );
    assert_eq!(
        card(|nic, limit| nic.transmit_limit = limit),
        format!("nics[0].transmit_limit.bytes.per_second: 0 {range}")
    );
}

#[test]
fn network_cards_are_checked() {
    let with = |nic: NicConfig, fd: Option<File>| {
        error(|g| {
            g.config.nics.push(nic);
            g.fds.extend(fd.map(OwnedFd::from));
        })
    };
    let mac = [0x52, 0x54, 0, 1, 2, 3];
    assert_eq!(with(nic([0; 6]), None), "nics[0].mac: 00:00:00:00:00:00 is not a unicast address");
    assert_eq!(with(nic([1, 0, 0x5E, 0, 0, 1]), None), "nics[0].mac: 01:00:5e:00:00:01 is not a unicast address");
    assert_eq!(with(NicConfig { mtu: Some(67), ..nic(mac) }, None), "nics[0].mtu: 67 is less than 68");
    let file = |path| read_write().open(path).unwrap();
    assert_eq!(
        with(nic(mac), Some(file("/dev/null"))),
        "nics[0].taps[0]: is another character device; a tap (/dev/net/tun) is needed"
    );
    assert_eq!(
        with(nic(mac), Some(tempfile::tempfile().unwrap())),
        "nics[0].taps[0]: is a regular file; a tap (/dev/net/tun) is needed"
    );
}

#[test]
fn an_unattached_tun_is_not_a_tap() {
    let mac = [0x52, 0x54, 0, 1, 2, 3];
    let tun = read_write().open("/dev/net/tun").expect("/dev/net/tun can be opened: modprobe tun");
    assert!(matches!(files::tap(tun, false), Err(FileProblem::Blocking)));
    let tun = read_write().custom_flags(libc::O_NONBLOCK).open("/dev/net/tun").unwrap();
    let text = error(|g| {
        g.config.nics.push(nic(mac));
        g.fds.push(tun.into());
    });
    assert_eq!(text, "nics[0].taps[0]: is not attached to a tap with IFF_NO_PI and IFF_VNET_HDR");
}

#[test]
fn the_kernels_part_of_a_card_is_checked() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own needs root");
    let with = |vhosts: &[u16], limit: RateLimit| {
        error(|g| {
            let vhosts = vhosts.iter().copied().map(FdIndex).collect();
            g.config.nics.push(NicConfig { vhosts, transmit_limit: limit, ..nic([0x52, 0x54, 0, 1, 2, 3]) });
            g.fds.push(open_tap("vireo0", 1).unwrap().remove(0).into());
            g.fds.push(read_write().open("/dev/null").unwrap().into());
        })
    };
    let free = RateLimit::default();
    assert_eq!(with(&[6, 7], free), "nics[0].vhosts: 2 for 1 queues; a card has one for each, or none");
    let limit = RateLimit { bytes: Some(Rate::new(1000)), operations: None };
    assert_eq!(with(&[6], limit), "nics[0].vhosts: can't be had with a limit, which the host's kernel doesn't know");
    assert_eq!(with(&[6], free), "nics[0].vhosts[0]: is another character device; /dev/vhost-net is needed");
}

#[test]
fn the_bus_has_31_slots() {
    let text = error(|g| {
        let disk = g.config.disks[0].clone();
        g.config.disks = vec![disk; 30];
    });
    assert_eq!(text, "disks: 32 devices don't fit in the 31 slots of the PCI bus");
}

#[test]
fn a_balloon_of_huge_pages_is_refused() {
    let mut good = Good::new();
    good.config.balloon = true;
    good.config.memory.hugepages = Some(HugePageSize::Size2M);
    let error = check(good.config, good.fds).unwrap_err();
    assert_eq!(error.path, "balloon");
}

#[test]
fn a_context_id_that_means_somebody_else_is_refused() {
    for cid in [0, 1, 2, u64::from(u32::MAX), 1 << 32] {
        let mut good = Good::new();
        good.config.vsock = Some(VsockConfig { cid });
        let error = check(good.config, good.fds).unwrap_err();
        assert_eq!(error.path, "vsock.cid", "{cid}");
    }
}

/// What makes answers wrong.
type Change = fn(&mut AutoconfAnswers);

#[test]
fn answers_to_a_guest_fit_and_have_a_way() {
    let answers = || AutoconfAnswers {
        server_mac: [2, 0, 0, 0, 0, 0],
        ipv4: Some(Ipv4Answers {
            address: [10, 0, 2, 2].into(),
            server: [10, 0, 2, 1].into(),
            options: vec![(1, vec![0; 4])],
        }),
        ipv6: Some(Ipv6Answers {
            address: "fd10::2".parse().unwrap(),
            prefix_len: 120,
            router: "fe80::1".parse().unwrap(),
            mtu: 1500,
            options: vec![(23, vec![0; 16])],
        }),
    };
    let checked = |change: Change, socket: OwnedFd| {
        let mut answers = answers();
        change(&mut answers);
        let config = AutoconfConfig { socket: FdIndex(0), answers };
        let checked = super::super::autoconf::check("nics[0].autoconf", config, &mut Files::new(vec![socket]));
        checked.map(|_| ()).map_err(|error| error.to_string())
    };
    let socket = || {
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        OwnedFd::from(socket)
    };
    assert_eq!(checked(|_| (), socket()), Ok(()));
    let refusals: [(Change, &str); 5] = [
        (
            |a| a.ipv4.as_mut().unwrap().options.push((53, vec![1])),
            "ipv4.options: has option 53, which is part of a lease itself",
        ),
        (|a| a.ipv4.as_mut().unwrap().options.push((6, vec![1; 993])), "ipv4.options: 1001 bytes are more than 1000"),
        (
            |a| a.ipv6.as_mut().unwrap().options.push((3, vec![1])),
            "ipv6.options: has option 3, which is part of a lease itself",
        ),
        (
            |a| a.ipv6.as_mut().unwrap().router = "fd10::1".parse().unwrap(),
            "ipv6.router: fd10::1 is not a link-local address",
        ),
        (|a| a.ipv6.as_mut().unwrap().prefix_len = 129, "ipv6.prefix_len: 129 is more than 128"),
    ];
    for (change, text) in refusals {
        assert_eq!(checked(change, socket()), Err(format!("nics[0].autoconf.{text}")));
    }
    let file = File::open("/dev/null").unwrap();
    let text = "nics[0].autoconf.socket: is a character device; a socket is needed";
    assert_eq!(checked(|_| (), file.into()), Err(text.to_owned()));
    let (blocking, _) = std::os::unix::net::UnixStream::pair().unwrap();
    let text = "nics[0].autoconf.socket: is not non-blocking (O_NONBLOCK)";
    assert_eq!(checked(|_| (), blocking.into()), Err(text.to_owned()));
}
