use std::os::fd::RawFd;

use devices::test_util::skipped;

use super::pieces::NAME;
use super::*;

/// A VM with an interrupt controller and a vCPU.
fn machine(kvm: &Kvm) -> (kvm_ioctls::VmFd, kvm_ioctls::VcpuFd) {
    let vm = kvm.create_vm().unwrap();
    vm.set_tss_address(0xfffb_d000).unwrap();
    vm.create_irq_chip().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    (vm, vcpu)
}

#[test]
fn state_goes_from_one_machine_to_another() {
    let Ok(kvm) = Kvm::open() else { return skipped("kvm::state::state_goes…", "no KVM") };
    let facts = StateFacts::of(&kvm).unwrap();
    assert!(facts.msrs().len() > 10 && facts.xsave_size() >= 4096);
    let (vm, vcpu) = machine(&kvm);
    let cpuid = kvm.supported_cpuid().unwrap();
    crate::kvm::set_cpuid(&vcpu, &cpuid).unwrap();
    let regs = kvm_regs { rax: 7, rip: 0x1234, rflags: 2, ..Default::default() };
    vcpu.set_regs(&regs).unwrap();
    let mut lapic = vcpu.get_lapic().unwrap();
    lapic.regs[0x350] = 0x55;
    vcpu.set_lapic(&lapic).unwrap();
    let state = save_vcpu(&vcpu, 3, &facts).unwrap();
    let machine_state = save_vm(&vm).unwrap();

    let read = Pieces::decode("vcpu 3", &state.encode()).unwrap();
    assert_eq!(read, state);
    let (other_vm, other) = machine(&kvm);
    restore_vcpu(&other, &read, &facts).unwrap();
    restore_vm(&other_vm, &machine_state, false).unwrap();
    assert_eq!(other.get_regs().unwrap(), regs);
    assert_eq!(other.get_lapic().unwrap().regs[0x350], 0x55);
    let again = save_vcpu(&other, 3, &facts).unwrap();
    let same = |name| assert_eq!(again.find(name), state.find(name), "{name}");
    ["sregs", "regs", "xsave", "xcrs", "debug", "events", "mp_state", "cpuid"]
        .into_iter()
        .for_each(same);
    assert_eq!(save_vm(&other_vm).unwrap().find("ioapic"), machine_state.find("ioapic"));
}

#[test]
fn damaged_state_is_refused_by_name() {
    let Ok(kvm) = Kvm::open() else { return skipped("kvm::state::damaged…", "no KVM") };
    let facts = StateFacts::of(&kvm).unwrap();
    let (vm, vcpu) = machine(&kvm);
    let state = save_vcpu(&vcpu, 0, &facts).unwrap();
    for index in 0..state.all.len() {
        for len in [0, 1, state.all[index].1.len() - 1, state.all[index].1.len() + 1] {
            let mut damaged = state.clone();
            damaged.all[index].1.resize(len, 0);
            let name = state.all[index].0.as_str();
            // Nobody knows how long these are, but that they come in pairs or whole entries.
            if name == "xsave" && len > 4096 || name == "msrs" && len == 0 {
                continue;
            }
            let error = restore_vcpu(&vcpu, &damaged, &facts).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("vcpu 0"), "{name} {len}: {error}");
        }
        let mut without = state.clone();
        without.all.remove(index);
        assert!(matches!(restore_vcpu(&vcpu, &without, &facts), Err(StateError::Missing { .. })));
    }
    let mut more = state;
    more.all.push(("new".to_owned(), vec![1]));
    let error = restore_vcpu(&vcpu, &more, &facts).unwrap_err().to_string();
    assert!(error.contains("\"new\", which this version of vmm does not know"), "{error}");
    let mut machine_state = save_vm(&vm).unwrap();
    machine_state.all[2].1.pop();
    machine_state.all[2].1.truncate(100);
    let error = restore_vm(&vm, &machine_state, false).unwrap_err().to_string();
    assert_eq!(error, "ioapic of the machine is missing or damaged");
}

#[test]
fn a_register_that_cannot_be_set_is_an_error_unless_it_has_the_value() {
    let Ok(kvm) = Kvm::open() else { return skipped("kvm::state::a_register…", "no KVM") };
    let facts = StateFacts::of(&kvm).unwrap();
    let (_vm, vcpu) = machine(&kvm);
    let state = save_vcpu(&vcpu, 0, &facts).unwrap();
    let unknown = 0x1234_5678;
    let error = set_msrs(&vcpu, &[[unknown, 9]], &state).unwrap_err().to_string();
    assert_eq!(error, "KVM refuses 0x9 in model-specific register 0x12345678 of vcpu 0");
    assert!(get_msrs(&vcpu, &[0x1234_5678, 0x10]).unwrap().iter().all(|[index, _]| *index == 0x10));
}

#[test]
fn what_is_cut_is_not_decoded() {
    let pieces = Pieces {
        of: "x".to_owned(),
        all: vec![("a".to_owned(), vec![1, 2, 3]), ("b2345678".to_owned(), Vec::new())],
    };
    let bytes = pieces.encode();
    assert_eq!(Pieces::decode("x", &bytes), Some(pieces.clone()));
    let whole = [0, NAME + 4 + 3, bytes.len()];
    for len in 0..bytes.len() {
        assert_eq!(Pieces::decode("x", &bytes[..len]).is_some(), whole.contains(&len), "{len}");
    }
}

#[test]
fn a_call_without_room_is_not_made() {
    let nowhere: RawFd = -1;
    let error = get(&nowhere, CLOCKS.get, &mut [0; 2]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(set(&nowhere, CLOCKS.set, &[0; 6]).unwrap_err().raw_os_error(), Some(libc::EBADF));
}
