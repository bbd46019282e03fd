//! The demo's half in the node: one VM pod through containerd's CRI, its boot as it happens, what it cost, its jail, and
//! that nothing is left of it.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{
    Bench,
    eventually::{LIMIT, eventually},
    leftovers::Leftovers,
    measure, pod,
    pod::{PROMPT, PodSpec},
    provision,
};
use crate::{jail::observe, progress::step};

/// Whom the VMM becomes where the pod names nobody.
const DEFAULT_USER: u32 = 107;

/// What the demo found out: `target/demo.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Summary {
    /// The guest's `uname -r`.
    pub guest_kernel: String,
    /// Where the guest answered.
    pub pod_ip: String,
    /// From the call of RunPodSandbox to the guest's first instruction, ms.
    pub first_instruction_ms: f64,
    /// From the call of RunPodSandbox to the guest's prompt, ms.
    pub prompt_ms: f64,
    /// PSS of VMM and shim without the guest's RAM, KiB.
    pub overhead_kib: u64,
    /// What was there after the pod and not before.
    pub leaks: Vec<String>,
}

/// Marks the summary's line on standard output.
pub const MARK: &str = "SUMMARY ";

/// Runs it.
pub fn demo(containerd: &str) -> Result<()> {
    step(
        &format!("installing Vireo on the node, starting containerd {containerd}, importing a containerDisk"),
        || provision(containerd),
    )?;
    let mut bench = Bench::new(containerd)?;
    // The first pod on a node makes what stays, such as the bridge.
    step("running an ordinary pod (the node's first)", || {
        let mut first = bench.pod(PodSpec::ordinary())?;
        first.create(&mut bench)?;
        first.start(&mut bench)?;
        first.remove(&mut bench)
    })?;
    let before = Leftovers::look()?;
    let called = measure::now()?;
    let mut pod = step("CRI RunPodSandbox, runtimeHandler: vireo", || bench.pod(PodSpec::container_disk()))?;
    let sandbox = measure::now()?;

    println!("==> CRI CreateContainer and StartContainer; the guest's console:");
    pod.create(&mut bench)?;
    let console = Console::follow(&pod.log());
    pod.start(&mut bench)?;
    let mut attached = pod.attach(&mut bench)?;
    attached.wait_for(PROMPT, LIMIT)?;
    let prompt = measure::now()?;
    let findings = pod.wait_console(&mut bench, "GUEST kernel=")?;
    console.end();
    println!("    | {PROMPT}");

    let (vmm, shim) = (pod.vmm()?, pod.shim()?);
    let first_instruction = first_instruction(vmm, containerd)?;
    let memory = measure::memory(vmm, shim)?;
    let hello = pod.http("/")?;
    let milliseconds = |moment: Duration| (moment.saturating_sub(called).as_secs_f64() * 10_000.0).round() / 10.0;
    let mut summary = Summary {
        guest_kernel: findings.split(['=', ' ']).nth(2).unwrap_or_default().to_owned(),
        pod_ip: pod.ip.clone(),
        first_instruction_ms: milliseconds(first_instruction),
        prompt_ms: milliseconds(prompt),
        overhead_kib: memory.overhead(),
        leaks: Vec::new(),
    };
    println!("\nguest kernel              {}", summary.guest_kernel);
    println!("pod IP                    {} (HTTP: {})", summary.pod_ip, hello.trim());
    println!("first CRI call to the sandbox          {:8.1} ms", milliseconds(sandbox));
    println!("CRI call to guest's first instruction  {:8.1} ms", summary.first_instruction_ms);
    println!("CRI call to guest's prompt             {:8.1} ms", summary.prompt_ms);
    println!(
        "memory beyond guest RAM   {} KiB (VMM {} KiB, shim {} KiB; guest RAM in use: {} KiB)",
        memory.overhead(),
        memory.vmm,
        memory.shim,
        memory.guest
    );
    show_jail(vmm)?;

    step("stopping the pod: the power button, then removal", || {
        pod.stop(&mut bench, 60)?;
        let status = pod.wait_exit(&mut bench)?;
        println!("    the container's exit code is {}", status.exit_code);
        pod.remove(&mut bench)
    })?;
    summary.leaks = step("looking for anything that is left", || before.compare(Duration::from_secs(30)))?;
    if summary.leaks.is_empty() {
        println!("    nothing: no process, mount, cgroup, link, nftables rule, socket or file");
    }
    for leak in &summary.leaks {
        println!("    LEFT: {leak}");
    }
    println!("{MARK}{}", serde_json::to_string(&summary)?);
    Ok(())
}

/// When the boot vCPU began, from the shim's line in containerd's log.
fn first_instruction(vmm: u32, containerd: &str) -> Result<Duration> {
    let log = format!("/var/log/containerd-{containerd}.log");
    let mark = format!("vireo-vmm {vmm}: the guest runs since ");
    eventually("the shim's line on the machine's start", Duration::from_secs(10), || {
        let text = fs::read_to_string(&log)?;
        let Some((_, at)) = text.rsplit_once(&mark) else { return Ok(None) };
        let (nanoseconds, _) = at.split_once(' ').context("the line goes on with ns")?;
        Ok(Some(Duration::from_nanos(nanoseconds.parse()?)))
    })
}

fn show_jail(vmm: u32) -> Result<()> {
    println!("the VMM's jail, as /proc/{vmm} shows it:");
    for finding in observe(i32::try_from(vmm)?, DEFAULT_USER, DEFAULT_USER)? {
        println!("    {finding}");
    }
    println!("    cgroup {}", fs::read_to_string(format!("/proc/{vmm}/cgroup"))?.trim());
    Ok(())
}

/// Shows a container's log as it grows.
struct Console {
    over: Arc<AtomicBool>,
    shower: thread::JoinHandle<()>,
}

impl Console {
    fn follow(log: &Path) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (log, ended) = (log.to_owned(), Arc::clone(&over));
        let shower = thread::spawn(move || {
            let mut place = 0;
            loop {
                let last = ended.load(Ordering::Acquire);
                place += show_from(&log, place).unwrap_or_default();
                if last {
                    break;
                }
                // A log says nothing when it grows.
                thread::sleep(Duration::from_millis(50));
            }
        });
        Self { over, shower }
    }

    /// Shows the rest.
    fn end(self) {
        self.over.store(true, Ordering::Release);
        // It has nothing to say but what it showed.
        let _ = self.shower.join();
    }
}

/// Prints the log's whole lines from an offset on; how many bytes they were.
fn show_from(log: &Path, place: u64) -> Result<u64> {
    let mut file = fs::File::open(log)?;
    file.seek(SeekFrom::Start(place))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let Some(end) = bytes.iter().rposition(|&byte| byte == b'\n') else { return Ok(0) };
    let mut output = std::io::stdout().lock();
    for line in pod::console_text(&bytes[..=end]).lines() {
        writeln!(output, "    | {line}")?;
    }
    output.flush()?;
    Ok(end as u64 + 1)
}
