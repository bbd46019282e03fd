//! etcd, the API server, the controller manager and the scheduler, with authorization by RBAC and for nodes, an aggregation
//! layer, admission webhooks, and an audit of who is named.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tungstenite::http::Request;

use super::{
    Audit, AuditLog, Authority, Daemon, HOST, Programs,
    certificates::{Issued, write},
    wait::until,
};

/// Long, for machines under load; an idle one needs five seconds.
const DEADLINE: Duration = Duration::from_mins(2);
/// The group that may do everything.
pub const MASTERS: &str = "system:masters";
/// What its Services' addresses are from; the first is the API server's.
const SERVICES: &str = "10.96.0.0/16";
const FIRST_SERVICE: &str = "10.96.0.1";
/// Where etcd is, for the API server alone.
const ETCD: &str = "http://127.0.0.1:2379";
const AUDIT_POLICY: &str = "audit-policy.json";
const AUDIT_LOG: &str = "audit.log";
/// `sh -c` with etcd's folder and command: 137 is the end by SIGKILL.
const SUPERVISE: &str = "mount -t tmpfs etcd \"$0\" || exit
while setpriv --pdeathsig KILL -- \"$@\"; [ $? -eq 137 ]; do :; done; exit 1";
/// A load of tests must not be measured by what clients hold themselves back: requests a second.
const RATE: [&str; 2] = ["--kube-api-qps=2000", "--kube-api-burst=2000"];

/// A running control plane; dropping it ends it.
pub struct ControlPlane {
    programs: Programs,
    folder: PathBuf,
    authority: Authority,
    client: Client,
    // They end in this order: who asks before who answers.
    scheduler: Daemon,
    controller_manager: Daemon,
    api_server: Daemon,
    etcd: Daemon,
}

impl std::fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlPlane").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl ControlPlane {
    /// Starts one in the network that this thread is in. Certificates and logs are in a folder, which is replaced.
    ///
    /// Comes back when the API server is ready and has the default namespace's service account, without which no pod can be
    /// made.
    pub async fn start(programs: &Programs, folder: &Path) -> Result<Self> {
        Self::start_audited(programs, folder, Audit::default()).await
    }

    /// Likewise, with an audit.
    pub async fn start_audited(programs: &Programs, folder: &Path, audit: Audit<'_>) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let authority = Authority::new("kubernetes")?;
        authorities(&authority, folder)?;
        write(folder, AUDIT_POLICY, &audit.policy().to_string())?;
        write(folder, AUDIT_LOG, "")?;
        write_kubectl(programs, folder)?;
        let mut etcd = start_etcd(programs, folder)?;
        let mut api_server = start_api_server(programs, folder)?;
        let client = connect(&kubeconfig(&authority, folder, "admin", Some(MASTERS))?).await?;
        until("the API server's readiness", DEADLINE, async || {
            etcd.check()?;
            api_server.check()?;
            is_ready(&client).await
        })
        .await?;
        let controller_manager = start_controller_manager(programs, &authority, folder)?;
        let scheduler = start_scheduler(programs, &authority, folder)?;
        let mut started = Self {
            programs: programs.clone(),
            folder: folder.to_owned(),
            authority,
            client,
            scheduler,
            controller_manager,
            api_server,
            etcd,
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(started.client.clone(), "default");
        until("the default service account", DEADLINE, async || {
            started.check()?;
            Ok(accounts.get_opt("default").await?.is_some())
        })
        .await?;
        Ok(started)
    }

    /// Fails if one of its programs has ended.
    pub fn check(&mut self) -> Result<()> {
        let all = [&mut self.etcd, &mut self.api_server, &mut self.controller_manager, &mut self.scheduler];
        all.into_iter().try_for_each(Daemon::check)
    }

    /// The administrator's.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The administrator's.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// For another user, with a group of its.
    pub fn kubeconfig_of(&self, user: &str, group: Option<&str>) -> Result<PathBuf> {
        kubeconfig(&self.authority, &self.folder, user, group)
    }

    /// For who has a token, at this server in place of the API server's own address.
    pub fn kubeconfig_with_token(&self, user: &str, token: &str, server: Option<&str>) -> Result<PathBuf> {
        let name = match server {
            Some(server) => format!("{user}-{}", server.rsplit(':').next().unwrap_or_default()),
            None => user.to_owned(),
        };
        write_kubeconfig(&self.authority, &self.folder, &name, server, &json!({ "token": token }))
    }

    /// Who signs for clients and servers.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Its programs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Certificates and logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `kubectl` as the administrator.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(kubectl(&self.folder));
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Applies what `kubectl apply` takes before an operator: the kinds and the RuntimeClass.
    pub fn apply_kinds(&self) -> Result<()> {
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtimeclass/manifests");
        let mut command = self.kubectl();
        command.args(["apply", "--server-side", "--filename"]).arg(manifests.join("crds"));
        let output =
            command.arg("--filename").arg(manifests.join("runtimeclass.yaml")).output().context("run kubectl")?;
        ensure!(output.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// What is noted of requests from now on.
    pub fn audit(&self) -> Result<AuditLog> {
        AuditLog::open(&self.folder.join(AUDIT_LOG))
    }

    /// The pids of its programs, by their names.
    pub fn pids(&self) -> [(&'static str, u32); 4] {
        [
            ("kube-apiserver", self.api_server.pid()),
            ("etcd", self.etcd.pid()),
            ("kube-scheduler", self.scheduler.pid()),
            ("kube-controller-manager", self.controller_manager.pid()),
        ]
    }

    /// Kills the API server and starts it anew; comes back when it is ready.
    pub async fn restart_api_server(&mut self) -> Result<()> {
        self.api_server.kill();
        self.api_server = start_api_server(&self.programs, &self.folder)?;
        self.wait_until_ready().await
    }

    /// Kills etcd, which starts anew; comes back when the API server is ready again.
    pub async fn restart_etcd(&mut self) -> Result<()> {
        let supervisor = self.etcd.pid();
        let children = format!("/proc/{supervisor}/task/{supervisor}/children");
        let child = fs::read_to_string(&children).with_context(|| format!("read {children}"))?;
        let child = child.trim().parse().with_context(|| format!("etcd's supervisor has the children {child:?}"))?;
        kill(Pid::from_raw(child), Signal::SIGKILL).context("kill etcd")?;
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        until("the API server's readiness after a restart", DEADLINE, async || {
            self.check()?;
            is_ready(&self.client).await
        })
        .await
    }
}

/// A client by a kubeconfig.
pub async fn connect(kubeconfig: &Path) -> Result<Client> {
    let read = Kubeconfig::read_from(kubeconfig).with_context(|| format!("read {}", kubeconfig.display()))?;
    Ok(Client::try_from(Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?)?)
}

/// The `kubectl` of a cluster in a folder.
fn kubectl(folder: &Path) -> PathBuf {
    folder.join("bin/kubectl")
}

/// It keeps nothing that it learnt of the server: the kinds there change, and other clusters have the same address.
fn write_kubectl(programs: &Programs, folder: &Path) -> Result<()> {
    let path = kubectl(folder);
    fs::create_dir_all(folder.join("bin"))?;
    let program = programs.kubernetes("kubectl");
    fs::write(&path, format!("#!/bin/sh\nexec '{}' --cache-dir=/dev/null \"$@\"\n", program.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).with_context(|| format!("write {}", path.display()))
}

/// Not yet for as long as it doesn't answer.
async fn is_ready(client: &Client) -> Result<bool> {
    let request = Request::get("/readyz").body(Vec::new())?;
    Ok(client.request_text(request).await.is_ok_and(|text| text == "ok"))
}

/// What the programs' flags name: `ca`, `front-proxy-ca` and their children, and the key of service accounts.
fn authorities(authority: &Authority, folder: &Path) -> Result<()> {
    Issued { certificate: authority.certificate(), key: authority.key() }.write(folder, "ca")?;
    let host = HOST.to_string();
    let hosts = [&host, "127.0.0.1", FIRST_SERVICE, "localhost", "kubernetes.default.svc", "kubernetes.default"];
    authority.server("kube-apiserver", &hosts)?.write(folder, "apiserver")?;
    authority.client("apiserver-kubelet-client", Some(MASTERS))?.write(folder, "kubelet-client")?;
    let front = Authority::new("front-proxy")?;
    write(folder, "front-proxy-ca.crt", &front.certificate())?;
    front.client("front-proxy-client", None)?.write(folder, "front-proxy-client")?;
    let tokens = KeyPair::generate()?;
    write(folder, "service-accounts.key", &tokens.serialize_pem())?;
    write(folder, "service-accounts.pub", &tokens.public_key_pem())?;
    Ok(())
}

/// A kubeconfig that holds all that it needs.
fn kubeconfig(authority: &Authority, folder: &Path, user: &str, group: Option<&str>) -> Result<PathBuf> {
    let issued = authority.client(user, group)?;
    let data = |text: &str| BASE64_STANDARD.encode(text);
    let by = json!({"client-certificate-data": data(&issued.certificate), "client-key-data": data(&issued.key)});
    write_kubeconfig(authority, folder, user, None, &by)
}

/// A kubeconfig of a user who is known by this.
fn write_kubeconfig(
    authority: &Authority,
    folder: &Path,
    user: &str,
    server: Option<&str>,
    by: &Value,
) -> Result<PathBuf> {
    let own = format!("https://{HOST}:6443");
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "vireo", "cluster": {
            "server": server.unwrap_or(&own),
            "certificate-authority-data": BASE64_STANDARD.encode(authority.certificate()),
        }}],
        "users": [{"name": user, "user": by}],
        "contexts": [{"name": "vireo", "context": {"cluster": "vireo", "user": user}}],
        "current-context": "vireo",
    });
    write(folder, &format!("{}.kubeconfig", user.replace([':', '/'], "-")), &format!("{text:#}"))
}

/// Its data is in memory, in a mount that is its own: nothing of it is worth a disk's flushes. One that is killed starts anew, on what
/// it had.
fn start_etcd(programs: &Programs, folder: &Path) -> Result<Daemon> {
    let data = folder.join("etcd");
    fs::create_dir_all(&data)?;
    let mut command = Daemon::command("unshare");
    command.args(["--mount", "sh", "-c", SUPERVISE]).arg(&data);
    command.arg(programs.etcd()).arg("--data-dir").arg(data.join("data"));
    command.args([&format!("--listen-client-urls={ETCD}"), &format!("--advertise-client-urls={ETCD}")]);
    command.args(["--listen-peer-urls=http://127.0.0.1:2380", "--quota-backend-bytes=2147483648"]);
    Daemon::start("etcd", folder, command)
}

fn start_api_server(programs: &Programs, folder: &Path) -> Result<Daemon> {
    let file = |name: &str| folder.join(name).display().to_string();
    let mut command = Daemon::command(programs.kubernetes("kube-apiserver"));
    command.args([
        &format!("--etcd-servers={ETCD}"),
        &format!("--bind-address={HOST}"),
        &format!("--advertise-address={HOST}"),
        &format!("--service-cluster-ip-range={SERVICES}"),
        "--secure-port=6443",
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--service-account-issuer=https://kubernetes.default.svc",
        // Webhooks and API services are asked at their Endpoints: no proxy answers at a Service's address here.
        "--enable-aggregator-routing=true",
        "--kubelet-preferred-address-types=InternalIP",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        // MiB; a log that is begun anew would be read to its old end.
        "--audit-log-maxsize=4000",
    ]);
    for (flag, name) in [
        ("tls-cert-file", "apiserver.crt"),
        ("tls-private-key-file", "apiserver.key"),
        ("client-ca-file", "ca.crt"),
        ("kubelet-certificate-authority", "ca.crt"),
        ("kubelet-client-certificate", "kubelet-client.crt"),
        ("kubelet-client-key", "kubelet-client.key"),
        ("service-account-key-file", "service-accounts.pub"),
        ("service-account-signing-key-file", "service-accounts.key"),
        ("requestheader-client-ca-file", "front-proxy-ca.crt"),
        ("proxy-client-cert-file", "front-proxy-client.crt"),
        ("proxy-client-key-file", "front-proxy-client.key"),
        ("audit-policy-file", AUDIT_POLICY),
        ("audit-log-path", AUDIT_LOG),
    ] {
        command.arg(format!("--{flag}={}", file(name)));
    }
    Daemon::start("kube-apiserver", folder, command)
}

fn start_controller_manager(programs: &Programs, authority: &Authority, folder: &Path) -> Result<Daemon> {
    let user = "system:kube-controller-manager";
    let mut command = follower(programs, "kube-controller-manager", &kubeconfig(authority, folder, user, None)?);
    command.arg("--use-service-account-credentials=true");
    for (flag, name) in [
        ("root-ca-file", "ca.crt"),
        ("service-account-private-key-file", "service-accounts.key"),
        ("cluster-signing-cert-file", "ca.crt"),
        ("cluster-signing-key-file", "ca.key"),
    ] {
        command.arg(format!("--{flag}={}", folder.join(name).display()));
    }
    Daemon::start("kube-controller-manager", folder, command)
}

fn start_scheduler(programs: &Programs, authority: &Authority, folder: &Path) -> Result<Daemon> {
    let kubeconfig = kubeconfig(authority, folder, "system:kube-scheduler", None)?;
    Daemon::start("kube-scheduler", folder, follower(programs, "kube-scheduler", &kubeconfig))
}

/// What the API server's two great clients have in common.
fn follower(programs: &Programs, name: &str, kubeconfig: &Path) -> Command {
    let mut command = Daemon::command(programs.kubernetes(name));
    for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        command.arg(format!("--{flag}={}", kubeconfig.display()));
    }
    command.args(["--bind-address=127.0.0.1", "--port=0", "--leader-elect=false"]).args(RATE);
    command
}
