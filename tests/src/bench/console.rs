//! What a guest writes, and when it arrived.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use anyhow::{Result, bail};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::read,
};

use crate::scenarios::measure::now;

/// The end of a guest's console that reads.
#[derive(Debug)]
pub struct Console {
    source: OwnedFd,
    text: Vec<u8>,
}

impl Console {
    /// Reads from a pipe or a socket.
    pub fn new(source: OwnedFd) -> Self {
        Self { source, text: Vec::new() }
    }

    /// When `marker` was there. It may have arrived with an earlier one already.
    pub fn wait_for(&mut self, marker: &[u8], limit: Duration) -> Result<Duration> {
        let end = now()? + limit;
        loop {
            let arrived = now()?;
            if self.text.windows(marker.len()).any(|window| window == marker) {
                return Ok(arrived);
            }
            let left = end.saturating_sub(arrived);
            if left.is_zero() {
                bail!("no {:?} after {} s; {}", String::from_utf8_lossy(marker), limit.as_secs(), self.tail());
            }
            let timeout = PollTimeout::try_from(left.max(Duration::from_millis(1)))?;
            match poll(&mut [PollFd::new(self.source.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(error) => bail!("poll a console: {error}"),
            }
            let mut buffer = [0; 4096];
            match read(&self.source, &mut buffer) {
                Ok(0) | Err(Errno::ECONNRESET) => {
                    bail!("the machine ended before {:?}; {}", String::from_utf8_lossy(marker), self.tail());
                }
                Ok(length) => self.text.extend(&buffer[..length]),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => bail!("read a console: {error}"),
            }
        }
    }

    fn tail(&self) -> String {
        let start = self.text.len().saturating_sub(2000);
        match &self.text[start..] {
            [] => "it wrote nothing".to_owned(),
            text => format!("it wrote:\n{}", String::from_utf8_lossy(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::net::UnixStream, time::Duration};

    use super::Console;

    #[test]
    fn a_marker_is_found_across_reads_and_an_end_is_told_with_what_was_said() {
        let (mut guest, ours) = UnixStream::pair().unwrap();
        let mut console = Console::new(ours.into());
        guest.write_all(b"boot GUEST-").unwrap();
        let writer = std::thread::spawn(move || guest.write_all(b"INIT 1\nprompt#").map(|()| guest));
        let init = console.wait_for(b"GUEST-INIT", Duration::from_secs(10)).unwrap();
        assert!(console.wait_for(b"prompt#", Duration::from_secs(10)).unwrap() >= init);
        drop(writer.join().unwrap().unwrap());
        let error = console.wait_for(b"never", Duration::from_secs(10)).unwrap_err().to_string();
        assert!(error.contains("ended") && error.contains("GUEST-INIT 1"), "{error}");
    }

    #[test]
    fn a_silent_guest_has_a_limit() {
        let (_guest, ours) = UnixStream::pair().unwrap();
        let error = Console::new(ours.into()).wait_for(b"x", Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("wrote nothing"), "{error}");
    }
}
