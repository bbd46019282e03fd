//! The node layer: one node, every scenario under one containerd, a selection under the others; and beside it, one after
//! the other, nodes of their own for scenarios that need one.

use std::{fmt::Write as _, io::Write as _, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, anyhow};

use super::Tally;
use crate::node::{Node, Options, Request, Stream, share::Build};
use crate::{
    guest,
    scenarios::{self, CONTAINERDS},
};

/// Of which versions a run takes only these scenarios, to save time, unless every one is asked for: what is left out has to do with the guest, the
/// VMM or the pod's network, or with calls that the version makes as the first one does. Every kill is in 1.6's.
const SELECTED: [(&str, &[&str]); 2] = [
    (
        "1.6",
        &[
            "container_disk_boots_to_its_prompt",
            "annotation_describes_the_machine",
            "stats_count_the_guest",
            "a_rotated_log_goes_on",
            "ordinary_pods_run_beside",
            "a_machine_is_driven_through_its_pod",
            "sigterm_is_the_power_button",
            "guest_reboot_goes_on",
            "lowered_limit_is_an_oom_kill",
            "limits_hold_and_change_while_the_guest_runs",
            "malformed_annotation_is_refused",
            "annotation_that_got_lost_is_refused",
            "image_without_a_disk_is_refused",
            "an_upgrade_leaves_the_guest_running_and_the_next_one_starts",
            "killed_vmm_is_an_exit",
            "killed_shim_takes_everything_along",
            "containerd_kill_leaves_the_guest_running",
            "everything_killed_at_once",
            "containerd_killed_within_each_call",
            "killed_vmm_ends_console_and_exec",
            "killed_shim_ends_console_and_exec",
            "shim_and_containerd_close_what_they_opened",
            "thirty_pods_under_kills_leave_nothing",
        ],
    ),
    (
        "2.1",
        &[
            "container_disk_boots_to_its_prompt",
            "malformed_annotation_is_refused",
            "image_without_a_disk_is_refused",
            "sigterm_is_the_power_button",
            "killed_shim_takes_everything_along",
            "an_upgrade_leaves_the_guest_running_and_the_next_one_starts",
            "a_sandbox_without_a_pause_container_is_a_pod",
            "a_sandbox_s_killed_shim_takes_everything_along",
        ],
    ),
];
/// A test of the host's side.
const FULL_DEBIAN: &str = "full_debian_guest_is_whole";

/// How many nodes may be lost: an emulated one is as good as its emulator.
const LOSSES: u32 = 3;
/// How many scenarios that failed twice in a node are tried in a fresh one, in case it was the node. More are no accident.
const ANEW: usize = 3;

/// How long a scenario may take: what hangs in a node must not take the whole run's time with it. Those of the suite's node take below two
/// minutes, the full Debian guest's below ten, on a busy machine.
const LONGEST: Duration = Duration::from_mins(6);
const LONGEST_APART: Duration = Duration::from_mins(12);

/// Which scenarios a run takes.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// Only those whose name has this in it, or one of several with commas between.
    pub only: Option<&'a str>,
    /// Under every containerd all that have to do with one.
    pub every: bool,
}

impl Choice<'_> {
    fn takes(&self, name: &str) -> bool {
        self.only.is_none_or(|only| only.split(',').any(|part| name.contains(part)))
    }

    /// What the scenarios' program takes as `--only` under a version.
    fn under(&self, version: &str) -> Option<String> {
        let selected = SELECTED.iter().find(|(of, _)| *of == version && !self.every);
        self.only.map(str::to_owned).or_else(|| selected.map(|(_, names)| names.join(",")))
    }
}

/// Runs the scenarios. What needs a node of its own runs beside the others, since both mostly wait for what is emulated, and is shown after
/// them.
pub fn run(choice: Choice<'_>) -> Result<Tally> {
    let named = |name: &str| choice.takes(name);
    let apart = Apart {
        debian: scenarios::names().filter(|name| name.starts_with("full_debian") && named(name)).collect(),
        v1: scenarios::names().filter(|name| scenarios::needs_cgroup_v1(name) && named(name)).collect(),
    };
    let options = Options::prepare("suite", Build::Release, false)?;
    let mut tally = thread::scope(|scope| {
        let beside = scope.spawn(|| apart.run(&options));
        let tally = together(&options, choice);
        let (shown, apart) = beside.join().map_err(|_| anyhow!("the nodes apart: their thread panicked"))?;
        println!("{shown}");
        let mut tally = tally?;
        tally += apart?;
        Ok::<_, anyhow::Error>(tally)
    })?;
    if named(FULL_DEBIAN) {
        tally += full_debian();
    }
    if tally.failed > 0 {
        println!("the nodes' own logs: {} and {}", options.folder.display(), apart_folder(&options)?.display());
    }
    Ok(tally)
}

/// Boots a node and runs the scenarios that share one. When a node is lost, a fresh one goes on with those that have not ended, and the
/// tally says so.
fn together(options: &Options, choice: Choice<'_>) -> Result<Tally> {
    let apart: Vec<_> =
        scenarios::names().filter(|name| name.starts_with("full_debian") || scenarios::needs_cgroup_v1(name)).collect();
    let mut node = Node::boot(options)?;
    let mut tally = Tally::default();
    let mut lost = 0;
    for (index, version) in CONTAINERDS.into_iter().enumerate() {
        println!("\nscenarios under containerd {version}");
        let selected = choice.under(version);
        let mut lines = Lines::default();
        loop {
            let mut arguments = Vec::new();
            if index > 0 {
                // Scenarios that have nothing to do with containerd ran before.
                arguments.push("--containerd-only");
            }
            if let Some(only) = &selected {
                arguments.extend(["--only", only]);
            }
            let ended = lines.ended.iter().map(String::as_str);
            let without = apart.iter().copied().chain(ended).collect::<Vec<_>>().join(",");
            arguments.extend(["--without", &without]);
            match in_node(&node, version, &arguments, &mut lines) {
                Ok(_) if lines.complete => break,
                Ok(code) => {
                    lines.tally.failed += 1;
                    lines
                        .tally
                        .why
                        .push(format!("the scenarios under containerd {version} ended with {code} half-way"));
                    break;
                }
                Err(error) if lost == LOSSES => return Err(error),
                Err(error) => {
                    lost += 1;
                    println!("    node lost: {error:#}\n{}", node.last_words());
                    let after = lines.ended.last().map_or("the start", String::as_str);
                    tally.why.push(format!("a node was lost after {after} under containerd {version}"));
                    drop(node);
                    node = Node::boot(options)?;
                }
            }
        }
        if !lines.failed.is_empty() && lines.failed.len() <= ANEW {
            drop(node);
            node = Node::boot(options)?;
            if let Err(error) = anew(&node, version, &mut lines) {
                println!("    node lost: {error:#}\n{}", node.last_words());
            }
        }
        tally += lines.tally;
    }
    Ok(tally)
}

/// Runs scenarios in a node that is shared; the exit code.
fn in_node(node: &Node, version: &str, arguments: &[&str], lines: &mut Lines) -> Result<i32> {
    let program = ["/vireo/bin/vireo-scenarios", "run", "--containerd", version];
    let arguments = program.iter().chain(arguments).copied();
    node.agent().run(Request::new(arguments).quiet(LONGEST), |stream, bytes| match stream {
        Stream::Output => lines.push(bytes, |line| print!("{line}")),
        Stream::Error => drop(std::io::stderr().write_all(bytes)),
    })
}

/// Tries those that failed once more, in a fresh node: an emulator that mixed up a node's state once (`tests/README.md`) may have left that in it.
fn anew(node: &Node, version: &str, lines: &mut Lines) -> Result<()> {
    let names = lines.failed.join(",");
    let mut again = Lines::default();
    in_node(node, version, &["--once", "--only", &names], &mut again)?;
    for name in again.ended.iter().filter(|name| lines.failed.contains(name) && !again.failed.contains(name)) {
        lines.tally.failed -= 1;
        lines.tally.passed += 1;
        lines.tally.why.push(format!("{name} passed in a fresh node only"));
    }
    Ok(())
}

/// Where the logs of the nodes apart go.
fn apart_folder(options: &Options) -> Result<PathBuf> {
    Ok(options.folder.parent().context("a node's folder is in the build's")?.join("node-apart"))
}

/// Scenarios that need a node of their own.
struct Apart {
    /// With the full Debian guest's disk, a node for each.
    debian: Vec<&'static str>,
    /// With cgroup v1, one node for all.
    v1: Vec<&'static str>,
}

impl Apart {
    /// Runs them; with what they print.
    fn run(&self, options: &Options) -> (String, Result<Tally>) {
        let mut shown = String::new();
        let tally = self.run_showing(options, &mut shown);
        (shown, tally)
    }

    fn run_showing(&self, options: &Options, shown: &mut String) -> Result<Tally> {
        let options = Options { name: "apart".to_owned(), folder: apart_folder(options)?, ..options.clone() };
        let mut tally = Tally::default();
        for name in &self.debian {
            let options = Options { guest: Some(guest::debian::debian()?), ..options.clone() };
            tally += boot_apart(&options, name, shown)?;
        }
        if !self.v1.is_empty() {
            shown.push_str("\nscenarios with cgroup v1\n");
            tally += boot_apart(&Options { cgroup_v1: true, ..options }, &self.v1.join(","), shown)?;
        }
        Ok(tally)
    }
}

/// Scenarios in a node of their own.
///
/// QEMU may end under them, mostly under OVMF (`tests/README.md`). That says nothing of the guest: a fresh node tries anew, and the tally says so.
/// Not to have seen them at all is a failure.
fn boot_apart(options: &Options, names: &str, shown: &mut String) -> Result<Tally> {
    let mut why = Vec::new();
    let mut failed = false;
    for _ in 0..=LOSSES {
        let node = Node::boot(options)?;
        let mut lines = Lines::default();
        let mut errors = Vec::new();
        let arguments = ["/vireo/bin/vireo-scenarios", "run", "--only", names];
        let result = node.agent().run(Request::new(arguments).quiet(LONGEST_APART), |stream, bytes| match stream {
            Stream::Output => lines.push(bytes, |line| shown.push_str(line)),
            Stream::Error => errors.extend_from_slice(bytes),
        });
        shown.push_str(&String::from_utf8_lossy(&errors));
        match result {
            Ok(_) if lines.complete && lines.tally.failed > 0 && !failed => {
                failed = true;
                why.push(format!("{} failed, and was tried in a fresh node", lines.failed.join(", ")));
            }
            Ok(code) => {
                if !lines.complete {
                    lines.tally.failed += 1;
                    lines.tally.why.push(format!("{names} ended with {code} half-way"));
                }
                lines.tally.why.append(&mut why);
                return Ok(lines.tally);
            }
            Err(error) => {
                // A String takes whatever is written to it.
                let _ = writeln!(shown, "    node lost: {error:#}\n{}", node.last_words());
                why.push(format!("a node was lost under {names}"));
            }
        }
    }
    why.push(format!("{names} was not seen: its nodes were lost each time"));
    Ok(Tally { failed: 1, why, ..Tally::default() })
}

/// What is in the full Debian guest's disk.
fn full_debian() -> Tally {
    match guest::debian::debian().and_then(|guest| guest::debian::inspect(&guest.disk)) {
        Ok(()) => {
            println!("    PASS {FULL_DEBIAN}");
            Tally { passed: 1, ..Tally::default() }
        }
        Err(error) => {
            println!("    FAIL {FULL_DEBIAN}\n        {error:#}");
            Tally { failed: 1, ..Tally::default() }
        }
    }
}

/// Takes output by lines and counts the scenarios in it.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
    /// Names of those that have ended.
    ended: Vec<String>,
    /// And of those of them that failed.
    failed: Vec<String>,
    tally: Tally,
    /// All have.
    complete: bool,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], mut show: impl FnMut(&str)) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            show(&line);
            self.take(&line);
        }
    }

    fn take(&mut self, line: &str) {
        self.complete |= line.starts_with("scenarios: ");
        // `    PASS [  12.3s] name`
        let Some((verdict, rest)) = line.strip_prefix("    ").and_then(|line| line.split_once(" [")) else { return };
        let Some((_, name)) = rest.trim_end().split_once("s] ") else { return };
        match verdict {
            "PASS" => self.tally.passed += 1,
            "FAIL" => {
                self.tally.failed += 1;
                self.failed.push(name.to_owned());
            }
            "SLIP" => return self.tally.why.push(format!("{name} was tried twice")),
            _ => return,
        }
        self.ended.push(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::{Lines, SELECTED};
    use crate::scenarios::{self, CONTAINERDS};

    #[test]
    fn what_is_selected_is_there() {
        for (version, names) in SELECTED {
            assert!(CONTAINERDS.contains(&version));
            for name in names {
                assert!(scenarios::names().any(|there| there == *name), "{name}");
            }
        }
    }

    #[test]
    fn scenarios_are_counted_by_their_lines() {
        let mut lines = Lines::default();
        let mut shown = String::new();
        lines.push(b"    SLIP [   9.0s] one\n    PASS [  12.5s] one\n", |line| shown.push_str(line));
        assert_eq!(shown, "    SLIP [   9.0s] one\n    PASS [  12.5s] one\n");
        lines.push(b"    FAIL [   0.1s] two\n        PASS [1.0s] said by two\n    PASS [ 100.0s] th", |_| ());
        lines.push(b"ree\n", |_| ());
        assert_eq!((lines.tally.passed, lines.tally.failed, lines.complete), (2, 1, false));
        assert_eq!(lines.ended, ["one", "two", "three"]);
        assert_eq!(lines.failed, ["two"]);
        assert_eq!(lines.tally.why, ["one was tried twice"]);
        lines.push(b"scenarios: 2 passed, 1 failed\n", |_| ());
        assert!(lines.complete);
    }
}
