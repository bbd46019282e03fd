use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;

/// An image with one of everything.
fn image() -> (tempfile::TempDir, ImageRoot) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("disk")).unwrap();
    fs::create_dir_all(at("files/folder")).unwrap();
    fs::write(at("disk/root.img"), "content").unwrap();
    fs::write(at("files/empty"), "").unwrap();
    fs::write(at("files/cow"), b"QFI\xfb and so on").unwrap();
    mkfifo(&at("files/fifo"), Mode::S_IRWXU).unwrap();
    drop(UnixListener::bind(at("files/socket")).unwrap());
    symlink("../disk/root.img", at("files/link")).unwrap();
    symlink("/etc/passwd", at("files/passwd")).unwrap();
    symlink("../disk", at("files/disk")).unwrap();
    let root = ImageRoot::open(dir.path()).unwrap();
    (dir, root)
}

fn refusal(result: Result<File, VolumeError>) -> String {
    result.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn only_regular_files_of_the_image_open() {
    let (_dir, root) = image();
    assert!(root.file("/disk/root.img", Purpose::Disk).is_ok());
    assert!(root.file("disk/root.img", Purpose::Boot).is_ok());
    for (path, expected) in [
        ("/disk", "/disk is a directory; an image file is needed"),
        ("/", "/ is a directory; an image file is needed"),
        ("/files/fifo", "/files/fifo is a FIFO; an image file is needed"),
        ("/files/socket", "/files/socket is a socket; an image file is needed"),
        ("/files/empty", "/files/empty is empty"),
        ("/files/none", "/files/none does not exist"),
        ("/../../etc/passwd", "/../../etc/passwd leaves the image"),
        ("/disk/../../x", "/disk/../../x leaves the image"),
    ] {
        assert_eq!(refusal(root.file(path, Purpose::Disk)), expected);
    }
    for path in ["/files/link", "/files/passwd", "/files/disk/root.img"] {
        let expected =
            format!("{path} is a symbolic link or lies behind one; links are not followed, name the file itself");
        assert_eq!(refusal(root.file(path, Purpose::Disk)), expected);
    }
    assert!(root.file("/files/empty/x", Purpose::Boot).is_err());
    assert!(root.file("/a\0b", Purpose::Boot).is_err());
}

#[test]
fn devices_of_an_image_are_not_opened() {
    // /dev is a tree of device nodes at hand without the right to make one.
    let root = ImageRoot::open(Path::new("/dev")).unwrap();
    assert_eq!(refusal(root.file("/null", Purpose::Disk)), "/null is a character device; an image file is needed");
    assert_eq!(refusal(root.file("/null", Purpose::Boot)), "/null is a character device; a regular file is needed");
}

#[test]
fn other_file_systems_are_not_entered() {
    let root = ImageRoot::open(Path::new("/")).unwrap();
    assert_eq!(refusal(root.file("/proc/self/status", Purpose::Boot)), "/proc/self/status leaves the image");
}

#[test]
fn what_was_opened_can_be_used() {
    let (dir, root) = image();
    let path = dir.path().join("disk/root.img");
    root.file("/disk/root.img", Purpose::Disk).unwrap().write_at(b"C", 0).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"Content");
    assert!(root.file("/disk/root.img", Purpose::ReadOnlyDisk).unwrap().write_at(b"c", 0).is_err());
}

#[test]
fn a_scratch_file_has_no_name() {
    let (dir, root) = image();
    fs::write(dir.path().join(".vireo-overlay-0"), "the image's own").unwrap();
    let scratch = root.scratch().unwrap();
    scratch.write_at(b"x", 0).unwrap();
    assert_eq!(scratch.metadata().unwrap().nlink(), 0);
    assert_eq!(fs::read(dir.path().join(".vireo-overlay-0")).unwrap(), b"the image's own");
    assert_eq!(root.entries("/").unwrap().len(), 2, "nothing is left in the image");
}

#[test]
fn a_local_image_is_what_its_name_says() {
    let (dir, _root) = image();
    assert!(is_named_qcow2(Path::new("/images/debian.qcow2")));
    assert!(!is_named_qcow2(Path::new("/images/qcow2")));
    let refuse = |name: &str| {
        let path = dir.path().join(name);
        refuse_other_formats(&File::open(&path).unwrap(), &path, "let its name end in .qcow2")
    };
    refuse("disk/root.img").unwrap();
    let expected = "files/cow starts like a qcow2 image; let its name end in .qcow2";
    assert!(refuse("files/cow").unwrap_err().to_string().ends_with(expected));
}

#[test]
fn a_container_disk_holds_one_image() {
    let (dir, root) = image();
    fs::write(dir.path().join("disk/.hidden"), "").unwrap();
    assert_eq!(root.container_disk().unwrap(), "/disk/root.img");
    fs::write(dir.path().join("disk/other.img"), "x").unwrap();
    let two = "/disk holds 2 files; exactly one disk image is needed there, or the volume's containerDisk.path";
    assert_eq!(root.container_disk().unwrap_err().to_string(), two);
    fs::remove_dir_all(dir.path().join("disk")).unwrap();
    let none = "the image has no /disk folder; a containerDisk image holds one disk image there";
    assert_eq!(root.container_disk().unwrap_err().to_string(), none);
    fs::write(dir.path().join("disk"), "x").unwrap();
    assert_eq!(root.container_disk().unwrap_err().to_string(), "/disk is no folder; a folder is needed");
    fs::remove_file(dir.path().join("disk")).unwrap();
    symlink("/etc", dir.path().join("disk")).unwrap();
    assert!(matches!(root.container_disk(), Err(VolumeError::Link { .. })));
}

#[test]
fn folders_are_searched_by_prefix() {
    let (_dir, root) = image();
    assert_eq!(root.starting_with("/disk", "root").unwrap(), ["/disk/root.img"]);
    assert_eq!(root.starting_with("/disk", "x").unwrap(), [""; 0]);
    assert_eq!(root.starting_with("/boot", "initrd").unwrap(), [""; 0]);
}

#[test]
fn local_files() {
    let (dir, _root) = image();
    let open = |name: &str, purpose| open_local(&dir.path().join(name), purpose);
    assert!(open("disk/root.img", Purpose::Disk).is_ok());
    // A kernel may be a link, a disk may lie behind one but not be one.
    assert!(open("files/link", Purpose::Boot).is_ok());
    assert!(open("files/disk/root.img", Purpose::Disk).is_ok());
    assert!(matches!(open("files/link", Purpose::Disk), Err(VolumeError::Link { .. })));
    assert!(matches!(open("files/none", Purpose::Boot), Err(VolumeError::Missing { .. })));
    assert!(matches!(open("files/empty", Purpose::Boot), Err(VolumeError::Empty { .. })));
    let kind = refusal(open("files/folder", Purpose::Disk));
    assert!(kind.ends_with("folder is a directory; an image file or a block device is needed"), "{kind}");
    let fifo = refusal(open("files/fifo", Purpose::Boot));
    assert!(fifo.ends_with("fifo is a FIFO; a regular file is needed"), "{fifo}");
}
