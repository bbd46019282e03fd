//! The guest is where its pod is.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    Bench, Scenario,
    eventually::LIMIT,
    pod::{PROMPT, PodSpec, vmi},
    policy::policy_holds,
    shell,
    vhost::packet_threads,
};
use crate::cri::attach::Attached;

/// The node's address on the pods' network.
const NODE_IPV6: &str = "fd00:88::1";
/// A router advertisement to the pods' network (RFC 4861 §4.2; hops: §6.1.2): a way out for half an hour.
const ADVERTISE: &str = r"printf '\206\0\0\0\100\0\007\010\0\0\0\0\0\0\0\0' |
    socat -u STDIN 'IP6-SENDTO:[ff02::1%cni0]:58,setsockopt=41:18:i255'";

/// Has the guest's shell ask for an address and show what it is told: name, address, router, MTU.
fn show_lease(console: &mut Attached, interface: &str) -> Result<()> {
    console.send("printf '#!/bin/sh\\necho LEASE=$hostname=$ip/$mask=$router=$mtu=\\n' > /tmp/show\n")?;
    console.send(&format!("chmod +x /tmp/show; udhcpc -q -n -i {interface} -O mtu -s /tmp/show\n"))
}

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::each("guest_answers_on_the_pod_s_address", answers),
    Scenario::each("guest_reaches_out_through_the_pod", reaches_out),
    Scenario::once("guest_is_told_its_address", told),
    Scenario::once("bridged_guest_takes_the_pod_s_address", bridged),
    Scenario::each("guest_has_ipv6_behind_the_pod_s_address", ipv6),
    Scenario::once("guest_has_a_second_network", second_network),
    Scenario::once("a_card_has_a_queue_pair_for_each_vcpu", queues),
];

fn answers(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    ensure!(pod.http("/")?.starts_with("hello from"), "something else answers on {}", pod.ip);
    pod.remove(bench)
}

fn queues(bench: &mut Bench) -> Result<()> {
    let mut spec = vmi("");
    spec["domain"]["cpu"]["cores"] = 2.into();
    spec["domain"]["devices"]["networkInterfaceMultiqueue"] = true.into();
    let mut pod = bench.pod(PodSpec { cpu_limit: 2000, ..PodSpec::described(&spec) })?;
    pod.create(bench)?;
    pod.start(bench)?;
    let mut console = pod.attach(bench)?;
    console.wait_for(PROMPT, LIMIT)?;
    console.send("echo $(ls /sys/class/net/eth0/queues) are there\n")?;
    console.wait_for("\nrx-0 rx-1 tx-0 tx-1 are there", LIMIT)?;
    // Different connections take different queues.
    for _ in 0..8 {
        ensure!(pod.http("/")?.starts_with("hello from"), "something else answers on {}", pod.ip);
    }
    pod.remove(bench)
}

fn reaches_out(bench: &mut Bench) -> Result<()> {
    let first = bench.boot(PodSpec::guest())?;
    let mut second = bench.pod(PodSpec::guest())?;
    second.create(bench)?;
    second.start(bench)?;
    let mut console = second.attach(bench)?;
    console.wait_for(PROMPT, LIMIT)?;
    // From guest to guest: out of one pod, into the other. Debian's static wget crashes in getaddrinfo; nc has none.
    console.send(&format!("printf 'GET /cmdline HTTP/1.0\\r\\n\\r\\n' | nc {} 80; echo status $?\n", first.ip))?;
    let answer = console.wait_for("status 0", LIMIT)?;
    ensure!(answer.contains("console=ttyS0"), "{answer}");
    second.remove(bench)?;
    first.remove(bench)
}

fn told(bench: &mut Bench) -> Result<()> {
    // It asks by itself while it boots, and is reached where it was told to be.
    let mut pod = bench.pod(PodSpec::described(&vmi("ip=dhcp")))?;
    pod.create(bench)?;
    pod.start(bench)?;
    let mut console = pod.attach(bench)?;
    console.wait_for(PROMPT, LIMIT)?;
    ensure!(pod.http("/")?.starts_with("hello from"), "something else answers on {}", pod.ip);
    show_lease(&mut console, "eth0")?;
    let answer = console.wait_for("=1500=", LIMIT)?;
    ensure!(answer.contains("LEASE=pod-") && answer.contains("=10.0.2.2/24=10.0.2.1="), "{answer}");
    pod.remove(bench)
}

fn bridged(bench: &mut Bench) -> Result<()> {
    let mut spec = vmi("ip=dhcp");
    spec["domain"]["devices"]["interfaces"] = json!([{"name": "default", "bridge": {}}]);
    let mut pod = bench.pod(PodSpec::described(&spec))?;
    pod.create(bench)?;
    pod.start(bench)?;
    let mut console = pod.attach(bench)?;
    console.wait_for(PROMPT, LIMIT)?;
    ensure!(pod.http("/")?.starts_with("hello from"), "something else answers on {}", pod.ip);
    console.send("ip -o -4 addr show eth0\n")?;
    console.wait_for(&format!("inet {}/16", pod.ip), LIMIT)?;
    // As somebody else it isn't heard: the gateway answers the pod's address only.
    console.send("ip addr add 10.88.99.99/16 dev eth0; ping -c 1 -W 2 -I 10.88.99.99 10.88.0.1; echo it=$?=\n")?;
    console.wait_for("it=1=", LIMIT)?;
    console.send("ping -c 1 -W 9 10.88.0.1; echo it=$?=\n")?;
    console.wait_for("it=0=", LIMIT)?;
    let threads = packet_threads(&pod)?;
    ensure!(threads.is_empty(), "the VMM has threads for packets: {threads:?}");
    // A router of the pod's network is heard, and the pod's IPv6 address is the guest's to take.
    shell::output(["sh", "-c", ADVERTISE])?;
    console.send("until ip -6 route | grep 'default via fe80::'; do sleep 1; done; echo it=$((1 + 1))=\n")?;
    console.wait_for("it=2=", LIMIT)?;
    console.send("echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad\n")?;
    console.send(&format!("ip addr add {}/64 dev eth0; ping6 -c 1 -W 9 {NODE_IPV6}; echo it=$?=\n", pod.ipv6))?;
    console.wait_for("it=0=", LIMIT)?;
    policy_holds(&pod)?;
    pod.remove(bench)
}

fn second_network(bench: &mut Bench) -> Result<()> {
    let mut spec = vmi("");
    spec["domain"]["devices"]["interfaces"] = json!([{"name": "default", "masquerade": {}}, {"name": "red", "bridge": {}, "macAddress": "02:00:00:00:00:77"}]);
    spec["networks"] = json!([{"name": "default", "pod": {}}, {"name": "red", "multus": {"networkName": "red"}}]);
    let mut pod = bench.pod(PodSpec::described(&spec))?;
    let netns = &pod.netns()?;
    let inside = &format!("--net={netns}");
    // As Multus does it; the name is KubeVirt's.
    shell::output(["ip", "link", "add", "red0", "type", "veth", "peer", "name", "podb1f51a511f1", "netns", netns])?;
    shell::output(["ip", "addr", "add", "192.168.99.1/24", "dev", "red0"])?;
    shell::output(["ip", "link", "set", "red0", "up"])?;
    shell::output(["nsenter", inside, "ip", "addr", "add", "192.168.99.2/24", "dev", "podb1f51a511f1"])?;
    shell::output(["nsenter", inside, "ip", "link", "set", "podb1f51a511f1", "up"])?;
    pod.create(bench)?;
    pod.start(bench)?;
    let mut console = pod.attach(bench)?;
    console.wait_for(PROMPT, LIMIT)?;
    console.send("ip link set eth1 up; cat /sys/class/net/eth1/address\n")?;
    console.wait_for("02:00:00:00:00:77", LIMIT)?;
    show_lease(&mut console, "eth1")?;
    console.wait_for("=192.168.99.2/24==1500=", LIMIT)?;
    console.send("ip addr add 192.168.99.2/24 dev eth1; ping -c 1 -W 9 192.168.99.1; echo it=$?=\n")?;
    console.wait_for("it=0=", LIMIT)?;
    ensure!(pod.http("/")?.starts_with("hello from"), "something else answers on {}", pod.ip);
    // Where a port-forward arrives: the pod's own loopback.
    let forwarded = ["nsenter", inside, "busybox", "wget", "-q", "-T", "9", "-O", "-", "http://127.0.0.1/"];
    ensure!(shell::output(forwarded)?.starts_with("hello from"), "something else answers on the pod's loopback");
    pod.remove(bench)
}

fn ipv6(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    let mut console = pod.attach(bench)?;
    // The kernel asks for a router. A client for the address isn't here: the full Debian guest has one.
    console.send("until ip -6 route | grep 'default via fe80::1 '; do sleep 1; done; echo it=$((1 + 1))=\n")?;
    console.wait_for("it=2=", LIMIT)?;
    console.send("echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add fd10:0:2::2/120 dev eth0\n")?;
    console.send(&format!("httpd -p [fd10:0:2::2]:81 -h /www; ping6 -c 1 -W 9 {NODE_IPV6}; echo it=$?=\n"))?;
    console.wait_for("it=0=", LIMIT)?;
    let inside = &format!("--net={}", pod.netns()?);
    let own = &format!("http://[{}]/", pod.ipv6);
    for (namespace, url) in [("--net=/proc/1/ns/net", own.as_str()), (inside, "http://[::1]/")] {
        let answer = shell::output(["nsenter", namespace, "busybox", "wget", "-q", "-T", "9", "-O", "-", url])?;
        ensure!(answer.starts_with("hello from"), "{url}: {answer}");
    }
    // containerd tries IPv4 first, on which nobody listens at this port.
    pod.http_forwarded(bench, 81, "/", "hello from")?;
    pod.http_forwarded(bench, 80, "/", "hello from")?;
    pod.remove(bench)
}
