//! Whether nested KVM really works here, found out by trying.
//!
//! `/dev/kvm` being there says little: it may be a KVM that can't run Linux, or one without nesting. A node is booted
//! on it with a short deadline and must find a working `/dev/kvm` of its own. The verdict is kept per host kernel and
//! CPU; `VIREO_ACCEL=kvm|tcg` overrides it.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};

use super::{Node, Options};
use crate::{cache, progress};

/// On a KVM that works, a node is up after about two seconds.
const DEADLINE: Duration = Duration::from_secs(15);

/// How QEMU runs the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// On the host's KVM, nested.
    Kvm,
    /// Emulated, SVM included.
    Tcg,
}

impl Accel {
    /// QEMU's arguments for it.
    pub(super) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "EPYC,-avx2"],
        }
    }
}

/// The accelerator for nodes on this machine. `options` are those of the node to come.
pub fn choose(options: &Options) -> Result<Accel> {
    match std::env::var("VIREO_ACCEL").as_deref() {
        Ok("kvm") => return Ok(Accel::Kvm),
        Ok("tcg") => return Ok(Accel::Tcg),
        Ok(other) => bail!("VIREO_ACCEL={other}: kvm or tcg is needed"),
        Err(_) => {}
    }
    let record = record()?;
    if let Ok(verdict) = fs::read_to_string(&record) {
        return Ok(if verdict.starts_with("kvm") { Accel::Kvm } else { Accel::Tcg });
    }
    if !std::path::Path::new("/dev/kvm").exists() {
        progress::note("no /dev/kvm here: the node is emulated (TCG with SVM)");
        return Ok(Accel::Tcg);
    }
    let tried = progress::step(&format!("trying nested KVM (at most {} s)", DEADLINE.as_secs()), || try_kvm(options));
    let (accel, verdict) = match tried {
        Ok(()) => (Accel::Kvm, "kvm: nested KVM works here".to_owned()),
        Err(error) => (Accel::Tcg, format!("tcg: nested KVM does not work here ({error:#}), nodes are emulated")),
    };
    progress::note(&verdict);
    fs::write(&record, verdict).with_context(|| format!("write {}", record.display()))?;
    Ok(accel)
}

fn try_kvm(options: &Options) -> Result<()> {
    let node =
        Node::boot_on(Accel::Kvm, &Options { name: "probe".to_owned(), keep: false, ..options.clone() }, DEADLINE)?;
    let own = super::Request::new(["test", "-c", "/dev/kvm"]).deadline(DEADLINE);
    node.agent().output(own).context("the node has no KVM of its own").map(drop)
}

fn record() -> Result<PathBuf> {
    let uname = nix::sys::utsname::uname()?;
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find(|line| line.starts_with("model name")).unwrap_or("unknown");
    let key = cache::Key::default().with(uname.release().as_encoded_bytes()).with(model).finish();
    Ok(cache::root()?.join(format!("accel-{key}")))
}
