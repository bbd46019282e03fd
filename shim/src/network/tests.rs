use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use serde_json::json;
use vireo_runtimeclass::parse_vmi;

use super::*;

#[test]
fn plans() {
    let binding = plan(None, "a").unwrap();
    assert_eq!((binding.name.as_str(), binding.ports.len()), ("default", 0));
    assert_eq!(binding.mac[0], 2);
    assert_eq!(plan(None, "a").unwrap(), binding);
    assert_ne!(plan(None, "b").unwrap().mac, binding.mac);

    let spec = |interface: serde_json::Value| {
        let spec = json!({
            "domain": {"devices": {"interfaces": [interface]}},
            "networks": [{"name": "n", "pod": {}}],
        });
        parse_vmi(&spec.to_string()).unwrap()
    };
    let ports = json!([{"port": 80}, {"port": 53, "protocol": "UDP"}]);
    let spec = spec(json!({"name": "n", "masquerade": {}, "macAddress": "02:11:22:33:44:55", "ports": ports}));
    let expected = [Port { protocol: Protocol::Tcp, number: 80 }, Port { protocol: Protocol::Udp, number: 53 }];
    let binding = plan(Some(&spec), "a").unwrap();
    assert_eq!(
        binding,
        Binding {
            name: "n".into(),
            mac: [2, 0x11, 0x22, 0x33, 0x44, 0x55],
            ports: expected.into(),
            queues: 1,
            link_up: true,
        }
    );

    let none = parse_vmi(r#"{"domain": {"devices": {"autoattachPodInterface": false}}}"#).unwrap();
    assert_eq!(plan(Some(&none), "a"), None);
}

#[test]
fn queues_and_the_link_are_as_asked() {
    let of = |cpu: serde_json::Value, state: &str| {
        let spec = json!({
            "domain": {"cpu": cpu, "devices": {
                "networkInterfaceMultiqueue": true,
                "interfaces": [{"name": "n", "masquerade": {}, "state": state}],
            }},
            "networks": [{"name": "n", "pod": {}}],
        });
        let spec = parse_vmi(&spec.to_string()).unwrap();
        plan(Some(&spec), "a").map(|binding| (binding.queues, binding.link_up))
    };
    assert_eq!(of(json!({"cores": 3}), "up"), Some((3, true)));
    assert_eq!(of(json!({"cores": 100}), "down"), Some((MAX_PAIRS, false)));
    assert_eq!(of(json!({"cores": 1}), "absent"), None);
}

#[test]
fn a_namespace_that_is_none_is_said_so() {
    let binding = plan(None, "a").unwrap();
    let error = attach(Path::new("/none"), &binding).unwrap_err();
    assert_eq!(error.to_string(), "network namespace /none can't be entered");
    assert!(matches!(attach(Path::new("/dev/null"), &binding), Err(NetworkError::Namespace(..))));
}

/// Two network namespaces on one cable: a pod's, with a guest on it, and the world outside.
struct Lab {
    pod: PathBuf,
    outside: PathBuf,
    guest: File,
    mac: [u8; 6],
}

const POD: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// virtio 1.3 §5.1.6, without the number of buffers.
const VNET_HEADER: usize = 10;

/// Runs a command inside a namespace.
fn run(namespace: &Path, command: &str) {
    let output = netns::within(namespace, || {
        let mut words = command.split(' ');
        let output = std::process::Command::new(words.next().unwrap()).args(words).output();
        output.map_err(|error| NetworkError::Io("command", error))
    });
    let output = output.unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A new network namespace; it lives as long as the file.
fn new_namespace() -> (File, PathBuf) {
    let file = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    let file = file.join().unwrap();
    let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
    (file, path)
}

/// A UDP socket of a namespace.
fn udp(namespace: &Path, address: (Ipv4Addr, u16)) -> UdpSocket {
    let socket =
        netns::within(namespace, || UdpSocket::bind(address).map_err(|e| NetworkError::Io("bind", e))).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

impl Lab {
    /// The next IPv4 packet that reaches the guest. The guest answers for its address meanwhile.
    fn receive(&mut self) -> Vec<u8> {
        let mut frame = [0; 2048];
        loop {
            let mut fds = [nix::poll::PollFd::new(self.guest.as_fd(), nix::poll::PollFlags::POLLIN)];
            assert_eq!(nix::poll::poll(&mut fds, 5000u16).unwrap(), 1, "nothing reaches the guest");
            let len = self.guest.read(&mut frame).unwrap();
            let frame = &frame[VNET_HEADER..len];
            match frame[12..14] {
                [8, 0] => return frame[14..].to_vec(),
                // ARP (RFC 826): the target's and the sender's halves change places.
                [8, 6] if frame[38..42] == GUEST_ADDRESS.octets() => {
                    let (mac, asker) = (self.mac, &frame[22..32]);
                    let head = [&frame[6..12], &mac, &frame[12..20], &[0, 2], &mac, &frame[38..42], asker].concat();
                    self.transmit(&head);
                }
                _ => {}
            }
        }
    }

    fn transmit(&mut self, frame: &[u8]) {
        self.guest.write_all(&[&[0; VNET_HEADER], frame].concat()).unwrap();
    }

    /// Sends a UDP packet from the guest.
    fn send(&mut self, gateway: [u8; 6], from: Ipv4Addr, to: (Ipv4Addr, u16), payload: &[u8]) {
        let len = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
        let mut ip = [&[0x45, 0], &len(28 + payload.len())[..], &[0, 0, 0, 0, 64, 17, 0, 0]].concat();
        ip.extend([from.octets(), to.0.octets()].concat());
        let sum = ip.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u32>();
        let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let udp = [&4000u16.to_be_bytes()[..], &to.1.to_be_bytes(), &len(8 + payload.len()), &[0, 0]].concat();
        self.transmit(&[&gateway[..], &self.mac, &[8, 0], &ip, &udp, payload].concat());
    }
}

/// Ends the test where it can't run.
fn demand_a_lab() {
    assert!(nix::unistd::geteuid().is_root(), "namespaces and taps need root: run as root");
    assert!(Path::new("/dev/net/tun").exists(), "/dev/net/tun is missing: run modprobe tun");
    for command in ["nft", "ip"] {
        let found = std::process::Command::new(command).arg("-V").output().is_ok();
        assert!(found, "the command {command} is missing: run tests/setup.sh");
    }
}

#[test]
fn packets_reach_the_guest_and_leave_it() {
    demand_a_lab();
    let ((_pod, pod), (_outside, outside)) = (new_namespace(), new_namespace());
    let binding = plan(None, "lab").unwrap();
    assert!(matches!(attach(&pod, &binding), Err(NetworkError::NoUplink)));

    run(&pod, "ip link set lo up");
    run(&pod, &format!("ip link add eth0 mtu 1400 type veth peer name eth0 netns {}", outside.display()));
    run(&pod, "ip addr add 10.0.2.77/16 dev eth0");
    run(&pod, "ip link set eth0 up");
    assert!(matches!(attach(&pod, &binding), Err(NetworkError::Collision(_))));
    run(&pod, "ip addr flush dev eth0");
    run(&pod, "ip addr add 172.30.0.2/24 dev eth0");
    run(&outside, "ip addr add 172.30.0.1/24 dev eth0");
    run(&outside, "ip link set eth0 up");

    let attachment = attach(&pod, &binding).unwrap();
    assert!(
        matches!(attach(&pod, &binding), Err(NetworkError::Tap(error)) if error.kind() == io::ErrorKind::ResourceBusy)
    );
    let nic = attachment.nic().unwrap();
    assert_eq!(nic.mtu, Some(1400));
    let mut lab = Lab { pod, outside, guest: nic.taps.into_iter().next().unwrap(), mac: nic.mac };

    // From outside to the pod's address: it reaches the guest as it came.
    let out = udp(&lab.outside, (OUTSIDE, 5000));
    out.send_to(b"inbound", (POD, 53)).unwrap();
    let packet = lab.receive();
    assert_eq!((&packet[12..16], &packet[16..20]), (&OUTSIDE.octets()[..], &GUEST_ADDRESS.octets()[..]));
    assert_eq!((&packet[22..24], &packet[28..]), (&53u16.to_be_bytes()[..], &b"inbound"[..]));

    // From the pod's loopback, as a port-forward: it comes from the gateway.
    let local = udp(&lab.pod, (Ipv4Addr::LOCALHOST, 5001));
    local.send_to(b"forwarded", (Ipv4Addr::LOCALHOST, 80)).unwrap();
    let packet = lab.receive();
    assert_eq!((&packet[12..16], &packet[28..]), (&GATEWAY_ADDRESS.octets()[..], &b"forwarded"[..]));

    // From the guest: with a false address, to the pod's loopback, and as it should be. Only the last arrives.
    let sysfs = netns::within(&lab.pod, || {
        let output = std::process::Command::new("ip").args(["-o", "link", "show", TAP]).output();
        output.map_err(|error| NetworkError::Io("ip", error))
    });
    let text = String::from_utf8(sysfs.unwrap().stdout).unwrap();
    let gateway = parse_mac(text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap()).unwrap();
    lab.send(gateway, Ipv4Addr::new(10, 0, 2, 9), (OUTSIDE, 5000), b"spoofed");
    lab.send(gateway, GUEST_ADDRESS, (Ipv4Addr::LOCALHOST, 5001), b"inward");
    lab.send(gateway, GUEST_ADDRESS, (OUTSIDE, 5000), b"outbound");
    let mut buffer = [0; 64];
    let (len, from) = out.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], from.ip()), (&b"outbound"[..], POD.into()));
    local.set_nonblocking(true).unwrap();
    assert!(local.recv(&mut buffer).is_err());

    // Nothing is left, and another machine can take its place.
    let Lab { pod, guest, .. } = lab;
    drop((attachment, guest));
    run(&pod, "nft create table ip vireo");
    run(&pod, "nft delete table ip vireo");
    let link = netns::within(&pod, || link::configure(TAP, GATEWAY_ADDRESS, PREFIX_LEN, 1400));
    assert!(link.is_err(), "the tap is still there");
    drop(attach(&pod, &binding).unwrap());
}
