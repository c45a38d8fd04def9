//! A kernel that is long enough to be mapped, and what happens to its file while the guest runs.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use harness::{Need, Puppet, Scratch, Vmm, artifacts};

crate::suite::tests! { "bare::kernel_file" needs &[Need::Kvm];
    long_kernel_is_mapped_and_the_guest_writes_its_own_memory,
    file_can_be_rewritten_while_the_guest_runs,
    file_that_is_open_for_writing_is_copied,
    memory_of_other_kinds_gets_a_copy,
}

/// Where the second segment of the long kernel lies, and its length: a MiB and a part of a page.
const ADDRESS: u32 = 0x40_0000;
const LEN: u32 = 0x10_0123;
/// Alignment of the segment in the file.
const PAGE: usize = 4096;

/// The puppet with one segment more, filled with 0x5a.
pub(super) fn long_kernel(scratch: &Scratch) -> PathBuf {
    let mut file = fs::read(artifacts::puppet()).unwrap();
    let word = |file: &[u8], at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let table = word(&file, 28) as usize;
    let count = usize::from(u16::from_le_bytes([file[44], file[45]]));
    let offset = file.len().next_multiple_of(PAGE);
    file.resize(offset, 0);
    file.extend(vec![0x5a; LEN as usize]);
    // The program headers move to the end, where there is room for one more.
    let headers = file[table..table + 32 * count].to_vec();
    let moved = file.len().next_multiple_of(4);
    file.resize(moved, 0);
    file.extend(headers);
    let segment = [1, offset as u32, ADDRESS, ADDRESS, LEN, LEN + 0x2000, 6, PAGE as u32];
    segment.iter().for_each(|word| file.extend(word.to_le_bytes()));
    file[28..32].copy_from_slice(&(moved as u32).to_le_bytes());
    file[44..46].copy_from_slice(&(count as u16 + 1).to_le_bytes());
    scratch.file("kernel", &file)
}

fn start(kernel: &Path, memory: &str) -> Puppet {
    // In its jail root is somebody else, who gets no lease on root's files.
    let vmm = Vmm::new().without_jail().kernel(kernel).args(["--rng", "off", "--cmdline", ""]);
    Puppet::start(vmm.args(["--memory", memory, "--level", "info"]))
}

fn is_mapped(puppet: &Puppet, kernel: &Path) -> bool {
    let pid = puppet.with_machine(|machine| machine.pid());
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    maps.contains(kernel.to_str().unwrap())
}

/// Whether the file system gives leases, which overlays of containers may not.
pub(super) fn has_leases(kernel: &Path) -> bool {
    use std::os::fd::AsRawFd;
    let file = File::open(kernel).unwrap();
    // SAFETY: takes a descriptor and numbers; the lease ends with the descriptor.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) == 0 }
}

fn check(puppet: &Puppet) {
    let end = ADDRESS + LEN;
    let around = puppet.load(end - 4, 8);
    assert_eq!(around, [0x5a, 0x5a, 0x5a, 0x5a, 0, 0, 0, 0], "the segment's end");
    for address in [ADDRESS, ADDRESS + 0x8_0000, end - 4] {
        assert_eq!(puppet.read(4, address), 0x5a5a_5a5a, "at {address:#x}");
    }
}

fn long_kernel_is_mapped_and_the_guest_writes_its_own_memory() {
    let scratch = Scratch::new();
    let kernel = long_kernel(&scratch);
    let before = fs::read(&kernel).unwrap();
    let puppet = start(&kernel, "32M");
    assert_eq!(is_mapped(&puppet, &kernel), has_leases(&kernel));
    check(&puppet);
    puppet.write(4, ADDRESS + 0x1000, 0x1234_5678);
    assert_eq!(puppet.read(4, ADDRESS + 0x1000), 0x1234_5678);
    puppet.finish();
    assert!(fs::read(&kernel).unwrap() == before, "the file was changed");
}

fn file_can_be_rewritten_while_the_guest_runs() {
    let scratch = Scratch::new();
    let kernel = long_kernel(&scratch);
    let puppet = start(&kernel, "32M");
    puppet.write(4, ADDRESS + 0x1000, 0x1234_5678);
    puppet.sync();
    // Cuts it, which waits until the guest has a copy.
    File::create(&kernel).unwrap().write_all(&[0xff; 0x20_0000]).unwrap();
    assert!(!is_mapped(&puppet, &kernel));
    check(&puppet);
    assert_eq!(puppet.read(4, ADDRESS + 0x1000), 0x1234_5678, "what the guest wrote");
    puppet.finish();
}

fn file_that_is_open_for_writing_is_copied() {
    let scratch = Scratch::new();
    let kernel = long_kernel(&scratch);
    let writer = OpenOptions::new().write(true).open(&kernel).unwrap();
    let puppet = start(&kernel, "32M");
    assert!(!is_mapped(&puppet, &kernel));
    writer.set_len(0).unwrap();
    check(&puppet);
    puppet.finish();
}

fn memory_of_other_kinds_gets_a_copy() {
    let scratch = Scratch::new();
    let kernel = long_kernel(&scratch);
    for memory in ["32M,shared", "32M,hugepages=thp", "32M,prefault"] {
        let puppet = start(&kernel, memory);
        assert!(!is_mapped(&puppet, &kernel), "{memory}");
        check(&puppet);
        puppet.finish();
    }
}
