//! Filters of the user's: a file as Firecracker's `seccompiler-bin` makes it.
//!
//! That is a map in bincode's encoding with integers of fixed size, little-endian: a count, then for each kind of thread
//! its name (a count and bytes) and its instructions (a count and eight bytes each).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::Thread;

/// Most bytes of a file (Firecracker's limit).
const MAX_FILE: u64 = 100_000;
/// Most instructions of a filter (`BPF_MAXINSNS` of Linux).
const MAX_PROGRAM: usize = 4096;
/// The kinds of threads that a file has filters for. Loops of their own get the first one.
const NAMES: [&str; 3] = ["vmm", "vcpu", "api"];

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CustomError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// It is too large.
    #[error("it has more than {MAX_FILE} bytes")]
    TooLarge,
    /// It has another layout.
    #[error(
        "it is not in the binary layout that Firecracker's seccompiler-bin writes (bincode); JSON is compiled by that \
         program first, and files of releases that write bitcode cannot be read"
    )]
    Layout,
    /// A filter is missing.
    #[error("it has no filter for threads called {name:?}")]
    Missing {
        /// Their name.
        name: &'static str,
    },
    /// A filter that the kernel cannot take.
    #[error(
        "the filter for threads called {name:?} has {count} instructions, and 1 to {MAX_PROGRAM} are possible"
    )]
    Length {
        /// Their name.
        name: &'static str,
        /// How many it has.
        count: usize,
    },
}

/// The filters of a file.
#[derive(Debug)]
pub(super) struct Custom {
    /// In the order of [`NAMES`].
    programs: [Vec<u64>; 3],
}

impl Custom {
    /// Reads the file at `path`.
    pub(super) fn read(path: &Path) -> Result<Self, CustomError> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(CustomError::TooLarge);
        }
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self, CustomError> {
        let mut programs = [const { Vec::new() }; 3];
        let known = map(bytes, &mut programs).ok_or(CustomError::Layout)?;
        for ((name, program), known) in NAMES.into_iter().zip(&programs).zip(known) {
            let count = program.len();
            if !known {
                return Err(CustomError::Missing { name });
            }
            if count == 0 || count > MAX_PROGRAM {
                return Err(CustomError::Length { name, count });
            }
        }
        Ok(Self { programs })
    }

    /// The filter of a thread.
    pub(super) fn program(&self, thread: Thread) -> &[u64] {
        let [vmm, vcpu, api] = &self.programs;
        match thread {
            Thread::Main | Thread::Io => vmm,
            Thread::Vcpu => vcpu,
            Thread::Api => api,
        }
    }
}

/// Reads the whole of `bytes` as a map into `programs`, in the order of [`NAMES`], and tells which were there. Names count
/// in any case; the last of several counts, and what is called otherwise does not.
fn map(bytes: &[u8], programs: &mut [Vec<u64>; 3]) -> Option<[bool; 3]> {
    let mut rest = bytes;
    let mut known = [false; 3];
    for _ in 0..number(&mut rest)? {
        let len = usize::try_from(number(&mut rest)?).ok()?;
        let (name, after) = rest.split_at_checked(len)?;
        rest = after;
        let mut program = Vec::new();
        // Each takes eight bytes, so there cannot be more than the file has.
        for _ in 0..number(&mut rest)? {
            program.push(number(&mut rest)?);
        }
        for ((own, place), is_known) in NAMES.into_iter().zip(&mut *programs).zip(&mut known) {
            if name.eq_ignore_ascii_case(own.as_bytes()) {
                (*place, *is_known) = (std::mem::take(&mut program), true);
            }
        }
    }
    rest.is_empty().then_some(known)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(filters: &[(&str, usize)]) -> Vec<u8> {
        let number = |n: usize| (n as u64).to_le_bytes().to_vec();
        let mut bytes = number(filters.len());
        for (name, count) in filters {
            bytes.extend([number(name.len()), name.as_bytes().to_vec(), number(*count)].concat());
            bytes.extend((0..*count).flat_map(number));
        }
        bytes
    }

    const WHOLE: [(&str, usize); 3] = [("Api", 2), ("Vcpu", 3), ("Vmm", 4)];

    #[test]
    fn each_thread_gets_its_filter() {
        let custom = Custom::parse(&file(&WHOLE)).unwrap();
        let lens = [Thread::Main, Thread::Io, Thread::Vcpu, Thread::Api];
        assert_eq!(lens.map(|thread| custom.program(thread).len()), [4, 4, 3, 2]);
        assert_eq!(custom.program(Thread::Vcpu), [0, 1, 2]);
    }

    #[test]
    fn every_cut_and_every_excess_is_noticed() {
        let whole = file(&WHOLE);
        for len in 0..whole.len() {
            let error = Custom::parse(&whole[..len]).unwrap_err();
            assert!(matches!(error, CustomError::Layout | CustomError::Missing { .. }), "{error}");
        }
        let more = [whole, vec![0]].concat();
        assert!(matches!(Custom::parse(&more), Err(CustomError::Layout)));
        assert!(matches!(Custom::parse(b"{\"Vmm\": {}}"), Err(CustomError::Layout)));
    }

    #[test]
    fn filters_that_are_missing_or_impossible_are_named() {
        let error = Custom::parse(&file(&WHOLE[..2])).unwrap_err();
        assert!(matches!(error, CustomError::Missing { name: "vmm" }), "{error}");
        for count in [0, MAX_PROGRAM + 1] {
            let error = Custom::parse(&file(&[("api", count), WHOLE[1], WHOLE[2]])).unwrap_err();
            assert!(matches!(error, CustomError::Length { name: "api", .. }), "{error}");
        }
    }
}
