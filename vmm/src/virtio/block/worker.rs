//! Serves one block queue: takes requests, does their I/O in place, answers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_memory::Bytes;

use super::request::{self, ID_BYTES, Limits, Parsed, Request, Serial, Status};
use super::ringed::Ringed;
use crate::config::ErrorPolicy;
use crate::disk::Image;
use crate::disk::ring::Ring;
use crate::event_loop::EventLoop;
use crate::memory::GuestRam;
use crate::memory::guest_buffers::GuestBuffers;
use crate::pausing::{PauseReason, PauseRequests};
use crate::virtio::throttle::Throttle;
use crate::virtio::virtqueue::{Broken, Chain, Ram, Served, Virtqueue};

/// What the queues of a disk share.
#[derive(Debug)]
pub struct Disk {
    /// For messages.
    pub name: String,
    /// What it shows.
    pub image: Arc<dyn Image>,
    /// What the guest reads as its serial.
    pub serial: Serial,
    /// What becomes of requests that fail.
    pub on_error: ErrorPolicy,
    /// Queues take rings, as far as there are any.
    pub ring: bool,
    /// Writes may stay in the host's cache until a flush; else each is durable when it is answered.
    pub writeback: AtomicBool,
    /// A request failed and waits for the machine to be paused and resumed; no queue is served meanwhile.
    pub held: AtomicBool,
}

/// One queue's work. Dead once its queue is broken, until the device is reset.
#[derive(Debug)]
pub struct QueueWorker {
    ram: GuestRam,
    queue: Virtqueue,
    requests: Requests,
    buffers: GuestBuffers,
    /// Where many requests can be under way at once.
    ringed: Option<Ringed>,
    broken: bool,
}

/// How requests of one queue are done, and what becomes of those that can't be.
#[derive(Debug)]
pub(super) struct Requests {
    pub(super) disk: Arc<Disk>,
    pub(super) limits: Limits,
    /// The driver flushes what has to be durable (VIRTIO_BLK_F_FLUSH).
    flushes: bool,
    pub(super) throttle: Throttle,
    pauses: PauseRequests,
}

impl QueueWorker {
    /// `flushes`: the driver has agreed to VIRTIO_BLK_F_FLUSH.
    pub fn new(
        ram: GuestRam,
        queue: Virtqueue,
        disk: Arc<Disk>,
        flushes: bool,
        throttle: Throttle,
        pauses: PauseRequests,
    ) -> Self {
        let limits = Limits { size: disk.image.size(), readonly: disk.image.readonly() };
        let buffers = GuestBuffers::new(ram.clone());
        let ring = if disk.ring && disk.image.has_places() { Ring::take() } else { None };
        let ringed = ring.map(|ring| Ringed::new(ring, &ram));
        let requests = Requests { disk, limits, flushes, throttle, pauses };
        Self { ram, queue, requests, buffers, ringed, broken: false }
    }

    /// Serves what the driver has queued.
    pub fn kicked(&mut self, events: &mut EventLoop) {
        if self.broken || self.requests.is_held() {
            return;
        }
        let (ram, requests, buffers) = (&*self.ram, &self.requests, &mut self.buffers);
        let room = || requests.throttle.is_open();
        let served = match &mut self.ringed {
            Some(ringed) => ringed.serve(ram, &mut self.queue, requests),
            None => self.queue.drain_until_later(ram, room, |chain| requests.serve(ram, chain, buffers)),
        };
        requests.throttle.rest(events);
        if served.is_err() {
            self.broken = true;
            self.queue.fail();
        }
    }
}

impl Requests {
    /// Does one request and returns the bytes written to its buffers, or puts it off.
    fn serve(&self, ram: &Ram, chain: Chain<'_>, buffers: &mut GuestBuffers) -> Result<Served, Broken> {
        let Parsed { request, status, writable } = request::parse(ram, chain, buffers, self.limits)?;
        self.count(&request, buffers);
        let held = request.as_ref().is_ok_and(|request| !request.needs_no_hold());
        let _hold = if held { self.disk.image.hold() } else { None };
        let (code, written) = match request.as_ref().map(|request| self.perform(request, buffers)) {
            Ok(Ok(())) => (Status::Ok, writable),
            Ok(Err(error)) => match self.judge(&error) {
                Verdict::Fail => (Status::IoError, 0),
                Verdict::Pretend => (Status::Ok, writable),
                Verdict::Hold => {
                    self.hold(&error);
                    return Ok(Served::Later);
                }
            },
            Err(refused) => (*refused, 0),
        };
        ram.write_obj(code as u8, status).map_err(|_| Broken::Request("its status lies outside of RAM"))?;
        Ok(Served::Now(written.saturating_add(1)))
    }

    /// Takes what a request costs from the disk's limit. Data is what is moved, and what has to become zeroes.
    pub(super) fn count(&self, request: &Result<Request, Status>, buffers: &GuestBuffers) {
        self.throttle.take(match request {
            Ok(Request::Read(_) | Request::Write(_)) => buffers.len() as u64,
            Ok(Request::WriteZeroes(ranges)) => ranges.iter().map(|range| range.len).sum(),
            _ => 0,
        });
    }

    /// With the image held, but for a request that must not ([`Request::needs_no_hold`]).
    pub(super) fn perform(&self, request: &Request, buffers: &mut GuestBuffers) -> io::Result<()> {
        let image = &self.disk.image;
        match request {
            Request::Read(offset) => image.read(buffers, *offset),
            Request::Write(offset) => {
                image.write(buffers, *offset)?;
                self.stable()
            }
            Request::Flush => image.flush(),
            Request::GetId => {
                buffers.put(0, &self.disk.serial[..ID_BYTES]);
                Ok(())
            }
            Request::Discard(ranges) => ranges.iter().try_for_each(|r| image.discard(r.offset, r.len)),
            Request::WriteZeroes(ranges) => {
                ranges.iter().try_for_each(|r| image.write_zeroes(r.offset, r.len, r.unmap))?;
                let _hold = image.hold();
                self.stable()
            }
        }
    }

    /// Whether a write may be answered before it is durable. A driver that can't flush takes each for durable (virtio 1.3
    /// §5.2.6.2).
    pub(super) fn is_cached(&self) -> bool {
        self.flushes && self.disk.writeback.load(Ordering::Acquire)
    }

    fn stable(&self) -> io::Result<()> {
        if self.is_cached() { Ok(()) } else { self.disk.image.flush() }
    }

    /// Whether some request of the disk waits for the machine to be resumed.
    pub(super) fn is_held(&self) -> bool {
        self.disk.held.load(Ordering::Acquire)
    }

    pub(super) fn judge(&self, error: &io::Error) -> Verdict {
        let no_space = error.kind() == io::ErrorKind::StorageFull;
        match self.disk.on_error {
            ErrorPolicy::Stop => Verdict::Hold,
            ErrorPolicy::StopOnNoSpace if no_space => Verdict::Hold,
            ErrorPolicy::Ignore => Verdict::Pretend,
            ErrorPolicy::StopOnNoSpace | ErrorPolicy::Report => Verdict::Fail,
        }
    }

    /// The first queue to fail says so; the request is tried again when the machine is resumed.
    pub(super) fn hold(&self, error: &io::Error) {
        if !self.disk.held.swap(true, Ordering::AcqRel) {
            self.pauses.ask(PauseReason::IoError(format!("disk {:?}: {error}", self.disk.name)));
        }
    }
}

/// What becomes of a request that failed.
pub(super) enum Verdict {
    Fail,
    Pretend,
    Hold,
}
