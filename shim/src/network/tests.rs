//! With the kernel's own network: namespaces, veths, taps, nftables. The guest is a namespace too, whose tap is connected
//! to the pod's frame by frame.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use serde_json::{Value, json};
use vireo_runtimeclass::parse_vmi;
use vireo_vmm::autoconf::Autoconf;
use vireo_vmm::config::AutoconfPlan;
use vireo_vmm::event_loop::{self, EventLoop};

use super::*;

const LIMIT: Duration = Duration::from_secs(5);
/// How long what must not come is waited for.
const SILENCE: Duration = Duration::from_millis(300);

/// Ends the test where it can't run.
fn demand_a_lab() {
    assert!(nix::unistd::geteuid().is_root(), "namespaces and taps need root: run as root");
    assert!(Path::new("/dev/net/tun").exists(), "/dev/net/tun is missing: run modprobe tun");
    for command in ["nft", "ip"] {
        let found = Command::new(command).arg("-V").output().is_ok();
        assert!(found, "the command {command} is missing: run tests/setup.sh");
    }
}

/// A network namespace; it lives as long as the file.
struct Namespace {
    _file: File,
    path: PathBuf,
}

impl Namespace {
    fn new() -> Self {
        let file = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let file = file.join().unwrap();
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        let namespace = Self { _file: file, path };
        namespace.run("ip link set lo up");
        namespace
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::within(&self.path, || Ok(work())).unwrap()
    }

    fn output(&self, command: &str) -> Output {
        let mut words = command.split(' ');
        self.inside(|| Command::new(words.next().unwrap()).args(words).output().unwrap())
    }

    fn run(&self, command: &str) -> String {
        let output = self.output(command);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The hardware address of its `eth0`.
    fn mac(&self) -> String {
        let text = self.run("ip -o link show eth0");
        text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
    }

    /// A UDP socket that waits no longer than [`LIMIT`].
    fn udp(&self, address: &str) -> UdpSocket {
        let socket = self.inside(|| UdpSocket::bind(address)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    }

    /// Has as many addresses, interfaces and rules as at first.
    fn is_as(&self, before: &str) {
        assert_eq!(self.state(), before);
    }

    fn state(&self) -> String {
        self.run("ip -o address") + &self.run("nft list ruleset")
    }
}

/// A pod between a guest and the world outside.
struct Lab {
    pod: Namespace,
    outside: Namespace,
    guest: Namespace,
    ended: Arc<AtomicBool>,
    pump: Option<JoinHandle<()>>,
}

impl Lab {
    /// A pod and the outside on one cable.
    fn new() -> Self {
        demand_a_lab();
        let lab = Self {
            pod: Namespace::new(),
            outside: Namespace::new(),
            guest: Namespace::new(),
            ended: Arc::default(),
            pump: None,
        };
        lab.cable("eth0");
        for (namespace, host) in [(&lab.pod, 2), (&lab.outside, 1)] {
            namespace.run(&format!("ip addr add 172.30.0.{host}/24 dev eth0"));
            namespace.run(&format!("ip addr add fd30::{host}/64 dev eth0 nodad"));
        }
        lab.pod.run("ip route add default via 172.30.0.1");
        lab
    }

    /// One more cable between the two.
    fn cable(&self, name: &str) {
        let outside = self.outside.path.display();
        self.pod.run(&format!("ip link add {name} mtu 1400 type veth peer name {name} netns {outside}"));
        for namespace in [&self.pod, &self.outside] {
            namespace.run(&format!("ip link set {name} addrgenmode none up"));
        }
    }

    fn attach(&self, wishes: &[Wish]) -> Result<Attachment, NetworkError> {
        attach(&self.pod.path, wishes, &PodFacts::default())
    }

    /// Puts a guest on the first interface.
    fn plug(&mut self, attachment: &mut Attachment) -> PlannedNic {
        let mut nic = attachment.nics().unwrap().swap_remove(0);
        let guest = self.guest.inside(|| open_tap("eth0", 1)).unwrap().swap_remove(0);
        let mac = nic.mac.map(|byte| format!("{byte:02x}")).join(":");
        self.guest.run(&format!("ip link set eth0 address {mac} mtu 1400 up"));
        let (ended, tap) = (Arc::clone(&self.ended), nic.taps.swap_remove(0));
        self.pump = Some(std::thread::spawn(move || pump([guest, tap], &ended)));
        nic
    }

    /// Gives the guest an address, and sends what it has no other way for to `gateway`.
    fn address(&self, address: &str, gateway: &str) {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        self.guest.run(&format!("ip addr add {address} dev eth0{nodad}"));
        self.guest.run(&format!("ip route add default via {gateway} dev eth0"));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(pump) = self.pump.take() {
            let _ = pump.join();
        }
    }
}

/// Carries frames, each with its header, between two taps.
fn pump(mut taps: [File; 2], ended: &AtomicBool) {
    let mut frame = [0; 2048];
    while !ended.load(Ordering::Relaxed) {
        let mut fds = [0, 1].map(|i: usize| PollFd::new(taps[i].as_fd(), PollFlags::POLLIN));
        let _ = poll(&mut fds, 20u16);
        for from in 0..2 {
            while let Ok(len) = taps[from].read(&mut frame) {
                // A tap that is down takes none.
                let _ = taps[1 - from].write_all(&frame[..len]);
            }
        }
    }
}

/// Answers as the machine's VMM and its shim do, until dropped.
struct Answering {
    attachment: Attachment,
    machine: Option<Autoconf>,
    events: event_loop::Handle,
    threads: Vec<JoinHandle<()>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Answering {
    /// For the first interface.
    fn start(mut attachment: Attachment, nic: PlannedNic) -> Self {
        let mut events = EventLoop::new().unwrap();
        let handle = events.handle();
        let (socket, answers) = nic.autoconf.unwrap();
        let plan = AutoconfPlan { socket: socket.into(), answers };
        let machine = Autoconf::serve(&handle, &plan, nic.mac).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { attachment.serve() }).unwrap();
        let shim = std::thread::spawn(move || drop(runtime.block_on(stopped)));
        let vmm = std::thread::spawn(move || events.run().unwrap());
        Self { attachment, machine: Some(machine), events: handle, threads: vec![shim, vmm], stop: Some(stop) }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        (self.machine, self.stop) = (None, None);
        self.events.stop();
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// A DHCP request of the guest's, as a client without an address sends it; its answer's message type and address.
fn dhcp(lab: &Lab, mac: [u8; 6], kind: u8) -> (Vec<u8>, [u8; 4]) {
    let socket = lab.guest.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:68").unwrap();
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::BindToDevice, &"eth0".into()).unwrap();
        socket
    });
    socket.set_broadcast(true).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut message = vec![0; 236];
    message[..3].copy_from_slice(&[1, 1, 6]);
    message[10] = 0x80;
    message[28..34].copy_from_slice(&mac);
    message.extend([99, 130, 83, 99, 53, 1, kind, 255]);
    socket.send_to(&message, "255.255.255.255:67").unwrap();
    let mut answer = [0; 1500];
    let (len, _) = socket.recv_from(&mut answer).unwrap();
    (answer[240..len].to_vec(), answer[16..20].try_into().unwrap())
}

fn wish(interface: &Value) -> Vec<Wish> {
    let spec = json!({
        "domain": {"devices": {"interfaces": [interface]}},
        "networks": [{"name": "n", "pod": {}}],
    });
    wishes(Some(&parse_vmi(&spec.to_string()).unwrap()), "lab")
}

/// Sends a packet and returns whom it came from as the receiver sees it.
fn passes(from: &UdpSocket, to: &str, receiver: &UdpSocket) -> SocketAddr {
    let text = format!("to {to}");
    from.send_to(text.as_bytes(), to).unwrap();
    let mut buffer = [0; 64];
    let (len, sender) = receiver.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(&buffer[..len], text.as_bytes());
    sender
}

/// Nothing reaches the receiver.
fn stays_out(from: &UdpSocket, to: &str, receiver: &UdpSocket) {
    // The kernel may refuse it at once, or tell of an earlier one.
    let _ = from.send_to(b"must not arrive", to);
    receiver.set_read_timeout(Some(SILENCE)).unwrap();
    let mut buffer = [0; 64];
    assert!(receiver.recv(&mut buffer).is_err(), "{to} was reached");
    receiver.set_read_timeout(Some(LIMIT)).unwrap();
}

#[test]
fn a_namespace_that_is_none_is_said_so() {
    let attach = |path: &str| attach(Path::new(path), &wishes(None, "a"), &PodFacts::default());
    assert_eq!(attach("/none").unwrap_err().to_string(), "network namespace /none can't be entered");
    assert!(matches!(attach("/dev/null"), Err(NetworkError::Namespace(..))));
}

#[test]
fn what_fails_leaves_nothing() {
    demand_a_lab();
    let bare = Namespace::new();
    assert!(matches!(attach(&bare.path, &wishes(None, "a"), &PodFacts::default()), Err(NetworkError::NoUplink)));
    let lab = Lab::new();
    let before = lab.pod.state();
    lab.pod.run("ip addr add 10.0.2.77/16 dev eth0");
    assert!(matches!(lab.attach(&wishes(None, "a")), Err(NetworkError::Collision { .. })));
    lab.pod.run("ip addr del 10.0.2.77/16 dev eth0");
    lab.pod.is_as(&before);
    // Two machines on one pod: the first one's rules stay.
    let mut first = lab.attach(&wishes(None, "a")).unwrap();
    let during = lab.pod.state();
    let second = lab.attach(&wishes(None, "a"));
    assert!(matches!(second, Err(NetworkError::Tap { source, .. }) if source.kind() == io::ErrorKind::ResourceBusy));
    lab.pod.is_as(&during);
    assert_eq!(first.nics().unwrap()[0].mtu, Some(1400));
    drop(first);
    lab.pod.is_as(&before);
    drop(lab.attach(&wishes(None, "a")).unwrap());
}

#[test]
fn a_masqueraded_guest_is_behind_the_pods_addresses() {
    let mut lab = Lab::new();
    let mut attachment = lab.attach(&wishes(None, "lab")).unwrap();
    lab.plug(&mut attachment);
    lab.address("10.0.2.2/24", "10.0.2.1");
    lab.address("fd10:0:2::2/120", "fe80::1");
    let (guest, guest6) = (lab.guest.udp("0.0.0.0:80"), lab.guest.udp("[::]:81"));
    let (out, out6) = (lab.outside.udp("172.30.0.1:5000"), lab.outside.udp("[fd30::1]:5000"));

    // To the pod's address: it reaches the guest as it came. Out of the guest: from the pod's.
    assert_eq!(passes(&out, "172.30.0.2:80", &guest), "172.30.0.1:5000".parse().unwrap());
    assert_eq!(passes(&guest, "172.30.0.1:5000", &out).ip(), "172.30.0.2".parse::<IpAddr>().unwrap());
    assert_eq!(passes(&out6, "[fd30::2]:81", &guest6), "[fd30::1]:5000".parse().unwrap());
    assert_eq!(passes(&guest6, "[fd30::1]:5000", &out6).ip(), "fd30::2".parse::<IpAddr>().unwrap());

    // To the pod's loopback, as a port-forward: it comes from the gateway, and is answered.
    let local = lab.pod.udp("127.0.0.1:5001");
    let sender = passes(&local, "127.0.0.1:80", &guest);
    assert_eq!(sender.ip(), "10.0.2.1".parse::<IpAddr>().unwrap());
    assert_eq!(passes(&guest, &sender.to_string(), &local), "127.0.0.1:80".parse().unwrap());
    let local = lab.pod.udp("[::1]:5001");
    let sender = passes(&local, "[::1]:81", &guest6);
    assert_eq!(sender.ip(), "fd10:0:2::1".parse::<IpAddr>().unwrap());
    assert_eq!(passes(&guest6, &sender.to_string(), &local), "[::1]:81".parse().unwrap());

    // A network policy stands where the pod's cable ends.
    lab.outside.run("nft add table inet world");
    lab.outside.run("nft add chain inet world out { type filter hook output priority 0 ; }");
    lab.outside.run("nft add rule inet world out udp dport 80 drop");
    stays_out(&out, "172.30.0.2:80", &guest);
}

#[test]
fn only_listed_ports_reach_a_guest() {
    let mut lab = Lab::new();
    let ports = json!([{"port": 80, "protocol": "UDP"}, {"port": 81}]);
    let mut attachment = lab.attach(&wish(&json!({"name": "n", "masquerade": {}, "ports": ports}))).unwrap();
    lab.plug(&mut attachment);
    lab.address("10.0.2.2/24", "10.0.2.1");
    let (out, local) = (lab.outside.udp("172.30.0.1:5000"), lab.pod.udp("127.0.0.1:5001"));
    let (open, shut) = (lab.guest.udp("0.0.0.0:80"), lab.guest.udp("0.0.0.0:81"));
    passes(&out, "172.30.0.2:80", &open);
    passes(&local, "127.0.0.1:80", &open);
    stays_out(&out, "172.30.0.2:81", &shut);
    stays_out(&local, "127.0.0.1:81", &shut);
    // What the pod itself has is the pod's again.
    passes(&out, "172.30.0.2:81", &lab.pod.udp("172.30.0.2:81"));
}

#[test]
fn a_guest_is_nobody_else() {
    let mut lab = Lab::new();
    let mut attachment = lab.attach(&wishes(None, "lab")).unwrap();
    lab.plug(&mut attachment);
    lab.address("10.0.2.2/24", "10.0.2.1");
    lab.address("fd10:0:2::2/120", "fe80::1");
    lab.guest.run("ip addr add 10.0.2.9/24 dev eth0");
    lab.guest.run("ip addr add fd10:0:2::9/120 dev eth0 nodad");
    let (out, out6) = (lab.outside.udp("172.30.0.1:5000"), lab.outside.udp("[fd30::1]:5000"));
    stays_out(&lab.guest.udp("10.0.2.9:80"), "172.30.0.1:5000", &out);
    stays_out(&lab.guest.udp("[fd10:0:2::9]:80"), "[fd30::1]:5000", &out6);
    let own = lab.guest.udp("10.0.2.2:80");
    passes(&own, "172.30.0.1:5000", &out);
    // The pod's loopback is the pod's.
    lab.guest.run("ip route add 127.9.0.0/16 via 10.0.2.1 dev eth0");
    lab.guest.run("ip addr del 127.0.0.1/8 dev lo");
    stays_out(&own, "127.9.0.1:5001", &lab.pod.udp("127.9.0.1:5001"));
    let mac = lab.guest.mac();
    lab.guest.run("ip link set eth0 address 02:00:00:00:00:77");
    stays_out(&own, "172.30.0.1:5000", &out);
    lab.guest.run(&format!("ip link set eth0 address {mac}"));
    passes(&own, "172.30.0.1:5000", &out);
}

#[test]
fn a_bridged_guest_stands_in_the_pods_place() {
    let mut lab = Lab::new();
    let before = lab.pod.state();
    let mut attachment = lab.attach(&wish(&json!({"name": "n", "bridge": {}}))).unwrap();
    let mac = lab.pod.mac();
    lab.plug(&mut attachment);
    assert_eq!(lab.guest.mac(), mac);
    lab.address("172.30.0.2/24", "172.30.0.1");
    lab.address("fd30::2/64", "fd30::1");
    let (guest, guest6) = (lab.guest.udp("0.0.0.0:80"), lab.guest.udp("[::]:81"));
    let (out, out6) = (lab.outside.udp("172.30.0.1:5000"), lab.outside.udp("[fd30::1]:5000"));
    assert_eq!(passes(&out, "172.30.0.2:80", &guest), "172.30.0.1:5000".parse().unwrap());
    assert_eq!(passes(&guest, "172.30.0.1:5000", &out), "172.30.0.2:80".parse().unwrap());
    passes(&out6, "[fd30::2]:81", &guest6);
    assert_eq!(passes(&guest6, "[fd30::1]:5000", &out6).ip(), "fd30::2".parse::<IpAddr>().unwrap());

    // As nobody else here either.
    lab.guest.run("ip addr add 172.30.0.3/24 dev eth0");
    stays_out(&lab.guest.udp("172.30.0.3:82"), "172.30.0.1:5000", &out);
    lab.guest.run("ip link set eth0 address 02:00:00:00:00:77");
    stays_out(&guest, "172.30.0.1:5000", &out);
    lab.guest.run(&format!("ip link set eth0 address {mac}"));
    passes(&guest, "172.30.0.1:5000", &out);
    drop(attachment);
    lab.ended.store(true, Ordering::Relaxed);
    lab.pump.take().unwrap().join().unwrap();
    lab.pod.is_as(&before);
}

#[test]
fn a_second_network_is_a_cable_of_its_own() {
    let mut lab = Lab::new();
    lab.cable("net1");
    let spec = json!({
        "domain": {"devices": {"interfaces": [
            {"name": "red", "bridge": {}, "macAddress": "02:00:00:00:00:05"},
            {"name": "default", "masquerade": {}},
        ]}},
        "networks": [{"name": "default", "pod": {}}, {"name": "red", "multus": {"networkName": "red"}}],
    });
    let wishes = wishes(Some(&parse_vmi(&spec.to_string()).unwrap()), "lab");
    let mut attachment = lab.attach(&wishes).unwrap();
    lab.plug(&mut attachment);
    // Any address will do where nobody has given one.
    lab.address("192.168.9.2/24", "192.168.9.1");
    lab.outside.run("ip addr add 192.168.9.1/24 dev net1");
    let (guest, out) = (lab.guest.udp("192.168.9.2:80"), lab.outside.udp("192.168.9.1:5000"));
    assert_eq!(passes(&guest, "192.168.9.1:5000", &out), "192.168.9.2:80".parse().unwrap());
    passes(&out, "192.168.9.2:80", &guest);
    let nics = attachment.nics().unwrap();
    assert_eq!((nics.len(), nics[0].ip_argument.clone(), nics[1].ip_argument.is_some()), (2, None, true));
}

#[test]
fn a_guest_is_told_its_addresses() {
    let mut lab = Lab::new();
    let names = Names { hostname: Some("vm".into()), ..Names::default() };
    let facts = PodFacts { names, ..PodFacts::default() };
    let mut attachment = attach(&lab.pod.path, &wishes(None, "lab"), &facts).unwrap();
    // Nobody else hears of it.
    let overheard = lab.pod.udp("0.0.0.0:67");
    let nic = lab.plug(&mut attachment);
    let mac = nic.mac;
    let answering = Answering::start(attachment, nic);
    let (options, address) = dhcp(&lab, mac, 1);
    assert_eq!((&options[..3], address), (&[53, 1, 2][..], [10, 0, 2, 2]));
    assert!(options.windows(4).any(|bytes| bytes == [12, 2, b'v', b'm']));
    overheard.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(overheard.recv(&mut [0; 64]).is_err(), "a request came through");

    // The kernel's own: it solicits a router, believes it, and has a way out.
    let deadline = std::time::Instant::now() + 2 * LIMIT;
    while !lab.guest.run("ip -6 route").contains("default via fe80::1 dev eth0 proto ra") {
        assert!(std::time::Instant::now() < deadline, "no route: {}", lab.guest.run("ip -6 route"));
        std::thread::yield_now();
    }
    assert!(lab.guest.run("ip -6 route").contains("fd10:0:2::/120 dev eth0 proto kernel"));
    assert_eq!(answering.attachment.relays.len(), 1);
}

#[test]
fn a_bridged_guest_is_told_the_pods_address_and_routes() {
    let mut lab = Lab::new();
    lab.pod.run("ip route add 10.50.0.0/16 via 172.30.0.9");
    let mut attachment = lab.attach(&wish(&json!({"name": "n", "bridge": {}}))).unwrap();
    let overheard = lab.outside.udp("0.0.0.0:67");
    let nic = lab.plug(&mut attachment);
    let mac = nic.mac;
    let _answering = Answering::start(attachment, nic);
    let (options, address) = dhcp(&lab, mac, 3);
    // It wanted none in particular, which isn't ours.
    assert_eq!((&options[..3], address), (&[53, 1, 6][..], [0; 4]));
    let (options, address) = dhcp(&lab, mac, 1);
    assert_eq!((&options[..3], address), (&[53, 1, 2][..], [172, 30, 0, 2]));
    let has = |expected: &[u8]| options.windows(expected.len()).any(|bytes| bytes == expected);
    assert!(
        has(&[3, 4, 172, 30, 0, 1]) && has(&[16, 10, 50, 172, 30, 0, 9]) && has(&[0, 172, 30, 0, 1]),
        "{options:?}"
    );
    overheard.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(overheard.recv(&mut [0; 64]).is_err(), "a request came through");
}
