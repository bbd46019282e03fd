//! What a guest did right before its CPU shut down: tracefs, events `kvm/*` (Linux, Documentation/trace/ftrace.rst).
//!
//! A triple fault leaves nothing to ask: KVM has reset the vCPU before anybody is told. The kernel notes each exit in a ring
//! of its own as long as a suite runs, and what it noted last is shown with the scenario's failure.
//!
//! Where the guest's last RIP is an address of the node's kernel itself, behind its VMRUN, that is said: a guest never has
//! it, so that the emulator has mixed up the states of node and guest.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

const TRACEFS: &str = "/sys/kernel/tracing";
const RING: &str = "/sys/kernel/tracing/instances/vireo";
const EVENTS: [&str; 5] = ["kvm_entry", "kvm_exit", "kvm_inj_virq", "kvm_inj_exception", "kvm_page_fault"];
/// Of each CPU.
const KIB: &str = "256";
/// Lines shown.
const SHOWN: usize = 60;
/// The function of KVM's that has VMRUN (arch/x86/kvm/svm/vmenter.S), and more bytes than it has.
const VMRUN: (&str, u64) = (" __svm_vcpu_run\t", 0x400);

/// Begins to note exits, until the node's end.
pub(super) fn note() -> Result<()> {
    if !Path::new(TRACEFS).join("trace").exists() {
        let status = Command::new("mount").args(["-t", "tracefs", "tracefs", TRACEFS]).status();
        ensure!(status.context("run mount")?.success(), "{TRACEFS}: can't be mounted");
    }
    fs::create_dir_all(RING).with_context(|| format!("make {RING}"))?;
    let write = |file: &str, text: &str| {
        let path = Path::new(RING).join(file);
        fs::write(&path, text).with_context(|| format!("write {text:?} to {}", path.display()))
    };
    write("buffer_size_kb", KIB)?;
    for event in EVENTS {
        write(&format!("events/kvm/{event}/enable"), "1")?;
    }
    Ok(())
}

/// The last lines before the last shutdown of a guest's CPU; empty if none is there. Earlier ones are forgotten.
pub(super) fn before_shutdown() -> String {
    let path = Path::new(RING).join("trace");
    let mut shown = last(&fs::read_to_string(&path).unwrap_or_default());
    if at_vmrun(&shown, &fs::read_to_string("/proc/kallsyms").unwrap_or_default()) {
        shown += "\nthe last RIP is the node's own, behind its VMRUN: the emulator's fault (tests/README.md)";
    }
    // What can't be forgotten is shown once more.
    let _ = fs::write(path, "");
    shown
}

fn last(trace: &str) -> String {
    let lines: Vec<&str> = trace.lines().filter(|line| !line.starts_with('#')).collect();
    let Some(end) = lines.iter().rposition(|line| line.contains("reason shutdown")) else { return String::new() };
    // Of the thread that shut down: `  vcpu0-123     [001] ...`.
    let thread = lines[end].split('[').next().unwrap_or_default().trim();
    let of_thread: Vec<&str> =
        lines[..=end].iter().filter(|line| line.trim_start().starts_with(thread)).copied().collect();
    of_thread[of_thread.len().saturating_sub(SHOWN)..].join("\n")
}

/// Whether the last line's RIP is in the function that has VMRUN.
fn at_vmrun(shown: &str, symbols: &str) -> bool {
    let rip = || {
        let (_, rest) = shown.lines().last()?.split_once(" rip 0x")?;
        u64::from_str_radix(rest.split(' ').next()?, 16).ok()
    };
    let start = || {
        let line = symbols.lines().find(|line| line.contains(VMRUN.0))?;
        u64::from_str_radix(line.split(' ').next()?, 16).ok()
    };
    matches!((rip(), start()), (Some(rip), Some(start)) if rip.checked_sub(start).is_some_and(|offset| offset < VMRUN.1))
}

#[cfg(test)]
mod tests {
    use super::{at_vmrun, last};

    #[test]
    fn a_rip_of_the_nodes_is_told_from_a_guests() {
        let symbols = "ffffffffc03e2000 t svm_vcpu_run\t[kvm_amd]\nffffffffc03f0d30 t __svm_vcpu_run\t[kvm_amd]\n";
        let shown = |rip: &str| format!("rip 0x1 info\nkvm_exit: vcpu 0 reason shutdown rip 0x{rip} info1 0x0");
        assert!(at_vmrun(&shown("ffffffffc03f0dcc"), symbols));
        assert!(!at_vmrun(&shown("ffffffffab0c2276"), symbols));
        assert!(!at_vmrun(&shown("ffffffffc03f0d2f"), symbols));
        assert!(!at_vmrun("", symbols));
    }

    #[test]
    fn the_thread_that_shut_down_is_shown() {
        let line = |thread: &str, what: &str| format!("           {thread}     [001] d....    12.3: kvm_exit: {what}");
        let trace =
            [line("vcpu0-12", "reason io"), line("vcpu1-13", "reason npf"), line("vcpu0-12", "reason shutdown")];
        let end = line("vcpu1-13", "reason hlt");
        let shown = last(&format!("# tracer: nop\n{}\n{end}\n", trace.join("\n")));
        assert_eq!(shown, [trace[0].as_str(), &trace[2]].join("\n"));
        assert_eq!(last(&end), "");
    }
}
