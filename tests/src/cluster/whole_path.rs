//! The whole path, with real pods and guests: the operator is applied, it deploys Vireo, whose agent sets the node up; a VirtualMachine is
//! applied, admitted, run, reached through the aggregated API, commanded, and gone without a trace; and so is Vireo, from cluster and node.
//! `make demo` shows it.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpStream,
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt as _, api::ListParams};
use serde_json::json;
use tonic::{Code, Status};
use tungstenite::{ClientRequestBuilder, Message};
use vireo_controller::{
    Context as Shared, Settings,
    health::Health,
    metrics::{Metrics, Part},
    shim_client::Machine,
};
use vireo_runtimeclass::{
    cluster::{KubeVirtConfiguration, PrintableStatus, VirtualMachine, VirtualMachineInstance},
    machine_service::{
        token::Signer,
        v1::{InfoRequest, PauseRequest, State},
    },
    node::{HEARTBEAT, SCHEDULABLE, VERSION},
};

use super::{
    Scope, Test,
    subresources::{ask, permit},
    suite::NAMESPACE,
    tests,
};
use crate::{
    images,
    kubernetes::{eventually, node::NODE_NAME, until},
};

pub(super) const TESTS: &[Test] = tests![Node: the_operator_brings_the_whole_path];

/// For a guest's start in an emulated node, on a machine under load.
const BOOT: Duration = Duration::from_mins(2);
/// For all of Vireo's parts to start there, or to go.
const DEPLOYED: Duration = Duration::from_mins(5);
const MACHINE: &str = "apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: first
spec:
  runStrategy: Always
  template:
    spec:
      domain:
        machine: {type: q35}
        memory: {guest: 192Mi}
        devices:
          disks:
          - {name: root, disk: {}}
      volumes:
      - name: root
        containerDisk: {image: docker.io/library/vireo-guest:1}
";

/// What tells a node of Vireo's from another: its files, its runtime, and that it may be asked for guests.
const TRACES: &str = "ls -d /usr/local/bin/*vireo* /etc/vireo /etc/*/vireo.conf 2> /dev/null; grep '[.]vireo]' /etc/containerd/config.toml || true";
/// Takes what the suite has set up off the node, whose containerd gets somebody who restarts it when systemd would be asked to.
const BARE: &str = "set -eu
/vireo/node-setup/install.sh --uninstall --no-restart
cat > /usr/local/bin/systemctl <<'END'
#!/bin/bash
case $* in
    '-q is-active containerd') ;;
    # Out of the pod that asks, its network too.
    'restart containerd') echo $$ > /sys/fs/cgroup/init/cgroup.procs && exec setsid nsenter --target 1 --all node-containerd restart ;;
    *) exit 1 ;;
esac
END
chmod 755 /usr/local/bin/systemctl
node-containerd restart";
/// Sets it up again, for other tests.
const AS_IT_WAS: &str = "set -eu
rm /usr/local/bin/systemctl
/vireo/node-setup/install.sh --bin /vireo/bin --no-restart
node-containerd restart";

async fn the_operator_brings_the_whole_path(scope: Scope) -> Result<()> {
    let suite = scope.suite();
    suite.stop_controller().await?;
    let traces = async || {
        let found = suite.on_node(TRACES, Vec::new()).await?;
        let labels = suite.kubectl(&["get", "node", NODE_NAME, "--output", "jsonpath={.metadata}"]).await?;
        let marked = [SCHEDULABLE, HEARTBEAT, VERSION].into_iter().filter(|name| labels.contains(name));
        Ok::<_, anyhow::Error>(found + &marked.collect::<Vec<_>>().join(" "))
    };
    suite.on_node(BARE, Vec::new()).await.context("take Vireo off the node")?;
    suite.kubectl(&["label", "node", NODE_NAME, &format!("{SCHEDULABLE}-")]).await?;
    ensure!(traces().await?.is_empty(), "the node is not bare: {}", traces().await?);
    for (name, image) in [("controller", images::controller()?), ("agent", images::agent()?)] {
        let imported = suite.on_node("ctr -n k8s.io images import -", image).await?;
        suite.tell(&format!("ctr -n k8s.io images import vireo-{name}.tar     (what `make images` writes)"), &imported);
    }
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtimeclass/manifests");
    let [operator, object] = ["vireo-operator.yaml", "kubevirt-cr.yaml"].map(|name| manifests.join(name));
    let [operator, object] = [operator.display().to_string(), object.display().to_string()];
    for file in [&operator, &object] {
        let applied = suite.kubectl(&["apply", "--filename", file]).await?;
        suite.tell(&format!("kubectl apply -f {}", name_of(file)), &applied);
    }
    let deployed = until("Vireo is deployed", DEPLOYED, async || {
        let phase = ["get", "kubevirt", "kubevirt", "--namespace", NAMESPACE, "--output", "jsonpath={.status.phase}"];
        Ok(suite.kubectl(&phase).await? == "Deployed")
    });
    if let Err(error) = deployed.await {
        let seen = suite.kubectl(&["describe", "kubevirt,pods", "--namespace", NAMESPACE]).await?;
        let log = async |of: &str| suite.kubectl(&["logs", "--tail=40", of, "--namespace", NAMESPACE]).await;
        let logs = [log("deployment/vireo-operator").await, log("daemonset/vireo-agent").await];
        return Err(error.context(format!("{seen}\n{logs:#?}")));
    }
    let node = suite.kubectl(&["get", "node", NODE_NAME, "--show-labels"]).await?;
    ensure!(node.contains(&format!("{SCHEDULABLE}=true")) && node.contains(VERSION), "{node}");
    suite.tell("kubectl get node --show-labels     (nobody has set it up but the agent)", &node);
    let told = until("the node's events tell that it is set up", BOOT, async || {
        Ok(suite.kubectl(&["describe", "node", NODE_NAME]).await?.contains("VireoReady"))
    });
    if let Err(error) = told.await {
        let log = suite.kubectl(&["logs", "daemonset/vireo-agent", "--namespace", NAMESPACE]).await;
        return Err(
            error.context(format!("{}\n{log:#?}", suite.kubectl(&["get", "events", "--all-namespaces"]).await?))
        );
    }
    let shown = suite.kubectl(&["get", "kubevirt,pods", "--namespace", NAMESPACE]).await?;
    suite.tell("kubectl get kubevirt,pods -n kubevirt", &shown);
    let walked = walk(&scope).await;
    if walked.is_err() {
        let log = ["logs", "--tail=60", "--selector=kubevirt.io=vireo-controller", "--namespace", NAMESPACE];
        println!("{}", suite.kubectl(&log).await?);
    }
    suite.kubectl(&["delete", "--wait=false", "--filename", &object]).await?;
    until("Vireo is removed", DEPLOYED, async || {
        let left = suite.kubectl(&["get", "kubevirt", "--namespace", NAMESPACE, "--output", "name"]).await?;
        Ok(left.is_empty())
    })
    .await?;
    // By their paths: kubectl would first ask for every kind that there is, and slowly.
    for kind in [
        "/api/v1/secrets",
        "/api/v1/serviceaccounts",
        "/apis/apps/v1/deployments",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        "/apis/apiregistration.k8s.io/v1/apiservices",
    ] {
        let path = format!("{kind}?labelSelector=app.kubernetes.io/managed-by=vireo-operator");
        let listed: serde_json::Value = serde_json::from_str(&suite.kubectl(&["get", "--raw", &path]).await?)?;
        ensure!(listed["items"].as_array().is_some_and(Vec::is_empty), "left behind: {listed}");
    }
    let left = traces().await?;
    ensure!(left.is_empty(), "left on the node: {left}");
    suite.tell("kubectl delete -f kubevirt-cr.yaml", "nothing that the operator made is left, and nothing on the node");
    // The suite's own node and controller again, which others and its end look for.
    suite.on_node(AS_IT_WAS, Vec::new()).await.context("set the node up again")?;
    suite.kubectl(&["label", "node", NODE_NAME, &format!("{SCHEDULABLE}=true")]).await?;
    suite.plane().lock().await.apply_kinds()?;
    suite.start_controller().await?;
    walked
}

async fn walk(scope: &Scope) -> Result<()> {
    let (suite, namespace) = (scope.suite(), scope.namespace());
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), MACHINE)?;
    let path = file.path().display().to_string();
    until("the webhooks give defaults", BOOT, async || {
        let dry = ["apply", "--dry-run=server", "--output=yaml", "--namespace", namespace, "--filename", &path];
        Ok(suite.kubectl(&dry).await?.contains("architecture: amd64"))
    })
    .await?;
    suite.tell("cat vm.yaml", MACHINE);
    let applied = suite.kubectl(&["apply", "--namespace", namespace, "--filename", &path]).await?;
    suite.tell("kubectl apply -f vm.yaml", &applied);
    let first = running(scope).await?;
    let shown = look(scope).await?;
    ensure!(shown.contains("Running") && shown.contains("10.88."), "{shown}");
    let pod = scope.pod(&first).await?;
    ensure!(pod.name_any().starts_with("virt-launcher-first-"), "{}", pod.name_any());

    let group = format!("/apis/subresources.kubevirt.io/v1/namespaces/{namespace}");
    let console = format!("{group}/virtualmachineinstances/first/console");
    let mut proxy = suite.plane().lock().await.kubectl();
    let mut proxy = proxy.args(["proxy", "--port=0"]).stdout(Stdio::piped()).spawn()?;
    let output = proxy.stdout.take().context("kubectl proxy says where it is")?;
    let typed = tokio::task::spawn_blocking(move || type_at(output, &console)).await?;
    proxy.kill()?;
    proxy.wait()?;
    suite.tell("virtctl console first     (the same stream of the aggregated API)", &typed.context("the console")?);

    pause(scope, &group).await?;
    who_may_exec_may_not_pause(scope, &pod).await?;
    suite.tell("as a user who has pods/exec alone: pause, by the API and by the machine's own channel", "refused");

    let put = async |call: &str| {
        let told = ask(scope.client(), "PUT", &format!("{group}/virtualmachines/first/{call}"), "").await?;
        told.map(drop).map_err(|(code, why)| anyhow::anyhow!("{call}: {code} {why}"))
    };
    put("restart").await?;
    until("another instance", BOOT, async || {
        let now = scope.api::<VirtualMachineInstance>().get_opt("first").await?;
        Ok(now.is_some_and(|now| now.uid() != first.uid()))
    })
    .await?;
    running(scope).await?;
    suite.tell("PUT virtualmachines/first/restart", "");
    look(scope).await?;
    put("stop").await?;
    until("it is stopped", BOOT, async || Ok(printable(scope).await? == Some(PrintableStatus::Stopped))).await?;
    gone(scope).await?;
    suite.tell("PUT virtualmachines/first/stop", "");
    look(scope).await?;
    put("start").await?;
    running(scope).await?;
    suite.tell("PUT virtualmachines/first/start", "");
    look(scope).await?;
    suite.kubectl(&["delete", "vm", "first", "--wait=false", "--namespace", namespace]).await?;
    until("the machine is gone", BOOT, async || Ok(scope.api::<VirtualMachine>().get_opt("first").await?.is_none()))
        .await?;
    gone(scope).await?;
    suite.tell("kubectl delete vm first", "no instance, no pod; no process and no socket on the node");
    Ok(())
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What `kubectl` shows of it.
async fn look(scope: &Scope) -> Result<String> {
    let shown = scope.suite().kubectl(&["get", "vm,vmi", "--namespace", scope.namespace()]).await?;
    scope.suite().tell("kubectl get vm,vmi", &shown);
    Ok(shown)
}

async fn printable(scope: &Scope) -> Result<Option<PrintableStatus>> {
    Ok(scope.api::<VirtualMachine>().get("first").await?.status.and_then(|status| status.printable_status))
}

/// Waits until it runs and is ready, with an address; its instance.
async fn running(scope: &Scope) -> Result<VirtualMachineInstance> {
    eventually("a running guest", BOOT, async || {
        let vm = scope.api::<VirtualMachine>().get("first").await?.status.unwrap_or_default();
        let instance = scope.api::<VirtualMachineInstance>().get_opt("first").await?;
        let has_address = instance.as_ref().and_then(|instance| instance.status.as_ref()).is_some_and(|status| {
            status.interfaces.iter().any(|nic| nic.ip_address.as_deref().is_some_and(|ip| ip.starts_with("10.88.")))
        });
        let is_up = vm.printable_status == Some(PrintableStatus::Running) && vm.ready == Some(true) && has_address;
        Ok(instance.filter(|_| is_up))
    })
    .await
}

/// Waits until nothing of it is left but the machine itself, in the cluster and on the node.
async fn gone(scope: &Scope) -> Result<()> {
    until("the instance and its pod are gone", BOOT, async || {
        let instances = scope.api::<VirtualMachineInstance>().list(&ListParams::default()).await?;
        let pods = scope.api::<Pod>().list(&ListParams::default()).await?;
        Ok(instances.items.is_empty() && pods.items.is_empty())
    })
    .await?;
    until("the node has nothing of it", BOOT, async || {
        let left = scope.suite().on_node("pgrep -l 'vireo-vmm|shim-vireo' || true; ls /run/vireo", Vec::new()).await?;
        Ok(left.trim().is_empty())
    })
    .await
}

/// Pauses it and lets it go on, by the subresources; the machine's state is seen in the cluster.
async fn pause(scope: &Scope, group: &str) -> Result<()> {
    for (call, expected) in [("pause", PrintableStatus::Paused), ("unpause", PrintableStatus::Running)] {
        let path = format!("{group}/virtualmachineinstances/first/{call}");
        let told = ask(scope.client(), "PUT", &path, "").await?;
        ensure!(told.is_ok(), "{call}: {told:?}");
        until(call, BOOT, async || Ok(printable(scope).await? == Some(expected))).await?;
        scope.suite().tell(&format!("PUT virtualmachineinstances/first/{call}"), &format!("{expected:?}"));
    }
    Ok(())
}

/// A user who may exec in the pod, and has a key of their own, can't go around the subresources' rights.
async fn who_may_exec_may_not_pause(scope: &Scope, pod: &Pod) -> Result<()> {
    let may_exec = json!({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create", "get"]});
    permit(scope, "eve", may_exec).await?;
    let client = scope.suite().user("eve").await?;
    let group = format!("/apis/subresources.kubevirt.io/v1/namespaces/{}", scope.namespace());
    let told = ask(&client, "PUT", &format!("{group}/virtualmachineinstances/first/pause"), "").await?;
    ensure!(matches!(told, Err((403, _))), "the subresource let eve in: {told:?}");
    let context = Shared {
        metrics: Metrics::new(Part::Controller, Health::default()),
        client,
        settings: Settings::fixed(KubeVirtConfiguration::default()),
        signer: Arc::new(Signer::new(&[8; 32])),
        namespace: NAMESPACE.to_owned(),
    };
    let mut machine = eventually("eve may exec", BOOT, async || Ok(Machine::connect(&context, pod).await.ok())).await?;
    let bare = machine.client.pause(PauseRequest {}).await;
    ensure!(is_unauthenticated(&bare), "a pause without a token: {bare:?}");
    let signed = machine.signed("Pause", PauseRequest {})?;
    let forged = machine.client.pause(signed).await;
    ensure!(is_unauthenticated(&forged), "a pause with eve's own token: {forged:?}");
    // What anyone who may exec may ask, and the machine's own word.
    let info = machine.client.info(InfoRequest {}).await?.into_inner();
    ensure!(info.state() == State::Running, "eve paused it: {info:?}");
    Ok(())
}

/// It was the machine that refused, and for want of a right token.
fn is_unauthenticated<T>(answer: &Result<T, Status>) -> bool {
    answer.as_ref().is_err_and(|status| status.code() == Code::Unauthenticated)
}

/// Types at the console through `kubectl proxy`, which says where it is, and reads the answer; the last lines.
fn type_at(proxy: impl std::io::Read, path: &str) -> Result<String> {
    let mut line = String::new();
    BufReader::new(proxy).read_line(&mut line)?;
    let address = line.trim().rsplit(' ').next().with_context(|| line.clone())?.to_owned();
    let stream = TcpStream::connect(&address).with_context(|| line.clone())?;
    stream.set_read_timeout(Some(BOOT))?;
    let request =
        ClientRequestBuilder::new(format!("ws://{address}{path}").parse()?).with_sub_protocol("plain.kubevirt.io");
    let (mut socket, _) = tungstenite::client(request, stream).context("the WebSocket")?;
    let (end, mut heard, mut typed) = (Instant::now() + BOOT, String::new(), false);
    while Instant::now() < end {
        match socket.read()? {
            Message::Binary(piece) => heard.push_str(&String::from_utf8_lossy(&piece)),
            Message::Close(frame) => bail!("closed: {frame:?}; heard:\n{heard}"),
            _ => {}
        }
        if heard.contains("answer=42") {
            socket.close(None)?;
            let lines: Vec<_> = heard.lines().collect();
            return Ok(lines[lines.len().saturating_sub(3)..].join("\n"));
        }
        if heard.contains("vireo-guest# ") && !typed {
            socket.send(Message::binary(b"echo answer=$((6*7))\n".to_vec()))?;
            typed = true;
        }
    }
    bail!("no answer; heard:\n{heard}")
}
