//! The pod's own identity, for looking at files that the pod shares with others: what its user may not read, its machine
//! must not either.

use std::io;
use std::panic::resume_unwind;
use std::thread;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

/// Whom files are opened as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User, not root.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups: a pod's `fsGroup` and `supplementalGroups`.
    pub groups: Vec<u32>,
}

impl Identity {
    /// Does `work` on a thread of its own, whose rights to files are those of this identity: the kernel takes the
    /// capabilities that overrule file modes away with root's file system uid (capabilities(7)).
    pub fn with<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.assume()?;
                Ok(work())
            });
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// For this thread, and for good.
    fn assume(&self) -> io::Result<()> {
        // The C library would change every thread's groups.
        // SAFETY: the list is as long as it says.
        let done = unsafe { libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        setfsgid(gid);
        setfsuid(uid);
        // They tell nothing but what was there before, also when they have done nothing.
        if setfsgid(gid) != gid || setfsuid(uid) != uid {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt, chown};

    #[test]
    fn files_open_with_the_identitys_rights_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "content").unwrap();
        chown(&file, Some(2000), Some(3000)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let opens = |uid, gid, groups: &[u32]| {
            Identity { uid, gid, groups: groups.to_vec() }.with(|| File::open(&file).is_ok()).unwrap()
        };
        assert!(opens(2000, 1, &[]));
        assert!(opens(1, 3000, &[]));
        assert!(opens(1, 1, &[7, 3000]));
        assert!(!opens(1, 1, &[7]));
        assert!(File::open(&file).is_ok(), "this thread is root still");
    }
}
