//! Landlock: nothing that it knows is allowed, by the newest version that the kernel has.
//!
//! What was opened before goes on as it was.

use std::io;

use super::sys::{self, LandlockAttributes};

/// The rights over files that version 1 decides about, and the version from which on there is one more.
const FILES: u64 = (1 << 13) - 1;
const MORE_FILES: [u32; 3] = [2, 3, 5];
/// TCP: to bind, to connect.
const NETWORK: (u32, u64) = (4, 0b11);
/// Abstract Unix sockets and signals of those outside.
const SCOPED: (u32, u64) = (6, 0b11);

/// Denies all there is to deny. Returns the version of the kernel's Landlock; 0 when it has none.
pub(super) fn deny_all() -> io::Result<u32> {
    let version = sys::landlock_version();
    if version > 0 {
        let (attributes, len) = everything(version);
        sys::landlock(&attributes, len)?;
    }
    Ok(version)
}

/// What version `version` can decide about, and how many bytes of it the kernel knows.
fn everything(version: u32) -> (LandlockAttributes, usize) {
    let more = MORE_FILES.iter().filter(|first| **first <= version).count();
    let since = |(first, rights): (u32, u64)| if version >= first { rights } else { 0 };
    let attributes = LandlockAttributes {
        file_system: (0..more).fold(FILES, |rights, _| rights << 1 | 1),
        network: since(NETWORK),
        scoped: since(SCOPED),
    };
    let len = match version {
        ..4 => 8,
        4..6 => 16,
        _ => 24,
    };
    (attributes, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_asked_for_what_it_knows() {
        for (version, file_system, network, scoped, len) in [
            (1, 0x1fff, 0, 0, 8),
            (2, 0x3fff, 0, 0, 8),
            (3, 0x7fff, 0, 0, 8),
            (4, 0x7fff, 3, 0, 16),
            (5, 0xffff, 3, 0, 16),
            (6, 0xffff, 3, 3, 24),
            (9, 0xffff, 3, 3, 24),
        ] {
            let wanted = LandlockAttributes { file_system, network, scoped };
            assert_eq!(everything(version), (wanted, len), "version {version}");
        }
    }
}
