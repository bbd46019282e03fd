//! Resolving and fetching packages with the machine's own apt, in a private state that knows nothing installed.
//!
//! A resolution is kept for a week, so that a build is repeatable and quick; `VIREO_REFRESH=1` asks the mirror again. A suite
//! that still moves (testing) has another version then, and the mirror no longer the old one: what is built is keyed by the
//! resolution, so that it is built anew, and a build that was cut short within the week says that it needs the refresh.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{cache, progress};

const KEEP: Duration = Duration::from_hours(7 * 24);

/// A Debian release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
    /// Debian 14, which is in the making.
    Forky,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        }
    }

    /// The lines of a `sources.list`, on the mirrors that this machine uses.
    pub fn sources(self) -> Vec<String> {
        let (main, security) = mirrors();
        let name = self.name();
        vec![
            format!("deb {main} {name} main"),
            format!("deb {main} {name}-updates main"),
            format!("deb {security} {name}-security main"),
        ]
    }
}

/// The packages that a list means, with all that they depend on.
#[derive(Debug)]
pub struct Resolved {
    /// One line per package, `<file> <size> <hash>`: what a build is keyed by.
    pub text: String,
    /// Where apt keeps the files.
    archives: PathBuf,
    suite: Suite,
    packages: Vec<String>,
}

impl Resolved {
    /// Paths of the `.deb` files, fetched if they aren't there.
    pub fn fetch(&self) -> Result<Vec<PathBuf>> {
        let files: Vec<PathBuf> =
            self.text.lines().filter_map(|line| line.split(' ').next()).map(|name| self.archives.join(name)).collect();
        if files.iter().all(|file| file.is_file()) {
            return Ok(files);
        }
        progress::step(&format!("fetching {} Debian packages ({})", files.len(), self.suite.name()), || {
            let _lock = cache::lock("apt")?;
            let output = apt(self.suite)?
                .args(["install", "--download-only", "--assume-yes"])
                .args(&self.packages)
                .output()
                .context("run apt-get")?;
            ensure!(output.status.success(), "apt-get: {}", String::from_utf8_lossy(&output.stderr));
            match files.iter().find(|file| !file.is_file()) {
                None => Ok(()),
                Some(file) => {
                    bail!("{}: not what the mirror offers now; VIREO_REFRESH=1 takes the new versions", file.display())
                }
            }
        })?;
        Ok(files)
    }
}

/// Resolves a list of package names, without recommendations.
pub fn resolve(suite: Suite, packages: &[&str]) -> Result<Resolved> {
    let _lock = cache::lock("apt")?;
    let state = state(suite)?;
    let key = packages.iter().fold(cache::Key::default(), cache::Key::with).finish();
    let record = state.join(format!("resolved-{key}"));
    let mut resolved = Resolved {
        text: String::new(),
        archives: state.join("var/cache/apt/archives"),
        suite,
        packages: packages.iter().map(ToString::to_string).collect(),
    };
    let refresh = std::env::var_os("VIREO_REFRESH").is_some();
    if !refresh && is_fresh(&record) {
        resolved.text = fs::read_to_string(&record).with_context(|| format!("read {}", record.display()))?;
        return Ok(resolved);
    }
    let updated = state.join("updated");
    if refresh || !is_fresh(&updated) {
        progress::step(&format!("asking the Debian mirror for {}'s packages", suite.name()), || {
            let output = apt(suite)?.arg("update").output().context("run apt-get")?;
            ensure!(output.status.success(), "apt-get update: {}", String::from_utf8_lossy(&output.stderr));
            fs::write(&updated, "").with_context(|| format!("write {}", updated.display()))
        })?;
    }
    let output = apt(suite)?
        .args(["install", "--print-uris", "--assume-yes", "--quiet=2"])
        // Files that are there already would not be printed.
        .arg("--option=Dir::Cache::Archives=nothing-here/")
        .args(packages)
        .output()
        .context("run apt-get")?;
    ensure!(
        output.status.success(),
        "apt-get can't resolve {}: {}",
        packages.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    // 'http://…/foo_1_amd64.deb' foo_1_amd64.deb 1234 SHA256:…
    for line in String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.starts_with('\'')) {
        let rest = line.split_once("' ").with_context(|| format!("unexpected line of apt-get: {line}"))?.1;
        resolved.text += rest;
        resolved.text.push('\n');
    }
    fs::write(&record, &resolved.text).with_context(|| format!("write {}", record.display()))?;
    Ok(resolved)
}

fn is_fresh(path: &Path) -> bool {
    let age = fs::metadata(path).and_then(|data| data.modified()).ok().and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age < KEEP)
}

/// apt's private folder for a suite.
fn state(suite: Suite) -> Result<PathBuf> {
    private(suite.name(), &suite.sources())
}

/// A private folder of apt's, with its own list of sources.
pub(super) fn private(name: &str, sources: &[String]) -> Result<PathBuf> {
    let root = cache::root()?.join("apt").join(name);
    for folder in
        ["etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/lib/dpkg", "var/cache/apt/archives/partial"]
    {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("create {folder} in {}", root.display()))?;
    }
    fs::create_dir_all(root.join("var/cache/apt/nothing-here/partial"))?;
    fs::write(root.join("etc/apt/sources.list"), sources.join("\n") + "\n")?;
    fs::write(root.join("var/lib/dpkg/status"), "")?;
    Ok(root)
}

fn apt(suite: Suite) -> Result<Command> {
    Ok(apt_in(&cache::root()?.join("apt").join(suite.name())))
}

/// apt-get on a private folder. The machine's own settings (a proxy, say) stay in force.
pub(super) fn apt_in(root: &Path) -> Command {
    let mut command = Command::new("apt-get");
    command.stdin(Stdio::null()).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    let root = root.display();
    for option in [
        &format!("Dir={root}"),
        &format!("Dir::State::status={root}/var/lib/dpkg/status"),
        "Dir::Etc::sourcelist=sources.list",
        "Dir::Etc::sourceparts=/dev/null",
        "Dir::Etc::trusted=/usr/share/keyrings/debian-archive-keyring.gpg",
        "Dir::Etc::trustedparts=/usr/share/keyrings/",
        "APT::Architecture=amd64",
        "APT::Architectures=amd64",
        "APT::Install-Recommends=false",
        "APT::Sandbox::User=root",
        "Acquire::Languages=none",
        "Acquire::Retries=3",
        "Debug::NoLocking=true",
    ] {
        command.args(["-o", option]);
    }
    command
}

/// The mirrors of this machine's own sources, or Debian's.
pub(super) fn mirrors() -> (String, String) {
    let mut main = None;
    let mut security = None;
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)", "Created-By: Packages"])
        .output();
    for line in output.iter().flat_map(|output| std::str::from_utf8(&output.stdout)).flat_map(str::lines) {
        let mut words = line.split(' ');
        if let (Some("Debian"), Some(codename), Some(uri)) = (words.next(), words.next(), words.next()) {
            let place = if codename.ends_with("-security") { &mut security } else { &mut main };
            place.get_or_insert_with(|| uri.to_owned());
        }
    }
    (
        main.unwrap_or_else(|| "http://deb.debian.org/debian".to_owned()),
        security.unwrap_or_else(|| "http://deb.debian.org/debian-security".to_owned()),
    )
}
