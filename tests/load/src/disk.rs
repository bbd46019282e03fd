//! Requests to a block device, past the page cache (O_DIRECT), a fixed number under way at a time (io_uring).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use io_uring::{IoUring, opcode, types::Fd};
use nix::libc::O_DIRECT;

/// What memory of direct I/O is aligned to, bytes.
const ALIGN: usize = 4096;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    pub write: bool,
    pub random: bool,
    /// Bytes of a request, a multiple of 512.
    pub block: u32,
    /// Requests under way at a time.
    pub depth: u32,
    /// For how long.
    pub time: Duration,
}

/// Nanoseconds per request.
pub fn run(device: &str, job: Job) -> Result<f64> {
    let file = OpenOptions::new().read(true).write(job.write).custom_flags(O_DIRECT).open(device);
    load(&file.with_context(|| device.to_owned())?, job)
}

fn load(file: &File, job: Job) -> Result<f64> {
    ensure!(job.block.is_multiple_of(512) && job.block > 0 && job.depth > 0, "{job:?}");
    let size = io::Seek::seek(&mut &*file, io::SeekFrom::End(0))?;
    let mut places = Places::new(size / u64::from(job.block), job);
    let block = usize::try_from(job.block)?;
    let mut memory = vec![0xA5_u8; block * usize::try_from(job.depth)? + ALIGN];
    let start = memory.as_ptr().align_offset(ALIGN);
    let mut ring = IoUring::new(job.depth)?;
    let begun = Instant::now();
    let (mut under_way, mut done) = (0, 0_u32);
    let mut idle: Vec<u32> = (0..job.depth).collect();
    loop {
        if begun.elapsed() < job.time {
            while let Some(slot) = idle.pop() {
                let buffer = &mut memory[start + block * usize::try_from(slot)?..][..block];
                let (fd, offset) = (Fd(file.as_raw_fd()), places.next().unwrap_or(0));
                let entry = if job.write {
                    opcode::Write::new(fd, buffer.as_ptr(), job.block).offset(offset).build()
                } else {
                    opcode::Read::new(fd, buffer.as_mut_ptr(), job.block).offset(offset).build()
                };
                // SAFETY: the slot's buffer is in `memory`, which outlives the ring's last completion, as `file` does (the loop
                // ends when nothing is under way), and no two slots share bytes.
                unsafe { ring.submission().push(&entry.user_data(slot.into())) }?;
                under_way += 1;
            }
        }
        if under_way == 0 {
            break;
        }
        if let Err(error) = ring.submit_and_wait(1)
            && error.kind() != io::ErrorKind::Interrupted
        {
            // What is under way still writes to `memory`.
            std::mem::forget(memory);
            return Err(error.into());
        }
        for completion in ring.completion() {
            under_way -= 1;
            done += 1;
            idle.push(u32::try_from(completion.user_data())?);
            if completion.result().cast_unsigned() != job.block {
                std::mem::forget(memory);
                return Err(io::Error::from_raw_os_error(-completion.result()).into());
            }
        }
    }
    Ok(begun.elapsed().as_secs_f64() * 1e9 / f64::from(done))
}

/// Where requests go: offsets in bytes, without end.
struct Places {
    blocks: u64,
    state: u64,
    job: Job,
}

impl Places {
    fn new(blocks: u64, job: Job) -> Self {
        Self { blocks: blocks.max(1), state: if job.random { 0x9E37_79B9_7F4A_7C15 } else { 0 }, job }
    }
}

impl Iterator for Places {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let block = self.state % self.blocks;
        if self.job.random {
            // xorshift64: no block is preferred, and every run asks for the same ones.
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
        } else {
            self.state += 1;
        }
        Some(block * u64::from(self.job.block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_run_for_their_time_and_stay_inside() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        for (write, random) in [(false, false), (false, true), (true, false), (true, true)] {
            let job = Job { write, random, block: 4096, depth: 4, time: Duration::from_millis(5) };
            let begun = Instant::now();
            assert!(load(&file, job).unwrap() > 0.0);
            assert!(begun.elapsed() >= job.time);
            assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        }
        let job = Job { write: false, random: false, block: 100, depth: 1, time: Duration::ZERO };
        assert!(load(&file, job).is_err());
    }

    #[test]
    fn places_wrap_around_and_repeat_from_run_to_run() {
        let job = Job { write: false, random: false, block: 512, depth: 1, time: Duration::ZERO };
        assert_eq!(Places::new(3, job).take(4).collect::<Vec<_>>(), [0, 512, 1024, 0]);
        let random = || Places::new(1000, Job { random: true, ..job }).take(100).collect::<Vec<_>>();
        assert_eq!(random(), random());
        assert!(random().iter().all(|place| *place < 512_000));
    }
}
