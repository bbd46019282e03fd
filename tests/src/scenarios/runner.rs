//! Runs scenarios one by one and says how each went.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{Bench, Scenario, Under, catalogue, eventually, last_exits, leftovers::Leftovers, pod, shell};
use crate::cri::v1;

/// Which scenarios run.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The version of containerd.
    pub containerd: String,
    /// Leave out those that have nothing to do with it.
    pub containerd_only: bool,
    /// Only those whose name has this in it.
    pub only: Option<String>,
    /// But not these.
    pub without: Vec<String>,
    /// What fails is not tried once more.
    pub once: bool,
}

impl Selection {
    fn takes(&self, scenario: &Scenario) -> bool {
        self.only.as_deref().is_none_or(|only| only.split(',').any(|part| scenario.name.contains(part)))
            && match scenario.under {
                Under::EachContainerd => true,
                Under::Containerds(versions) => versions.contains(&self.containerd.as_str()),
                Under::Node => !self.containerd_only,
            }
            && !self.without.iter().any(|name| name == scenario.name)
    }
}

/// The scenarios' names, in the order in which they run.
pub fn names() -> impl Iterator<Item = &'static str> {
    catalogue::all().into_iter().map(|scenario| scenario.name)
}

/// Installs Vireo on the node as an admin does, starts containerd and imports the containerDisk.
pub fn provision(containerd: &str) -> Result<()> {
    shell::containerd("configure", containerd)?;
    shell::output(["/vireo/node-setup/install.sh", "--bin", "/vireo/bin", "--no-restart"])
        .context("install Vireo on the node")?;
    shell::containerd("start", containerd)?;
    shell::output(["ctr", "-n", "k8s.io", "images", "import", "/vireo/images/containerdisk.tar"])?;
    Ok(())
}

/// How long containerd may refuse to remove a pod.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(30);

/// Runs the selected scenarios; whether none failed.
pub fn run(selection: &Selection) -> Result<bool> {
    provision(&selection.containerd)?;
    last_exits::note()?;
    let mut bench = Bench::new(&selection.containerd)?;
    // The first pod makes what stays: the bridge, tables of nftables, containerd's folders.
    let mut first = bench.pod(pod::PodSpec::ordinary())?;
    first.create(&mut bench)?;
    first.start(&mut bench)?;
    first.remove(&mut bench)?;

    let (mut passed, mut failed) = (0, 0);
    for scenario in catalogue::all().into_iter().filter(|scenario| selection.takes(scenario)) {
        // An emulated node slips now and then (`tests/README.md`): a fault of ours fails twice. The first failure is shown.
        let at_once = !selection.once && attempt(&mut bench, selection, &scenario, "SLIP")?;
        if at_once || attempt(&mut bench, selection, &scenario, "FAIL")? {
            passed += 1;
        } else {
            failed += 1;
        }
    }
    println!("scenarios: {passed} passed, {failed} failed");
    Ok(failed == 0)
}

/// Runs a scenario and prints its verdict, `bad` if it fails; whether it passed.
fn attempt(bench: &mut Bench, selection: &Selection, scenario: &Scenario, bad: &str) -> Result<bool> {
    let begin = Instant::now();
    let log = containerd_log_end(&selection.containerd);
    let before = Leftovers::look()?;
    let result = (scenario.run)(bench);
    let result = finish(bench, &before, result);
    let seconds = begin.elapsed().as_secs_f64();
    let Err(error) = result else {
        println!("    PASS [{seconds:6.1}s] {}", scenario.name);
        return Ok(true);
    };
    println!("    {bad} [{seconds:6.1}s] {}", scenario.name);
    println!("{}", indent(&format!("{error:#}")));
    println!("{}", indent(&containerd_log_since(&selection.containerd, log)));
    let exits = last_exits::before_shutdown();
    if !exits.is_empty() {
        println!("{}", indent(&format!("a guest's CPU shut down after these exits:\n{exits}")));
    }
    // The next one starts on a clean node, as far as that can be had.
    if let Err(error) = clean_up(bench) {
        println!("{}", indent(&format!("cleaning up: {error:#}")));
    }
    Ok(false)
}

/// Ends what a scenario began, and looks for what is left.
fn finish(bench: &mut Bench, before: &Leftovers, result: Result<()>) -> Result<()> {
    result?;
    clean_up(bench)?;
    let left = before.compare(Duration::from_secs(20))?;
    if !left.is_empty() {
        bail!("left behind:\n{}", left.join("\n"));
    }
    Ok(())
}

/// Removes every pod. Tried until it works: containerd refuses to remove a container whose end it hasn't noted yet, and a
/// second try of a scenario that began beside the first one's pods would be told that it removed them.
fn clean_up(bench: &mut Bench) -> Result<()> {
    if bench.cri().version(v1::VersionRequest::default()).is_err() {
        bench.restart_containerd()?;
    }
    let end = Instant::now() + CLEAN_UP_LIMIT;
    eventually("every pod removed", CLEAN_UP_LIMIT, || match remove_pods(bench) {
        Err(error) if Instant::now() > end => Err(error),
        removed => Ok(removed.ok()),
    })
}

fn remove_pods(bench: &mut Bench) -> Result<()> {
    for sandbox in bench.cri().list_pod_sandbox(v1::ListPodSandboxRequest {})?.items {
        bench.cri().stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() })?;
        bench.cri().remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.id })?;
    }
    for entry in fs::read_dir(pod::LOGS).into_iter().flatten().flatten() {
        pod::forget(&entry.file_name().to_string_lossy())?;
    }
    Ok(())
}

fn containerd_log(version: &str) -> String {
    format!("/var/log/containerd-{version}.log")
}

fn containerd_log_end(version: &str) -> u64 {
    fs::metadata(containerd_log(version)).map_or(0, |data| data.len())
}

/// The end of what containerd and the shims logged since.
fn containerd_log_since(version: &str, begin: u64) -> String {
    let bytes = fs::read(Path::new(&containerd_log(version))).unwrap_or_default();
    let begin = usize::try_from(begin).unwrap_or_default().max(bytes.len().saturating_sub(6000));
    format!("containerd's log:\n{}", String::from_utf8_lossy(bytes.get(begin..).unwrap_or_default()))
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("        {line}")).collect::<Vec<_>>().join("\n")
}
