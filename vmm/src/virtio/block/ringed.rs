//! Serves a block queue with many requests under way at once.
//!
//! While any is, the queue's thread waits for the ring; whenever one is done it also looks for new ones. So nothing is ever
//! under way between two calls, which is when a device may be paused or reset. During a call the image is held
//! ([`Image::hold`]); a request that has to have it alone waits until nothing is under way.

use std::os::fd::BorrowedFd;

use vm_memory::{Bytes, GuestAddress};

use super::request::{self, Parsed, Request, Status};
use super::worker::{Requests, Verdict};
use crate::disk::ring::{Ring, WINDOW, Work};
use crate::disk::{Access, Hold};
use crate::memory::GuestRam;
use crate::memory::guest_buffers::GuestBuffers;
use crate::virtio::virtqueue::{Broken, Ram, Virtqueue};

/// Chains taken in one go before the thread looks for other events.
const BUDGET: u32 = 1024;

/// Bytes of a request that is done without the ring if it is the only one: what is larger, as the writes that a guest has merged,
/// takes so long that the next ones shouldn't wait for it.
const ALONE: usize = 128 << 10;

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

/// What one call of [`Ringed::serve`] works on.
struct Call<'a> {
    ram: &'a Ram,
    queue: &'a mut Virtqueue,
    requests: &'a Requests,
    hold: Hold<'a>,
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
        let mut call = Call { ram, queue, requests, hold: requests.disk.image.hold() };
        let served = self.serve_all(&mut call);
        // Whatever went wrong, the buffers are the kernel's until it is done.
        while self.under_way > 0 {
            self.reap();
        }
        served
    }

    fn serve_all(&mut self, call: &mut Call<'_>) -> Result<(), Broken> {
        for index in std::mem::take(&mut self.held) {
            self.perform(call, index)?;
        }
        let mut left = BUDGET;
        loop {
            call.queue.disable_kicks(call.ram)?;
            self.pump(call, &mut left)?;
            call.queue.signal(call.ram)?;
            if call.requests.is_held() || call.requests.throttle.is_closed() {
                return Ok(());
            }
            if left == 0 {
                let _ = call.queue.kick().write(1);
                return Ok(());
            }
            if !call.queue.enable_kicks(call.ram)? {
                return Ok(());
            }
        }
    }

    /// Takes requests and answers them until there are none.
    fn pump(&mut self, call: &mut Call<'_>, left: &mut u32) -> Result<(), Broken> {
        loop {
            while *left > 0 && !call.requests.is_held() && call.requests.throttle.is_open() {
                if call.requests.disk.image.wants_release() {
                    self.alone(call)?;
                    call.hold = call.requests.disk.image.hold();
                }
                let Some(index) = self.free.last().copied() else { break };
                let Some(chain) = call.queue.pop(call.ram)? else { break };
                *left -= 1;
                let slot = &mut self.slots[index];
                slot.head = chain.head_index();
                let Parsed { request, status, writable } =
                    request::parse(call.ram, chain, &mut slot.buffers, call.requests.limits)?;
                (slot.status, slot.writable, slot.syncing) = (status, writable, false);
                call.requests.count(&request, &slot.buffers);
                match request {
                    Err(refused) => finish(call, slot, refused, 0)?,
                    Ok(request) => {
                        slot.request = request;
                        self.free.pop();
                        // The only one there is costs less without the ring, unless others may come while it is done.
                        let small = slot.buffers.len() <= ALONE;
                        let alone = small && self.under_way == 0 && !call.queue.has_more(call.ram);
                        if alone || !self.begin(call, index) {
                            self.perform(call, index)?;
                        }
                    }
                }
            }
            if self.under_way == 0 {
                return Ok(());
            }
            self.answer_some(call)?;
        }
    }

    /// Waits until something is done, and answers that.
    fn answer_some(&mut self, call: &mut Call<'_>) -> Result<(), Broken> {
        self.reap();
        let mut done = std::mem::take(&mut self.done);
        let answered = done.drain(..).try_for_each(|(index, moved)| self.completed(call, index, moved));
        self.done = done;
        answered?;
        call.queue.signal(call.ram)
    }

    /// Puts a request into the ring, if that can be.
    fn begin(&mut self, call: &Call<'_>, index: usize) -> bool {
        let slot = &self.slots[index];
        let image = &call.requests.disk.image;
        let place = |offset, access| image.in_place(&slot.buffers, offset, access);
        let found = match (&slot.request, slot.syncing) {
            (Request::Read(offset), _) => {
                place(*offset, Access::Read).map(|place| (place.file, Work::Read(place.offset)))
            }
            (Request::Write(offset), false) => {
                place(*offset, Access::Write).map(|place| (place.file, Work::Write(place.offset)))
            }
            (Request::Flush, _) | (Request::Write(_), true) => image.sync_in_place().map(|file| (file, Work::Sync)),
            _ => None,
        };
        let pushed = found.is_some_and(|(file, work)| push(&mut self.ring, file, work, slot, index));
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

    fn completed(&mut self, call: &mut Call<'_>, index: usize, moved: Option<usize>) -> Result<(), Broken> {
        let slot = &mut self.slots[index];
        let is_sync = slot.syncing || slot.request == Request::Flush;
        if moved.is_none() || !is_sync && moved != Some(slot.buffers.len()) {
            // Cut short, or failed: once more, all of it, in the ordinary way.
            return self.perform(call, index);
        }
        if matches!(slot.request, Request::Write(_)) && !slot.syncing {
            let image = &call.requests.disk.image;
            image.written_in_place();
            if !call.requests.is_cached() {
                slot.syncing = true;
                if self.begin(call, index) {
                    return Ok(());
                }
                if image.flush().is_err() {
                    // What a failed sync has lost is written again.
                    return self.perform(call, index);
                }
            }
        }
        let slot = &mut self.slots[index];
        finish(call, slot, Status::Ok, slot.writable)?;
        self.free.push(index);
        Ok(())
    }

    /// Waits until nothing is under way, and gives the image back.
    fn alone(&mut self, call: &mut Call<'_>) -> Result<(), Broken> {
        while self.under_way > 0 {
            self.answer_some(call)?;
        }
        call.hold = None;
        Ok(())
    }

    /// Does a request without the ring, and answers it.
    fn perform(&mut self, call: &mut Call<'_>, index: usize) -> Result<(), Broken> {
        let requests = call.requests;
        let alone = self.slots[index].request.needs_no_hold();
        if alone {
            self.alone(call)?;
        }
        let slot = &mut self.slots[index];
        self.spare.copy_from(&slot.buffers);
        let performed = requests.perform(&slot.request, &mut slot.buffers);
        if alone {
            call.hold = requests.disk.image.hold();
        }
        let (status, written) = match performed {
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
        finish(call, slot, status, written)?;
        self.free.push(index);
        Ok(())
    }
}

fn push(ring: &mut Ring, file: BorrowedFd, work: Work, slot: &Slot, index: usize) -> bool {
    // SAFETY: the slot isn't touched before its index comes back, which `serve` waits for; the file is the image's, which
    // the requests hold. There are as many slots as the ring has room for.
    unsafe { ring.push(file, work, &slot.buffers, index as u64) }.is_ok()
}

fn finish(call: &mut Call<'_>, slot: &Slot, status: Status, written: u32) -> Result<(), Broken> {
    call.ram.write_obj(status as u8, slot.status).map_err(|_| Broken::Request("its status lies outside of RAM"))?;
    call.queue.add_used(call.ram, slot.head, written.saturating_add(1))
}
