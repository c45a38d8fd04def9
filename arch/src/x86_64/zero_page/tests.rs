use super::*;
use crate::layout::{self, CMDLINE};
use crate::x86_64::tests::{machine, number};

const RSDP: u64 = 0xE_0000;
const HEADER_END: usize = 0x26c;

/// The header of an x86-64 kernel of protocol 2.15, whose jump leads right behind it.
fn kernel_header() -> SetupHeader {
    SetupHeader {
        boot_flag: BOOT_FLAG,
        jump: 0x6aeb,
        header: MAGIC,
        version: VERSION,
        xloadflags: XLF_KERNEL_64,
        loadflags: 1,
        cmdline_size: 2047,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        pref_address: 0x100_0000,
        init_size: 0x300_0000,
        handover_offset: 7,
        kernel_info_offset: 9,
        ..Default::default()
    }
}

#[test]
fn an_uncompressed_kernel_gets_a_header_of_its_own() {
    let page = build(None, &machine(1, 1), RSDP).unwrap();
    assert_eq!(page.len(), 4096);
    assert_eq!(&page[0x202..0x206], b"HdrS");
    assert_eq!(number::<2>(&page, 0x1fe), 0xaa55);
    assert_eq!(page[0x210], 0xff, "type_of_loader");
    assert_eq!(number::<4>(&page, 0x230), 16 << 20, "kernel_alignment");
    assert_eq!(page[0x1ef], 0, "sentinel");
}

#[test]
fn pointers_are_where_the_protocol_has_them() {
    let page = build(None, &machine(1, 1), RSDP).unwrap();
    assert_eq!(number::<8>(&page, 0x70), RSDP);
    assert_eq!(number::<4>(&page, 0x228), CMDLINE);
    assert_eq!((number::<4>(&page, 0x218), number::<4>(&page, 0x21c)), (32 << 20, 12_345));
    assert_eq!(&page[0xc0..0xcc], [0; 12], "high halves");
}

#[test]
fn an_initrd_above_4_gib_uses_the_high_halves() {
    let mut machine = machine(1, 1);
    machine.initrd = Some(Range { start: 0x1_2345_6000, len: 0x2_0000_0001 });
    let page = build(None, &machine, RSDP).unwrap();
    assert_eq!((number::<4>(&page, 0x218), number::<4>(&page, 0xc0)), (0x2345_6000, 1));
    assert_eq!((number::<4>(&page, 0x21c), number::<4>(&page, 0xc4)), (1, 2));
}

#[test]
fn the_memory_map_is_e820() {
    let mut machine = machine(1, 1);
    machine.memory = layout::ram_ranges(64 << 30);
    let page = build(None, &machine, RSDP).unwrap();
    let map = memory_map(&machine.memory);
    assert_eq!(usize::from(page[0x1e8]), map.len());
    for (number_of, entry) in map.iter().enumerate() {
        let at = 0x2d0 + 20 * number_of;
        assert_eq!(number::<8>(&page, at), entry.range.start);
        assert_eq!(number::<8>(&page, at + 8), entry.range.len);
        assert_eq!(number::<4>(&page, at + 16), u64::from(entry.kind.number()));
    }
    assert_eq!(number::<8>(&page, 0x2d0 + 20 * map.len() + 8), 0, "nothing behind it");
}

#[test]
fn a_kernels_header_is_kept_but_for_the_loaders_fields() {
    let header = kernel_header();
    let page = build(Some(&header), &machine(1, 1), RSDP).unwrap();
    let mut expected = header;
    expected.type_of_loader = 0xff;
    expected.cmd_line_ptr = 0x2_0000;
    expected.ramdisk_image = 32 << 20;
    expected.ramdisk_size = 12_345;
    assert_eq!(&page[0x1f1..HEADER_END], expected.as_slice());
}

#[test]
fn bytes_beyond_the_headers_stated_end_are_not_fields() {
    let mut header = kernel_header();
    header.jump = 0x62eb; // ends at 0x264, before handover_offset
    let page = build(Some(&header), &machine(1, 1), RSDP).unwrap();
    assert_eq!(number::<4>(&page, 0x260), 0x300_0000, "init_size");
    assert_eq!(&page[0x264..HEADER_END], [0; 8]);
}

#[test]
fn a_32_bit_or_ancient_kernel_is_refused() {
    let mut header = kernel_header();
    header.xloadflags = 0;
    let error = build(Some(&header), &machine(1, 1), RSDP).unwrap_err();
    assert_eq!(error, ZeroPageError::NoEntry64 { version: VERSION, xloadflags: 0 });
    assert!(error.to_string().contains("2.15"), "{error}");
    header = kernel_header();
    header.version = 0x020b;
    assert!(build(Some(&header), &machine(1, 1), RSDP).is_err());
}

#[test]
fn the_command_line_is_held_against_the_kernels_limit() {
    let mut machine = machine(1, 1);
    let mut header = kernel_header();
    header.cmdline_size = 255;
    machine.cmdline.len = 256;
    assert!(build(Some(&header), &machine, RSDP).is_ok());
    machine.cmdline.len = 257;
    let error = build(Some(&header), &machine, RSDP).unwrap_err();
    assert_eq!(error, ZeroPageError::Cmdline { len: 256, max: 255 });
}

#[test]
fn the_initrd_is_held_against_the_kernels_limit() {
    let mut machine = machine(1, 1);
    let mut header = kernel_header();
    machine.initrd = Some(Range { start: 0x7fff_f000, len: 0x1000 });
    assert!(build(Some(&header), &machine, RSDP).is_ok());
    machine.initrd = Some(Range { start: 0x7fff_f000, len: 0x1001 });
    let error = build(Some(&header), &machine, RSDP).unwrap_err();
    assert_eq!(error, ZeroPageError::Initrd { last: 0x8000_0000, max: 0x7fff_ffff });
    header.xloadflags |= XLF_ABOVE_4G;
    assert!(build(Some(&header), &machine, RSDP).is_ok());
}

#[test]
fn a_map_of_more_than_128_entries_is_refused() {
    let mut machine = machine(1, 1);
    let range = |number: u64| Range { start: (4 << 30) + number * 0x10_0000, len: 0x1000 };
    // Base memory, the MP table, the ACPI tables, high memory and KVM's pages make five.
    machine.memory.extend((0..123).map(range));
    assert_eq!(build(None, &machine, RSDP).unwrap()[0x1e8], 128);
    machine.memory.push(range(123));
    let error = build(None, &machine, RSDP).unwrap_err();
    assert_eq!(error, ZeroPageError::MemoryMap { entries: 129 });
}
