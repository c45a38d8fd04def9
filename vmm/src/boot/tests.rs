use std::fs;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::config::Backing;
use crate::memory;
use crate::test_dir::TestDir;

const MIB: u64 = 1 << 20;

fn reserve(bytes: u64) -> Result<GuestMemory, memory::MemoryError> {
    memory::reserve(bytes, Backing::default())
}

/// A small ELF file: one segment at `address`, optionally a PVH note.
struct ElfFile {
    address: u64,
    code: Vec<u8>,
    in_memory: u64,
    notes: Vec<u8>,
    machine: u16,
}

impl ElfFile {
    fn new() -> Self {
        Self { address: MIB, code: b"code".to_vec(), in_memory: 16, notes: Vec::new(), machine: 62 }
    }

    fn note(mut self, owner: &[u8; 4], kind: u32, value: u32) -> Self {
        for word in [4_u32, 4, kind] {
            self.notes.extend(word.to_le_bytes());
        }
        self.notes.extend(owner);
        self.notes.extend(value.to_le_bytes());
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut file = vec![0; 64 + 2 * 56];
        let notes_at = file.len() as u64;
        let code_at = notes_at + self.notes.len() as u64;
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        put(&mut file, 18, &self.machine.to_le_bytes());
        put(&mut file, 24, &(self.address + 8).to_le_bytes());
        put(&mut file, 32, &64_u64.to_le_bytes());
        put(&mut file, 54, &56_u16.to_le_bytes());
        put(&mut file, 56, &2_u16.to_le_bytes());
        segment(
            &mut file[64..],
            1,
            code_at,
            (self.address, self.code.len() as u64, self.in_memory),
        );
        let len = self.notes.len() as u64;
        segment(&mut file[120..], 4, notes_at, (0, len, len));
        file.extend(&self.notes);
        file.extend(&self.code);
        file
    }
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn segment(to: &mut [u8], kind: u32, offset: u64, (address, file, memory): (u64, u64, u64)) {
    put(to, 0, &kind.to_le_bytes());
    put(to, 8, &offset.to_le_bytes());
    put(to, 24, &address.to_le_bytes());
    put(to, 32, &file.to_le_bytes());
    put(to, 40, &memory.to_le_bytes());
}

/// A bzImage of `payload` bytes after one setup sector and the boot sector.
fn bzimage(payload: u32, init_size: u32) -> Vec<u8> {
    let mut file = vec![0; 1024 + usize::try_from(payload).unwrap()];
    file[0x1f1] = 1;
    put(&mut file, 0x1f4, &payload.div_ceil(16).to_le_bytes());
    put(&mut file, 0x1fe, &[0x55, 0xaa]);
    put(&mut file, 0x200, &[0xeb, 0x7a]);
    put(&mut file, 0x202, b"HdrS");
    put(&mut file, 0x206, &0x20f_u16.to_le_bytes());
    file[0x211] = 1;
    put(&mut file, 0x214, &0x10_0000_u32.to_le_bytes());
    put(&mut file, 0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(&mut file, 0x236, &1_u16.to_le_bytes());
    put(&mut file, 0x258, &0x20_0000_u64.to_le_bytes());
    put(&mut file, 0x260, &init_size.to_le_bytes());
    file[1024..].fill(0xc3);
    file
}

fn load(file: &[u8], choice: BootProtocol) -> Result<(Kernel, GuestMemory), BootError> {
    let dir = TestDir::new();
    let path = dir.path().join("kernel");
    fs::write(&path, file).unwrap();
    let memory = reserve(32 * MIB).unwrap();
    load_kernel(&path, None, choice, &memory, true).map(|kernel| (kernel, memory))
}

fn message(file: &[u8]) -> String {
    let text = load(file, BootProtocol::Auto).unwrap_err().to_string();
    assert!(!text.contains('\n'), "one line: {text}");
    text
}

#[test]
fn an_elf_kernel_is_loaded_where_it_wants_and_entered_in_64_bit_mode() {
    let (kernel, memory) = load(&ElfFile::new().bytes(), BootProtocol::Auto).unwrap();
    assert!(matches!(kernel.entry, Entry::Linux64 { address, header: None } if address == MIB + 8));
    assert_eq!(kernel.end, MIB + 16);
    let mut bytes = [0xff; 8];
    memory.read_slice(&mut bytes, GuestAddress(MIB)).unwrap();
    assert_eq!(&bytes, b"code\0\0\0\0");
}

#[test]
fn a_pvh_note_is_found_among_others_and_preferred() {
    let file =
        ElfFile::new().note(b"GNU\0", 18, 1).note(b"Xen\0", 5, 2).note(b"Xen\0", 18, 0x10_0004);
    let (kernel, _) = load(&file.bytes(), BootProtocol::Auto).unwrap();
    assert!(matches!(kernel.entry, Entry::Pvh { address: 0x10_0004 }));
    let (kernel, _) = load(&file.bytes(), BootProtocol::Linux64).unwrap();
    assert!(matches!(kernel.entry, Entry::Linux64 { .. }));
}

#[test]
fn an_entry_that_is_not_there_names_the_one_that_is() {
    let error = load(&ElfFile::new().bytes(), BootProtocol::Pvh).unwrap_err().to_string();
    assert!(error.contains("no PVH entry") && error.contains("--boot linux64"), "{error}");
    let error = load(&bzimage(64, 4096), BootProtocol::Pvh).unwrap_err().to_string();
    assert!(error.contains("no PVH entry") && error.contains("vmlinux"), "{error}");
}

#[test]
fn a_bzimage_is_loaded_at_1_mib_and_entered_200_above() {
    let (kernel, memory) = load(&bzimage(4096, 0x10_0000), BootProtocol::Auto).unwrap();
    let Entry::Linux64 { address, header: Some(header) } = kernel.entry else {
        panic!("{:?}", kernel.entry)
    };
    assert_eq!(address, MIB + 0x200);
    assert_eq!({ header.version }, 0x20f);
    assert_eq!(kernel.end, 0x20_0000 + 0x10_0000, "room to decompress at the preferred address");
    assert_eq!(kernel.initrd_limit, 0x8000_0000);
    let code: u8 = memory.read_obj(GuestAddress(MIB + 4095)).unwrap();
    assert_eq!(code, 0xc3);
}

#[test]
fn header_bytes_beyond_its_declared_length_are_not_believed() {
    let mut file = bzimage(64, 4096);
    file[0x201] = 0x3a; // ends before `pref_address`
    let (kernel, _) = load(&file, BootProtocol::Auto).unwrap();
    let Entry::Linux64 { header: Some(header), .. } = kernel.entry else { panic!() };
    assert_eq!({ header.pref_address }, 0);
}

#[test]
fn a_wrong_file_is_told_what_it_is() {
    let mut arm = vec![0; 4096];
    put(&mut arm, 0x38, b"ARM\x64");
    let mut ext4 = vec![0; 4096];
    put(&mut ext4, 0x438, &0xef53_u16.to_le_bytes());
    let cases: [(&[u8], &str); 12] = [
        (b"", "empty"),
        (b"# A README\n", "text file"),
        ("# \u{fc}ber\n".as_bytes(), "text file"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\xfd7zXZ\0\0", "xz"),
        (b"\x28\xb5\x2f\xfd\0", "zstd"),
        (&arm, "ARM"),
        (&ext4, "filesystem image"),
        (b"QFI\xfb\0\0", "qcow2"),
        (b"070701\0\0", "cpio"),
        (b"MZ\0\0", "EFI"),
        (b"\0\x01\x02\x03", "not a kernel"),
    ];
    for (file, what) in cases {
        let text = message(file);
        assert!(text.contains(what), "{what}: {text}");
    }
    let other = ElfFile { machine: 183, ..ElfFile::new() };
    assert!(message(&other.bytes()).contains("another machine (type 183)"));
}

#[test]
fn a_file_that_was_cut_short_says_so_at_every_length() {
    let elf = ElfFile::new().note(b"Xen\0", 18, 0x10_0000).bytes();
    for len in 4..elf.len() {
        assert!(message(&elf[..len]).contains("damaged"), "ELF of {len}");
    }
    let bz = bzimage(512, 4096);
    for len in 0x200..bz.len() {
        assert!(message(&bz[..len]).contains("damaged"), "bzImage of {len}");
    }
}

#[test]
fn an_elf_file_that_lies_is_refused() {
    let low = ElfFile { address: 0x7000, ..ElfFile::new() };
    assert!(message(&low.bytes()).contains("below 1 MiB"));
    let shrinking = ElfFile { in_memory: 1, ..ElfFile::new() };
    assert!(message(&shrinking.bytes()).contains("damaged"));
    let wrapping = ElfFile { address: u64::MAX - 20, in_memory: 100, ..ElfFile::new() };
    assert!(message(&wrapping.bytes()).contains("damaged"));
    let mut overlapping = ElfFile::new().bytes();
    overlapping.copy_within(64..120, 120);
    assert!(message(&overlapping).contains("overlap"));
    let mut no_segment = ElfFile::new().bytes();
    put(&mut no_segment, 64, &0_u32.to_le_bytes());
    assert!(message(&no_segment).contains("no loadable segment"));
}

#[test]
fn what_does_not_fit_says_how_much_it_needs() {
    let big = ElfFile { in_memory: 100 * MIB, ..ElfFile::new() };
    assert!(message(&big.bytes()).contains("up to 101 MiB, the guest has 32 MiB"));
    assert!(message(&bzimage(64, 64 << 20)).contains("up to 66 MiB"));
}

#[test]
fn a_kernel_beyond_the_first_page_tables_is_refused() {
    let dir = TestDir::new();
    let path = dir.path().join("kernel");
    let memory = reserve(2 << 30).unwrap();
    let far = ElfFile { in_memory: 1 << 30, ..ElfFile::new() };
    fs::write(&path, far.bytes()).unwrap();
    let error = load_kernel(&path, None, BootProtocol::Auto, &memory, true).unwrap_err();
    assert!(error.to_string().contains("beyond the reach"), "{error}");
    fs::write(&path, bzimage(64, 0x6000_0000)).unwrap();
    let error = load_kernel(&path, None, BootProtocol::Auto, &memory, true).unwrap_err();
    assert!(error.to_string().contains("beyond"), "{error}");
}

#[test]
fn corrupted_headers_never_panic_and_never_load_outside_memory() {
    let originals = [ElfFile::new().note(b"Xen\0", 18, 0x10_0000).bytes(), bzimage(64, 4096)];
    for original in originals {
        for at in 0..original.len().min(0x270) {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut file = original.clone();
                file[at] = value;
                // Either it loads or it says why; both are fine, reaching the next line is the test.
                let _ = load(&file, BootProtocol::Auto);
            }
        }
    }
}

#[test]
fn paths_that_are_no_files_are_named() {
    let dir = TestDir::new();
    let memory = reserve(32 * MIB).unwrap();
    let missing =
        load_kernel(&dir.path().join("none"), None, BootProtocol::Auto, &memory, true).unwrap_err();
    assert!(missing.to_string().contains("none"));
    let directory = load_kernel(dir.path(), None, BootProtocol::Auto, &memory, true).unwrap_err();
    assert!(directory.to_string().contains("a directory"));
}

#[test]
fn an_initrd_goes_to_the_top_on_a_page_and_below_its_limit() {
    let dir = TestDir::new();
    let path = dir.path().join("initrd");
    fs::write(&path, [7; 5000]).unwrap();
    let memory = reserve(32 * MIB).unwrap();
    let entry = Entry::Pvh { address: MIB };
    let kernel = Kernel { entry, end: 2 * MIB, initrd_limit: 1 << 32 };
    let range = load_initrd(&path, None, &kernel, &memory).unwrap();
    assert_eq!((range.start, range.len), (32 * MIB - 8192, 5000));
    let last: u8 = memory.read_obj(GuestAddress(range.start + 4999)).unwrap();
    assert_eq!(last, 7);
    let range =
        load_initrd(&path, None, &Kernel { initrd_limit: 16 * MIB, ..kernel }, &memory).unwrap();
    assert_eq!(range.start, 16 * MIB - 8192);
    let error =
        load_initrd(&path, None, &Kernel { end: 32 * MIB - 4096, ..kernel }, &memory).unwrap_err();
    assert!(error.to_string().contains("initrd"), "{error}");
    fs::write(&path, []).unwrap();
    assert!(load_initrd(&path, None, &kernel, &memory).unwrap_err().to_string().contains("empty"));
}

/// A segment of a MiB and some bytes that begins inside a page, in the file as in memory.
#[test]
fn a_long_segment_is_mapped_and_its_edges_are_not() {
    const OFFSET: u64 = 0x1800;
    const IN_FILE: u64 = MIB + 0x2345;
    let dir = TestDir::new();
    let path = dir.path().join("kernel");
    let mut file = ElfFile::new().bytes();
    segment(&mut file[64..], 1, OFFSET, (2 * MIB + 0x800, IN_FILE, IN_FILE + 0x5000));
    file.resize(0x1800, 0);
    file.extend((0..IN_FILE).map(|at| at.to_le_bytes()[0] | 1));
    // What the file has behind the segment is not to be seen.
    file.extend([0xff; 0x3000]);
    fs::write(&path, &file).unwrap();
    for may_map in [true, false] {
        let memory = reserve(32 * MIB).unwrap();
        let kernel = load_kernel(&path, None, BootProtocol::Auto, &memory, may_map).unwrap();
        assert_eq!(kernel.end, 2 * MIB + 0x800 + IN_FILE + 0x5000);
        let mut loaded = vec![0xee; file.len()];
        memory.read_slice(&mut loaded, GuestAddress(2 * MIB + 0x800 - 16)).unwrap();
        assert!(loaded[..16].iter().all(|byte| *byte == 0), "before");
        let len = usize::try_from(IN_FILE).unwrap();
        assert!(loaded[16..16 + len] == file[0x1800..0x1800 + len], "mapped: {may_map}");
        assert!(loaded[16 + len..].iter().all(|byte| *byte == 0), "behind");
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let is_mapped = maps.contains(path.to_str().unwrap());
        // Not every file system of a host has leases.
        assert!(is_mapped == may_map || may_map, "mapped: {is_mapped}");
    }
}
