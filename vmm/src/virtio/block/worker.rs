//! Serves one block queue: takes requests, does their I/O in place, answers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_memory::Bytes;

use super::request::{self, ID_BYTES, Limits, Parsed, Request, Serial, Status};
use crate::config::ErrorPolicy;
use crate::disk::Image;
use crate::memory::GuestRam;
use crate::memory::guest_buffers::GuestBuffers;
use crate::pausing::{PauseReason, PauseRequests};
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
    broken: bool,
}

#[derive(Debug)]
struct Requests {
    disk: Arc<Disk>,
    limits: Limits,
    /// The driver flushes what has to be durable (VIRTIO_BLK_F_FLUSH).
    flushes: bool,
    pauses: PauseRequests,
    buffers: GuestBuffers,
}

impl QueueWorker {
    /// `flushes`: the driver has agreed to VIRTIO_BLK_F_FLUSH.
    pub fn new(ram: GuestRam, queue: Virtqueue, disk: Arc<Disk>, flushes: bool, pauses: PauseRequests) -> Self {
        let limits = Limits { size: disk.image.size(), readonly: disk.image.readonly() };
        let buffers = GuestBuffers::new(ram.clone());
        Self { ram, queue, requests: Requests { disk, limits, flushes, pauses, buffers }, broken: false }
    }

    /// Serves what the driver has queued.
    pub fn kicked(&mut self) {
        if self.broken || self.requests.disk.held.load(Ordering::Acquire) {
            return;
        }
        let (ram, requests) = (&*self.ram, &mut self.requests);
        if self.queue.drain_until_later(ram, |chain| requests.serve(ram, chain)).is_err() {
            self.broken = true;
            self.queue.fail();
        }
    }
}

impl Requests {
    /// Does one request and returns the bytes written to its buffers, or puts it off.
    fn serve(&mut self, ram: &Ram, chain: Chain<'_>) -> Result<Served, Broken> {
        let Parsed { request, status, writable } = request::parse(ram, chain, &mut self.buffers, self.limits)?;
        let (code, written) = match request.as_ref().map(|request| self.perform(request)) {
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

    fn perform(&mut self, request: &Request) -> io::Result<()> {
        let image = &self.disk.image;
        match request {
            Request::Read(offset) => image.read(&mut self.buffers, *offset),
            Request::Write(offset) => {
                image.write(&mut self.buffers, *offset)?;
                self.stable()
            }
            Request::Flush => image.flush(),
            Request::GetId => {
                self.buffers.put(0, &self.disk.serial[..ID_BYTES]);
                Ok(())
            }
            Request::Discard(ranges) => ranges.iter().try_for_each(|r| image.discard(r.offset, r.len)),
            Request::WriteZeroes(ranges) => {
                ranges.iter().try_for_each(|r| image.write_zeroes(r.offset, r.len, r.unmap))?;
                self.stable()
            }
        }
    }

    // A driver that can't flush takes each write for durable (virtio 1.3 §5.2.6.2).
    fn stable(&self) -> io::Result<()> {
        let writeback = self.flushes && self.disk.writeback.load(Ordering::Acquire);
        if writeback { Ok(()) } else { self.disk.image.flush() }
    }

    fn judge(&self, error: &io::Error) -> Verdict {
        let no_space = error.kind() == io::ErrorKind::StorageFull;
        match self.disk.on_error {
            ErrorPolicy::Stop => Verdict::Hold,
            ErrorPolicy::StopOnNoSpace if no_space => Verdict::Hold,
            ErrorPolicy::Ignore => Verdict::Pretend,
            ErrorPolicy::StopOnNoSpace | ErrorPolicy::Report => Verdict::Fail,
        }
    }

    /// The first queue to fail says so; the request is tried again when the machine is resumed.
    fn hold(&self, error: &io::Error) {
        if !self.disk.held.swap(true, Ordering::AcqRel) {
            self.pauses.ask(PauseReason::IoError(format!("disk {:?}: {error}", self.disk.name)));
        }
    }
}

/// What becomes of a request that failed.
enum Verdict {
    Fail,
    Pretend,
    Hold,
}
