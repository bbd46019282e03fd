//! Sets the node up, and takes that back.

use std::process;
use std::time::Duration;

use tracing::{info, warn};
use vireo_node_setup::findings::{Finding, RESTART_CONTAINERD, RUNNING_CONTAINERD, Verdict};
use vireo_runtimeclass::node::BEAT;

use super::host;

/// Where the image has what is installed.
const IMAGE_S: &str = "vireo";
/// What a check is made by, once it is installed.
const CHECK: &str = "/usr/local/bin/vireo";
/// A node that is fit is looked at again after so long; one that isn't, with each beat, but not before so much of one.
const LOOK: Duration = Duration::from_mins(10);
const LOOK_AGAIN: Duration = Duration::from_secs(BEAT.as_secs() / 2);

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fitness {
    /// Guests may come.
    Fit,
    /// They may not, for this reason.
    Unfit(String),
}

/// Sets up one node.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// containerd was restarted once. What that didn't help, it won't the next time.
    restarted: bool,
}

impl Node {
    /// Does what isn't done yet, and looks how the node is then.
    pub(crate) async fn set_up(&mut self) -> Fitness {
        match self.try_to_set_up().await {
            Ok(findings) => judge(&findings),
            Err(error) => Fitness::Unfit(chain(&error)),
        }
    }

    async fn try_to_set_up(&mut self) -> Result<Vec<Finding>, host::Error> {
        let done = install(&["--bin", &image_s("bin")]).await?;
        // Without the check that follows it: that is made again here.
        done.lines().take_while(|line| !line.ends_with("vireo check:")).for_each(|line| info!("{line}"));
        let findings = check().await?;
        if self.restarted || !wants_restart(&findings) {
            return Ok(findings);
        }
        // The script restarts containerd when it changes the configuration. One that was cut off then, doesn't the next time.
        self.restarted = true;
        info!("containerd is restarted, for it hasn't read its configuration");
        if let Err(error) = restart_containerd().await {
            warn!("{}", chain(&error));
            return Ok(findings);
        }
        check().await
    }
}

/// Takes everything of Vireo's off the node; refused while a machine runs.
pub(crate) async fn take_back() -> Result<(), host::Error> {
    let done = install(&["--uninstall"]).await?;
    done.lines().for_each(|line| info!("{line}"));
    Ok(())
}

/// Whether it is time to look again, `since` it was seen to be so.
pub(crate) fn is_due(seen: &Fitness, since: Duration) -> bool {
    match seen {
        Fitness::Fit => since >= LOOK,
        Fitness::Unfit(_) => since >= LOOK_AGAIN,
    }
}

/// Runs the image's `install.sh` by the node's shell; what it said.
async fn install(arguments: &[&str]) -> Result<String, host::Error> {
    let script = image_s("install.sh");
    host::run("sh", &[&[script.as_str()], arguments].concat()).await?.success()
}

/// Where the node sees a file of this container's.
fn image_s(path: &str) -> String {
    format!("/proc/{}/root/{IMAGE_S}/{path}", process::id())
}

/// What a check says, well or ill.
async fn check() -> Result<Vec<Finding>, host::Error> {
    let ended = host::run(CHECK, &["check", "--json"]).await?;
    serde_json::from_str(&ended.said).map_err(|_| ended.failed())
}

async fn restart_containerd() -> Result<(), host::Error> {
    host::run("systemctl", &["-q", "is-active", "containerd"]).await?.success()?;
    host::run("systemctl", &["restart", "containerd"]).await?.success()?;
    Ok(())
}

/// Whether a restart of containerd is what is missing.
fn wants_restart(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| match &finding.verdict {
        Verdict::Missing { remedy, .. } => finding.subject == RUNNING_CONTAINERD && remedy == RESTART_CONTAINERD,
        Verdict::Good { .. } => false,
    }) && findings.iter().any(|finding| finding.subject == "runtime" && finding.is_good())
}

fn judge(findings: &[Finding]) -> Fitness {
    let missing: Vec<_> = findings.iter().filter(|finding| !finding.is_good()).map(Finding::to_string).collect();
    if missing.is_empty() { Fitness::Fit } else { Fitness::Unfit(missing.join("; ")) }
}

fn chain(error: &dyn std::error::Error) -> String {
    vireo_vmm::control::serve::chain(error)
}

#[cfg(test)]
mod tests {
    use super::super::label::until_next_beat;
    use super::*;

    fn missing(subject: &str, remedy: &str) -> Finding {
        Finding::new(subject, Err(("nothing".to_owned(), remedy)))
    }

    #[test]
    fn a_node_is_fit_when_nothing_is_missing() {
        let good = Finding::new("kvm", Ok("/dev/kvm".to_owned()));
        assert_eq!(judge(std::slice::from_ref(&good)), Fitness::Fit);
        let unfit = judge(&[good, missing("tun", "load it"), missing("nft", "install it")]);
        assert_eq!(unfit, Fitness::Unfit("tun: nothing (load it); nft: nothing (install it)".to_owned()));
    }

    #[test]
    fn containerd_is_restarted_only_where_that_helps() {
        let runtime = || Finding::new("runtime", Ok("vireo".to_owned()));
        let stale = || missing(RUNNING_CONTAINERD, RESTART_CONTAINERD);
        assert!(wants_restart(&[runtime(), stale()]));
        assert!(!wants_restart(&[missing("runtime", "run install.sh"), stale()]), "its files don't say it either");
        assert!(!wants_restart(&[runtime(), missing(RUNNING_CONTAINERD, "start containerd")]), "it is down");
        assert!(!wants_restart(&[runtime(), missing("nft", RESTART_CONTAINERD)]));
    }

    #[test]
    fn when_a_node_is_looked_at() {
        let unfit = Fitness::Unfit(String::new());
        assert!(is_due(&unfit, until_next_beat(0.0)) && !is_due(&unfit, Duration::from_secs(2)));
        assert!(is_due(&Fitness::Fit, LOOK) && !is_due(&Fitness::Fit, until_next_beat(1.0)));
    }
}
