//! Descriptors that were open before this process began, named by number on the command line.

#![expect(unsafe_code, reason = "a number given by the user becomes a descriptor here")]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// A copy of descriptor `number`, so that the original survives a machine that is built twice.
///
/// # Errors
/// `EBADF` when there is no such descriptor.
pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is only borrowed for the call below, which copies it or fails; a plan never
    // names 0 to 2, and what vmm opens itself is not named by plans.
    unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_copy_outlives_the_original_and_nothing_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let copy = duplicate(file.as_raw_fd()).unwrap();
        assert_ne!(copy.as_raw_fd(), file.as_raw_fd());
        assert!(duplicate(9999).is_err());
    }
}
