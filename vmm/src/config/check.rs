//! Turns a [`MachineConfig`] into a [`MachinePlan`]: the one place where the shim's words and files are judged.
//!
//! Each wrong value is an error that names its path, such as `memory.size` or `disks[1].image`.

use std::fs::File;
use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;

use super::autoconf::{MAX_OPTIONS, check as check_autoconf};
use super::cpu::CpuProblem;
use super::disks::check_disks;
use super::files::{self, FileProblem, Files};
use super::identity::MAX_TEXT;
use super::rates::{MAX_RATE, check_limit};
use super::{
    BootConfig, BootDevice, BootPlan, FdIndex, FirmwareConfig, FirmwarePlan, FlashPlan, HugePageSize, KernelPlan,
    MachineConfig, MachinePlan, MemoryConfig, MemoryPlan, NicConfig, NicPlan, firmware,
};

/// The most vCPUs: local APIC ids are a byte, 0xFF is broadcast, and one is the I/O APIC's.
pub const MAX_VCPUS: u8 = 254;
/// The least RAM, bytes.
pub const MIN_MEMORY: u64 = 2 << 20;
/// The most RAM, bytes: with the PCI window above it stays within 41 address bits.
pub const MAX_MEMORY: u64 = 1 << 40;
/// RAM comes in multiples of this, bytes.
pub const MEMORY_UNIT: u64 = 1 << 20;
/// The least RAM that stock firmware starts with, bytes: OVMF unpacks itself into some 30 MiB.
pub const MIN_FIRMWARE_MEMORY: u64 = 64 << 20;
/// The longest kernel command line, bytes without the closing NUL: `COMMAND_LINE_SIZE` of x86 Linux is 2048.
pub const MAX_CMDLINE: usize = 2047;
/// The longest name of a machine, disk or network card, bytes; Kubernetes names are at most 253 characters.
pub const MAX_NAME: usize = 253;
/// Devices on PCI bus 0 beside the host bridge in slot 0.
pub const MAX_PCI_DEVICES: usize = 31;
/// The most queue pairs of a network card: each takes two threads.
pub const MAX_PAIRS: usize = 8;
/// The smallest MTU that virtio-net may offer (virtio 1.3 §5.1.4.1).
pub const MIN_MTU: u16 = 68;
/// Bytes of a disk serial (VIRTIO_BLK_ID_BYTES).
pub const SERIAL_LEN: usize = 20;

/// A value that is wrong, and where it stands.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct ConfigError {
    /// The value, as the config's fields name it: `disks[1].image`.
    pub path: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with a value.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// vCPUs out of range.
    #[error("{0} is not between 1 and {MAX_VCPUS}")]
    Vcpus(u32),
    /// Processors that can't be.
    #[error(transparent)]
    Cpu(#[from] CpuProblem),
    /// RAM out of range.
    #[error("{0} bytes is not between {min} MiB and {max} GiB", min = MIN_MEMORY >> 20, max = MAX_MEMORY >> 30)]
    MemoryRange(u64),
    /// RAM that pages can't make up.
    #[error("{size} bytes is not a multiple of {unit} MiB", unit = .unit >> 20)]
    MemoryUnit {
        /// Bytes asked for.
        size: u64,
        /// What it must be a multiple of.
        unit: u64,
    },
    /// Too little RAM for firmware.
    #[error("{0} bytes is less than the {min} MiB that firmware needs", min = MIN_FIRMWARE_MEMORY >> 20)]
    FirmwareMemory(u64),
    /// A boot order with a device that isn't there, or twice.
    #[error("{0:?} is not there, or stands in the order already")]
    BootDevice(BootDevice),
    /// A kernel and an initrd larger than RAM.
    #[error("{files} bytes of kernel and initrd don't fit in {memory} bytes of RAM; give the guest more memory")]
    TooBigForMemory {
        /// Both sizes together.
        files: u64,
        /// The guest's RAM.
        memory: u64,
    },
    /// A command line that Linux would cut off.
    #[error("{0} bytes are more than the {MAX_CMDLINE} that a kernel takes")]
    CmdlineLength(usize),
    /// A NUL, which would end a string early.
    #[error("contains a NUL byte")]
    Nul,
    /// An empty name, one too long, or one that would garble messages.
    #[error("{0:?} is not 1 to {MAX_NAME} bytes without control characters")]
    Name(String),
    /// An empty string of the machine's identity, one too long, or one that would garble a terminal.
    #[error("{0:?} is not 1 to {MAX_TEXT} bytes without control characters")]
    Text(String),
    /// A context id that means somebody else (virtio 1.3 §5.10.4).
    #[error("{0} is not between 3 and {max}", max = u32::MAX - 1)]
    ContextId(u64),
    /// A balloon over huge pages.
    #[error("can't be had with huge pages, which no guest gives back one by one")]
    BalloonOfHugePages,
    /// A serial that doesn't fit the device.
    #[error("{0:?} is not at most {SERIAL_LEN} printable ASCII characters")]
    Serial(String),
    /// More devices than the bus has slots.
    #[error("{0} devices don't fit in the {MAX_PCI_DEVICES} slots of the PCI bus")]
    Devices(usize),
    /// A multicast or all-zero hardware address.
    #[error("{} is not a unicast address", format_mac(*.0))]
    NotUnicast([u8; 6]),
    /// Two cards with one hardware address.
    #[error("{} is the address of nics[{other}] already", format_mac(*.mac))]
    DuplicateMac {
        /// The address.
        mac: [u8; 6],
        /// Who has it.
        other: usize,
    },
    /// No queue, or too many.
    #[error("{0} queues; a card has 1 to {MAX_PAIRS}")]
    Taps(usize),
    /// Queues of different interfaces.
    #[error("is attached to another interface than the card's first queue")]
    OtherTap,
    /// Not one for each queue.
    #[error("{vhosts} for {taps} queues; a card has one for each, or none")]
    Vhosts {
        /// Of `/dev/vhost-net`.
        vhosts: usize,
        /// Of the tap.
        taps: usize,
    },
    /// A limit on what the kernel moves.
    #[error("can't be had with a limit, which the host's kernel doesn't know")]
    LimitedVhost,
    /// An MTU that no IPv4 network has.
    #[error("{0} is less than {MIN_MTU}")]
    Mtu(u16),
    /// A router that neighbours can't believe (RFC 4861 §6.1.2).
    #[error("{0} is not a link-local address")]
    Router(Ipv6Addr),
    /// More bits than an address has.
    #[error("{0} is more than 128")]
    PrefixLength(u8),
    /// An option that answers make themselves.
    #[error("has option {0}, which is part of a lease itself")]
    ReservedOption(u16),
    /// Options that don't fit into a frame.
    #[error("{0} bytes are more than {MAX_OPTIONS}")]
    OptionsSize(usize),
    /// One image behind two disks, of which one writes.
    #[error("is the image of disks[{0}] already, and one of the two can write")]
    SharedImage(usize),
    /// Queues out of range.
    #[error("{0} is not between 1 and {max}", max = super::disks::MAX_QUEUES)]
    Queues(u16),
    /// Blocks that no disk has.
    #[error("{logical} and {physical}; powers of two are needed, 512 to 4096 bytes and no less up to 2 MiB")]
    BlockSize {
        /// Of logical blocks, bytes.
        logical: u32,
        /// Of physical blocks, bytes.
        physical: u32,
    },
    /// A rate out of range.
    #[error("{0} is not between 1 and {MAX_RATE}; leave the limit out where there is none")]
    Rate(u64),
    /// A burst out of range.
    #[error("{burst} is not between {least} and {MAX_RATE}; queues need what 2 ms let pass")]
    Burst {
        /// What was asked for.
        burst: u64,
        /// What 2 ms let pass.
        least: u64,
    },
    /// An overlay over what nobody writes.
    #[error("is of no use to a read-only disk")]
    OverlayOfReadOnly,
    /// A file that is missing or of the wrong kind.
    #[error(transparent)]
    File(#[from] FileProblem),
}

fn format_mac(m: [u8; 6]) -> String {
    m.map(|b| format!("{b:02x}")).join(":")
}

/// Checks every value and takes the files that the config names; all of them must be named, each once.
pub fn check(config: MachineConfig, fds: Vec<OwnedFd>) -> Result<MachinePlan, ConfigError> {
    let MachineConfig { name, kvm, vcpus, cpu, memory, boot, disks, nics, rng, balloon, vsock, identity, console } =
        config;
    let mut files = Files::new(fds);
    check_name("name", &name)?;
    let count = u8::try_from(vcpus).ok().filter(|n| (1..=MAX_VCPUS).contains(n));
    let vcpus = count.ok_or_else(|| wrong("vcpus", Problem::Vcpus(vcpus)))?;
    let cpu = super::cpu::check(cpu, vcpus)?;
    let memory = check_memory(memory)?;
    let vsock = vsock.map(|vsock| vsock.cid);
    if let Some(cid) = vsock.filter(|cid| !(3..u64::from(u32::MAX)).contains(cid)) {
        return Err(wrong("vsock.cid", Problem::ContextId(cid)));
    }
    if balloon && memory.hugepages.is_some() {
        return Err(wrong("balloon", Problem::BalloonOfHugePages));
    }
    let kvm = files.take(kvm).and_then(files::kvm).map_err(at("kvm"))?;
    let boot = check_boot(boot, memory, (disks.len(), nics.len()), &mut files)?;

    // The virtio console is there whatever the console is, and with firmware the bridge to its board.
    let bridge = matches!(boot, BootPlan::Firmware(_));
    let optional = [rng, balloon, vsock.is_some(), bridge].map(usize::from);
    let devices = disks.len() + nics.len() + optional.iter().sum::<usize>() + 1;
    if devices > MAX_PCI_DEVICES {
        let path = if disks.len() >= nics.len() { "disks" } else { "nics" };
        return Err(wrong(path, Problem::Devices(devices)));
    }
    let disks = check_disks(disks, &mut files)?;
    let nics = check_nics(nics, &mut files)?;
    super::identity::check(&identity)?;
    files.finish().map_err(at("fds"))?;
    Ok(MachinePlan { name, kvm, vcpus, cpu, memory, boot, disks, nics, rng, balloon, vsock, identity, console })
}

pub(super) fn wrong(path: impl Into<String>, problem: Problem) -> ConfigError {
    ConfigError { path: path.into(), problem }
}

pub(super) fn at(path: impl Into<String>) -> impl FnOnce(FileProblem) -> ConfigError {
    move |problem| wrong(path, Problem::File(problem))
}

pub(super) fn check_name(path: &str, name: &str) -> Result<(), ConfigError> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        // Cut, so that the message stays small whatever came.
        return Err(wrong(path, Problem::Name(name.chars().take(MAX_NAME).collect())));
    }
    Ok(())
}

fn check_memory(memory: MemoryConfig) -> Result<MemoryPlan, ConfigError> {
    let MemoryConfig { size, hugepages } = memory;
    if !(MIN_MEMORY..=MAX_MEMORY).contains(&size) {
        return Err(wrong("memory.size", Problem::MemoryRange(size)));
    }
    let unit = hugepages.map_or(MEMORY_UNIT, HugePageSize::bytes);
    if !size.is_multiple_of(unit) {
        return Err(wrong("memory.size", Problem::MemoryUnit { size, unit }));
    }
    Ok(MemoryPlan { size, hugepages })
}

fn check_boot(
    boot: BootConfig,
    memory: MemoryPlan,
    (disks, nics): (usize, usize),
    files: &mut Files,
) -> Result<BootPlan, ConfigError> {
    match boot {
        BootConfig::Kernel { kernel, initrd, cmdline } => {
            check_kernel(kernel, initrd, cmdline, memory, files).map(BootPlan::Kernel)
        }
        BootConfig::Firmware { firmware, order, log } => {
            if memory.size < MIN_FIRMWARE_MEMORY {
                return Err(wrong("memory.size", Problem::FirmwareMemory(memory.size)));
            }
            let flash = check_flash(&firmware, files)?;
            let mut seen = Vec::new();
            for (i, device) in order.iter().enumerate() {
                let there = match device {
                    BootDevice::Disk(index) => usize::from(*index) < disks,
                    BootDevice::Nic(index) => usize::from(*index) < nics,
                };
                if !there || seen.contains(device) {
                    return Err(wrong(format!("boot.order[{i}]"), Problem::BootDevice(*device)));
                }
                seen.push(*device);
            }
            Ok(BootPlan::Firmware(FirmwarePlan { flash, order, log }))
        }
    }
}

fn check_flash(firmware: &FirmwareConfig, files: &mut Files) -> Result<FlashPlan, ConfigError> {
    match firmware {
        FirmwareConfig::Bios { image, serial } => {
            let image = files.take(*image).and_then(|file| {
                let (file, _) = files::boot_file(file)?;
                firmware::bios(&file).map(|size| (file, size))
            });
            let (image, size) = image.map_err(at("boot.firmware.image"))?;
            Ok(FlashPlan::Bios { image, size, serial: *serial })
        }
        FirmwareConfig::Efi { code, variables } => {
            let code = files.take(*code).and_then(|file| {
                let (file, _) = files::boot_file(file)?;
                firmware::code(&file).map(|size| (file, size))
            });
            let (code, code_size) = code.map_err(at("boot.firmware.code"))?;
            let variables = files.take(*variables).and_then(|file| {
                let file = files::writable_file(file)?;
                firmware::variables(&file, code_size).map(|size| (file, size))
            });
            let (variables, variables_size) = variables.map_err(at("boot.firmware.variables"))?;
            Ok(FlashPlan::Efi { code, code_size, variables, variables_size })
        }
    }
}

fn check_kernel(
    kernel: FdIndex,
    initrd: Option<FdIndex>,
    cmdline: String,
    memory: MemoryPlan,
    files: &mut Files,
) -> Result<KernelPlan, ConfigError> {
    let (kernel, kernel_size) = files.take(kernel).and_then(files::boot_file).map_err(at("boot.kernel"))?;
    let initrd =
        initrd.map(|index| files.take(index).and_then(files::boot_file).map_err(at("boot.initrd"))).transpose()?;
    let (initrd, initrd_size) = initrd.map_or((None, 0), |(file, size)| (Some(file), size));
    let total = kernel_size.saturating_add(initrd_size);
    if total > memory.size {
        let path = if initrd_size > kernel_size { "boot.initrd" } else { "boot.kernel" };
        return Err(wrong(path, Problem::TooBigForMemory { files: total, memory: memory.size }));
    }
    if cmdline.len() > MAX_CMDLINE {
        return Err(wrong("boot.cmdline", Problem::CmdlineLength(cmdline.len())));
    }
    if cmdline.contains('\0') {
        return Err(wrong("boot.cmdline", Problem::Nul));
    }
    Ok(KernelPlan { kernel, initrd, cmdline })
}

fn check_taps(taps: Vec<FdIndex>, nic: usize, files: &mut Files) -> Result<Vec<File>, ConfigError> {
    let path = |queue: usize| format!("nics[{nic}].taps[{queue}]");
    if !(1..=MAX_PAIRS).contains(&taps.len()) {
        return Err(wrong(format!("nics[{nic}].taps"), Problem::Taps(taps.len())));
    }
    let several = taps.len() > 1;
    let mut interface = None;
    let mut queues = Vec::with_capacity(taps.len());
    for (i, tap) in taps.into_iter().enumerate() {
        let (tap, name) = files.take(tap).and_then(|file| files::tap(file, several)).map_err(at(path(i)))?;
        if *interface.get_or_insert(name) != name {
            return Err(wrong(path(i), Problem::OtherTap));
        }
        queues.push(tap);
    }
    Ok(queues)
}

fn check_nics(nics: Vec<NicConfig>, files: &mut Files) -> Result<Vec<NicPlan>, ConfigError> {
    let mut plans: Vec<NicPlan> = Vec::with_capacity(nics.len());
    for (i, nic) in nics.into_iter().enumerate() {
        let NicConfig { name, taps, vhosts, link_up, mac, mtu, receive_limit, transmit_limit, autoconf } = nic;
        check_name(&format!("nics[{i}].name"), &name)?;
        // The group bit of the first octet (IEEE 802-2014 §8.2.2).
        if mac == [0; 6] || mac[0] & 1 != 0 {
            return Err(wrong(format!("nics[{i}].mac"), Problem::NotUnicast(mac)));
        }
        if let Some(other) = plans.iter().position(|p| p.mac == mac) {
            return Err(wrong(format!("nics[{i}].mac"), Problem::DuplicateMac { mac, other }));
        }
        if let Some(mtu) = mtu.filter(|mtu| *mtu < MIN_MTU) {
            return Err(wrong(format!("nics[{i}].mtu"), Problem::Mtu(mtu)));
        }
        check_limit(&format!("nics[{i}].receive_limit"), receive_limit)?;
        check_limit(&format!("nics[{i}].transmit_limit"), transmit_limit)?;
        let taps = check_taps(taps, i, files)?;
        let autoconf =
            autoconf.map(|answers| check_autoconf(&format!("nics[{i}].autoconf"), answers, files)).transpose()?;
        let path = format!("nics[{i}].vhosts");
        if !vhosts.is_empty() && vhosts.len() != taps.len() {
            return Err(wrong(path, Problem::Vhosts { vhosts: vhosts.len(), taps: taps.len() }));
        }
        if !vhosts.is_empty() && (receive_limit.is_some() || transmit_limit.is_some()) {
            return Err(wrong(path, Problem::LimitedVhost));
        }
        let take =
            |(queue, index)| files.take(index).and_then(files::vhost_net).map_err(at(format!("{path}[{queue}]")));
        let vhosts = vhosts.into_iter().enumerate().map(take).collect::<Result<_, _>>()?;
        plans.push(NicPlan { name, taps, vhosts, link_up, mac, mtu, receive_limit, transmit_limit, autoconf });
    }
    Ok(plans)
}

#[cfg(test)]
mod tests;
