//! The answers, served on an event loop over a card's socket.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use vmm_sys_util::epoll::EventSet;

use super::{MAX_FRAME, advertisement, answer};
use crate::config::{AutoconfAnswers, AutoconfPlan};
use crate::event_loop::{EventLoop, Handle, Token};

/// Frames answered before other events get their turn.
const BUDGET: usize = 16;
/// Between two unasked advertisements: far less than the lifetime that they give.
const PERIOD: Duration = Duration::from_mins(10);

/// Answers a guest's requests until dropped.
#[derive(Debug)]
pub struct Autoconf {
    events: Handle,
    service: Arc<Service>,
}

#[derive(Debug)]
struct Service {
    socket: File,
    answers: AutoconfAnswers,
    guest: [u8; 6],
    token: Mutex<Option<Token>>,
}

impl Autoconf {
    /// Answers on `events` what the guest with the hardware address `guest` asks on the plan's socket.
    pub fn serve(events: &Handle, plan: &AutoconfPlan, guest: [u8; 6]) -> io::Result<Self> {
        let (socket, answers) = (plan.socket.try_clone()?, plan.answers.clone());
        let service = Arc::new(Service { socket, answers, guest, token: Mutex::new(None) });
        let own = Arc::clone(&service);
        events.run(move |events| {
            let asked = Arc::clone(&own);
            match events.add(own.socket.as_raw_fd(), EventSet::IN, move |events, _| asked.serve(events)) {
                Ok(token) => *own.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token),
                Err(error) => eprintln!("autoconf: can't wait for requests: {error}"),
            }
            if own.answers.ipv6.is_some() {
                schedule(events, Arc::downgrade(&own));
            }
        });
        Ok(Self { events: events.clone(), service })
    }
}

impl Drop for Autoconf {
    fn drop(&mut self) {
        let service = Arc::clone(&self.service);
        // In order after the registration, even if that has not run yet.
        self.events.run(move |events| service.stop(events));
    }
}

impl Service {
    fn serve(&self, events: &mut EventLoop) {
        // What is longer is cut off, and not answered.
        let mut frame = [0; MAX_FRAME];
        for _ in 0..BUDGET {
            match (&self.socket).read(&mut frame) {
                Ok(0) => return self.stop(events),
                Ok(len) => self.send(answer(&self.answers, self.guest, &frame[..len])),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.stop(events),
            }
        }
    }

    fn send(&self, frame: Option<Vec<u8>>) {
        if let Some(frame) = frame {
            // As on any network a frame may be lost; the guest asks again.
            let _ = (&self.socket).write(&frame);
        }
    }

    fn stop(&self, events: &mut EventLoop) {
        if let Some(token) = self.token.lock().unwrap_or_else(PoisonError::into_inner).take() {
            events.remove(token);
        }
    }
}

/// Advertises after a while, and again and again for as long as somebody serves.
fn schedule(events: &mut EventLoop, service: Weak<Service>) {
    events.after(PERIOD, move |events| {
        if let Some(service) = service.upgrade() {
            service.send(advertisement(&service.answers));
            schedule(events, Arc::downgrade(&service));
        }
    });
}
