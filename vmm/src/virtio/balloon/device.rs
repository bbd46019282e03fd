//! The balloon device: features, configuration, its thread, and its host side.

use std::fmt;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::request::PAGE;
use super::statistics::Statistics;
use super::worker::{Kind, Pages, Questions};
use crate::event_loop::{EventLoop, Handle};
use crate::virtio::device::{ActivateError, Activation, DeviceId, Notify, VirtioDevice, read_bytes};
use crate::virtio::virtqueue::{KICKED, Virtqueue};
use crate::worker::Worker;

/// Feature bits (virtio 1.3 §5.5.3).
const STATISTICS: u64 = 1 << 1;
const DEFLATE_ON_OOM: u64 = 1 << 2;
const REPORTING: u64 = 1 << 5;
/// Queues by index: inflate, deflate, statistics, then free page reporting. That has index 4 by the specification, but Linux
/// counts only the queues that there are and takes 3; whichever the driver sets up is the one. Linux wants 32 entries.
const QUEUE_SIZES: [u16; 5] = [128, 128, 4, 64, 64];
const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATISTICS_QUEUE: u16 = 2;

/// What is known of the balloon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Bytes that the guest is asked to have in it.
    pub target: u64,
    /// Bytes that the guest says it has in it.
    pub actual: u64,
    /// What the guest's kernel says of its memory; `None` if no driver tells.
    pub statistics: Option<Statistics>,
}

/// Somebody who asked. Dropped, it is answered without statistics.
pub(super) struct Question {
    shared: Arc<Shared>,
    answer: Option<Box<dyn FnOnce(Report) + Send>>,
}

impl Question {
    pub(super) fn answer(mut self, statistics: Statistics) {
        self.settle(Some(statistics));
    }

    fn settle(&mut self, statistics: Option<Statistics>) {
        if let Some(answer) = self.answer.take() {
            answer(self.shared.report(statistics));
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.settle(None);
    }
}

/// The device.
#[derive(Debug)]
pub struct Balloon {
    shared: Arc<Shared>,
    worker: Option<Worker>,
}

/// The host's side. Clones are of the same balloon.
#[derive(Debug, Clone)]
pub struct BalloonControl(Arc<Shared>);

#[derive(Default)]
pub(super) struct Shared {
    pages: Mutex<PageCounts>,
    live: Mutex<Option<Live>>,
}

#[derive(Debug, Default)]
struct PageCounts {
    target: u32,
    actual: u32,
}

struct Live {
    notify: Arc<dyn Notify>,
    events: Handle,
    questions: Option<Arc<Mutex<Questions>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("pages", &self.pages).finish_non_exhaustive()
    }
}

impl Shared {
    fn pages(&self) -> MutexGuard<'_, PageCounts> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, Option<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn report(&self, statistics: Option<Statistics>) -> Report {
        let pages = self.pages();
        Report { target: u64::from(pages.target) * PAGE, actual: u64::from(pages.actual) * PAGE, statistics }
    }
}

impl Balloon {
    /// An empty balloon and its host side.
    pub fn new() -> (Self, BalloonControl) {
        let shared = Arc::<Shared>::default();
        (Self { shared: Arc::clone(&shared), worker: None }, BalloonControl(shared))
    }

    fn register(events: &mut EventLoop, activation: Activation) -> std::io::Result<Live> {
        let Activation { ram, queues, notify, .. } = activation;
        let mut questions = None;
        for active in queues {
            let index = active.index;
            let queue = Virtqueue::new(active, Arc::clone(&notify));
            let kick = queue.kick().as_raw_fd();
            let kind = match index {
                INFLATE => Kind::Inflate,
                DEFLATE => Kind::Deflate,
                STATISTICS_QUEUE => {
                    let asked = Arc::new(Mutex::new(Questions::new(ram.clone(), queue)));
                    questions = Some(Arc::clone(&asked));
                    events.add(kick, KICKED, move |_, _| lock(&asked).kicked())?;
                    continue;
                }
                _ => Kind::Report,
            };
            let mut pages = Pages { ram: ram.clone(), queue, kind, broken: false };
            events.add(kick, KICKED, move |_, _| pages.kicked())?;
        }
        Ok(Live { notify, events: events.handle(), questions })
    }
}

fn lock(questions: &Mutex<Questions>) -> MutexGuard<'_, Questions> {
    questions.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BalloonControl {
    /// Asks the guest to have `bytes` of its RAM in the balloon, down to whole pages. It may take its time, or not do it.
    pub fn set_target(&self, bytes: u64) {
        self.0.pages().target = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
        if let Some(live) = &*self.0.live() {
            live.notify.config();
        }
    }

    /// Asks the guest for its statistics. `answer` is called once it has told them, on the balloon's
    /// thread; without them if no driver does, or it goes.
    pub fn ask(&self, answer: impl FnOnce(Report) + Send + 'static) {
        let question = Question { shared: Arc::clone(&self.0), answer: Some(Box::new(answer)) };
        if let Some(Live { events, questions: Some(questions), .. }) = &*self.0.live() {
            // On the balloon's thread, which leaves guest memory alone while it is paused.
            let questions = Arc::clone(questions);
            events.run(move |_| lock(&questions).ask(question));
        }
    }
}

impl VirtioDevice for Balloon {
    fn id(&self) -> DeviceId {
        DeviceId::Balloon
    }

    fn features(&self) -> u64 {
        STATISTICS | DEFLATE_ON_OOM | REPORTING
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// `struct virtio_balloon_config` (virtio 1.3 §5.5.4): num_pages, actual, free_page_hint_cmd_id, poison_val.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let pages = self.shared.pages();
        let mut config = [0; 16];
        config[..4].copy_from_slice(&pages.target.to_le_bytes());
        config[4..8].copy_from_slice(&pages.actual.to_le_bytes());
        read_bytes(&config, offset, data);
    }

    /// The driver says how many pages it has put in.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (4, Ok(actual)) = (offset, data.try_into()) {
            self.shared.pages().actual = u32::from_le_bytes(actual);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let has = |index| activation.queues.iter().any(|queue| queue.index == index);
        if let Some(missing) = [INFLATE, DEFLATE].into_iter().find(|index| !has(*index)) {
            return Err(ActivateError::MissingQueue(missing));
        }
        let mut live = None;
        let worker = Worker::spawn("balloon", |events| {
            live = Some(Self::register(events, activation)?);
            Ok(())
        });
        self.worker = Some(worker.map_err(|source| ActivateError::Host { what: "balloon thread", source })?);
        *self.shared.live() = live;
        Ok(())
    }

    fn reset(&mut self) {
        let live = self.shared.live().take();
        self.worker = None;
        drop(live);
        // A driver that starts anew has none of its pages.
        self.shared.pages().actual = 0;
    }

    fn pause(&mut self) {
        self.worker.iter_mut().for_each(Worker::pause);
    }

    fn resume(&mut self) {
        self.worker.iter_mut().for_each(Worker::resume);
    }
}
