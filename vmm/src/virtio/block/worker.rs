//! Serves one block queue: takes requests, does their I/O in place, answers.

use std::io;
use std::sync::Arc;

use vm_memory::Bytes;

use super::request::{self, ID_BYTES, Limits, Parsed, Request, Serial, Status};
use crate::disk::Image;
use crate::memory::GuestRam;
use crate::memory::guest_buffers::GuestBuffers;
use crate::virtio::virtqueue::{Broken, Chain, Ram, Virtqueue};

/// One queue's work. Dead once its queue is broken, until the device is reset.
#[derive(Debug)]
pub struct QueueWorker {
    ram: GuestRam,
    queue: Virtqueue,
    disk: Disk,
    broken: bool,
}

#[derive(Debug)]
struct Disk {
    image: Arc<dyn Image>,
    limits: Limits,
    serial: Serial,
    writethrough: bool,
    buffers: GuestBuffers,
}

impl QueueWorker {
    pub fn new(ram: GuestRam, queue: Virtqueue, image: Arc<dyn Image>, serial: Serial, writethrough: bool) -> Self {
        let limits = Limits { size: image.size(), readonly: image.readonly() };
        let buffers = GuestBuffers::new(ram.clone());
        Self { ram, queue, disk: Disk { image, limits, serial, writethrough, buffers }, broken: false }
    }

    /// Serves what the driver has queued.
    pub fn kicked(&mut self) {
        if self.broken {
            return;
        }
        let (ram, disk) = (&*self.ram, &mut self.disk);
        if self.queue.drain(ram, |chain| disk.serve(ram, chain)).is_err() {
            self.broken = true;
            self.queue.fail();
        }
    }
}

impl Disk {
    /// Does one request and returns the bytes written to its buffers.
    fn serve(&mut self, ram: &Ram, chain: Chain<'_>) -> Result<u32, Broken> {
        let Parsed { request, status, writable } = request::parse(ram, chain, &mut self.buffers, self.limits)?;
        let (code, written) = match request.as_ref().map(|request| self.perform(request)) {
            Ok(Ok(())) => (Status::Ok, writable),
            Ok(Err(_)) => (Status::IoError, 0),
            Err(refused) => (*refused, 0),
        };
        ram.write_obj(code as u8, status).map_err(|_| Broken::Request("its status lies outside of RAM"))?;
        Ok(written.saturating_add(1))
    }

    fn perform(&mut self, request: &Request) -> io::Result<()> {
        match request {
            Request::Read(offset) => self.image.read(&mut self.buffers, *offset),
            Request::Write(offset) => {
                self.image.write(&mut self.buffers, *offset)?;
                self.stable()
            }
            Request::Flush => self.image.flush(),
            Request::GetId => {
                self.buffers.put(0, &self.serial[..ID_BYTES]);
                Ok(())
            }
            Request::Discard(ranges) => ranges.iter().try_for_each(|r| self.image.discard(r.offset, r.len)),
            Request::WriteZeroes(ranges) => {
                ranges.iter().try_for_each(|r| self.image.write_zeroes(r.offset, r.len, r.unmap))?;
                self.stable()
            }
        }
    }

    fn stable(&self) -> io::Result<()> {
        if self.writethrough { self.image.flush() } else { Ok(()) }
    }
}
