//! The guest is where its pod is.

use anyhow::{Result, ensure};

use super::{
    Bench, Scenario,
    eventually::LIMIT,
    pod::{PROMPT, PodSpec, vmi},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::each("guest_answers_on_the_pod_s_address", answers),
    Scenario::each("guest_reaches_out_through_the_pod", reaches_out),
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
