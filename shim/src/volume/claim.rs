//! Claims: volumes that a pod shares with others, as folders in its container or as devices; and folders of the node.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::stat::Mode;
use oci_spec::runtime::Spec;
use vireo_runtimeclass::pod::{CLAIM_IMAGE, CLAIMS_DIR, VARIABLES_DIR, VARIABLES_FILE};
use vireo_vmm::disk::lock::lock;

use super::device::device;
use super::{ImageRoot, Mounted, NewDisk, Purpose, VolumeError};

const CLAIM: &str = "claim";
/// No file of variables is larger: a flash has 16 MiB at most.
pub const MAX_VARIABLES: u64 = 16 << 20;
/// Bytes of a file of variables without which it isn't one: a firmware volume's header is among them.
const BEGINNING: usize = 64;

/// What a claim gave.
#[derive(Debug)]
pub struct ClaimDisk {
    /// An image, or the device.
    pub image: File,
    /// The claim is in block mode.
    pub is_device: bool,
}

/// Opens the claim of the volume `name`, as `uid` and `gid`: the disk image in its file system, which is made first if it
/// is `new`, or the device that it is.
pub fn claim_disk(
    oci: &Spec,
    ids: (u32, u32),
    name: &str,
    (purpose, new): (Purpose, Option<NewDisk>),
) -> Result<ClaimDisk, VolumeError> {
    let (place, node) = (Path::new(CLAIMS_DIR).join(name), Path::new("/dev").join(name));
    if let Some(mounted) = Mounted::find(oci, ids, &place, CLAIM) {
        let image = mounted.folder(|root| disk(root, CLAIM_IMAGE, (purpose, new)))?;
        return Ok(ClaimDisk { image, is_device: false });
    }
    match device(oci, &node, purpose)? {
        Some(image) => Ok(ClaimDisk { image, is_device: true }),
        None => Err(not_mounted(CLAIM, &place, format!(", or have it as the device {} in block mode", node.display()))),
    }
}

/// Opens the file `image` of the node's folder that is mounted for the volume `name`, likewise.
pub fn host_disk(
    oci: &Spec,
    ids: (u32, u32),
    (name, image): (&str, &str),
    (purpose, new): (Purpose, Option<NewDisk>),
) -> Result<File, VolumeError> {
    let place = Path::new(CLAIMS_DIR).join(name);
    let mounted = Mounted::find(oci, ids, &place, "folder");
    let mounted = mounted.ok_or_else(|| not_mounted("folder", &place, String::new()))?;
    mounted.folder(|root| match new {
        // The folder is the node's: a disk as large as what is free there would take it from everybody else.
        Some(NewDisk { capacity: None, .. }) => match root.file(image, purpose) {
            Err(VolumeError::Missing { path } | VolumeError::Empty { path }) => Err(VolumeError::NoCapacity { path }),
            done => done,
        },
        new => disk(root, image, (purpose, new)),
    })
}

fn disk(root: &ImageRoot, name: &str, (purpose, new): (Purpose, Option<NewDisk>)) -> Result<File, VolumeError> {
    match new {
        Some(new) => new.open(root, name),
        None => root.file(name, purpose),
    }
}

fn not_mounted(what: &'static str, place: &Path, or: String) -> VolumeError {
    VolumeError::NotMounted { what, place: place.display().to_string(), or }
}

/// Opens the EFI variables in the claim with the machine's state, as `uid` and `gid`; made of `template` where there are none.
/// They are locked as long as the file is open.
pub fn claim_variables(oci: &Spec, ids: (u32, u32), template: &File) -> Result<File, VolumeError> {
    let place = Path::new(VARIABLES_DIR);
    let mounted = Mounted::find(oci, ids, place, CLAIM);
    mounted.ok_or_else(|| not_mounted(CLAIM, place, String::new()))?.folder(|root| {
        let path = || VARIABLES_FILE.to_owned();
        let file = root.state(VARIABLES_FILE, Mode::S_IRUSR | Mode::S_IWUSR)?;
        lock(&file, false).map_err(|source| VolumeError::Locked { path: path(), source })?;
        fill(&file, template).map_err(|source| VolumeError::Open { path: path(), source })?;
        Ok(file)
    })
}

/// Makes `file` a copy of `template`, unless it has a beginning: that is written last, so that a copy which was cut short is
/// made again.
fn fill(file: &File, template: &File) -> io::Result<()> {
    let mut start = [0; BEGINNING];
    if file.read_at(&mut start, 0)? > 0 && start != [0; BEGINNING] {
        return Ok(());
    }
    let size = template.metadata()?.len();
    let mut content = Vec::new();
    template.take(MAX_VARIABLES + 1).read_to_end(&mut content)?;
    if content.len() as u64 != size || size > MAX_VARIABLES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "the node's EFI variables are more than any flash has",
        ));
    }
    let (start, rest) = content.split_at(content.len().min(BEGINNING));
    file.set_len(size)?;
    file.write_all_at(rest, start.len() as u64)?;
    file.sync_all()?;
    file.write_all_at(start, 0)?;
    file.sync_all()
}
