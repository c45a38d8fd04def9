//! Filters of the user's: a file as Firecracker's `seccompiler-bin` makes it.
//!
//! That is a map in bincode's encoding with integers of fixed size, little-endian: a count, then for each kind of thread
//! its name (a count and bytes) and its instructions (a count and eight bytes each).

use std::collections::BTreeMap;
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
        let mut all = map(bytes).ok_or(CustomError::Layout)?;
        let mut take = |name| match all.remove(name) {
            None => Err(CustomError::Missing { name }),
            Some(program) if program.is_empty() || program.len() > MAX_PROGRAM => {
                Err(CustomError::Length { name, count: program.len() })
            }
            Some(program) => Ok(program),
        };
        let [vmm, vcpu, api] = NAMES;
        Ok(Self { programs: [take(vmm)?, take(vcpu)?, take(api)?] })
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

/// The whole of `bytes` as a map; names count in any case.
fn map(bytes: &[u8]) -> Option<BTreeMap<String, Vec<u64>>> {
    let mut rest = bytes;
    let mut map = BTreeMap::new();
    for _ in 0..number(&mut rest)? {
        let len = usize::try_from(number(&mut rest)?).ok()?;
        let (name, after) = rest.split_at_checked(len)?;
        rest = after;
        let count = number(&mut rest)?;
        // Each takes eight bytes, so there cannot be more than the file has.
        let program = (0..count).map(|_| number(&mut rest)).collect::<Option<_>>()?;
        map.insert(std::str::from_utf8(name).ok()?.to_ascii_lowercase(), program);
    }
    rest.is_empty().then_some(map)
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
