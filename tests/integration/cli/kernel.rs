//! Files that are no kernels, or not whole ones: each is refused in one line, and none does more.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use harness::confine::Confinement;
use harness::{Ending, Need, Scratch, Vmm, artifacts};
use libtest_mimic::Trial;

use super::BAD_CONFIGURATION;
use crate::suite::trial;

mod refused {
    use super::*;

    crate::suite::tests! { "cli" needs &[Need::Kvm];
        kernel_is_not_one,
        kernel_is_not_there,
        kernel_cannot_be_read,
        kernel_is_cut_short,
        kernel_damaged_everywhere,
        kernel_without_the_entry_asked_for,
        kernel_does_not_fit,
    }
}

pub(super) fn tests() -> Vec<Trial> {
    let needs = &[Need::Kvm, Need::Guest];
    let with_a_guest = trial("cli::kernel_is_cut_short_anywhere", needs, bzimage_is_cut_short);
    refused::tests().into_iter().chain([with_a_guest]).collect()
}

#[track_caller]
fn expect_kernel_refused(kernel: &Path, words: &[&str]) -> Ending {
    let end = Vmm::new().kernel(kernel).args(["--memory", "64M"]).run();
    let path = kernel.to_string_lossy();
    end.expect_code(BAD_CONFIGURATION).expect_one_line(&[words, &["kernel", &path]].concat())
}

fn kernel_is_not_one() {
    let scratch = Scratch::new();
    let mut arm = vec![0; 4096];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    let mut ext4 = vec![0; 8192];
    ext4[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
    for (name, contents, words) in [
        ("empty", vec![], &["empty"][..]),
        ("README.md", b"# A text\n".to_vec(), &["text file", "bzImage"]),
        ("Image", arm, &["ARM"]),
        ("vmlinux.gz", b"\x1f\x8b\x08\0\0\0\0\0rest".to_vec(), &["gzip", "decompress"]),
        ("vmlinux.zst", b"\x28\xb5\x2f\xfd rest of it\0".to_vec(), &["zstd", "decompress"]),
        ("disk.qcow2", b"QFI\xfb\0\0\0\x03".to_vec(), &["qcow2", "--disk"]),
        ("rootfs.img", ext4, &["filesystem", "--disk"]),
        ("initrd.cpio", b"070701000000".to_vec(), &["cpio", "--initrd"]),
        ("noise", vec![0xfe, 0, 1, 0xff, 0x80], &["not a kernel"]),
    ] {
        let path = scratch.file(name, contents);
        expect_kernel_refused(&path, words);
    }
    let mut elf = fs::read(artifacts::puppet()).unwrap();
    elf[18] = 0xb7;
    let path = scratch.file("aarch64.elf", elf);
    expect_kernel_refused(&path, &["ELF", "x86_64"]);
}

fn kernel_is_not_there() {
    expect_kernel_refused(Path::new("/nowhere/bzImage"), &["No such file"]);
    expect_kernel_refused(Path::new("/"), &["a directory"]);
    expect_kernel_refused(Path::new("/dev/null"), &["not a file"]);
}

fn kernel_cannot_be_read() {
    let scratch = Scratch::new();
    let path = scratch.copy(&artifacts::puppet());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let vmm = Vmm::new().kernel(&path).confined(Confinement::NoCapabilities);
    let end = vmm.run().expect_code(BAD_CONFIGURATION);
    end.expect_one_line(&["kernel", &path.to_string_lossy(), "Permission denied"]);
}

fn kernel_is_cut_short() {
    let scratch = Scratch::new();
    let elf = fs::read(artifacts::puppet()).unwrap();
    for len in [5, 51, 60, 115, 0x1000, 0x1001, 0x1400] {
        let path = scratch.file("puppet.elf", &elf[..len]);
        expect_kernel_refused(&path, &["damaged"]);
    }
}

fn bzimage_is_cut_short() {
    let scratch = Scratch::new();
    let whole = fs::read(artifacts::guest("bzImage")).unwrap();
    for len in [0x203, 0x250, 0x1000, 0x4000, 100_000, whole.len() / 2, whole.len() - 4096] {
        let path = scratch.file("bzImage", &whole[..len]);
        expect_kernel_refused(&path, &["damaged"]);
    }
}

/// Each byte of the headers of a kernel changed, in two ways: a clean refusal or a guest that runs, nothing else.
fn kernel_damaged_everywhere() {
    let scratch = Scratch::new();
    let elf = fs::read(artifacts::puppet()).unwrap();
    let headers = (0..0x34 + 2 * 0x20).chain(0x1540..0x1560);
    for at in headers {
        for value in [0xff, elf[at] ^ 0x80] {
            let mut damaged = elf.clone();
            damaged[at] = value;
            let path = scratch.file("puppet.elf", damaged);
            let vmm = Vmm::new().kernel(&path).args(["--memory", "32M", "--timeout", "2s"]);
            let end = vmm.args(["--cmdline", "exit=0", "--rng", "off"]).run();
            // Entered at a wrong place, a guest may do anything that a guest can do.
            let is_clean = matches!(end.code, Some(0..=99 | 110..=113 | 124 | BAD_CONFIGURATION));
            assert!(is_clean, "byte {at:#x} as {value:#x}\n{}", end.story());
            assert_eq!(
                end.stderr.lines().count(),
                1,
                "byte {at:#x} as {value:#x}\n{}",
                end.story()
            );
        }
    }
}

fn kernel_without_the_entry_asked_for() {
    let puppet = artifacts::puppet();
    let vmm = |kernel: &Path, boot| Vmm::new().kernel(kernel).args(["--boot", boot]);
    let end = vmm(&puppet, "linux64").run().expect_code(BAD_CONFIGURATION);
    end.expect_one_line(&["64-bit entry", "--boot pvh"]);
    let end = vmm(&artifacts::puppet_64(), "pvh").run().expect_code(BAD_CONFIGURATION);
    end.expect_one_line(&["PVH entry", "--boot linux64"]);
}

fn kernel_does_not_fit() {
    let scratch = Scratch::new();
    let mut elf = fs::read(artifacts::puppet()).unwrap();
    // The first program header's size in memory.
    elf[0x34 + 20..0x34 + 24].copy_from_slice(&(64_u32 << 20).to_le_bytes());
    let path = scratch.file("large.elf", elf);
    let end = Vmm::new().kernel(&path).args(["--memory", "32M"]).run();
    end.expect_code(BAD_CONFIGURATION).expect_one_line(&["65 MiB", "32 MiB", "--memory"]);
}
