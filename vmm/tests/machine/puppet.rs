//! A vCPU on strings: a payload that does one access after another as the test says, so that drivers can be written in Rust
//! and still run in the guest, through its CPU's exits.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use vireo_vmm::bus::BusDevice;
use vireo_vmm::machine::Machine;

use super::payload::{end_of_interrupt, payload, take_interrupts};
use super::rig::LIMIT;

/// Commands are read at the first port, results written to the second.
const PORT: u64 = 0x720;
/// The vector that [`Puppet::wait_interrupt`] waits for.
pub const VECTOR: u32 = 0x51;

// Reads a command and two operands, does it, reports the result. Interrupts are taken only while waiting for one.
payload!(
    puppet,
    "64",
    take_interrupts!("0x51", "9f"),
    "24: mov dx, 0x720",
    "in eax, dx",
    "mov ecx, eax",
    "in eax, dx",
    "mov edi, eax",
    "in eax, dx",
    "mov esi, eax",
    "xor eax, eax",
    "dec ecx",
    "js 7f",
    "jz 2f",
    "dec ecx",
    "jz 3f",
    "dec ecx",
    "jz 4f",
    "dec ecx",
    "jz 5f",
    "dec ecx",
    "jz 6f",
    "dec ecx",
    "jz 21f",
    "dec ecx",
    "jz 22f",
    "dec ecx",
    "jz 23f",
    // 9: wait for an interrupt
    "sti",
    "hlt",
    "cli",
    "jmp 8f",
    // 1: port write
    "2: mov edx, edi",
    "mov eax, esi",
    "out dx, eax",
    "jmp 8f",
    // 2: port read
    "3: mov edx, edi",
    "in eax, dx",
    "jmp 8f",
    // 3, 4, 5: memory writes
    "4: mov eax, esi",
    "mov byte ptr [rdi], al",
    "jmp 8f",
    "5: mov eax, esi",
    "mov word ptr [rdi], ax",
    "jmp 8f",
    "6: mov dword ptr [rdi], esi",
    "jmp 8f",
    // 6, 7, 8: memory reads
    "21: movzx eax, byte ptr [rdi]",
    "jmp 8f",
    "22: movzx eax, word ptr [rdi]",
    "jmp 8f",
    "23: mov eax, dword ptr [rdi]",
    "8: mov dx, 0x724",
    "out dx, eax",
    "jmp 24b",
    // 0: power off
    "7: mov dx, 0x604",
    "mov ax, 0x3400",
    "out dx, ax",
    "9:",
    end_of_interrupt!(),
    "iretq",
);

/// The payload's code, 64-bit.
pub fn code() -> &'static [u8] {
    puppet()
}

/// Holds the strings.
pub struct Puppet {
    commands: Sender<u32>,
    results: Receiver<u32>,
}

struct Port {
    commands: Mutex<Receiver<u32>>,
    results: Sender<u32>,
}

impl BusDevice for Port {
    // Waits for the test's next move; when the test is over the guest powers off.
    fn read(&self, _: u64, data: &mut [u8]) {
        let command = self.commands.lock().unwrap().recv_timeout(LIMIT).unwrap_or(0);
        data.copy_from_slice(&command.to_le_bytes());
    }

    fn write(&self, _: u64, data: &[u8]) {
        let _ = self.results.send(u32::from_le_bytes(data.try_into().unwrap()));
    }
}

impl Puppet {
    pub fn attach(machine: &Machine) -> Self {
        let (commands, taken) = channel();
        let (given, results) = channel();
        let port = Port { commands: Mutex::new(taken), results: given };
        machine.ports().insert(PORT, 8, Arc::new(port)).unwrap();
        Self { commands, results }
    }

    fn act(&self, command: u32, at: u32, value: u32) -> u32 {
        for word in [command, at, value] {
            self.commands.send(word).unwrap();
        }
        self.results.recv_timeout(LIMIT).expect("the guest answers")
    }

    pub fn out32(&self, port: u32, value: u32) {
        self.act(1, port, value);
    }

    pub fn in32(&self, port: u32) -> u32 {
        self.act(2, port, 0)
    }

    /// Writes 1, 2 or 4 bytes of memory.
    pub fn write(&self, at: u32, len: u32, value: u32) {
        self.act(3 + len.ilog2(), at, value);
    }

    /// Reads 1, 2 or 4 bytes of memory.
    pub fn read(&self, at: u32, len: u32) -> u32 {
        self.act(6 + len.ilog2(), at, 0)
    }

    pub fn wait_interrupt(&self) {
        self.act(9, 0, 0);
    }
}
