//! Who waits for which answer of a VMM.
//!
//! A VMM may answer what nobody asked, or nothing at all: neither makes anything grow.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use vireo_vmm::control::message::Answer;

/// The answers of one VMM.
#[derive(Debug, Default)]
pub struct Answers {
    waiting: Mutex<Waiting>,
    next: AtomicU32,
}

#[derive(Debug, Default)]
struct Waiting {
    by_id: HashMap<u32, oneshot::Sender<Answer>>,
    closed: bool,
}

impl Answers {
    /// An id whose answer is of no interest.
    pub fn unheard(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// An id, and where its answer will come; an error there means that the VMM is gone.
    pub fn expect(&self) -> (u32, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        let id = self.unheard();
        let mut waiting = self.lock();
        if !waiting.closed {
            waiting.by_id.insert(id, sender);
        }
        (id, receiver)
    }

    /// Nobody waits for `id` any more.
    pub fn forget(&self, id: u32) {
        self.lock().by_id.remove(&id);
    }

    /// The VMM answers.
    pub fn hear(&self, id: u32, answer: Answer) {
        match (self.lock().by_id.remove(&id), answer) {
            (Some(sender), answer) => {
                // Whoever asked may have given up.
                let _ = sender.send(answer);
            }
            (None, Answer::Done) => {}
            (None, Answer::Refused(why)) => log::info!("the machine refuses: {}", why.escape_debug()),
        }
    }

    /// No more answers will come.
    pub fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.by_id.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_answer_finds_who_asked() {
        let answers = Answers::default();
        let ((first, one), (second, two)) = (answers.expect(), answers.expect());
        answers.hear(second, Answer::Refused("pause: no".into()));
        answers.hear(first, Answer::Done);
        answers.hear(99, Answer::Done);
        assert_eq!((one.await.unwrap(), two.await.unwrap()), (Answer::Done, Answer::Refused("pause: no".into())));
        assert!(answers.lock().by_id.is_empty());
    }

    #[tokio::test]
    async fn a_vmm_that_is_gone_answers_nobody() {
        let answers = Answers::default();
        let (_, early) = answers.expect();
        answers.close();
        let (_, late) = answers.expect();
        assert!(early.await.is_err() && late.await.is_err());
    }
}
