//! Every call that KubeVirt has on a machine or an instance.

/// The group.
pub(super) const GROUP: &str = "subresources.kubevirt.io";
/// Its versions, the preferred one first; they differ in nothing but the name.
pub(super) const VERSIONS: [&str; 2] = ["v1", "v1alpha3"];

/// What a call is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `virtualmachines`.
    Machine,
    /// `virtualmachineinstances`.
    Instance,
    /// A namespace: nothing that is stored.
    Namespace,
}

/// How it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Put,
}

/// One call.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) kind: Kind,
    /// As in `sev/setupsession`.
    pub(super) name: &'static str,
    pub(super) method: Method,
    /// Why it isn't built yet, if it isn't.
    pub(super) missing: Option<&'static str>,
    /// What it does.
    pub(super) does: &'static str,
}

impl Endpoint {
    /// Its name in discovery.
    pub(super) fn resource(&self) -> String {
        match self.kind {
            Kind::Machine => format!("virtualmachines/{}", self.name),
            Kind::Instance => format!("virtualmachineinstances/{}", self.name),
            Kind::Namespace => self.name.to_owned(),
        }
    }

    /// RBAC's verb for it.
    pub(super) fn verb(&self) -> &'static str {
        match self.method {
            Method::Get => "get",
            Method::Put => "update",
        }
    }
}

const fn built(kind: Kind, method: Method, name: &'static str, does: &'static str) -> Endpoint {
    Endpoint { kind, name, method, missing: None, does }
}

const fn missing(kind: Kind, method: Method, name: &'static str, does: &'static str, reason: &'static str) -> Endpoint {
    Endpoint { kind, name, method, missing: Some(reason), does }
}

const NO_MIGRATION: &str = "live migration is not built yet";
const NO_HOTPLUG: &str = "volumes can't be added to a running guest yet: change spec.template and restart it";
const NO_DUMP: &str = "memory dumps are not built yet";
const NO_SCREEN: &str = "there is no screen yet: use console";
const NO_SEV: &str = "confidential guests (launchSecurity) are not supported";
const NO_BACKUP: &str = "backups are not built yet";

/// Every call.
pub(super) const ENDPOINTS: &[Endpoint] = &[
    built(Kind::Namespace, Method::Put, "expand-vm-spec", "Expands the body, a VirtualMachine"),
    built(Kind::Machine, Method::Put, "start", "Starts a VirtualMachine"),
    built(Kind::Machine, Method::Put, "stop", "Stops a VirtualMachine"),
    built(Kind::Machine, Method::Put, "restart", "Restarts a VirtualMachine"),
    missing(Kind::Machine, Method::Put, "migrate", "Moves a VirtualMachine to another node", NO_MIGRATION),
    built(Kind::Machine, Method::Get, "expand-spec", "A VirtualMachine with its instancetype"),
    missing(Kind::Machine, Method::Put, "addvolume", "Adds a volume", NO_HOTPLUG),
    missing(Kind::Machine, Method::Put, "removevolume", "Removes a volume", NO_HOTPLUG),
    missing(Kind::Machine, Method::Put, "memorydump", "Dumps a guest's memory", NO_DUMP),
    missing(Kind::Machine, Method::Put, "removememorydump", "Forgets a dump", NO_DUMP),
    built(Kind::Machine, Method::Get, "objectgraph", "Objects that a VirtualMachine stands on"),
    built(Kind::Machine, Method::Put, "evacuate/cancel", "Cancels an evacuation"),
    built(Kind::Machine, Method::Get, "portforward", "Connects to a port of the guest"),
    built(Kind::Instance, Method::Get, "console", "The first serial port"),
    built(Kind::Instance, Method::Get, "portforward", "Connects to a port of the guest"),
    built(Kind::Instance, Method::Get, "vsock", "Connects to a port of the guest's vsock"),
    missing(Kind::Instance, Method::Get, "vnc", "The screen", NO_SCREEN),
    missing(Kind::Instance, Method::Get, "vnc/screenshot", "A picture of the screen", NO_SCREEN),
    missing(Kind::Instance, Method::Get, "usbredir", "Lends a USB device", "USB devices can't be lent to a guest"),
    built(Kind::Instance, Method::Put, "pause", "Makes a guest stand still"),
    built(Kind::Instance, Method::Put, "unpause", "Lets a guest go on"),
    built(Kind::Instance, Method::Put, "freeze", "Flushes and holds a guest's file systems"),
    built(Kind::Instance, Method::Put, "unfreeze", "Lets a guest's file systems go on"),
    built(Kind::Instance, Method::Put, "softreboot", "Asks a guest to reboot"),
    built(Kind::Instance, Method::Put, "reset", "Begins a guest anew, at once"),
    built(Kind::Instance, Method::Put, "evacuate/cancel", "Cancels an evacuation"),
    built(Kind::Instance, Method::Get, "guestosinfo", "What a guest runs, by its agent"),
    built(Kind::Instance, Method::Get, "userlist", "Who is logged in, by a guest's agent"),
    built(Kind::Instance, Method::Get, "filesystemlist", "What is mounted, by a guest's agent"),
    missing(Kind::Instance, Method::Put, "addvolume", "Adds a volume", NO_HOTPLUG),
    missing(Kind::Instance, Method::Put, "removevolume", "Removes a volume", NO_HOTPLUG),
    built(Kind::Instance, Method::Get, "objectgraph", "Objects that an instance stands on"),
    missing(Kind::Instance, Method::Put, "backup", "Backs a guest up", NO_BACKUP),
    missing(Kind::Instance, Method::Put, "redefine-checkpoint", "Redefines a backup's checkpoint", NO_BACKUP),
    missing(Kind::Instance, Method::Get, "sev/fetchcertchain", "SEV's certificates", NO_SEV),
    missing(Kind::Instance, Method::Get, "sev/querylaunchmeasurement", "SEV's measurement", NO_SEV),
    missing(Kind::Instance, Method::Put, "sev/setupsession", "Sets a SEV session up", NO_SEV),
    missing(Kind::Instance, Method::Put, "sev/injectlaunchsecret", "Injects a SEV secret", NO_SEV),
];
