//! Serves a block queue with many requests under way at once.
//!
//! While any is, the queue's thread waits for the ring; whenever one is done it also looks for new ones. So nothing is ever
//! under way between two calls, which is when a device may be paused or reset.

use std::os::fd::BorrowedFd;

use vm_memory::{Bytes, GuestAddress};

use super::request::{self, Parsed, Request, Status};
use super::worker::{Requests, Verdict};
use crate::disk::ring::{Ring, WINDOW, Work};
use crate::memory::GuestRam;
use crate::memory::guest_buffers::GuestBuffers;
use crate::virtio::virtqueue::{Broken, Ram, Virtqueue};

/// Chains taken in one go before the thread looks for other events.
const BUDGET: u32 = 1024;

/// A ring, and the requests that are in it.
#[derive(Debug)]
pub struct Ringed {
    ring: Ring,
    slots: Vec<Slot>,
    /// Slots that hold nothing.
    free: Vec<usize>,
    /// Slots whose request failed and is to be tried again.
    held: Vec<usize>,
    under_way: usize,
    /// What was done last, with the bytes moved unless it failed; kept for its allocation, as is the next.
    done: Vec<(usize, Option<usize>)>,
    /// The buffers of a request that may have to be tried again: doing it uses them up.
    spare: GuestBuffers,
}

#[derive(Debug)]
struct Slot {
    head: u16,
    status: GuestAddress,
    writable: u32,
    request: Request,
    buffers: GuestBuffers,
    /// A write is done, and what follows makes it durable.
    syncing: bool,
}

impl Ringed {
    pub fn new(ring: Ring, ram: &GuestRam) -> Self {
        let slot = || Slot {
            head: 0,
            status: GuestAddress(0),
            writable: 0,
            request: Request::Flush,
            buffers: GuestBuffers::new(ram.clone()),
            syncing: false,
        };
        let slots = (0..WINDOW).map(|_| slot()).collect();
        let free = (0..WINDOW).rev().collect();
        let (held, done, spare) = (Vec::new(), Vec::new(), GuestBuffers::new(ram.clone()));
        Self { ring, slots, free, held, under_way: 0, done, spare }
    }

    /// Serves what the driver has queued. When it returns nothing is under way.
    pub fn serve(&mut self, ram: &Ram, queue: &mut Virtqueue, requests: &Requests) -> Result<(), Broken> {
        let served = self.serve_all(ram, queue, requests);
        // Whatever went wrong, the buffers are the kernel's until it is done.
        while self.under_way > 0 {
            self.reap();
        }
        served
    }

    fn serve_all(&mut self, ram: &Ram, queue: &mut Virtqueue, requests: &Requests) -> Result<(), Broken> {
        for index in std::mem::take(&mut self.held) {
            self.retry(ram, queue, requests, index)?;
        }
        let mut left = BUDGET;
        loop {
            queue.disable_kicks(ram)?;
            self.pump(ram, queue, requests, &mut left)?;
            queue.signal(ram)?;
            if requests.is_held() || requests.throttle.is_closed() {
                return Ok(());
            }
            if left == 0 {
                let _ = queue.kick().write(1);
                return Ok(());
            }
            if !queue.enable_kicks(ram)? {
                return Ok(());
            }
        }
    }

    /// Takes requests and answers them until there are none.
    fn pump(&mut self, ram: &Ram, queue: &mut Virtqueue, requests: &Requests, left: &mut u32) -> Result<(), Broken> {
        loop {
            while *left > 0 && !requests.is_held() && requests.throttle.is_open() {
                let Some(index) = self.free.last().copied() else { break };
                let Some(chain) = queue.pop(ram)? else { break };
                *left -= 1;
                let slot = &mut self.slots[index];
                slot.head = chain.head_index();
                let Parsed { request, status, writable } =
                    request::parse(ram, chain, &mut slot.buffers, requests.limits)?;
                (slot.status, slot.writable, slot.syncing) = (status, writable, false);
                requests.count(&request, &slot.buffers);
                match request {
                    Err(refused) => finish(ram, queue, slot, refused, 0)?,
                    Ok(request) => {
                        slot.request = request;
                        self.free.pop();
                        // The only one there is costs less without the ring.
                        let alone = self.under_way == 0 && !queue.has_more(ram);
                        if alone || !self.begin(requests, index) {
                            self.retry(ram, queue, requests, index)?;
                        }
                    }
                }
            }
            if self.under_way == 0 {
                return Ok(());
            }
            self.reap();
            let mut done = std::mem::take(&mut self.done);
            let answered =
                done.drain(..).try_for_each(|(index, moved)| self.completed(ram, queue, requests, index, moved));
            self.done = done;
            answered?;
            queue.signal(ram)?;
        }
    }

    /// Puts a request into the ring, if that can be.
    fn begin(&mut self, requests: &Requests, index: usize) -> bool {
        let slot = &self.slots[index];
        let Some(file) = requests.disk.image.in_place(&slot.buffers) else { return false };
        let work = match (&slot.request, slot.syncing) {
            (Request::Read(offset), _) => Work::Read(*offset),
            (Request::Write(offset), false) => Work::Write(*offset),
            (Request::Flush, _) | (Request::Write(_), true) => Work::Sync,
            _ => return false,
        };
        let pushed = push(&mut self.ring, file, work, slot, index);
        self.under_way += usize::from(pushed);
        pushed
    }

    /// Waits for the kernel, and takes what it has done.
    fn reap(&mut self) {
        self.done.clear();
        if let Err(error) = self.ring.wait() {
            // Only a kernel that is out of memory gets here; it is asked again.
            eprintln!("block queue: io_uring: {error}");
            std::thread::yield_now();
        }
        while let Some((token, result)) = self.ring.completed() {
            self.under_way -= 1;
            self.done.push((usize::try_from(token).unwrap_or(0), result.ok()));
        }
    }

    fn completed(
        &mut self,
        ram: &Ram,
        queue: &mut Virtqueue,
        requests: &Requests,
        index: usize,
        moved: Option<usize>,
    ) -> Result<(), Broken> {
        let slot = &mut self.slots[index];
        let is_sync = slot.syncing || slot.request == Request::Flush;
        if moved.is_none() || !is_sync && moved != Some(slot.buffers.len()) {
            // Cut short, or failed: once more, all of it, in the ordinary way.
            return self.retry(ram, queue, requests, index);
        }
        if matches!(slot.request, Request::Write(_)) && !slot.syncing && !requests.is_cached() {
            slot.syncing = true;
            return if self.begin(requests, index) { Ok(()) } else { self.retry(ram, queue, requests, index) };
        }
        finish(ram, queue, slot, Status::Ok, slot.writable)?;
        self.free.push(index);
        Ok(())
    }

    /// Does a request without the ring, and answers it.
    fn retry(&mut self, ram: &Ram, queue: &mut Virtqueue, requests: &Requests, index: usize) -> Result<(), Broken> {
        let slot = &mut self.slots[index];
        self.spare.copy_from(&slot.buffers);
        let (status, written) = match requests.perform(&slot.request, &mut slot.buffers) {
            Ok(()) => (Status::Ok, slot.writable),
            Err(error) => match requests.judge(&error) {
                Verdict::Fail => (Status::IoError, 0),
                Verdict::Pretend => (Status::Ok, slot.writable),
                Verdict::Hold => {
                    std::mem::swap(&mut slot.buffers, &mut self.spare);
                    self.held.push(index);
                    requests.hold(&error);
                    return Ok(());
                }
            },
        };
        finish(ram, queue, slot, status, written)?;
        self.free.push(index);
        Ok(())
    }
}

fn push(ring: &mut Ring, file: BorrowedFd, work: Work, slot: &Slot, index: usize) -> bool {
    // SAFETY: the slot isn't touched before its index comes back, which `serve` waits for; the file is the image's, which
    // the requests hold. There are as many slots as the ring has room for.
    unsafe { ring.push(file, work, &slot.buffers, index as u64) }.is_ok()
}

fn finish(ram: &Ram, queue: &mut Virtqueue, slot: &Slot, status: Status, written: u32) -> Result<(), Broken> {
    ram.write_obj(status as u8, slot.status).map_err(|_| Broken::Request("its status lies outside of RAM"))?;
    queue.add_used(ram, slot.head, written.saturating_add(1))
}
