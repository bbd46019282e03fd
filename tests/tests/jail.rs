//! The launcher and the jail, from outside, with the probe. Needs root and a KVM, but no node.

use std::path::PathBuf;
use std::process::Command;

use vireo_tests::jail::launched;

/// A binary of the `vmm` crate, which is built beside this test.
fn built(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("own path");
    let binary = exe.ancestors().nth(2).expect("target folder").join(name);
    assert!(binary.exists(), "{} is missing: cargo build -p vireo-vmm --bins --examples", binary.display());
    binary
}

fn probe() -> PathBuf {
    built("examples/jail_probe")
}

#[test]
fn is_confined() {
    launched::is_confined(&probe()).unwrap();
}

#[test]
fn forbidden_acts_kill() {
    launched::forbidden_acts_kill(&probe()).unwrap();
}

#[test]
fn work_is_allowed() {
    launched::work_is_allowed(&probe()).unwrap();
}

#[test]
fn drop_kills_and_reaps() {
    launched::drop_kills_and_reaps(&probe()).unwrap();
}

#[test]
fn kill_is_seen() {
    launched::kill_is_seen(&probe()).unwrap();
}

#[test]
fn a_machine_runs_jailed() {
    launched::a_machine_runs_jailed(&built("vireo-vmm")).unwrap();
}

#[test]
fn a_bad_binary_is_refused() {
    launched::a_bad_binary_is_refused().unwrap();
}

#[test]
fn born_in_cgroup() {
    launched::born_in_cgroup(&probe()).unwrap();
}

/// This test is also the launcher that it kills.
#[test]
fn dies_with_its_launcher() {
    const ROLE: &str = "VIREO_TEST_LAUNCHER";
    if std::env::var_os(ROLE).is_some() {
        return launched::launch_and_wait(&probe()).unwrap();
    }
    let mut launcher = Command::new(std::env::current_exe().unwrap());
    launcher.env(ROLE, "").args(["--exact", "dies_with_its_launcher", "--nocapture", "--test-threads=1"]);
    launched::dies_with_its_launcher(launcher).unwrap();
}
