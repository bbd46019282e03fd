//! Interrupt delivery through KVM: MSI routes and I/O APIC lines, each raised by writing an eventfd (irqfd).
//!
//! Owns the VM's GSI routing table. KVM takes the table only as a whole, so every change rewrites it under one lock; raising
//! an interrupt takes no lock and no ioctl.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KvmIrqRouting, kvm_irq_routing_entry,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::memory::layout::gsi;

/// Pins of the I/O APIC that KVM emulates.
const IOAPIC_PINS: u32 = 24;
/// Pins of each of the two 8259s.
const PIC_PINS: u32 = 8;
/// MSI routes that one machine may hold; bounds what a guest can make the kernel allocate.
const MAX_MSI: u32 = 1024;

/// Why an interrupt could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All routes are in use.
    #[error("all {MAX_MSI} MSI routes are in use")]
    Exhausted,
    /// An eventfd could not be made.
    #[error("interrupt eventfd")]
    EventFd(#[source] io::Error),
    /// KVM refused an irqfd.
    #[error("KVM_IRQFD for GSI {gsi}")]
    Irqfd {
        /// The interrupt line.
        gsi: u32,
        /// KVM's answer.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// KVM refused the routing table.
    #[error("KVM_SET_GSI_ROUTING")]
    Routing(#[source] kvm_ioctls::Error),
}

/// Where a message-signalled interrupt goes: what the guest wrote into the MSI-X table (PCI 3.0 §6.8.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MsiMessage {
    /// Message address, both halves.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

/// The routing table of one VM. Clones share it.
#[derive(Clone)]
pub struct Interrupts {
    vm: Arc<VmFd>,
    routes: Arc<Mutex<Vec<Option<MsiMessage>>>>,
}

impl fmt::Debug for Interrupts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interrupts")
    }
}

/// A level-triggered line of the interrupt controllers.
#[derive(Clone)]
pub struct LevelLine {
    vm: Arc<VmFd>,
    gsi: u32,
}

impl fmt::Debug for LevelLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LevelLine").field("gsi", &self.gsi).finish_non_exhaustive()
    }
}

impl LevelLine {
    /// Drives the line up or down.
    pub fn set(&self, up: bool) {
        // KVM_IRQ_LINE fails only without interrupt controllers, which every machine has.
        let _ = self.vm.set_irq_line(self.gsi, up);
    }
}

/// One MSI vector: a GSI of its own, an eventfd that raises it, given back on drop.
#[derive(Debug)]
pub struct MsiVector {
    interrupts: Interrupts,
    index: usize,
    gsi: u32,
    event: EventFd,
    attached: bool,
}

impl Interrupts {
    /// Takes over the routing of `vm`, whose in-kernel interrupt controllers exist already.
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self { vm, routes: Arc::default() }
    }

    /// An edge-triggered I/O APIC line: each write to the eventfd is one pulse.
    pub fn line(&self, gsi: u32) -> Result<EventFd, Error> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(Error::EventFd)?;
        self.vm.register_irqfd(&event, gsi).map_err(|source| Error::Irqfd { gsi, source })?;
        Ok(event)
    }

    /// A level-triggered line of the I/O APIC, down at first.
    pub fn level(&self, gsi: u32) -> LevelLine {
        LevelLine { vm: Arc::clone(&self.vm), gsi }
    }

    /// A vector that goes nowhere until [`MsiVector::set`].
    pub fn msi(&self) -> Result<MsiVector, Error> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(Error::EventFd)?;
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let index = routes.iter().position(Option::is_none).unwrap_or(routes.len());
        let gsi = u32::try_from(index).ok().filter(|i| *i < MAX_MSI).ok_or(Error::Exhausted)? + gsi::FIRST_MSI;
        if index == routes.len() {
            routes.push(None);
        }
        routes[index] = Some(MsiMessage::default());
        Ok(MsiVector { interrupts: self.clone(), index, gsi, event, attached: false })
    }

    fn set(&self, index: usize, message: MsiMessage) -> Result<(), Error> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if routes[index] == Some(message) {
            return Ok(());
        }
        routes[index] = Some(message);
        let mut entries = legacy_routes();
        for (gsi, route) in (gsi::FIRST_MSI..).zip(routes.iter()) {
            if let Some(message) = route.filter(|m| *m != MsiMessage::default()) {
                entries.push(msi_route(gsi, message));
            }
        }
        let table = KvmIrqRouting::from_entries(&entries).map_err(|_| Error::Exhausted)?;
        self.vm.set_gsi_routing(&table).map_err(Error::Routing)
    }
}

impl MsiVector {
    /// Sends the vector to `message` from now on, and lets the eventfd raise it.
    pub fn set(&mut self, message: MsiMessage) -> Result<(), Error> {
        self.interrupts.set(self.index, message)?;
        if !self.attached {
            let vm = &self.interrupts.vm;
            vm.register_irqfd(&self.event, self.gsi).map_err(|source| Error::Irqfd { gsi: self.gsi, source })?;
            self.attached = true;
        }
        Ok(())
    }

    /// Stops delivery (the vector is masked); what is raised meanwhile stays pending in the eventfd.
    pub fn mask(&mut self) -> Result<(), Error> {
        if self.attached {
            let vm = &self.interrupts.vm;
            vm.unregister_irqfd(&self.event, self.gsi).map_err(|source| Error::Irqfd { gsi: self.gsi, source })?;
            self.attached = false;
        }
        Ok(())
    }

    /// The eventfd that raises the vector.
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

impl Drop for MsiVector {
    fn drop(&mut self) {
        // Fails only if KVM has forgotten the irqfd; then there is nothing to undo.
        let _ = self.mask();
        let mut routes = self.interrupts.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes[self.index] = None;
    }
}

/// The table that KVM_CREATE_IRQCHIP sets up: GSI n is I/O APIC pin n, and PIC pin n below 16.
fn legacy_routes() -> Vec<kvm_irq_routing_entry> {
    let mut entries = Vec::new();
    for gsi in 0..IOAPIC_PINS {
        entries.push(chip_route(gsi, KVM_IRQCHIP_IOAPIC, gsi));
        if gsi < PIC_PINS {
            entries.push(chip_route(gsi, KVM_IRQCHIP_PIC_MASTER, gsi));
        } else if gsi < 2 * PIC_PINS {
            entries.push(chip_route(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - PIC_PINS));
        }
    }
    entries
}

fn chip_route(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip.irqchip = irqchip;
    entry.u.irqchip.pin = pin;
    entry
}

fn msi_route(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the address")]
    {
        entry.u.msi.address_lo = message.address as u32;
        entry.u.msi.address_hi = (message.address >> 32) as u32;
    }
    entry.u.msi.data = message.data;
    entry
}
