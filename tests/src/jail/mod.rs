//! What `/proc` shows of a jailed process, and whether that is a jail.
//!
//! [`observe`] looks at any VMM from outside; [`launched`] has proofs that start one of their own. Both work on a host and in
//! a node alike, as root.

pub mod guest;
pub mod launched;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One promise of the jail, and what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The promise.
    pub what: &'static str,
    /// What `/proc` says.
    pub found: String,
    /// Whether the promise is kept.
    pub kept: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", if self.kept { "ok  " } else { "FAIL" }, self.what, self.found)
    }
}

/// Namespaces that a VMM has to itself.
const OWN_NAMESPACES: [&str; 5] = ["mnt", "pid", "net", "ipc", "uts"];

/// Looks at process `pid`, which should have been jailed as `uid` and `gid`.
pub fn observe(pid: i32, uid: u32, gid: u32) -> Result<Vec<Finding>> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let status = status(&proc)?;
    let mut findings = Vec::new();
    let mut add = |what, found: String, kept| findings.push(Finding { what, found, kept });
    let field = |name: &str| status.get(name).cloned().unwrap_or_else(|| "missing".into());

    for (name, what, id) in [("Uid", "the pod's user", uid), ("Gid", "the pod's group", gid)] {
        let ids = field(name);
        let kept =
            id != 0 && ids.split_whitespace().count() == 4 && ids.split_whitespace().all(|i| i == id.to_string());
        add(what, ids.split_whitespace().collect::<Vec<_>>().join(" "), kept);
    }
    let groups = field("Groups");
    add("no supplementary groups", format!("{groups:?}"), groups.is_empty());
    for (name, what) in [
        ("CapInh", "no inheritable capabilities"),
        ("CapPrm", "no permitted capabilities"),
        ("CapEff", "no effective capabilities"),
        ("CapBnd", "an empty capability bounding set"),
        ("CapAmb", "no ambient capabilities"),
    ] {
        let set = field(name);
        let kept = u64::from_str_radix(&set, 16) == Ok(0);
        add(what, set, kept);
    }
    add("no new privileges", field("NoNewPrivs"), field("NoNewPrivs") == "1");
    let inits = field("NSpid");
    add("first process of its own pid namespace", inits.clone(), inits.split_whitespace().last() == Some("1"));
    let filters = threads(&proc)?;
    add(
        "a seccomp filter on every thread",
        filters.iter().map(|(name, mode)| format!("{name} {mode}")).collect::<Vec<_>>().join(", "),
        !filters.is_empty() && filters.iter().all(|(_, mode)| mode == "2"),
    );
    for name in OWN_NAMESPACES {
        let theirs = link(&proc.join("ns").join(name))?;
        let ours = link(&Path::new("/proc/self/ns").join(name))?;
        add("a namespace of its own", theirs.clone(), theirs != ours);
    }
    mounts(&proc, &mut add)?;
    let limits = fs::read_to_string(proc.join("limits")).context("read limits")?;
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap_or("missing");
    let core: Vec<_> = core.split_whitespace().skip(4).take(2).collect();
    add("no core dump", core.join(" "), core == ["0", "0"]);
    let environment = fs::read(proc.join("environ")).context("read environ")?;
    add("an empty environment", format!("{} bytes", environment.len()), environment.is_empty());
    Ok(findings)
}

/// What its descriptors are open on, by number.
pub fn descriptors(pid: i32) -> Result<BTreeMap<i32, String>> {
    let mut descriptors = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).context("list descriptors")? {
        let entry = entry?;
        let number = entry.file_name().to_string_lossy().parse().context("descriptor number")?;
        descriptors.insert(number, link(&entry.path())?);
    }
    Ok(descriptors)
}

fn status(proc: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(proc.join("status")).with_context(|| format!("read {}/status", proc.display()))?;
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    Ok(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

/// Name and seccomp mode of each thread.
fn threads(proc: &Path) -> Result<Vec<(String, String)>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(proc.join("task")).context("list threads")? {
        let status = status(&entry?.path())?;
        let field = |name: &str| status.get(name).cloned().unwrap_or_default();
        threads.push((field("Name"), field("Seccomp")));
    }
    Ok(threads)
}

fn mounts(proc: &Path, add: &mut impl FnMut(&'static str, String, bool)) -> Result<()> {
    let text = fs::read_to_string(proc.join("mountinfo")).context("read mountinfo")?;
    let lines: Vec<_> = text.lines().collect();
    add("one mount", lines.len().to_string(), lines.len() == 1);
    // Field 5 is the mount point, 6 its options, and after the dash stands the kind (proc_pid_mountinfo(5)).
    let fields: Vec<_> = lines.first().unwrap_or(&"").split_whitespace().collect();
    let point = fields.get(4).copied().unwrap_or_default();
    let options = fields.get(5).copied().unwrap_or_default();
    let kind = fields.iter().skip_while(|f| **f != "-").nth(1).copied().unwrap_or_default();
    let readonly = options.split(',').any(|o| o == "ro");
    add(
        "a read-only tmpfs as root",
        format!("{kind} on {point} ({options})"),
        readonly && (kind, point) == ("tmpfs", "/"),
    );
    let entries = match fs::read_dir(proc.join("root")) {
        Ok(entries) => entries.count(),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            return Err(e).context("list its root; this takes root");
        }
        Err(e) => return Err(e).context("list its root"),
    };
    add("nothing in its root", format!("{entries} entries"), entries == 0);
    Ok(())
}

fn link(path: &Path) -> Result<String> {
    let target = fs::read_link(path).with_context(|| format!("read {}", path.display()))?;
    Ok(target.to_string_lossy().into_owned())
}
