//! A loop over file descriptors: the machine's event thread and each device's own thread run one.
//!
//! Handlers run one at a time on the loop's thread, so what they own needs no lock. Other threads reach a running loop
//! through its [`Handle`].

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

type Handler = Box<dyn FnMut(&mut EventLoop, EventSet) + Send>;
type Task = Box<dyn FnOnce(&mut EventLoop) + Send>;

/// Names one registration with a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u64);

/// Names the loop's own wake-up event; tokens of registrations count up from one.
const WAKE: u64 = 0;
/// Ready descriptors taken in one wait.
const BATCH: usize = 16;

/// Owns the registrations and runs them. See the module.
pub struct EventLoop {
    epoll: Epoll,
    handlers: HashMap<u64, (RawFd, Option<Handler>)>,
    next: u64,
    timers: Vec<(Instant, Task)>,
    remote: Arc<Remote>,
    stopped: bool,
}

struct Remote {
    wake: EventFd,
    /// None once the loop is gone.
    tasks: Mutex<Option<Vec<Task>>>,
}

/// Reaches a loop from another thread.
#[derive(Clone)]
pub struct Handle(Arc<Remote>);

impl fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop").field("registrations", &self.handlers.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

impl Handle {
    /// Runs `task` on the loop's thread, soon; in the order of the calls. Dropped unrun if the loop is gone.
    pub fn run(&self, task: impl FnOnce(&mut EventLoop) + Send + 'static) {
        match &mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(tasks) => tasks.push(Box::new(task)),
            None => return,
        }
        // Fails only when the counter is full, and then the loop is awake anyway.
        let _ = self.0.wake.write(1);
    }

    /// Ends the loop after the tasks before this one.
    pub fn stop(&self) {
        self.run(EventLoop::stop);
    }
}

impl EventLoop {
    /// An empty loop.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        epoll.ctl(ControlOperation::Add, wake.as_raw_fd(), EpollEvent::new(EventSet::IN, WAKE))?;
        let remote = Arc::new(Remote { wake, tasks: Mutex::new(Some(Vec::new())) });
        Ok(Self { epoll, handlers: HashMap::new(), next: WAKE + 1, timers: Vec::new(), remote, stopped: false })
    }

    /// A way to reach this loop from other threads.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.remote))
    }

    /// Calls `handler` whenever `fd` has one of `events` (level triggered). The handler must own `fd`, so that it stays
    /// open until [`EventLoop::remove`].
    pub fn add(
        &mut self,
        fd: RawFd,
        events: EventSet,
        handler: impl FnMut(&mut Self, EventSet) + Send + 'static,
    ) -> io::Result<Token> {
        let token = self.next;
        self.epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, token))?;
        self.next += 1;
        self.handlers.insert(token, (fd, Some(Box::new(handler))));
        Ok(Token(token))
    }

    /// Waits for other events on a registered descriptor.
    pub fn modify(&mut self, token: Token, events: EventSet) -> io::Result<()> {
        match self.handlers.get(&token.0) {
            Some((fd, _)) => self.epoll.ctl(ControlOperation::Modify, *fd, EpollEvent::new(events, token.0)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Ends a registration and drops its handler; a handler may remove itself. Unknown tokens are ignored.
    pub fn remove(&mut self, token: Token) {
        if let Some((fd, _)) = self.handlers.remove(&token.0) {
            // Fails only if the descriptor is closed already, and then epoll has forgotten it.
            let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
        }
    }

    /// Runs `task` on this loop once `delay` has passed, to the millisecond above it. Dropped unrun if the loop ends first.
    pub fn after(&mut self, delay: Duration, task: impl FnOnce(&mut Self) + Send + 'static) {
        self.timers.push((Instant::now() + delay, Box::new(task)));
    }

    /// Makes [`EventLoop::run`] return once the current handler is done.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Serves until stopped.
    pub fn run(&mut self) -> io::Result<()> {
        self.stopped = false;
        let mut ready = [EpollEvent::default(); BATCH];
        while !self.stopped {
            let count = match self.epoll.wait(self.timeout(), &mut ready) {
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            for event in &ready[..count] {
                if event.data() == WAKE {
                    self.run_tasks();
                } else {
                    self.dispatch(event.data(), event.event_set());
                }
                if self.stopped {
                    break;
                }
            }
            self.run_timers();
        }
        Ok(())
    }

    /// Milliseconds until the first timer, rounded up; -1 without one.
    fn timeout(&self) -> i32 {
        let Some(first) = self.timers.iter().map(|(at, _)| *at).min() else { return -1 };
        let left = first.saturating_duration_since(Instant::now());
        i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
    }

    fn run_timers(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(due) = self.timers.iter().position(|(at, _)| *at <= now) {
            let (_, task) = self.timers.swap_remove(due);
            task(self);
        }
    }

    fn run_tasks(&mut self) {
        let _ = self.remote.wake.read();
        let tasks = self.remote.tasks.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(std::mem::take);
        for task in tasks.into_iter().flatten() {
            task(self);
        }
    }

    // The handler is taken out of the table while it runs, so that it can change the table.
    fn dispatch(&mut self, token: u64, events: EventSet) {
        let Some(mut handler) = self.handlers.get_mut(&token).and_then(|(_, h)| h.take()) else { return };
        handler(self, events);
        if let Some((_, slot)) = self.handlers.get_mut(&token) {
            *slot = Some(handler);
        }
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        // Whoever waits for a task to run, or to be dropped, waits no longer.
        let tasks = self.remote.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(tasks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn serves_events_and_tasks_until_stopped() {
        let mut events = EventLoop::new().unwrap();
        let handle = events.handle();
        let kick = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let (tx, rx) = mpsc::channel();
        let own = Arc::clone(&kick);
        events
            .add(kick.as_raw_fd(), EventSet::IN, move |events, _| {
                tx.send(own.read().unwrap()).unwrap();
                events.stop();
            })
            .unwrap();
        let thread = std::thread::spawn(move || events.run());
        handle.run(move |_| kick.write(7).unwrap());
        assert_eq!(rx.recv().unwrap(), 7);
        thread.join().unwrap().unwrap();
    }

    #[test]
    fn timers_run_when_due() {
        let mut events = EventLoop::new().unwrap();
        let started = Instant::now();
        let (tx, rx) = mpsc::channel();
        let first = tx.clone();
        events.after(Duration::from_millis(20), move |events| {
            tx.send("late").unwrap();
            events.stop();
        });
        events.after(Duration::from_millis(1), move |_| first.send("soon").unwrap());
        events.run().unwrap();
        assert_eq!(rx.try_iter().collect::<Vec<_>>(), ["soon", "late"]);
        assert!(started.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn a_handler_may_remove_itself() {
        let mut events = EventLoop::new().unwrap();
        let handle = events.handle();
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        kick.write(1).unwrap();
        let token = Arc::new(Mutex::new(None));
        let mine = Arc::clone(&token);
        let fd = kick.as_raw_fd();
        let added = events.add(fd, EventSet::IN, move |events, _| {
            let _owned = &kick;
            events.remove(mine.lock().unwrap().unwrap());
            events.stop();
        });
        *token.lock().unwrap() = Some(added.unwrap());
        events.run().unwrap();
        handle.stop();
        events.run().unwrap();
        assert!(events.handlers.is_empty());
    }
}
