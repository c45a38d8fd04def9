use super::*;

fn msr(index: u32) -> Msr {
    *boot_msrs().iter().find(|msr| msr.index == index).unwrap()
}

#[test]
fn each_register_is_set_once() {
    let mut indices: Vec<u32> = boot_msrs().iter().map(|msr| msr.index).collect();
    indices.sort_unstable();
    indices.dedup();
    assert_eq!(indices.len(), boot_msrs().len());
}

#[test]
fn memory_is_write_back_and_strings_are_fast() {
    assert_eq!(msr(IA32_MTRR_DEF_TYPE).value, 0x806);
    assert_eq!(msr(IA32_MISC_ENABLE).value, 0x1801);
}

#[test]
fn what_hosts_may_refuse_is_not_required() {
    for index in [IA32_TSC, IA32_MISC_ENABLE, IA32_MTRR_DEF_TYPE] {
        assert!(!msr(index).required);
    }
    assert!(boot_msrs().iter().filter(|msr| msr.required).all(|msr| msr.value == 0));
}
