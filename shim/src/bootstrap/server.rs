//! The server: one process, one pod.
//!
//! Everything runs on the main thread. That is no economy alone: a VMM is bound to the thread that cloned it
//! (`PR_SET_PDEATHSIG`), which must live as long as the shim does.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use containerd_shim::Flags;
use tokio::signal::unix::{SignalKind, signal};
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;
use vireo_runtimeclass::machine_service;

use crate::bundle;
use crate::bundle_watch::BundleWatch;
use crate::pod::Pod;
use crate::pod::build::Launcher;
use crate::process_id::ProcessId;
use crate::records::{self, Records};
use crate::service::{events, sandbox, task};

/// What `start` hears from a server that serves.
pub(super) const SERVES: &str = "serves";
/// How long the last events may take.
const LAST_EVENTS: Duration = Duration::from_secs(3);

/// Serves the pod until containerd shuts it down.
pub fn serve(flags: &Flags) -> anyhow::Result<()> {
    let path = std::env::current_dir().context("the bundle")?;
    crate::log::init(&path, &flags.id, flags.debug);
    // Before anything else: a server that nobody can name is one that nobody can end.
    let own = ProcessId::of(std::process::id()).context("the shim's own process")?;
    bundle::write(&path, "shim.pid", &own.to_string())?;
    let (records, socket) = (Path::new(machine_service::FOLDER), Path::new(&flags.socket));
    Records::lock(records).and_then(|records| records.write(socket, own)).context("the shim's record in /run/vireo")?;
    let ttrpc_address = std::env::var("TTRPC_ADDRESS").context("TTRPC_ADDRESS")?;
    let nowhere = File::options().read(true).write(true).open("/dev/null").context("/dev/null")?;
    let listener = UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned().context("stdin")?);
    nix::unistd::dup2_stdin(&nowhere).context("stdin")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("tokio")?;
    runtime.block_on(async {
        let bundle = BundleWatch::new(&flags.id).context("the bundle is gone")?;
        let (publisher, head) = events::Publisher::new(&flags.namespace);
        tokio::spawn(events::deliver(ttrpc_address, head));
        let pod = Pod::new(Arc::new(Launcher), publisher.clone());
        let listener = Listener::try_from(listener).context("the socket")?;
        let tasks = task::services(pod.clone(), &flags.namespace, machine_service::FOLDER.into());
        let sandbox = sandbox::services(pod.clone());
        let mut server = Server::new().add_listener(listener).register_service(tasks).register_service(sandbox);
        server.start().await.context("the ttrpc server")?;
        ignore_signals()?;
        // `start` waits for this word and for the end of the pipe: one that ends without it is a dead server's.
        std::io::stdout().write_all(SERVES.as_bytes()).and_then(|()| std::io::stdout().flush()).context("stdout")?;
        nix::unistd::dup2_stdout(&nowhere).context("stdout")?;
        log::info!("the shim serves");
        tokio::select! {
            () = pod.done() => {}
            () = abandoned(&bundle, &pod) => log::warn!("containerd has removed the pod before it was made"),
        }
        // The address is free first: a container of the same pod that starts now gets a new shim.
        let _ = records::remove(records, socket);
        publisher.flush(LAST_EVENTS).await;
        log::info!("the shim ends");
        // containerd waits for the connection to close and for nothing else.
        server.disconnect().await;
        anyhow::Ok(())
    })?;
    // A blocking thread may still be in an unmount.
    runtime.shutdown_timeout(Duration::from_secs(2));
    Ok(())
}

/// Waits until the bundle is gone while there is no container: nobody will ask for one any more.
async fn abandoned(bundle: &BundleWatch, pod: &Pod) {
    bundle.gone().await;
    if !pod.is_empty() {
        std::future::pending::<()>().await;
    }
}

/// A node that shuts down signals everything; a pod's end is the kubelet's decision.
fn ignore_signals() -> anyhow::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        let mut signals = signal(kind).context("signals")?;
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                log::info!("signal {} is ignored: containerd ends a shim", kind.as_raw_value());
            }
        });
    }
    Ok(())
}
