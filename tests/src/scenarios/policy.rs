//! Who stands between a guest and the world: network policies, a service mesh's proxy.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{
    Bench, Scenario,
    eventually::{LIMIT, eventually},
    pod::{Pod, PodSpec},
    shell,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::once("a_network_policy_holds_for_a_guest", policy),
    Scenario::once("istio_s_proxy_stands_before_the_guest", istio),
];

fn policy(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    policy_holds(&pod)?;
    // In the pod's own namespace, as service meshes have theirs.
    let inside = &format!("--net={}", pod.netns()?);
    let rule = "table inet world { chain to_guest { type filter hook forward priority 0; tcp dport 80 drop; }; }";
    shell::output(["nsenter", inside, "nft", rule])?;
    ensure!(!answers_at_once(&pod), "a rule in the pod's namespace lets packets pass");
    shell::output(["nsenter", inside, "nft", "delete table inet world"])?;
    ensure!(pod.http("/")?.starts_with("hello from"), "something else answers on {}", pod.ip);
    pod.remove(bench)
}

/// Rules on the node's end of the pod's cable, where network plugins have theirs.
pub(super) fn policy_holds(pod: &Pod) -> Result<()> {
    ensure!(pod.http("/")?.starts_with("hello from"), "something else answers on {}", pod.ip);
    let cable = shell::output(["nsenter", &format!("--net={}", pod.netns()?), "ip", "-o", "link", "show", "eth0"])?;
    let index = cable.split("@if").nth(1).and_then(|rest| rest.split(':').next()).context("a cable has two ends")?;
    let links = shell::output(["ip", "-o", "link"])?;
    let link = links.lines().find_map(|line| line.strip_prefix(&format!("{index}: "))).context("one is the node's")?;
    let name = link.split('@').next().context("it has a name")?;
    for (hook, rule) in [("ingress", "tcp sport 80 drop"), ("egress", "tcp dport 80 drop")] {
        let chain = format!("type filter hook {hook} device \"{name}\" priority 0;");
        shell::output(["nft", &format!("table netdev world {{ chain cable {{ {chain} {rule}; }}; }}")])?;
        ensure!(!answers_at_once(pod), "a rule for what comes as {hook} of {name} lets packets pass");
        shell::output(["nft", "delete table netdev world"])?;
        ensure!(pod.http("/")?.starts_with("hello from"), "nothing answers on {} without the rule", pod.ip);
    }
    Ok(())
}

/// Whether something answers on the pod's address within seconds.
fn answers_at_once(pod: &Pod) -> bool {
    shell::output(["busybox", "wget", "-q", "-T", "2", "-O", "-", &format!("http://{}/", pod.ip)]).is_ok()
}

fn istio(bench: &mut Bench) -> Result<()> {
    let mut spec = PodSpec::guest();
    spec.annotations.insert("sidecar.istio.io/inject".to_owned(), "true".to_owned());
    let pod = bench.boot(spec)?;
    let inside = &format!("--net={}", pod.netns()?);
    let get = |url: &str| shell::output(["nsenter", inside, "busybox", "wget", "-q", "-T", "5", "-O", "-", url]);
    // What the proxy sends on, to the pod's address or its loopback, goes to the guest.
    for url in [format!("http://{}/", pod.ip), "http://127.0.0.1/".to_owned()] {
        ensure!(get(&url)?.starts_with("hello from"), "{url}: somebody else answers");
    }
    // Its own ports are its own, and what comes from outside is for Istio's own rules to lead to it, which aren't here.
    let folder = tempfile::tempdir_in("/run")?;
    fs::write(folder.path().join("index.html"), "the proxy")?;
    let mut proxies = Vec::new();
    for port in ["80", "15021"] {
        let server = Command::new("nsenter")
            .args([inside, "busybox", "httpd", "-f", "-p", port, "-h"])
            .arg(folder.path())
            .spawn();
        proxies.push(server.context("run a proxy")?);
    }
    let answers = || {
        let told = eventually("the proxy's answer", LIMIT, || Ok(get("http://127.0.0.1:15021/").ok()))?;
        ensure!(told == "the proxy", "the proxy's own port is answered by {told}");
        ensure!(pod.http("/")? == "the proxy", "what comes from outside goes around the proxy");
        let rules = shell::output(["nsenter", inside, "nft", "list", "table", "inet", "vireo"])?;
        ensure!(rules.contains("tcp dport { 15000, 15001, 15004, 15006"), "{rules}");
        Ok(())
    };
    let told = answers();
    for mut proxy in proxies {
        proxy.kill()?;
        proxy.wait()?;
    }
    told?;
    pod.remove(bench)
}
