//! Threads of the machine: each is named and runs an event loop.

use std::io;
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
        Ok(Self { events: handle, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.events.stop();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended too.
            let _ = thread.join();
        }
    }
}
