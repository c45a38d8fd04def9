//! Which CPUs of the host a thread runs on.

#![expect(unsafe_code, reason = "CPU masks are passed to the kernel by address")]

use std::io;

/// CPUs that a mask has room for: what Linux can be built for.
const CPUS: usize = 8192;
const WORD_BITS: usize = u64::BITS as usize;

/// A set of CPUs, as the kernel takes and gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuSet([u64; CPUS / WORD_BITS]);

impl CpuSet {
    /// The set of `cpus`; numbers beyond what Linux can have are left out.
    #[must_use]
    pub fn new(cpus: &[u16]) -> Self {
        let mut words = [0; CPUS / WORD_BITS];
        for cpu in cpus.iter().map(|&cpu| usize::from(cpu)) {
            if let Some(word) = words.get_mut(cpu / WORD_BITS) {
                *word |= 1 << (cpu % WORD_BITS);
            }
        }
        Self(words)
    }

    /// The CPUs that the calling thread may run on.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn of_this_thread() -> io::Result<Self> {
        let mut set = Self::new(&[]);
        // SAFETY: the kernel writes at most the given number of bytes to `set`, which is as large.
        let result =
            unsafe { libc::sched_getaffinity(0, size_of_val(&set.0), set.0.as_mut_ptr().cast()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(set) }
    }

    /// Keeps the calling thread on these CPUs.
    ///
    /// # Errors
    /// `EINVAL` when none of them is there for this process.
    pub fn pin_this_thread(&self) -> io::Result<()> {
        // SAFETY: the kernel reads the given number of bytes from `self`, which is as large.
        let result =
            unsafe { libc::sched_setaffinity(0, size_of_val(&self.0), self.0.as_ptr().cast()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// How many they are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether `cpu` is one of them.
    #[must_use]
    pub fn contains(&self, cpu: u16) -> bool {
        let cpu = usize::from(cpu);
        self.0.get(cpu / WORD_BITS).is_some_and(|word| word >> (cpu % WORD_BITS) & 1 == 1)
    }
}

/// As in the flags: numbers and ranges, such as `0-3:8`.
impl std::fmt::Display for CpuSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut cpus = (0..=u16::MAX).filter(|&cpu| self.contains(cpu)).peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ":";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_shown_as_they_are_written() {
        for (cpus, text) in [
            (&[][..], ""),
            (&[0], "0"),
            (&[0, 1, 2, 3, 8], "0-3:8"),
            (&[9, 63, 64, 65, 8191], "9:63-65:8191"),
            (&[5, 5, u16::MAX], "5"),
        ] {
            assert_eq!(CpuSet::new(cpus).to_string(), text);
            let count = (0..u16::MAX).filter(|&cpu| CpuSet::new(cpus).contains(cpu)).count();
            assert_eq!(CpuSet::new(cpus).count(), count, "{text}");
        }
    }

    #[test]
    fn a_thread_stays_where_it_is_put() {
        std::thread::spawn(|| {
            let all = CpuSet::of_this_thread().unwrap();
            let last = (0..u16::MAX).rev().find(|&cpu| all.contains(cpu)).unwrap();
            let one = CpuSet::new(&[last]);
            one.pin_this_thread().unwrap();
            assert_eq!(CpuSet::of_this_thread().unwrap(), one);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn nowhere_to_run_is_an_error() {
        let error = CpuSet::new(&[]).pin_this_thread().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
