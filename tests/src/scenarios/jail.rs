//! What the VMM is, as the kernel sees it: a guest that takes it over has gained nothing.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Bench, Scenario, pod::PodSpec};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::each("vmm_has_no_privilege", no_privilege),
    Scenario::each("vmm_has_its_own_namespaces", namespaces),
    Scenario::each("vmm_sees_an_empty_read_only_root", empty_root),
    Scenario::each("vmm_holds_only_what_it_was_given", descriptors),
    Scenario::each("vmm_runs_as_the_pod_s_user", user),
];

/// Fields of `/proc/<pid>/status`.
pub(super) fn status(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    Ok(fields.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect())
}

fn proc(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

fn threads(pid: u32) -> Result<Vec<PathBuf>> {
    Ok(fs::read_dir(proc(pid).join("task"))?.flatten().map(|entry| entry.path()).collect())
}

fn no_privilege(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    let vmm = pod.vmm()?;
    for thread in threads(vmm)? {
        let status = status(&thread.join("status"))?;
        let of = |key: &str| status.get(key).cloned().unwrap_or_default();
        let who = format!("thread {} ({})", thread.display(), of("Name"));
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            ensure!(of(set) == "0000000000000000", "{who}: {set} is {}", of(set));
        }
        ensure!(of("NoNewPrivs") == "1", "{who}: NoNewPrivs is {}", of("NoNewPrivs"));
        ensure!(of("Seccomp") == "2", "{who}: Seccomp is {}", of("Seccomp"));
        ensure!(of("Uid") == "107\t107\t107\t107", "{who}: Uid is {}", of("Uid"));
        ensure!(of("Gid") == "107\t107\t107\t107", "{who}: Gid is {}", of("Gid"));
        ensure!(of("Groups").is_empty(), "{who}: Groups is {}", of("Groups"));
    }
    // Not dumpable: its files belong to root, not to the user that it runs as, so that no other VMM can trace it.
    ensure!(fs::metadata(proc(vmm).join("fd"))?.uid() == 0, "the VMM is dumpable");
    let cgroup = fs::read_to_string(proc(vmm).join("cgroup"))?;
    ensure!(cgroup.contains("/kubepods/") && cgroup.contains(&pod.container), "it is in cgroup {cgroup}");
    pod.remove(bench)
}

fn namespaces(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    let vmm = pod.vmm()?;
    let of = |pid: u32, kind: &str| fs::read_link(proc(pid).join("ns").join(kind));
    for kind in ["mnt", "pid", "net", "ipc", "uts"] {
        let own = of(vmm, kind)?;
        ensure!(own != of(pod.shim()?, kind)?, "its {kind} namespace is the shim's");
        ensure!(own != of(1, kind)?, "its {kind} namespace is the node's");
    }
    let inner = status(&proc(vmm).join("status"))?.remove("NSpid").unwrap_or_default();
    ensure!(inner.split_whitespace().last() == Some("1"), "it is not the first of its pid namespace: {inner}");
    // Its own network has nothing but a loopback that is down: the pod's is another one.
    let links = fs::read_to_string(proc(vmm).join("net/dev"))?;
    let links: Vec<&str> = links.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect();
    ensure!(links == ["lo"], "its network has {links:?}");
    pod.remove(bench)
}

fn empty_root(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    let vmm = pod.vmm()?;
    let root: Vec<_> = fs::read_dir(proc(vmm).join("root"))?.flatten().map(|entry| entry.path()).collect();
    ensure!(root.is_empty(), "its root holds {root:?}");
    let mounts = fs::read_to_string(proc(vmm).join("mountinfo"))?;
    for mount in mounts.lines() {
        let words: Vec<&str> = mount.split(' ').collect();
        let options = words.get(5).context("a mount has options")?;
        ensure!(options.split(',').any(|option| option == "ro"), "a mount that can be written to: {mount}");
    }
    ensure!(mounts.lines().count() == 1, "more than a root:\n{mounts}");
    pod.remove(bench)
}

fn descriptors(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    let vmm = pod.vmm()?;
    for entry in fs::read_dir(proc(vmm).join("fd"))?.flatten() {
        let target = fs::read_link(entry.path())?.display().to_string();
        let anonymous = ["anon_inode:", "socket:", "pipe:", "/memfd:"].iter().any(|kind| target.starts_with(kind));
        let given = [
            "/dev/kvm",
            "/dev/net/tun",
            "/dev/null",
            "/disk.img",
            "/disk/disk.img",
            "/boot/vmlinuz",
            "/boot/initrd.img",
        ];
        if !anonymous && !given.iter().any(|given| target.ends_with(given)) {
            bail!("it holds {target}");
        }
    }
    pod.remove(bench)
}

fn user(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec { user: Some(1234), ..PodSpec::guest() })?;
    let uid = status(&proc(pod.vmm()?).join("status"))?.remove("Uid").unwrap_or_default();
    ensure!(uid == "1234\t1234\t1234\t1234", "Uid is {uid}");
    pod.remove(bench)
}
