use super::*;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;

fn ranges(bytes: u64) -> Vec<(u64, u64)> {
    ram_ranges(bytes).into_iter().map(|range| (range.start, range.len)).collect()
}

#[test]
fn memory_up_to_the_hole_is_one_range() {
    assert_eq!(ranges(0), []);
    assert_eq!(ranges(32 * MIB), [(0, 32 * MIB)]);
    assert_eq!(ranges(3 * GIB), [(0, 3 * GIB)]);
}

#[test]
fn the_rest_goes_on_at_4_gib() {
    assert_eq!(ranges(3 * GIB + PAGE), [(0, 3 * GIB), (4 * GIB, PAGE)]);
    assert_eq!(ranges(4 * GIB + GIB / 2), [(0, 3 * GIB), (4 * GIB, GIB + GIB / 2)]);
    assert_eq!(ranges(64 * GIB), [(0, 3 * GIB), (4 * GIB, 61 * GIB)]);
    assert_eq!(ranges(8 << 40), [(0, 3 * GIB), (4 * GIB, (8 << 40) - 3 * GIB)]);
}

#[test]
fn an_absurd_size_is_noticed_later() {
    let ranges = ram_ranges(u64::MAX);
    assert_eq!(ranges[1].end(), None);
}

#[test]
fn windows_and_fixed_pages_lie_in_the_hole_apart_from_each_other() {
    let page = |start: u64| Range { start, len: PAGE };
    let fixed = [
        BOOT_TIMER,
        VIRTIO_MMIO,
        page(IO_APIC.into()),
        page(LOCAL_APIC.into()),
        page(KVM_IDENTITY_MAP),
        Range { start: KVM_TSS, len: 3 * PAGE },
    ];
    let hole = Range { start: HOLE_START, len: HOLE_END - HOLE_START };
    for (number, range) in fixed.iter().enumerate() {
        assert!(hole.contains(range), "{range:x?}");
        assert!(!fixed[..number].iter().any(|other| other.overlaps(range)), "{range:x?}");
    }
    assert!(KVM_PAGES.contains(&fixed[4]) && KVM_PAGES.contains(&fixed[5]));
}

#[test]
fn each_fixed_interrupt_is_a_pin_of_its_own() {
    let fixed = [TIMER_GSI, GENERATION_GSI, POWER_BUTTON_GSI, COM1_GSI];
    for (number, gsi) in fixed.iter().enumerate() {
        assert!(!fixed[..number].contains(gsi) && !DEVICE_GSIS.contains(gsi), "{gsi}");
    }
    assert_eq!(DEVICE_GSIS.count(), 19);
}

#[test]
fn each_port_is_of_one_device() {
    let ports = [
        I8042_DATA_PORT..=I8042_DATA_PORT,
        I8042_COMMAND_PORT..=I8042_COMMAND_PORT,
        DEBUG_EXIT_PORT..=DEBUG_EXIT_PORT,
        COM1_PORT..=COM1_PORT + 7,
        PVPANIC_PORT..=PVPANIC_PORT,
        POWER.sleep_control..=POWER.sleep_control,
        POWER.sleep_status..=POWER.sleep_status,
        POWER.reset..=POWER.reset,
    ];
    let mut all: Vec<u16> = ports.into_iter().flatten().collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn powering_off_is_the_sleep_type_with_the_enable_bit() {
    assert_eq!(POWER_OFF_VALUE, 0x34);
}

#[test]
fn tables_that_are_searched_for_are_where_the_search_goes() {
    assert_eq!(RSDP % 16, 0);
    assert!((0xE_0000..0x10_0000).contains(&RSDP));
    assert_eq!(MP_POINTER, 639 * KIB);
    assert_eq!(MP_TABLE.end(), Some(640 * KIB));
    assert_eq!(ACPI_TABLES.end(), Some(HIMEM));
    assert!(ACPI_TABLES.contains(&VMCLOCK) && VMCLOCK.start.is_multiple_of(PAGE));
    assert!(ACPI_TABLES.contains(&GENERATION_ID) && GENERATION_ID.start.is_multiple_of(8));
}
