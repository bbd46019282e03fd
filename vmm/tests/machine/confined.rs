//! A machine under the system call filters of the jail: what it does from build to end must be on the lists.

use std::os::unix::net::UnixStream;

use vireo_vmm::ending::Outcome;
use vireo_vmm::jail::seccomp::{self, ThreadKind};

use super::console::echo_kernel;
use super::rig::{Rig, expect, type_in};

// A call that is missing from a list kills this process, and so the test.
#[test]
fn a_machine_lives_within_the_lists() {
    let mut rig = Rig::new(echo_kernel(), 2);
    let mut pairs = vec![UnixStream::pair().unwrap(), UnixStream::pair().unwrap()];
    let (mut last, theirs) = UnixStream::pair().unwrap();
    // Threads bind themselves before they are confined further.
    rig.plan.cpu.pins = vec![0, 0];
    seccomp::install(ThreadKind::Main).unwrap();
    rig.restart_events();
    while let Some((mut console, theirs)) = pairs.pop() {
        rig.hub.attach(theirs);
        let run = rig.run(rig.build());
        expect(&mut console, "hello>");
        type_in(&mut console, "a");
        expect(&mut console, "b");
        run.running().pause();
        run.running().resume();
        run.running().power_button();
        run.running().resize_console(80, 25);
        type_in(&mut console, ".");
        assert_eq!(run.outcome(), Outcome::PowerOff);
    }
    rig.hub.attach(theirs);
    let run = rig.run(rig.build());
    expect(&mut last, "hello>");
    // It has no handler.
    run.running().nmi().unwrap();
    assert_eq!(run.outcome(), Outcome::TripleFault);
}
