//! What the shim asks of the machine: done if [`lifecycle`](crate::machine::lifecycle) allows it, and answered either way.
//!
//! Everything here happens on the event thread, which is none of the machine's own: it may wait for vCPUs and device threads.

use std::sync::Arc;
use std::time::Instant;

use super::message::{Answer, Event, PauseReason, REBOOT_LIMIT, Request};
use super::serve::{Body, Guest, Process, Shared, Still, chain, lock};
use crate::machine::lifecycle::{Action, Refusal, State};

impl Body {
    fn state(&self) -> State {
        match self {
            Self::Built(_) => State::Built,
            Self::Running(_) => State::Running,
            Self::Paused(_) => State::Paused,
        }
    }
}

impl Process {
    /// Answers one request.
    pub(super) fn answer(&mut self, shared: &Shared, id: u32, request: Request) {
        let done = match request {
            Request::SetLink { nic, up } => self.set_link(nic, up),
            _ => self.act(shared, request.into()),
        };
        let answer = match done {
            Ok(()) => Answer::Done,
            // The end has been told, and is the last word.
            Err(_) if self.over() => return,
            Err(why) => Answer::Refused(format!("{}: {why}", request.name())),
        };
        self.tell(&Event::Answer { id, answer });
    }

    /// Takes one step with the machine, or says why not. A machine that can't go on afterwards has ended.
    pub(super) fn act(&mut self, shared: &Shared, action: Action) -> Result<(), String> {
        let Some(mut guest) = self.guest.take() else {
            return Err(if self.over() { Refusal::Ended } else { Refusal::NotStarted }.to_string());
        };
        if let Err(refusal) = guest.body.state().after(action) {
            self.guest = Some(guest);
            return Err(refusal.to_string());
        }
        match action {
            Action::Start => self.start(shared, guest, false),
            Action::StartPaused => self.start(shared, guest, true),
            Action::Pause => {
                self.still(guest, PauseReason::User);
                Ok(())
            }
            Action::Resume => {
                self.go(shared, guest)?;
                self.tell(&Event::Resumed);
                Ok(())
            }
            Action::Reset => self.reset(shared, guest),
            // Told with its card, in `set_link`.
            Action::Link => {
                self.guest = Some(guest);
                Ok(())
            }
            Action::PowerButton | Action::Reboot => {
                guest.reboots = (action == Action::Reboot).then(|| Instant::now() + REBOOT_LIMIT);
                match &guest.body {
                    Body::Running(running) | Body::Paused(Still::Running(running)) => running.power_button(),
                    Body::Built(machine) | Body::Paused(Still::Fresh(machine)) => machine.power_button(),
                }
                self.guest = Some(guest);
                Ok(())
            }
            Action::Nmi => {
                let done = match &guest.body {
                    Body::Running(running) => running.nmi().map_err(|error| format!("KVM_SIGNAL_MSI: {error}")),
                    _ => Err(Refusal::Still.to_string()),
                };
                self.guest = Some(guest);
                done
            }
        }
    }

    fn set_link(&mut self, nic: u16, up: bool) -> Result<(), String> {
        let guest = self.guest.as_mut().ok_or_else(|| Refusal::NotStarted.to_string())?;
        guest.body.state().after(Action::Link).map_err(|refusal| refusal.to_string())?;
        let index = usize::from(nic);
        let plan = guest.plan.nics.get_mut(index).ok_or_else(|| format!("the machine has no nics[{nic}]"))?;
        // For the machines that resets will make.
        plan.link_up = up;
        match &guest.body {
            Body::Running(running) | Body::Paused(Still::Running(running)) => running.set_link(index, up),
            Body::Built(machine) | Body::Paused(Still::Fresh(machine)) => machine.set_link(index, up),
        }
        Ok(())
    }

    fn start(&mut self, shared: &Shared, mut guest: Guest, paused: bool) -> Result<(), String> {
        if paused && let Body::Built(machine) = guest.body {
            guest.body = Body::Paused(Still::Fresh(machine));
            self.guest = Some(guest);
            self.tell(&Event::Paused(PauseReason::User));
            return Ok(());
        }
        self.go(shared, guest)
    }

    /// Lets a machine run, whether it is new or was paused.
    fn go(&mut self, shared: &Shared, mut guest: Guest) -> Result<(), String> {
        guest.body = match guest.body {
            Body::Built(machine) | Body::Paused(Still::Fresh(machine)) => match self.run(shared, machine, guest.run) {
                Ok(running) => Body::Running(running),
                Err(error) => return Err(self.lost(chain(&error))),
            },
            Body::Paused(Still::Running(running)) => {
                running.resume();
                Body::Running(running)
            }
            Body::Running(running) => Body::Running(running),
        };
        self.guest = Some(guest);
        Ok(())
    }

    /// Stops what runs of the machine, for `reason`.
    fn still(&mut self, mut guest: Guest, reason: PauseReason) {
        guest.body = match guest.body {
            Body::Running(running) => {
                running.pause();
                Body::Paused(Still::Running(running))
            }
            other => other,
        };
        self.guest = Some(guest);
        self.tell(&Event::Paused(reason));
    }

    /// A device of run `run` wants the machine paused: not if it is paused already, or gone.
    pub(super) fn pause_for_device(&mut self, run: u64, reason: PauseReason) {
        if let Some(guest) = self.guest.take_if(|guest| guest.run == run && guest.body.state() == State::Running) {
            self.still(guest, reason);
        }
    }

    /// Puts a new machine in the place of the old one, running or paused as that was.
    pub(super) fn reset(&mut self, shared: &Shared, guest: Guest) -> Result<(), String> {
        let Guest { plan, body, run, reboots: _ } = guest;
        let paused = match body {
            Body::Running(running) => {
                running.stop();
                false
            }
            Body::Paused(Still::Running(running)) => {
                running.stop();
                true
            }
            Body::Paused(Still::Fresh(_)) => true,
            Body::Built(_) => false,
        };
        // Nor does anybody wait for answers that the old machine's guest has asked for.
        self.asks.clear();
        // The old machine's memory goes before the new one's comes.
        let machine = match self.build(&plan) {
            Ok(machine) => machine,
            Err(error) => return Err(self.lost(error)),
        };
        let body = if paused { Body::Paused(Still::Fresh(machine)) } else { Body::Built(machine) };
        let guest = Guest { plan, body, run: run + 1, reboots: None };
        if paused {
            self.guest = Some(guest);
            return Ok(());
        }
        self.go(shared, guest)
    }

    /// Has devices of run `run` reach this thread.
    pub(super) fn pauses(&self, shared: &Shared, run: u64) -> impl Fn(PauseReason) + Send + use<> {
        let (events, process) = (self.events.clone(), Arc::clone(shared));
        move |reason| {
            let process = Arc::clone(&process);
            events.run(move |_| lock(&process).pause_for_device(run, reason));
        }
    }
}
