//! A client looks on, a command runs in the guest, and whoever carries both is killed.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    super::{
        Bench, Scenario,
        crash::kill_9,
        eventually::{LIMIT, eventually},
        leftovers::Leftovers,
        pod::{PROMPT, Pod, PodSpec, vmi},
        shell::output,
    },
    KILLED, UNKNOWN,
    events::Events,
    fds::Fds,
    processes::daemon,
};
use crate::cri::attach::Attached;

pub(in super::super) const SCENARIOS: &[Scenario] = &[
    Scenario::each("killed_vmm_ends_console_and_exec", |bench| killed(bench, Pod::vmm, &[KILLED])),
    // containerd's CRI waits for the task by the shim that is gone, and is told of its end by `delete`, whichever comes first.
    Scenario::each("killed_shim_ends_console_and_exec", |bench| killed(bench, Pod::shim, &[KILLED, UNKNOWN])),
    Scenario::each("shim_and_containerd_close_what_they_opened", closes),
];

/// Seconds for a command in the guest.
const SOON: i64 = 50;

/// A guest with its agent, and its console.
fn guest(bench: &mut Bench) -> Result<(Pod, Attached)> {
    let mut spec = vmi("");
    spec["domain"]["firmware"]["kernelBoot"]["container"]["initrdPath"] = "/agent/initrd".into();
    let pod = bench.boot(PodSpec::described(&spec))?;
    let mut console = pod.attach(bench)?;
    console.send("/agent/start; echo started $((1 + 1))\n")?;
    console.wait_for("started 2", LIMIT)?;
    eventually("the guest agent", LIMIT, || Ok(pod.exec(bench, &["true"], SOON).ok()))?;
    Ok((pod, console))
}

fn killed(bench: &mut Bench, victim: fn(&Pod) -> Result<u32>, codes: &[i32]) -> Result<()> {
    let before = Leftovers::look()?;
    let (pod, mut console) = guest(bench)?;
    let events = Events::listen()?;
    let mut beside = bench.beside(0)?;
    let executed = thread::scope(|scope| {
        let script = ["sh", "-c", "echo in flight $((1 + 1)) > /dev/console; exec sleep 1000"];
        let (pod, beside) = (&pod, &mut beside);
        let executing = scope.spawn(move || pod.exec(beside, &script, SOON));
        console.wait_for("in flight 2", LIMIT)?;
        kill_9(victim(pod)?)?;
        // At once, not when its time is over.
        executing.join().map_err(|_| anyhow::anyhow!("the exec panicked"))
    })?;
    match executed {
        Ok(done) => ensure!(done.exit_code == KILLED, "the exec ended with {}", done.exit_code),
        Err(error) => {
            println!("    exec: {:?} {}", error.code(), error.message());
            ensure!(error.code() != tonic::Code::DeadlineExceeded, "the exec hung: {error}");
        }
    }
    console.wait_end(LIMIT).context("the console goes on")?;
    let status = pod.wait_exit(bench)?;
    ensure!(codes.contains(&status.exit_code), "{status:?}");
    events.exit(&pod.container, KILLED)?;
    drop(events);
    pod.remove(bench)?;
    let left = before.compare(Duration::from_mins(1))?;
    ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    Ok(())
}

fn closes(bench: &mut Bench) -> Result<()> {
    const ROUNDS: usize = 5;
    let (pod, first) = guest(bench)?;
    let shim = pod.shim()?;
    let round = |bench: &mut Bench| -> Result<()> {
        pod.exec(bench, &["true"], SOON)?;
        let mut console = pod.attach(bench)?;
        console.send("\n")?;
        console.wait_for(PROMPT, LIMIT)?;
        for action in ["pause", "resume"] {
            output(["ctr", "-n", "k8s.io", "task", action, &pod.container])?;
        }
        Ok(())
    };
    round(bench)?;
    let before = [("the shim", Fds::of(shim)?), ("containerd", Fds::of(daemon()?)?)];
    for _ in 0..ROUNDS {
        round(bench)?;
    }
    for (whose, files) in before {
        files.no_more(whose, LIMIT)?;
    }
    drop(first);
    pod.remove(bench)
}
