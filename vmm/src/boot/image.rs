//! What kind of file is this? Decided by content; a wrong file is told from its first bytes what it is.

use super::{Fields, Source};

/// The kinds of file that people pass as a kernel.
pub(super) enum Kind {
    /// A compressed Linux kernel with a setup header.
    BzImage,
    /// An ELF file for x86; the details are the ELF loader's to judge.
    Elf,
    /// Something else.
    Other { found: &'static str, remedy: &'static str },
}

const WANTED: &str = "pass an x86_64 bzImage or an ELF vmlinux";
const DECOMPRESS: &str = "decompress it first, or pass the bzImage it came from";
const AS_DISK: &str = "pass it with --disk, and a kernel with --kernel";

pub(super) fn identify(source: &Source) -> Kind {
    let bytes = source.head.as_slice();
    let head = Fields(bytes);
    // "HdrS" at 0x202: the Linux setup header. An EFI bzImage also starts with "MZ", so this comes first.
    // What ends before that, but after the boot sector's signature, was meant to go on.
    let is_cut_off = bytes.len() < 0x206 && head.bytes(0x1fe) == [0x55, 0xaa];
    if head.bytes(0x202) == *b"HdrS" || is_cut_off {
        return Kind::BzImage;
    }
    if bytes.starts_with(b"\x7fELF") {
        return Kind::Elf;
    }
    let (found, remedy) = describe(bytes, &head);
    Kind::Other { found, remedy }
}

fn describe(bytes: &[u8], head: &Fields<'_>) -> (&'static str, &'static str) {
    const COMPRESSED: [(&[u8], &str); 7] = [
        (b"\x1f\x8b", "gzip data"),
        (b"\xfd7zXZ\0", "xz data"),
        (b"\x28\xb5\x2f\xfd", "zstd data"),
        (b"\x04\x22\x4d\x18", "lz4 data"),
        (b"\x02\x21\x4c\x18", "lz4 data"),
        (b"BZh", "bzip2 data"),
        (b"\x89LZO", "lzo data"),
    ];
    if bytes.is_empty() {
        return ("empty", WANTED);
    }
    if let Some((_, found)) = COMPRESSED.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return (found, DECOMPRESS);
    }
    // Linux Documentation/arch/arm64/booting.rst and arch/riscv/boot-image-header.rst.
    if head.bytes(0x38) == *b"ARM\x64" {
        return ("a kernel Image for 64-bit ARM", WANTED);
    }
    if head.bytes(0x38) == *b"RSC\x05" {
        return ("a kernel Image for RISC-V", WANTED);
    }
    if head.bytes(4) == *b"zimg" {
        return ("an EFI zboot image", DECOMPRESS);
    }
    if bytes.starts_with(b"QFI\xfb") {
        return ("a qcow2 disk image", AS_DISK);
    }
    if bytes.starts_with(b"hsqs") || head.u16(0x438) == 0xef53 {
        return ("a filesystem image", AS_DISK);
    }
    if bytes.starts_with(b"070701") || bytes.starts_with(b"070702") {
        return ("a cpio archive", "pass it with --initrd, and a kernel with --kernel");
    }
    if bytes.starts_with(b"MZ") {
        return ("an EFI or DOS program without a Linux setup header", WANTED);
    }
    // Not from_utf8: the sample may end inside a character.
    let is_text = |b: &u8| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..);
    if bytes.iter().all(is_text) {
        return ("a text file", WANTED);
    }
    ("not a kernel in any known format", WANTED)
}
