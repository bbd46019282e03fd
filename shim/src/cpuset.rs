//! Host CPUs for a machine's threads, of those that the kubelet's CPU manager has given to the container alone.
//!
//! A vCPU thread binds itself before its guest runs, and may not do so again in its jail. The shim binds the others, and all of them
//! anew when the container's CPUs change, from outside. It knows them by their names, which are the VMM's own word: a false
//! one costs that VMM its own order, for the cgroup's CPUs hold whatever a thread is bound to.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// CPUs of a list are numbered below this.
const MAX_HOST_CPUS: u16 = 1024;

/// Which CPUs a machine's threads keep to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Each vCPU's own, by its index.
    pub vcpus: Vec<u16>,
    /// Those of all other threads; none means any of the container's.
    pub others: Vec<u16>,
    isolated: bool,
}

impl Placement {
    /// Gives each of `vcpus` vCPUs one of the CPUs in `list` (Linux, cpuset(7), "List format"), in their order; `isolated` keeps the
    /// other threads on those that are left.
    ///
    /// # Errors
    /// What is wrong with the list, in words.
    pub fn new(list: &str, vcpus: usize, isolated: bool) -> Result<Placement, String> {
        let mut cpus = parse_list(list).ok_or_else(|| format!("the container's CPU list is {list:?}"))?;
        let wanted = vcpus + usize::from(isolated);
        if cpus.len() < wanted {
            let emulator = if isolated { " and one for the emulator's threads" } else { "" };
            return Err(format!(
                "the container has {} CPUs of its own for {vcpus} vCPUs{emulator}; it takes a node whose kubelet has cpuManagerPolicy \
                 static, and equal CPU requests and limits of at least {wanted}",
                cpus.len()
            ));
        }
        let left = cpus.split_off(vcpus);
        Ok(Placement { vcpus: cpus, others: if isolated { left } else { Vec::new() }, isolated })
    }

    /// The same machine on other CPUs.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn moved(&self, list: &str) -> Result<Placement, String> {
        Self::new(list, self.vcpus.len(), self.isolated)
    }

    /// Binds the threads that process `pid` has now. Threads that end meanwhile are passed over.
    ///
    /// # Errors
    /// The kernel's, of the first thread that can't be bound.
    pub fn bind_threads(&self, pid: u32) -> io::Result<()> {
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let entry = entry?;
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let thread = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let (Some(cpus), Some(thread)) = (self.of_thread(name.trim_end()), thread) else { continue };
            bind(thread, cpus)?;
        }
        Ok(())
    }

    /// The CPUs of the thread that the VMM calls `name`; none if it may use all.
    fn of_thread(&self, name: &str) -> Option<&[u16]> {
        let vcpu = name.strip_prefix("vcpu").and_then(|index| index.parse::<usize>().ok());
        match vcpu.and_then(|index| self.vcpus.get(index..=index)) {
            Some(own) => Some(own),
            None => (!self.others.is_empty()).then_some(&self.others),
        }
    }
}

/// Binds a thread; one that is gone is no error.
fn bind(thread: i32, cpus: &[u16]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().try_for_each(|cpu| set.set(usize::from(*cpu)))?;
    match sched_setaffinity(Pid::from_raw(thread), &set) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// `0-3,8` (Linux, cpuset(7), "List format").
fn parse_list(text: &str) -> Option<Vec<u16>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MAX_HOST_CPUS {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::Builder;

    use nix::sched::sched_getaffinity;

    use super::*;

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_list("0-2,8\n"), Some(vec![0, 1, 2, 8]));
        assert_eq!(parse_list("5,3,3-5"), Some(vec![3, 4, 5]));
        assert_eq!(parse_list(""), Some(vec![]));
        for wrong in ["a", "3-1", "0-4294967295", "-1", "1024"] {
            assert_eq!(parse_list(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn vcpus_come_first_and_the_rest_is_the_emulators() {
        let shared = Placement::new("4-7", 2, false).unwrap();
        assert_eq!((&shared.vcpus[..], &shared.others[..]), (&[4, 5][..], &[][..]));
        let isolated = Placement::new("4-7", 2, true).unwrap();
        assert_eq!((&isolated.vcpus[..], &isolated.others[..]), (&[4, 5][..], &[6, 7][..]));
        assert_eq!(isolated.of_thread("vcpu1"), Some(&[5][..]));
        for other in ["vireo-vmm", "blk0.0", "vcpu2", "vcpu"] {
            assert_eq!(isolated.of_thread(other), Some(&[6, 7][..]), "{other}");
            assert_eq!(shared.of_thread(other), None, "{other}");
        }
        let moved = isolated.moved("1-3").unwrap();
        assert_eq!((&moved.vcpus[..], &moved.others[..]), (&[1, 2][..], &[3][..]));
        let few = isolated.moved("1-2").unwrap_err();
        assert!(few.starts_with("the container has 2 CPUs of its own for 2 vCPUs and one for the emulator's"), "{few}");
    }

    #[test]
    fn threads_are_bound_by_their_names() {
        let own = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let host: Vec<u16> = (0..MAX_HOST_CPUS).filter(|cpu| own.is_set(usize::from(*cpu)).unwrap_or(false)).collect();
        let last = *host.last().unwrap();
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        // A process of its own would be kinder, but the other threads here are bound to what they may use anyway.
        let thread = Builder::new().name("vcpu0".into()).spawn(move || {
            tell.send(nix::unistd::gettid()).unwrap();
            let _ = ended.recv();
        });
        let id = told.recv().unwrap();
        let placement = Placement { vcpus: vec![last], others: host, isolated: true };
        placement.bind_threads(std::process::id()).unwrap();
        let bound = sched_getaffinity(id).unwrap();
        let cpus: Vec<usize> = (0..CpuSet::count()).filter(|cpu| bound.is_set(*cpu).unwrap()).collect();
        assert_eq!(cpus, [usize::from(last)]);
        drop(end);
        thread.unwrap().join().unwrap();
    }
}
