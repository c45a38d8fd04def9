//! Who holds the lock that is in the way of a disk.
//!
//! A lock of an open file description, which is the only one that a jail can take along, is nobody's: the kernel tells no
//! process for it. So whoever has locked a disk puts a second, shared lock beside it, of the kind (flock(2)) for which
//! the kernel does remember the process that took it. It keeps nobody out who does not ask for all of the file by that
//! call, and where it cannot be had, nothing is lost but a name.

use std::fmt;
use std::fs::{self, File};
use std::os::fd::AsRawFd;

/// A process that has locked a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number. A machine in a jail has that of the process that was started.
    pub pid: u32,
    /// Its program's name, where that can be seen.
    pub name: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}

/// Has the kernel remember this process for a file that it has locked.
pub(super) fn sign(file: &File) {
    let _ = file.try_lock_shared();
}

/// The process that has locked `file`, which this one could not lock, as far as the kernel tells.
pub(super) fn find(file: &File) -> Option<Holder> {
    // What the file is called in the list of all locks is said beside our own lock on it; stat(2) has another device on
    // file systems with parts.
    file.try_lock_shared().ok()?;
    let own = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let own = own.lines().find_map(|line| Lock::parse(line.strip_prefix("lock:")?))?;
    let pid = holder_in(&fs::read_to_string("/proc/locks").ok()?, &own)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    Some(Holder { pid, name: name.map(|name| name.trim_end().to_owned()) })
}

/// Whose lock in `locks` (proc(5), /proc/locks) is on the same file as `own`.
fn holder_in(locks: &str, own: &Lock<'_>) -> Option<u32> {
    let all = locks.lines().filter_map(Lock::parse);
    let mut others = all.filter(|lock| lock.file == own.file && lock.pid != own.pid);
    // Locks of open file descriptions have -1 here, those of other PID namespaces 0.
    others.find_map(|lock| u32::try_from(lock.pid).ok().filter(|pid| *pid != 0))
}

/// A line such as `1: FLOCK  ADVISORY  READ  1234 08:01:5678 0 EOF`.
struct Lock<'a> {
    pid: i64,
    /// Device and inode.
    file: &'a str,
}

impl<'a> Lock<'a> {
    /// One that is held; who waits for it has an arrow in the second place.
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let kind = words.next().filter(|word| *word != "->")?;
        let mut words = if kind == "LEASE" { return None } else { words.skip(2) };
        Some(Self { pid: words.next()?.parse().ok()?, file: words.next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKS: &str = "\
        1: OFDLCK ADVISORY  WRITE -1 08:01:77 0 EOF\n\
        2: POSIX  ADVISORY  WRITE 90 08:01:78 0 EOF\n\
        3: LEASE  ACTIVE    READ 91 08:01:77 0 EOF\n\
        4: FLOCK  ADVISORY  READ 100 08:01:77 0 EOF\n\
        4: -> FLOCK  ADVISORY  WRITE 92 08:01:77 0 EOF\n\
        5: FLOCK  ADVISORY  READ 0 08:01:77 0 EOF\n\
        6: FLOCK  ADVISORY  READ 101 08:01:77 0 EOF\n";

    #[test]
    fn who_holds_a_file_is_neither_us_nor_nobody() {
        let own = |pid, file| Lock { pid, file };
        assert_eq!(holder_in(LOCKS, &own(100, "08:01:77")), Some(101));
        assert_eq!(holder_in(LOCKS, &own(1, "08:01:77")), Some(100));
        assert_eq!(holder_in(LOCKS, &own(1, "08:01:78")), Some(90));
        assert_eq!(holder_in(LOCKS, &own(90, "08:01:78")), None);
        assert_eq!(holder_in("1: FLOCK\nnonsense\n\n", &own(1, "08:01:77")), None);
    }

    #[test]
    fn a_holder_is_a_number_and_a_name() {
        let mut holder = Holder { pid: 7, name: Some("vmm".to_owned()) };
        assert_eq!(holder.to_string(), "process 7 (vmm)");
        holder.name = None;
        assert_eq!(holder.to_string(), "process 7");
    }
}
