//! Kernel and initrd files.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use devices::memory::GuestMemory;
use devices::test_util::guest_memory;
use vm_memory::{Bytes as _, GuestAddress};
use vmm::boot::{Entry, load_initrd, load_kernel};
use vmm::config::BootProtocol;

use super::check_complaint;
use crate::bytes::Bytes;
use crate::memory_file;

/// Enough for a kernel that says that it is small.
const MEMORY: usize = 20 << 20;
/// Below this, the boot tables are.
const HIMEM: u64 = 1 << 20;
/// Where most kernels want to be.
const TEXT: u64 = 16 << 20;

thread_local! {
    static PLACE: (GuestMemory, RefCell<File>) = (guest_memory(MEMORY), RefCell::new(memory_file()));
}

/// See the module.
pub fn run(input: &[u8]) {
    let mut input = Bytes::new(input);
    let choice = input.of(&[BootProtocol::Auto, BootProtocol::Linux64, BootProtocol::Pvh]);
    // A file may be longer than what is said of it; zeroes cost nothing here.
    let more = if input.one_in(2) { u64::from(input.u8()) << 10 } else { 0 };
    let may_map = input.one_in(2);
    let bytes = input.rest();
    PLACE.with(|(memory, file)| {
        let file = file.borrow();
        file.set_len(0).and_then(|()| file.write_all_at(bytes, 0)).expect("a file in memory");
        file.set_len(bytes.len() as u64 + more).expect("a file in memory");
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let kernel = match load_kernel(&path, None, choice, memory, may_map) {
            Ok(kernel) => kernel,
            Err(error) => return check_complaint(&error),
        };
        assert!(kernel.end <= MEMORY as u64, "it ends at {:#x}", kernel.end);
        assert!(kernel.end >= HIMEM);
        match kernel.entry {
            Entry::Linux64 { .. } => assert_ne!(choice, BootProtocol::Pvh),
            Entry::Pvh { .. } => assert_ne!(choice, BootProtocol::Linux64),
        }
        // What lies just below must be untouched, whatever was loaded.
        let mut below = [0; 4096];
        memory.read_slice(&mut below, GuestAddress(HIMEM - 4096)).expect("RAM");
        assert_eq!(below, [0; 4096]);
        match load_initrd(&path, None, &kernel, memory) {
            Ok(initrd) => {
                assert!(initrd.start >= kernel.end && initrd.start + initrd.len <= MEMORY as u64);
            }
            Err(error) => check_complaint(&error),
        }
        for start in [HIMEM, TEXT] {
            memory.write_slice(&[0; 4096], GuestAddress(start)).expect("RAM");
        }
    });
}
