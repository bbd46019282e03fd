//! The devices of machine type `vireo-1`, each at its place on the buses.

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::autoconf::Autoconf;
use crate::bus::{Bus, BusDevice, Overlap};
use crate::config::{AutoconfPlan, BootPlan, CacheMode, ConsoleKind, MachinePlan, NicPlan};
use crate::console::hub::{Hub, Input};
use crate::disk::{self, OpenError};
use crate::ending::Ending;
use crate::memory::layout::{gsi, port};
use crate::pci::host_bridge::HostBridge;
use crate::pci::{self, PciContext, PciRoot};
use crate::platform::acpi_pm::AcpiPm;
use crate::platform::cmos;
use crate::platform::pvpanic::Pvpanic;
use crate::platform::reset::{I8042, ResetControl};
use crate::platform::rtc::Rtc;
use crate::platform::serial::Serial;
use crate::virtio::balloon::{Balloon, BalloonControl};
use crate::virtio::block::{Block, Traits};
use crate::virtio::console::{Backend, Console, Ports};
use crate::virtio::net::{Limiters, Link, Net};
use crate::virtio::rng::Rng;
use crate::virtio::vsock::{Vsock, VsockControl};
use crate::{event_loop, interrupts};

/// Why a device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A disk's image is of no use.
    #[error("disk {name:?}")]
    Disk {
        /// The volume.
        name: String,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// The host refused a descriptor.
    #[error("{kind} {name:?}: {what}")]
    Host {
        /// `disk` or `nic`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has no place.
    #[error(transparent)]
    Pci(#[from] pci::Error),
    /// It has no interrupt.
    #[error(transparent)]
    Interrupts(#[from] interrupts::Error),
    /// The machine type contradicts itself.
    #[error(transparent)]
    Bus(#[from] Overlap),
}

/// What answers the guest, and what the shim's commands reach.
#[derive(Debug)]
pub(super) struct Devices {
    pub ports: Arc<Bus>,
    pub mmio: Arc<Bus>,
    pub acpi_pm: Arc<AcpiPm>,
    pub pci: Arc<PciRoot>,
    pub hosts: Hosts,
    /// PCI slots of the plan's disks and network cards.
    pub disk_slots: Vec<u8>,
    pub nic_slots: Vec<u8>,
    /// What tells the guest its addresses, for as long as it is there.
    _autoconf: Vec<Autoconf>,
}

/// The host's sides of virtio devices.
#[derive(Debug)]
pub(super) struct Hosts {
    pub console: Ports,
    pub balloon: Option<BalloonControl>,
    pub vsock: Option<VsockControl>,
    /// Of the plan's network cards.
    pub links: Vec<Link>,
}

impl Devices {
    /// Makes them all and puts them on `context`'s bus and on ports.
    pub fn new(
        plan: &MachinePlan,
        hub: &Arc<Hub>,
        context: PciContext,
        ending: &Arc<Ending>,
    ) -> Result<Self, DeviceError> {
        let bridge = match plan.boot {
            BootPlan::Kernel(_) => HostBridge::generic(),
            BootPlan::Firmware(_) => HostBridge::q35(),
        };
        let (ports, mmio) = (Arc::new(Bus::default()), Arc::clone(&context.mmio));
        let acpi_pm = wire_board(plan, hub, &ports, &context, ending)?;
        let autoconf = serve_autoconf(plan, &context.events)?;
        let pci = PciRoot::new(context, bridge);
        let reset = Arc::new(ResetControl::new(Arc::clone(ending)));
        ports.insert(port::PCI_CONFIG.into(), 8, pci.config_ports(reset))?;
        let Plugged { hosts, disk_slots, nic_slots } = plug_virtio(plan, hub, &pci)?;
        Ok(Self { ports, mmio, acpi_pm, pci, hosts, disk_slots, nic_slots, _autoconf: autoconf })
    }
}

impl Devices {
    /// Plugs the cable of network card `nic` in, or pulls it.
    pub fn set_link(&self, nic: usize, up: bool) {
        if let Some(link) = self.hosts.links.get(nic) {
            link.set(up);
        }
    }
}

/// Answers what the guest asks for its configuration, where the plan knows any.
fn serve_autoconf(plan: &MachinePlan, events: &event_loop::Handle) -> Result<Vec<Autoconf>, DeviceError> {
    let served = plan.nics.iter().filter_map(|nic| Some((nic, nic.autoconf.as_ref()?)));
    let serve = |(nic, answers): (&NicPlan, &AutoconfPlan)| {
        let refused =
            |source| DeviceError::Host { kind: "nic", name: nic.name.clone(), what: "dup of its socket", source };
        Autoconf::serve(events, answers, nic.mac).map_err(refused)
    };
    served.map(serve).collect()
}

/// The board's own devices at their ports.
fn wire_board(
    plan: &MachinePlan,
    hub: &Arc<Hub>,
    ports: &Bus,
    context: &PciContext,
    ending: &Arc<Ending>,
) -> Result<Arc<AcpiPm>, DeviceError> {
    let interrupts = &context.interrupts;
    let is_console = plan.console == ConsoleKind::Serial;
    let serial = Arc::new(Serial::new(interrupts.line(gsi::SERIAL)?, is_console.then(|| Arc::clone(hub))));
    if is_console {
        let input: Arc<dyn Input> = Arc::clone(&serial) as _;
        hub.bind_input(input);
    }
    let acpi_pm = Arc::new(AcpiPm::new(interrupts.level(gsi::SCI), Arc::clone(ending)));
    let memory = cmos::content(plan.vcpus, plan.memory.size);
    let rtc = Rtc::new(memory, interrupts.line(gsi::RTC)?, context.events.clone());
    let board: [(u16, u64, Arc<dyn BusDevice>); 5] = [
        (port::SERIAL, Serial::PORTS, serial),
        (port::RTC, Rtc::PORTS, rtc),
        (port::I8042, I8042::PORTS, Arc::new(I8042::new(Arc::clone(ending)))),
        (port::PVPANIC, 1, Arc::new(Pvpanic::new(Arc::clone(ending)))),
        (port::ACPI_PM, AcpiPm::PORTS, Arc::clone(&acpi_pm) as _),
    ];
    for (start, size, device) in board {
        ports.insert(start.into(), size, device)?;
    }
    Ok(acpi_pm)
}

/// What is plugged in.
struct Plugged {
    hosts: Hosts,
    disk_slots: Vec<u8>,
    nic_slots: Vec<u8>,
}

/// The virtio devices, each in the next PCI slot: disks, network cards, the entropy source, the console, the
/// balloon, the sockets.
fn plug_virtio(plan: &MachinePlan, hub: &Arc<Hub>, pci: &Arc<PciRoot>) -> Result<Plugged, DeviceError> {
    let (mut disk_slots, mut nic_slots, mut links) = (Vec::new(), Vec::new(), Vec::new());
    let host = |kind, name: &String, what| {
        let name = name.clone();
        move |source| DeviceError::Host { kind, name, what, source }
    };
    for disk in &plan.disks {
        let copy = |file: &File| file.try_clone().map_err(host("disk", &disk.name, "dup of its image"));
        let (image, overlay) = (copy(&disk.image)?, disk.overlay.as_ref().map(copy).transpose()?);
        let refused = |source| DeviceError::Disk { name: disk.name.clone(), source };
        let image = disk::open(image, overlay, disk.into()).map_err(refused)?;
        let traits = Traits {
            serial: disk.serial.unwrap_or_default(),
            queues: disk.queues,
            writeback: disk.cache != CacheMode::Writethrough,
            block_size: disk.block_size,
            on_error: disk.on_error,
            ring: disk.ring,
            limit: disk.limit,
        };
        disk_slots.push(pci.add_virtio(Box::new(Block::new(disk.name.clone(), image, traits)))?);
    }
    for nic in &plan.nics {
        let taps = nic.taps.iter().map(File::try_clone).collect::<io::Result<_>>();
        let taps = taps.map_err(host("nic", &nic.name, "dup of its tap"))?;
        let link = Link::new(nic.link_up);
        let card = Net::new(nic.name.clone(), taps, nic.mac, nic.mtu, link.clone());
        let mut card = card.map_err(host("nic", &nic.name, "its tap"))?;
        let vhosts = nic.vhosts.iter().map(File::try_clone).collect::<io::Result<_>>();
        card.accelerate(vhosts.map_err(host("nic", &nic.name, "dup of its vhost-net"))?);
        card.limit(Limiters::new(nic.receive_limit, nic.transmit_limit));
        links.push(link);
        nic_slots.push(pci.add_virtio(Box::new(card))?);
    }
    if plan.rng {
        pci.add_virtio(Box::new(Rng::new()))?;
    }
    let is_console = plan.console == ConsoleKind::Virtio;
    let (console, ports) = Console::new();
    if is_console {
        ports.console.bind(Arc::clone(hub) as Arc<dyn Backend>);
        hub.bind_input(Arc::new(ports.console.clone()));
    }
    pci.add_virtio(Box::new(console))?;
    let balloon = plan.balloon.then(Balloon::new);
    let balloon = balloon.map(|(device, control)| pci.add_virtio(Box::new(device)).map(|_| control)).transpose()?;
    let vsock = plan.vsock.map(Vsock::new);
    let vsock = vsock.map(|(device, control)| pci.add_virtio(Box::new(device)).map(|_| control)).transpose()?;
    Ok(Plugged { hosts: Hosts { console: ports, balloon, vsock, links }, disk_slots, nic_slots })
}
