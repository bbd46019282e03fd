//! Where a container or a command is in its life, and those who wait for its end.

use std::sync::Mutex;

use tokio::sync::watch;

use super::container::lock;
use super::lifecycle::{Exit, Illegal, Phase, Step};

/// A [`Phase`] that is shared.
#[derive(Debug)]
pub struct Life {
    phase: Mutex<Phase>,
    exited: watch::Sender<Option<Exit>>,
}

impl Life {
    /// A life that begins in `phase`.
    pub fn new(phase: Phase) -> Life {
        Life { phase: Mutex::new(phase), exited: watch::Sender::new(None) }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        lock(&self.phase).clone()
    }

    /// Takes a step, or says why it can't.
    pub fn step(&self, step: Step) -> Result<(), Illegal> {
        let mut phase = lock(&self.phase);
        *phase = phase.after(step)?;
        if let Some(exit) = phase.exit() {
            self.exited.send_replace(Some(exit.clone()));
        }
        Ok(())
    }

    /// Waits until it is over; none if it is forgotten first.
    pub async fn exited(&self) -> Option<Exit> {
        let mut exited = self.exited.subscribe();
        exited.wait_for(Option::is_some).await.ok()?.clone()
    }
}
