//! A child that dies with its owner.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::wait::until;

/// What is shown of a log.
const TAIL: usize = 4000;

/// A child that is killed when it is dropped, and when the thread that started it ends (`PR_SET_PDEATHSIG`).
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// The command of a child, to be given arguments and [started](Self::start).
    pub fn command(program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program.as_ref());
        command
    }

    /// Starts it; what it says goes to `<name>.log` in a folder, behind what one of its name said before.
    pub fn start(name: &str, folder: &Path, mut command: Command) -> Result<Self> {
        let log = log(folder, name);
        let file = fs::File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("open {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("run {name}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Fails, with its last words, if it has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}\n{}", self.name, self.last_words());
        }
        Ok(())
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it logs.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        last_words(&self.log)
    }

    /// The end of the log of one of that name in a folder, which may have ended.
    pub fn last_words_of(folder: &Path, name: &str) -> String {
        last_words(&log(folder, name))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Waits for its end.
    pub async fn wait(&mut self, limit: Duration) -> Result<()> {
        let what = format!("the end of {}", self.name);
        until(&what, limit, async || Ok(self.child.try_wait()?.is_some())).await
    }

    /// Kills it.
    pub fn kill(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

fn last_words(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    format!("--- {}\n{}", log.display(), String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL)..]))
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
