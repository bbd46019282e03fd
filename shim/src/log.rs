//! The shim's log: lines into the bundle's `log` fifo, which containerd copies into its own.
//!
//! Invariants: a write never blocks (a containerd that stops reading must not stop a machine), nothing ever reaches
//! stderr (containerd reads it as part of the socket's address), and a lost reader is looked for again at the next
//! line. Lines that find no reader or a full fifo are dropped.
//!
//! `containerd_shim::logger` opens the fifo for blocking writes, so it is not used.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// The longest message, bytes: with its frame it stays below `PIPE_BUF`, so that a line is written whole or not at all.
const MAX_MESSAGE: usize = 3072;

struct FifoLog {
    path: PathBuf,
    id: String,
    fifo: Mutex<Option<File>>,
}

/// Sends the `log` crate's records to the fifo `log` in `bundle` for the rest of the process's life.
pub fn init(bundle: &Path, id: &str, debug: bool) {
    let fifo = FifoLog { path: bundle.join("log"), id: id.to_owned(), fifo: Mutex::new(None) };
    if log::set_boxed_logger(Box::new(fifo)).is_ok() {
        log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
        std::panic::set_hook(Box::new(|panic| log::error!("the shim panicked: {panic}")));
    }
}

impl Log for FifoLog {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // The RPC library tells of every closed connection at info.
        metadata.level() <= if metadata.target().starts_with("ttrpc") { Level::Warn } else { Level::Trace }
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = line(SystemTime::now(), record.level(), &self.id, &record.args().to_string());
        let mut fifo = self.fifo.lock().unwrap_or_else(PoisonError::into_inner);
        if fifo.is_none() {
            *fifo = open(&self.path);
        }
        let Some(open_fifo) = fifo.as_mut() else { return };
        match open_fifo.write(line.as_bytes()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                *fifo = open(&self.path);
                if let Some(again) = fifo.as_mut() {
                    // A second failure means that nobody reads: the line is lost, as it would be without the shim's care.
                    let _ = again.write(line.as_bytes());
                }
            }
            _ => {}
        }
    }

    fn flush(&self) {}
}

/// Opens a fifo that has a reader; anything else is no log.
fn open(path: &Path) -> Option<File> {
    OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path).ok()
}

/// A line in containerd's own style.
fn line(now: SystemTime, level: Level, id: &str, message: &str) -> String {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let message = bounded(message, MAX_MESSAGE);
    format!("time=\"{}\" level={level} msg={message:?} runtime=vireo id={id}\n", rfc3339(now))
}

/// The first `max` bytes of `text`, cut at a character.
pub fn bounded(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// UTC, to the millisecond.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (days, rest) = (seconds / 86400, seconds % 86400);
    // Civil date from days since 1970-01-01, in 400-year eras that start on 1 March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60,
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::time::Duration;

    use nix::sys::stat::Mode;

    use super::*;

    fn logger(directory: &Path) -> FifoLog {
        FifoLog { path: directory.join("log"), id: "pod".into(), fifo: Mutex::new(None) }
    }

    fn reader(directory: &Path) -> File {
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(directory.join("log")).unwrap()
    }

    fn info(logger: &FifoLog, message: &str) {
        logger.log(&Record::builder().level(Level::Info).target("vireo").args(format_args!("{message}")).build());
    }

    #[test]
    fn a_full_fifo_loses_lines_and_never_blocks() {
        let directory = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&directory.path().join("log"), Mode::S_IRWXU).unwrap();
        let _reader = reader(directory.path());
        let logger = logger(directory.path());
        for _ in 0..1000 {
            info(&logger, &"x".repeat(5000));
        }
    }

    #[test]
    fn a_reader_that_comes_back_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&directory.path().join("log"), Mode::S_IRWXU).unwrap();
        let logger = logger(directory.path());
        info(&logger, "nobody reads");
        let first = reader(directory.path());
        info(&logger, "first");
        drop(first);
        let mut second = reader(directory.path());
        info(&logger, "second \"quoted\"");
        let mut text = String::new();
        second.read_to_string(&mut text).ok();
        assert!(text.contains("level=info msg=\"second \\\"quoted\\\"\" runtime=vireo id=pod\n"), "{text}");
    }

    #[test]
    fn dates_are_civil() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000Z");
    }
}
