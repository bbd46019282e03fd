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
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;

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
const OWN_NAMESPACES: [(&str, &str); 5] = [
    ("mnt", "a mount namespace of its own"),
    ("pid", "a pid namespace of its own"),
    ("net", "a network namespace of its own"),
    ("ipc", "an IPC namespace of its own"),
    ("uts", "a UTS namespace of its own"),
];
/// Fields of each thread's status, and the one value that a jail allows.
const EACH_THREAD: [(&str, &str, &str); 8] = [
    ("Groups", "no supplementary groups", ""),
    ("CapInh", "no inheritable capabilities", NO_CAPABILITY),
    ("CapPrm", "no permitted capabilities", NO_CAPABILITY),
    ("CapEff", "no effective capabilities", NO_CAPABILITY),
    ("CapBnd", "an empty capability bounding set", NO_CAPABILITY),
    ("CapAmb", "no ambient capabilities", NO_CAPABILITY),
    ("NoNewPrivs", "no new privileges", "1"),
    ("Seccomp", "a seccomp filter", "2"),
];
const NO_CAPABILITY: &str = "0000000000000000";

/// Looks at process `pid`, which should have been jailed as `uid` and `gid`.
pub fn observe(pid: i32, uid: u32, gid: u32) -> Result<Vec<Finding>> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let threads = threads(&proc)?;
    let mut findings = Vec::new();
    let mut add = |what, found: String, kept| findings.push(Finding { what, found, kept });

    for (name, what, id) in [("Uid", "the pod's user", uid), ("Gid", "the pod's group", gid)] {
        // Real, effective, saved, and that of the file system.
        let (found, kept) = everywhere(&threads, name, &[id; 4].map(|id| id.to_string()).join("\t"));
        add(what, found, kept && id != 0);
    }
    for (name, what, value) in EACH_THREAD {
        let (found, kept) = everywhere(&threads, name, value);
        add(what, found, kept);
    }
    let inits = threads.first().and_then(|t| t.get("NSpid")).cloned().unwrap_or_default();
    let first = inits.split_whitespace().last() == Some("1");
    add("first process of its pid namespace", inits, first);
    for (name, what) in OWN_NAMESPACES {
        let theirs = link(&proc.join("ns").join(name))?;
        let ours = link(&Path::new("/proc/self/ns").join(name))?;
        let kept = theirs != ours;
        add(what, theirs, kept);
    }
    let network = fs::read_to_string(proc.join("net/dev")).context("read net/dev")?;
    let links: Vec<_> = network.lines().skip(2).filter_map(|l| l.split(':').next()).map(str::trim).collect();
    add("no network but a loopback", links.join(" "), links == ["lo"]);
    mounts(&proc, &mut add)?;
    let owner = fs::metadata(proc.join("fd")).context("look at fd")?.uid();
    add("not dumpable: its /proc is root's", format!("uid {owner}"), owner == 0);
    let limits = fs::read_to_string(proc.join("limits")).context("read limits")?;
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap_or("missing");
    let core: Vec<_> = core.split_whitespace().skip(4).take(2).collect();
    add("no core dump", core.join(" "), core == ["0", "0"]);
    let environment = fs::read(proc.join("environ")).context("read environ")?;
    add("an empty environment", format!("{} bytes", environment.len()), environment.is_empty());
    Ok(findings)
}

/// Whether `name` is `value` in every thread's status; else says which thread has what.
fn everywhere(threads: &[Status], name: &str, value: &str) -> (String, bool) {
    let of = |thread: &Status, name: &str| thread.get(name).cloned().unwrap_or_else(|| "missing".into());
    let show = |text: &str| if text.is_empty() { "none".to_owned() } else { text.replace('\t', " ") };
    match threads.iter().find(|thread| of(thread, name) != value) {
        Some(thread) => (format!("{} on thread {}", show(&of(thread, name)), of(thread, "Name")), false),
        None => (format!("{} on {} threads", show(value), threads.len()), !threads.is_empty()),
    }
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

/// Fields of a `/proc/<pid>/status`.
type Status = BTreeMap<String, String>;

/// `None` of a thread that has ended meanwhile: they come and go, those of the kernel that work for an io_uring too.
fn status(folder: &Path) -> Result<Option<Status>> {
    let text = match fs::read_to_string(folder.join("status")) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(Errno::ESRCH as i32) => {
            return Ok(None);
        }
        Err(e) => return Err(e).with_context(|| format!("read {}/status", folder.display())),
    };
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    Ok(Some(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()))
}

/// The status of every thread, the main one first.
fn threads(proc: &Path) -> Result<Vec<Status>> {
    let mut folders = fs::read_dir(proc.join("task"))
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>())
        .context("list threads")?;
    folders.sort_by_key(|folder| folder.file_name() != proc.file_name());
    folders.iter().filter_map(|folder| status(folder).transpose()).collect()
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
