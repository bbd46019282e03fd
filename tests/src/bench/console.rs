//! What a guest writes, and when it arrived.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::scenarios::measure::now;

/// A guest's console.
#[derive(Debug)]
pub struct Console {
    socket: UnixStream,
    text: Vec<u8>,
}

impl Console {
    /// Reads from a socket, and types into it.
    pub fn new(socket: UnixStream) -> Self {
        Self { socket, text: Vec::new() }
    }

    /// Types a line.
    pub fn say(&mut self, line: &str) -> Result<()> {
        self.socket.write_all(format!("{line}\n").as_bytes()).context("type into a console")
    }

    /// When `marker` was there. It may have arrived with an earlier one already.
    pub fn wait_for(&mut self, marker: &[u8], limit: Duration) -> Result<Duration> {
        self.wait(&String::from_utf8_lossy(marker), limit, |text, at| find(text, marker).map(|_| at))
    }

    /// The rest of the first line that has `marker`, once it is whole.
    pub fn line_after(&mut self, marker: &str, limit: Duration) -> Result<String> {
        self.wait(marker, limit, |text, _| {
            let rest = &text[find(text, marker.as_bytes())? + marker.len()..];
            let line = &rest[..find(rest, b"\n")?];
            Some(String::from_utf8_lossy(line).trim().to_owned())
        })
    }

    /// Reads until `look` finds something in the text that came up to a time.
    fn wait<T>(&mut self, what: &str, limit: Duration, look: impl Fn(&[u8], Duration) -> Option<T>) -> Result<T> {
        let end = now()? + limit;
        loop {
            let arrived = now()?;
            if let Some(found) = look(&self.text, arrived) {
                return Ok(found);
            }
            let left = end.saturating_sub(arrived);
            if left.is_zero() {
                bail!("no {what:?} after {} s; {}", limit.as_secs(), self.tail());
            }
            let timeout = PollTimeout::try_from(left.max(Duration::from_millis(1)))?;
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(error) => bail!("poll a console: {error}"),
            }
            let mut buffer = [0; 4096];
            match self.socket.read(&mut buffer) {
                Ok(0) => bail!("the machine ended before {what:?}; {}", self.tail()),
                Ok(length) => self.text.extend(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    bail!("the machine ended before {what:?}; {}", self.tail());
                }
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
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

/// Where `part` begins.
fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::net::UnixStream, time::Duration};

    use super::Console;

    #[test]
    fn a_marker_is_found_across_reads_and_an_end_is_told_with_what_was_said() {
        let (mut guest, ours) = UnixStream::pair().unwrap();
        let mut console = Console::new(ours);
        guest.write_all(b"boot GUEST-").unwrap();
        let writer = std::thread::spawn(move || guest.write_all(b"INIT 1\nprompt#").map(|()| guest));
        let init = console.wait_for(b"GUEST-INIT", Duration::from_secs(10)).unwrap();
        assert!(console.wait_for(b"prompt#", Duration::from_secs(10)).unwrap() >= init);
        drop(writer.join().unwrap().unwrap());
        let error = console.wait_for(b"never", Duration::from_secs(10)).unwrap_err().to_string();
        assert!(error.contains("ended") && error.contains("GUEST-INIT 1"), "{error}");
    }

    #[test]
    fn a_line_is_whole_before_it_is_told() {
        let (mut guest, ours) = UnixStream::pair().unwrap();
        let mut console = Console::new(ours);
        guest.write_all(b"LOAD 1 17.5\r\nLOAD 2 1").unwrap();
        assert_eq!(console.line_after("LOAD 1 ", Duration::from_secs(10)).unwrap(), "17.5");
        let writer = std::thread::spawn(move || guest.write_all(b"8.5\r\n").map(|()| guest));
        assert_eq!(console.line_after("LOAD 2 ", Duration::from_secs(10)).unwrap(), "18.5");
        let mut guest = writer.join().unwrap().unwrap();
        console.say("3 disk").unwrap();
        let mut said = [0; 7];
        std::io::Read::read_exact(&mut guest, &mut said).unwrap();
        assert_eq!(&said, b"3 disk\n");
    }

    #[test]
    fn a_silent_guest_has_a_limit() {
        let (_guest, ours) = UnixStream::pair().unwrap();
        let error = Console::new(ours).wait_for(b"x", Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("wrote nothing"), "{error}");
    }
}
