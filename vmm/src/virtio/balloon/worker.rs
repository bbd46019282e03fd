//! The balloon's thread: what is done with each queue.

use super::device::Question;
use super::discard::discard;
use super::request;
use super::statistics::Statistics;
use crate::memory::GuestRam;
use crate::virtio::virtqueue::{Broken, Virtqueue};

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Pages go into the balloon.
    Inflate,
    /// They come out again: the guest just touches them.
    Deflate,
    /// Free pages are reported.
    Report,
}

/// A queue whose requests are answered at once.
#[derive(Debug)]
pub(super) struct Pages {
    pub ram: GuestRam,
    pub queue: Virtqueue,
    pub kind: Kind,
    pub broken: bool,
}

impl Pages {
    pub fn kicked(&mut self) {
        if self.broken {
            return;
        }
        let (ram, kind) = (&self.ram, self.kind);
        let done = self.queue.drain(ram, |chain| {
            match kind {
                Kind::Inflate => request::pages(ram, chain, |addr, len| discard(ram, addr, len))?,
                Kind::Report => request::free_ranges(chain, |addr, len| discard(ram, addr, len)),
                Kind::Deflate => {}
            }
            Ok(0)
        });
        if done.is_err() {
            self.broken = true;
            self.queue.fail();
        }
    }
}

/// Questions that may wait for the guest's answer; further ones, as those of a driver that goes, are answered without it.
const MAX_QUESTIONS: usize = 16;

/// The statistics queue (virtio 1.3 §5.5.6.3): the device keeps the driver's one buffer, and gives it back to ask for newer
/// ones.
pub(super) struct Questions {
    pub ram: GuestRam,
    pub queue: Virtqueue,
    /// The buffer that the driver has filled.
    held: Option<u16>,
    waiting: Vec<Question>,
    broken: bool,
}

impl Questions {
    pub fn new(ram: GuestRam, queue: Virtqueue) -> Self {
        Self { ram, queue, held: None, waiting: Vec::new(), broken: false }
    }

    /// Asks the guest, which may never answer.
    pub fn ask(&mut self, question: Question) {
        if self.waiting.len() == MAX_QUESTIONS || self.broken {
            return;
        }
        self.waiting.push(question);
        if let Some(head) = self.held.take() {
            let asked = self.queue.add_used(&self.ram, head, 0).and_then(|()| self.queue.signal(&self.ram));
            self.check(&asked);
        }
    }

    /// The driver has filled its buffer.
    pub fn kicked(&mut self) {
        if self.broken {
            return;
        }
        match self.newest() {
            Ok(Some(statistics)) => {
                self.waiting.drain(..).for_each(|question| question.answer(statistics));
            }
            Ok(None) => {}
            Err(broken) => self.check(&Err(broken)),
        }
    }

    fn newest(&mut self) -> Result<Option<Statistics>, Broken> {
        let mut newest = None;
        loop {
            let Some(chain) = self.queue.pop(&self.ram)? else {
                if self.queue.enable_kicks(&self.ram)? {
                    continue;
                }
                break;
            };
            // A driver has one buffer; one that has more gets the older ones back.
            if let Some(older) = self.held.replace(chain.head_index()) {
                self.queue.add_used(&self.ram, older, 0)?;
            }
            newest = Some(request::statistics(&self.ram, chain)?);
        }
        self.queue.signal(&self.ram)?;
        // The first ones come unasked; whoever asked before them is answered by them.
        Ok(newest)
    }

    fn check(&mut self, done: &Result<(), Broken>) {
        if done.is_err() {
            self.broken = true;
            self.queue.fail();
        }
    }
}
