//! The QEMU process of a node.

use std::{
    fs,
    io::Read as _,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    Agent, Record,
    accel::{self, Accel},
    emulator::Emulator,
    image::{self, Image},
    protocol::TOKEN_LENGTH,
    record::start_time,
    share::{Build, Share, builds_folder},
};
use crate::{
    cache::hex,
    debian::{self, Kernel},
    guest::{self, debian::Debian},
    progress,
};

/// Long, for machines under load; an idle one needs four seconds.
const BOOT_DEADLINE: Duration = Duration::from_mins(2);

/// What a node is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its host name.
    pub name: String,
    /// What runs it.
    pub emulator: Emulator,
    /// Kernel of the node.
    pub kernel: Kernel,
    /// Root and initrd of the node.
    pub image: Image,
    /// Further read-only layers over the root.
    pub layers: Vec<PathBuf>,
    /// The full Debian guest. Its disk is `/dev/disk/guest` in the node: written to, it forgets that when the node ends. Its
    /// files are in `/guest`.
    pub guest: Option<Debian>,
    /// The disk at `/vireo`.
    pub share: PathBuf,
    /// Where its logs go.
    pub folder: PathBuf,
    /// RAM, MiB.
    pub memory_mib: u32,
    /// vCPUs.
    pub cpus: u32,
    /// A tap of this network namespace, which becomes its `eth1`.
    pub tap: Option<String>,
    /// Whether it has cgroup v1 instead of v2.
    pub cgroup_v1: bool,
    /// Whether it goes on running when this program ends; see [`Record`].
    pub keep: bool,
}

impl Options {
    /// Builds all that a node needs, with this build's binaries; logs go to `node-<name>` in the build's folder.
    pub fn prepare(name: &str, build: Build, qemu: bool) -> Result<Self> {
        let kernel = debian::kernel()?;
        let image = image::image(&kernel)?;
        let layers = if qemu { vec![image::qemu_layer()?] } else { Vec::new() };
        let guests = guest::Images::build(&kernel)?;
        let folder = builds_folder()?.join(format!("node-{name}"));
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        // A node that runs has the file open: a new one must not write into it.
        let share = folder.join("share.img");
        let _ = fs::remove_file(&share);
        Share::collect(&folder, build, &guests)?.pack(&share)?;
        Ok(Self {
            name: name.to_owned(),
            emulator: Emulator::prepare()?,
            kernel,
            image,
            layers,
            guest: None,
            share,
            folder,
            memory_mib: 3072,
            cpus: 2,
            tap: None,
            cgroup_v1: false,
            keep: false,
        })
    }
}

/// A running node; dropping it kills it.
#[derive(Debug)]
pub struct Node {
    qemu: Option<Child>,
    agent: Agent,
    folder: PathBuf,
}

impl Node {
    /// Boots a node and waits until it answers.
    pub fn boot(options: &Options) -> Result<Self> {
        let accel = accel::choose(options)?;
        let how = match accel {
            Accel::Kvm => "on nested KVM",
            Accel::Tcg => "emulated: nested KVM does not work on this machine",
        };
        progress::step(&format!("booting node {} ({how})", options.name), || {
            Self::boot_on(accel, options, BOOT_DEADLINE)
        })
    }

    pub(super) fn boot_on(accel: Accel, options: &Options, deadline: Duration) -> Result<Self> {
        fs::create_dir_all(&options.folder)?;
        let port = free_port()?;
        let agent = Agent::new(port, token()?);
        let mut node = Self { qemu: None, agent, folder: options.folder.clone() };
        let serial = options.folder.join("serial.log");
        let errors = options.folder.join("qemu.log");
        // A log of an earlier boot would be shown as this one's.
        let _ = fs::remove_file(&serial);
        // Either the node dies with the thread that boots it (PR_SET_PDEATHSIG), or no signal to us reaches it.
        let mut command = if options.keep {
            Command::new("setsid")
        } else {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL"]);
            command
        };
        options.emulator.add_to(&mut command);
        node.arguments(&mut command, accel, options, port, &serial);
        let errors = fs::File::create(&errors)?;
        command.stdin(Stdio::null()).stdout(errors.try_clone()?).stderr(errors);
        node.qemu = Some(command.spawn().context("run QEMU")?);
        node.wait(deadline)?;
        Ok(node)
    }

    /// Lets a node that was booted with `keep` go on, and remembers it.
    pub fn into_kept(mut self) -> Result<Record> {
        let qemu = self.qemu.take().context("a node has its QEMU")?;
        let pid = i32::try_from(qemu.id())?;
        let started = start_time(pid).context("QEMU has ended")?;
        let record = Record { pid, started, agent: self.agent.clone(), folder: self.folder.clone() };
        record.save()?;
        Ok(record)
    }

    fn arguments(&self, command: &mut Command, accel: Accel, options: &Options, port: u16, serial: &std::path::Path) {
        let token = self.agent.token();
        // vda is the root, vdb the share, layers follow.
        let letters = ('c'..='z').take(options.layers.len());
        let layers = std::iter::once('a').chain(letters).map(|letter| format!("vd{letter}")).collect::<Vec<_>>();
        let append = format!(
            "console=ttyS0 reboot=t panic=-1 quiet mitigations=off tsc=reliable vireo.layers={} vireo.share=vdb \
             vireo.name={} vireo.token={token}{}",
            layers.join(","),
            options.name,
            if options.cgroup_v1 { " vireo.cgroups=v1" } else { "" },
        );
        command.args(accel.arguments());
        command.args(["-name", &options.name, "-M", "pc", "-nodefaults", "-no-reboot", "-display", "none"]);
        command.args(["-smp", &options.cpus.to_string(), "-m", &options.memory_mib.to_string()]);
        command.arg("-kernel").arg(options.kernel.vmlinux()).arg("-initrd").arg(&options.image.initrd);
        command.args(["-append", &append]);
        for (index, disk) in [&options.image.root, &options.share].into_iter().chain(&options.layers).enumerate() {
            let path = disk.display().to_string().replace(',', ",,");
            command.args(["-drive", &format!("if=none,id=d{index},file={path},format=raw,readonly=on")]);
            command.args(["-device", &format!("virtio-blk-pci,drive=d{index}")]);
        }
        if let Some(Debian { disk, files }) = &options.guest {
            for (name, path, how) in [("guest", disk, "snapshot=on"), ("guest-files", files, "readonly=on")] {
                let path = path.display().to_string().replace(',', ",,");
                command.args(["-drive", &format!("if=none,id={name},file={path},format=raw,{how}")]);
                command.args(["-device", &format!("virtio-blk-pci,drive={name},serial={name}")]);
            }
        }
        let forward = format!("hostfwd=tcp:127.0.0.1:{port}-:{}", super::protocol::PORT);
        command.args(["-netdev", &format!("user,id=n0,net=192.168.76.0/24,host=192.168.76.2,{forward}")]);
        command.args(["-device", "virtio-net-pci,netdev=n0", "-device", "virtio-rng-pci"]);
        if let Some(tap) = &options.tap {
            command.args(["-netdev", &format!("tap,id=n1,ifname={tap},script=no,downscript=no")]);
            command.args(["-device", "virtio-net-pci,netdev=n1,mac=52:54:00:99:00:02"]);
        }
        command.arg("-serial").arg(format!("file:{}", serial.display()));
    }

    fn wait(&mut self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        while !self.agent.answers() {
            let qemu = self.qemu.as_mut().context("a booting node has its QEMU")?;
            if let Some(status) = qemu.try_wait()? {
                bail!("QEMU ended with {status}\n{}", self.last_words());
            }
            if Instant::now() > end {
                bail!("the node is not up after {} s\n{}", deadline.as_secs(), self.last_words());
            }
            // Nothing tells when the port begins to answer: it has to be asked.
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Runs commands in it.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Where its logs are.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// The end of QEMU's and of the node's console's output.
    pub fn last_words(&self) -> String {
        ["qemu.log", "serial.log"]
            .iter()
            .map(|name| {
                let bytes = fs::read(self.folder.join(name)).unwrap_or_default();
                let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(2000)..]).into_owned();
                format!("--- {name}\n{text}\n")
            })
            .collect::<Vec<_>>()
            .concat()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut qemu) = self.qemu.take() {
            // Fails only if it has ended already.
            let _ = qemu.kill();
            let _ = qemu.wait();
        }
    }
}

/// A port nobody listens on. Another program may take it before QEMU does; QEMU then says so and ends.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// What keeps other users of this machine out of the node.
fn token() -> Result<String> {
    let mut bytes = [0; TOKEN_LENGTH / 2];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(hex(&bytes))
}
