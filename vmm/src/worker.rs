//! Threads of the machine: each is named and runs an event loop.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

use crate::event_loop::{EventLoop, Handle};
use crate::jail::seccomp::{self, ThreadKind};

/// Stack of the machine's threads, bytes: far more than they use, and less than the 2 MiB of a transparent huge page, which
/// the first touch of a larger stack may take.
pub const STACK_SIZE: usize = 256 << 10;

/// A thread that serves an event loop until it's dropped, which waits for it to end.
#[derive(Debug)]
pub struct Worker {
    events: Handle,
    thread: Option<JoinHandle<()>>,
    /// While it is there the thread stands still.
    pause: Option<Sender<()>>,
}

impl Worker {
    /// Starts a thread; `register` fills its loop first, on the calling thread. The name's first 15 bytes are seen by `ps`.
    pub fn spawn(name: &str, register: impl FnOnce(&mut EventLoop) -> io::Result<()>) -> io::Result<Self> {
        let mut events = EventLoop::new()?;
        register(&mut events)?;
        let handle = events.handle();
        let owned = name.to_owned();
        let thread = Builder::new().name(name.to_owned()).stack_size(STACK_SIZE).spawn(move || {
            seccomp::confine(ThreadKind::Worker);
            if let Err(error) = events.run() {
                eprintln!("thread {owned}: event loop: {error}");
            }
        })?;
        Ok(Self { events: handle, thread: Some(thread), pause: None })
    }

    /// Waits until the thread is between two handlers, and keeps it there. Paused twice it is paused.
    pub fn pause(&mut self) {
        if self.pause.is_some() {
            return;
        }
        let (pause, resumed) = channel();
        let (paused, parked) = channel::<()>();
        self.events.run(move |_| {
            drop(paused);
            let _ = resumed.recv();
        });
        // Either side of both channels only ever hangs up; a thread that has ended does so, too.
        let _ = parked.recv();
        self.pause = Some(pause);
    }

    /// Lets the thread go on.
    pub fn resume(&mut self) {
        self.pause = None;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.events.stop();
        self.resume();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended too.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    #[test]
    fn a_pause_waits_for_what_is_under_way_and_holds_what_follows() {
        let mut worker = Worker::spawn("test", |_| Ok(())).unwrap();
        let (steps, seen) = sync_channel(0);
        let events = worker.events.clone();
        events.run(move |_| {
            for step in 0..2 {
                steps.send(step).unwrap();
            }
        });
        let pausing = std::thread::spawn(move || {
            worker.pause();
            worker
        });
        assert!(!pausing.is_finished());
        assert_eq!((seen.recv(), seen.recv()), (Ok(0), Ok(1)));
        let mut worker = pausing.join().unwrap();
        let (done, after) = channel();
        events.run(move |_| done.send(()).unwrap());
        assert!(after.recv_timeout(Duration::from_millis(10)).is_err());
        worker.resume();
        after.recv_timeout(Duration::from_secs(10)).unwrap();
        // A paused thread ends, too; one that has ended is paused at once.
        worker.pause();
        worker.pause();
        drop(worker);
        let mut ended = Worker::spawn("test", |_| Ok(())).unwrap();
        ended.events.stop();
        ended.pause();
    }
}
