//! Firmware: SeaBIOS as Debian packages it, up to a boot sector; and a payload in the flash's place, which drives fw_cfg's DMA and
//! the flash as firmware does.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use vireo_vmm::bus::BusDevice;
use vireo_vmm::config::{BootConfig, BootDevice, DiskConfig, FdIndex, FirmwareConfig, MachineConfig};
use vireo_vmm::ending::Outcome;
use vireo_vmm::jail::seccomp::{self, ThreadKind};

use super::payload::{file, payload};
use super::rig::{LIMIT, Rig, config};

const SEABIOS: &str = "/usr/share/seabios/bios-256k.bin";
const DEBUG_PORT: u64 = 0x402;

/// A machine with 64 MiB that boots `firmware`, whose files have the indexes from 1 on.
fn machine(firmware: FirmwareConfig, order: Vec<BootDevice>, files: Vec<File>) -> (MachineConfig, Vec<OwnedFd>) {
    let mut files = files.into_iter();
    let (mut config, mut fds) = config(files.next().unwrap(), 1);
    fds.extend(files.map(OwnedFd::from));
    config.memory.size = 64 << 20;
    config.boot = BootConfig::Firmware { firmware, order, log: false };
    (config, fds)
}

// A boot sector: has the BIOS read the disk's second sector to 0x8000, reports its first bytes, powers off.
payload!(
    boot_sector,
    "16",
    "xor ax, ax",
    "mov ds, ax",
    "mov ss, ax",
    "mov sp, 0x7000",
    "mov si, 0x7d00",
    "mov ah, 0x42",
    "int 0x13",
    "jc 2f",
    "mov eax, dword ptr [0x8000]",
    "2: mov dx, 0x700",
    "out dx, eax",
    "mov dx, 0x604",
    "mov ax, 0x3400",
    "out dx, ax",
    "3: hlt",
    "jmp 3b",
);

// Another: tells that it runs, and resets the machine as a keyboard controller does.
payload!(
    resetting_sector,
    "16",
    "mov dx, 0x700",
    "mov eax, 0x5e",
    "out dx, eax",
    "mov al, 0xfe",
    "out 0x64, al",
    "2: hlt",
    "jmp 2b",
);

/// A disk whose boot sector reads `text` from the one after it.
fn disk(text: [u8; 4]) -> File {
    disk_with(boot_sector(), text)
}

/// A disk (large enough to have cylinders) with this code in its boot sector.
fn disk_with(code: &[u8], text: [u8; 4]) -> File {
    let mut sectors = vec![0; 2 << 20];
    sectors[..code.len()].copy_from_slice(code);
    // The disk address packet: one sector, to 0000:8000, from sector 1.
    sectors[0x100..0x110].copy_from_slice(&[16, 0, 1, 0, 0, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    sectors[510..512].copy_from_slice(&[0x55, 0xAA]);
    sectors[512..516].copy_from_slice(&text);
    file(&sectors)
}

#[derive(Default)]
struct Messages(Mutex<Vec<u8>>);

impl BusDevice for Messages {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xE9);
    }

    fn write(&self, _: u64, data: &[u8]) {
        self.0.lock().unwrap().extend(data);
    }
}

// Seconds where KVM emulates real mode.
#[test]
fn seabios_boots_what_the_order_names_first() {
    let bios = File::open(SEABIOS).unwrap_or_else(|e| panic!("{SEABIOS}: {e}; install seabios"));
    let firmware = FirmwareConfig::Bios { image: FdIndex(1), serial: false };
    let order = vec![BootDevice::Disk(1), BootDevice::Disk(0)];
    let (mut config, fds) = machine(firmware, order, vec![bios, disk(*b"one!"), disk(*b"two!")]);
    let disk = |index| DiskConfig::new(format!("d{index}"), FdIndex(index));
    config.disks = vec![disk(2), disk(3)];
    let rig = Rig::with((config, fds));
    let machine = rig.build();
    let messages = Arc::new(Messages::default());
    machine.ports().insert(DEBUG_PORT, 1, Arc::clone(&messages) as _).unwrap();
    let outcome = rig.run(machine).outcome_within(6 * LIMIT);
    let messages = String::from_utf8_lossy(&messages.0.lock().unwrap()).into_owned();
    assert_eq!(outcome, Some(Outcome::PowerOff), "{messages}");
    assert_eq!(rig.reports.all(), [u32::from_le_bytes(*b"two!")], "{messages}");
    for found in [
        "Running on QEMU (q35)",
        "QEMU fw_cfg DMA interface supported",
        "PCIe: using q35 mmconfig at 0xb0000000",
        "Copying SMBIOS 3.0",
        "via xsdt",
        "Booting from Hard Disk",
    ] {
        assert!(messages.contains(found), "no {found:?} in:\n{messages}");
    }
}

// Seconds, twice.
#[test]
fn seabios_boots_again_after_a_reset() {
    let bios = File::open(SEABIOS).unwrap_or_else(|e| panic!("{SEABIOS}: {e}; install seabios"));
    let firmware = FirmwareConfig::Bios { image: FdIndex(1), serial: false };
    let (mut config, fds) =
        machine(firmware, vec![BootDevice::Disk(0)], vec![bios, disk_with(resetting_sector(), [0; 4])]);
    config.disks = vec![DiskConfig::new("d", FdIndex(2))];
    let rig = Rig::with((config, fds));
    for boots in 1..=2 {
        assert_eq!(rig.run(rig.build()).outcome_within(6 * LIMIT), Some(Outcome::Reset));
        assert_eq!(rig.reports.all(), vec![0x5e; boots]);
    }
}

// Protected mode, flat: fw_cfg's signature by DMA, then a byte of the flash programmed and its block erased.
payload!(
    flash_driver,
    "32",
    "mov ax, 0x10",
    "mov ds, ax",
    "mov es, ax",
    "mov ss, ax",
    "mov esp, 0x8000",
    // The descriptor at 0x1000: select item 0 and read, 4 bytes, to 0x2000.
    "mov dword ptr [0x1000], 0x0a000000",
    "mov dword ptr [0x1004], 0x04000000",
    "mov dword ptr [0x1008], 0",
    "mov dword ptr [0x100c], 0x00200000",
    "mov dx, 0x514",
    "xor eax, eax",
    "out dx, eax",
    "mov dx, 0x518",
    "mov eax, 0x00100000",
    "out dx, eax",
    "mov dx, 0x700",
    "mov eax, dword ptr [0x1000]",
    "out dx, eax",
    "mov eax, dword ptr [0x2000]",
    "out dx, eax",
    // The variables begin at 0xffff0000 and have one block.
    "mov edi, 0xffff0800",
    "movzx eax, byte ptr [edi]",
    "out dx, eax",
    "mov byte ptr [edi], 0x50",
    "mov byte ptr [edi], 0x70",
    "movzx eax, byte ptr [edi]",
    "out dx, eax",
    "mov byte ptr [edi], 0x10",
    "mov byte ptr [edi], 0x5a",
    "mov byte ptr [edi], 0xff",
    "movzx eax, byte ptr [edi]",
    "out dx, eax",
    "mov byte ptr [edi], 0x20",
    "mov byte ptr [edi], 0xd0",
    "movzx eax, byte ptr [edi]",
    "out dx, eax",
    "mov byte ptr [edi], 0xff",
    "mov eax, dword ptr [edi]",
    "out dx, eax",
    // The code can't be written.
    "mov edi, 0xffffe000",
    "mov byte ptr [edi], 0x12",
    "movzx eax, byte ptr [edi]",
    "out dx, eax",
    "mov dx, 0x604",
    "mov ax, 0x3400",
    "out dx, ax",
    "2: hlt",
    "jmp 2b",
);

/// Code in the place of EFI's: its reset vector enters protected mode and goes on with the payload.
fn efi_code() -> File {
    const SIZE: usize = 0xF000;
    let mut image = vec![0x77; SIZE];
    let mut put = |below_end: usize, bytes: &[u8]| {
        let at = SIZE - below_end;
        image[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(SIZE - 40, b"_FVH");
    put(0x1000, flash_driver());
    // 0xffffff00: flat code and data segments, and the pointer to them.
    put(0x100, &[0; 8]);
    put(0xF8, &0x00CF_9B00_0000_FFFFu64.to_le_bytes());
    put(0xF0, &0x00CF_9300_0000_FFFFu64.to_le_bytes());
    put(0xE0, &[&23u16.to_le_bytes()[..], &0xFFFF_FF00u32.to_le_bytes()].concat());
    // lgdt cs:[0xff20]; mov eax, cr0; or al, 1; mov cr0, eax; jmp 8:0xfffff000
    let enter = [0x2E, 0x66, 0x0F, 0x01, 0x16, 0x20, 0xFF, 0x0F, 0x20, 0xC0, 0x0C, 0x01, 0x0F, 0x22, 0xC0];
    put(0x80, &enter);
    put(0x80 - enter.len(), &[0x66, 0xEA, 0x00, 0xF0, 0xFF, 0xFF, 0x08, 0x00]);
    // jmp to it.
    put(0x10, &[0xEB, 0x8E]);
    file(&image)
}

/// One block of variables, filled with 0x33.
fn variables() -> File {
    let mut block = vec![0x33; 4096];
    block[16..32].copy_from_slice(&[
        0x8D, 0x2B, 0xF1, 0xFF, 0x96, 0x76, 0x8B, 0x4C, 0xA9, 0x85, 0x27, 0x47, 0x07, 0x5B, 0x4F, 0x50,
    ]);
    block[32..40].copy_from_slice(&4096u64.to_le_bytes());
    block[40..44].copy_from_slice(b"_FVH");
    file(&block)
}

// Under the jail's filters: a call that is missing from a list kills this process, and so the test.
#[test]
fn firmware_drives_fw_cfg_and_its_flash() {
    let variables = variables();
    let firmware = FirmwareConfig::Efi { code: FdIndex(1), variables: FdIndex(2) };
    let mut rig = Rig::with(machine(firmware, Vec::new(), vec![efi_code(), variables.try_clone().unwrap()]));
    seccomp::install(ThreadKind::Main).unwrap();
    rig.restart_events();
    assert_eq!(rig.outcome(), Outcome::PowerOff);
    let qemu = u32::from_le_bytes(*b"QEMU");
    assert_eq!(rig.reports.all(), [0, qemu, 0x33, 0, 0x5A, 0x80, 0xFFFF_FFFF, 0x77]);
    // The file has it too, and keeps it over a reset of the machine.
    let mut block = [0; 4096];
    variables.read_exact_at(&mut block, 0).unwrap();
    assert!(block.iter().all(|byte| *byte == 0xFF));
}
