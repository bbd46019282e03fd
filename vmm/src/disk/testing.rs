//! Images and guest memory for tests: of the engine, and of what stands on it.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Access, Image, Options, open};
use crate::config::ImageFormat;
use crate::memory::GuestRam;
use crate::memory::guest_buffers::GuestBuffers;

/// Size of the disks here, bytes: some clusters of every size, and not a whole number of the larger ones.
pub const SIZE: usize = (300 << 10) + 512;

/// Runs qemu-img, which knows qcow2 better than anybody.
pub fn qemu_img(args: &[&str]) {
    let output = Command::new("qemu-img").args(args).output().expect("qemu-img (tests/setup.sh installs it)");
    // 3: leaked clusters, which are what a sudden end costs.
    let fine = output.status.success() || args[0] == "check" && output.status.code() == Some(3);
    assert!(fine, "qemu-img {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Bytes that compress, and are all different.
pub fn content() -> Vec<u8> {
    (0..SIZE).map(|at| u8::try_from((at / 512 * 7 + at % 11) % 251).unwrap()).collect()
}

/// A folder with an image in it.
#[derive(Debug)]
pub struct Fixture {
    dir: tempfile::TempDir,
    pub format: ImageFormat,
    overlay: bool,
    direct: bool,
}

impl Fixture {
    /// A raw image with [`content`].
    pub fn raw() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("disk"), content()).unwrap();
        Self { dir, format: ImageFormat::Raw, overlay: false, direct: false }
    }

    /// The same as qcow2, made with the `-o` options `options`; compressed if `-c` is the first of `flags`.
    pub fn qcow2(options: &str, flags: &[&str]) -> Self {
        let raw = Self::raw();
        let (from, to) = (raw.path("disk"), raw.path("disk.qcow2"));
        let options = if options.is_empty() { "lazy_refcounts=off" } else { options };
        let tail = ["-o", options, from.to_str().unwrap(), to.to_str().unwrap()];
        qemu_img(&[&["convert", "-f", "raw", "-O", "qcow2"], flags, &tail].concat());
        std::fs::rename(to, from).unwrap();
        Self { format: ImageFormat::Qcow2, ..raw }
    }

    /// With an overlay that takes the writes.
    pub fn overlaid(self) -> Self {
        Self { overlay: true, ..self }
    }

    /// Past the page cache, where the file system of temporary files can (tmpfs since Linux 6.6).
    pub fn direct(self) -> Self {
        Self { direct: true, ..self }
    }

    /// The same file, to be taken for something else.
    pub fn of(self, format: ImageFormat) -> Self {
        Self { format, ..self }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn file(&self, write: bool) -> File {
        OpenOptions::new().read(true).write(write).open(self.path("disk")).unwrap()
    }

    /// Opens it, writable.
    pub fn open(&self) -> Disk {
        let scratch = self.overlay.then(|| scratch(&self.path("overlay")));
        let options = Options { readonly: false, ..self.options() };
        Disk::new(open(self.file(!self.overlay), scratch, options).unwrap())
    }

    /// Has qemu-img look for errors in the image.
    pub fn check(&self) {
        if self.format == ImageFormat::Qcow2 {
            qemu_img(&["check", "-q", "-f", "qcow2", self.path("disk").to_str().unwrap()]);
        }
    }

    /// Has qemu-img look at the image, and at its content unless it lies under an overlay.
    pub fn verify(&self, model: &[u8], what: &str) {
        self.check();
        let (disk, raw) = (self.path("disk"), self.path("raw"));
        let (path, format) = (disk.to_str().unwrap(), if self.format == ImageFormat::Raw { "raw" } else { "qcow2" });
        if !self.overlay {
            qemu_img(&["convert", "-f", format, "-O", "raw", path, raw.to_str().unwrap()]);
            assert!(std::fs::read(raw).unwrap() == model, "{what}: as qemu-img reads it");
        }
    }

    pub fn options(&self) -> Options {
        Options { format: self.format, readonly: true, shareable: false, direct: self.direct, block: 512 }
    }

    /// What opening it to be read says is wrong with it.
    pub fn refusal(&self) -> String {
        let refusal = open(self.file(false), None, self.options()).expect_err("an image that is refused");
        crate::control::serve::chain(&refusal)
    }
}

fn scratch(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// An image with guest memory to read it to and write it from, in pieces.
#[derive(Debug)]
pub struct Disk {
    pub image: Arc<dyn Image>,
    ram: GuestRam,
}

impl Disk {
    pub fn new(image: Arc<dyn Image>) -> Self {
        Self { image, ram: Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()) }
    }

    /// A list of `len` bytes of guest memory, cut at odd places.
    fn buffers(&self, len: usize) -> GuestBuffers {
        let mut buffers = GuestBuffers::new(Arc::clone(&self.ram));
        let mut at = 0;
        for part in [512, 4096, 65024].into_iter().cycle() {
            let part = part.min(len - at);
            if part == 0 {
                break;
            }
            buffers.push(GuestAddress(at as u64), part).unwrap();
            at += part;
        }
        buffers
    }

    pub fn read(&self, offset: usize, len: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0xEE; len];
        self.ram.write_slice(&bytes, GuestAddress(0)).unwrap();
        let mut buffers = self.buffers(len);
        let _hold = self.image.hold();
        self.image.read(&mut buffers, offset as u64)?;
        assert!(buffers.is_empty());
        self.ram.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        Ok(bytes)
    }

    pub fn write(&self, offset: usize, bytes: &[u8]) -> std::io::Result<()> {
        self.ram.write_slice(bytes, GuestAddress(0)).unwrap();
        let mut buffers = self.buffers(bytes.len());
        let _hold = self.image.hold();
        self.image.write(&mut buffers, offset as u64)?;
        assert!(buffers.is_empty());
        Ok(())
    }

    /// The same, in place if that can be, as a ring does it.
    pub fn write_as_may_be(&self, offset: usize, bytes: &[u8]) -> std::io::Result<()> {
        self.ram.write_slice(bytes, GuestAddress(0)).unwrap();
        let mut buffers = self.buffers(bytes.len());
        let _hold = self.image.hold();
        let Some(place) = self.image.in_place(&buffers, offset as u64, Access::Write) else {
            return self.image.write(&mut buffers, offset as u64);
        };
        buffers.write_all_at(place.file, place.offset)?;
        self.image.written_in_place();
        Ok(())
    }
}
