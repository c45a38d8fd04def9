use super::*;

#[test]
fn linux64_is_long_mode_with_the_zero_page_in_rsi() {
    let registers = linux64(0x100_0200, layout::ZERO_PAGE);
    let general = registers.general;
    assert_eq!((general.rip, general.rsi), (0x100_0200, layout::ZERO_PAGE));
    assert_eq!(general.rsp % 16, 0);
    assert_eq!(general.rflags, 0x2, "interrupts off");
    let special = registers.special;
    assert_eq!(special.cr0 & 0xe000_0000, 0x8000_0000, "paging on, caches on");
    assert_eq!((special.cr0 & 1, special.cr4, special.efer), (1, 0x20, 0x500));
    assert_eq!(special.cr3, layout::PAGE_TABLES);
    assert_eq!((special.cs.l, special.cs.db), (1, 0));
    assert_eq!((special.cs.selector, special.ds.selector), (0x10, 0x18), "__BOOT_CS, __BOOT_DS");
}

#[test]
fn pvh_is_protected_mode_with_the_start_info_in_ebx() {
    let registers = pvh(0x100_0000, layout::PVH_START_INFO);
    let general = registers.general;
    assert_eq!((general.rip, general.rbx), (0x100_0000, layout::PVH_START_INFO));
    assert_eq!(general.rflags, 0x2, "interrupts, virtual 8086 mode and single step off");
    let special = registers.special;
    assert_eq!((special.cr0, special.cr3, special.cr4, special.efer), (0x11, 0, 0, 0));
    assert_eq!((special.cs.l, special.cs.db), (0, 1));
    assert_eq!((special.tr.limit, special.tr.type_, special.tr.s), (0x67, 0xb, 0));
}

#[test]
fn segments_are_flat_and_faults_have_nowhere_to_go() {
    for BootRegisters { special, .. } in [linux64(0, 0), pvh(0, 0)] {
        let SpecialRegisters { cs, ds, es, fs, gs, ss, .. } = special;
        for segment in [cs, ds, es, fs, gs, ss] {
            assert_eq!((segment.base, segment.limit, segment.g), (0, u32::MAX, 1));
            assert_eq!((segment.present, segment.s, segment.unusable), (1, 1, 0));
        }
        assert_eq!((cs.type_, ss.type_), (0xb, 0x3));
        assert_eq!(special.ldt.unusable, 1);
        assert_eq!(special.idt, Table { base: 0, limit: 0 });
        assert_eq!(special.gdt.base, layout::GDT);
    }
}
