//! A machine that goes on from a snapshot: what takes the place of loading a kernel and of the first registers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use arch::{ApicIds, Topology};
use devices::bus::BusDevice;
use devices::memory::GuestMemory;
use kvm_ioctls::VcpuFd;

use super::BuildError;
use crate::config::Plan;
use crate::device_manager::{Attached, Legacy};
use crate::generation;
use crate::kvm::{Kvm, Vm, state};
use crate::memory::{self, ahead, file, uffd};
use crate::snapshot::host::Host;
use crate::snapshot::{SnapshotError, Source};

/// The memory of `source`.
pub(super) fn memory(plan: &Plan, source: &Source) -> Result<GuestMemory, BuildError> {
    let mut backing = plan.backing;
    let order = &source.order;
    // What a balloon lets go must be zeroes later, not the file again.
    let is_mapped = file::is_mapped(backing) && plan.balloon.is_none();
    if order.record && (!is_mapped || order.provider.is_some()) {
        let what = "record needs memory that is mapped from the snapshot's files: not of huge pages, \
                    shared, taken in advance, of a provider, or with a balloon";
        return Err(SnapshotError::Override { what: what.to_owned() }.into());
    }
    if let Some(provider) = &order.provider {
        backing.prefault = false;
        let memory = memory::reserve(source.record.memory.bytes, backing)?;
        let page_size = backing.pages.reserved_size().unwrap_or(file::PAGE);
        uffd::hand_over(&memory, page_size, provider)?;
        return Ok(memory);
    }
    backing.prefault |= plan.balloon.is_some();
    let memory = file::restore(source.record.memory.bytes, &source.layers, backing)?;
    match &source.working_set {
        _ if order.record => ahead::read_one_by_one(&memory, &source.layers),
        Ok(runs) if is_mapped => ahead::read_ahead(&memory, runs),
        Ok(_) => {}
        Err(error) => log::warn!("the working set of the snapshot {error}"),
    }
    Ok(memory)
}

/// Gives vCPUs, interrupt controllers and devices their state; the devices are at rest. The order is KVM's: the local
/// interrupt controllers come with the vCPUs, the clock needs their counters, and devices raise interrupts.
pub(super) fn machine(
    source: &Source,
    kvm: &Kvm,
    vm: &Vm,
    topology: Topology,
    (virtio, legacy): (&[Attached], &[Legacy]),
) -> Result<Vec<VcpuFd>, BuildError> {
    let (order, record) = (&source.order, &source.record);
    let apic_ids = ApicIds::new(&topology);
    let vcpus = apic_ids.iter().map(|id| vm.create_vcpu(id)).collect::<Result<Vec<_>, _>>()?;
    if vcpus.len() != record.vcpus.len() {
        let what =
            format!("it has {} vCPUs, its configuration {}", record.vcpus.len(), vcpus.len());
        return Err(SnapshotError::Override { what }.into());
    }
    let host = Host::of(kvm)?;
    let khz = vcpus.first().map_or(0, state::tsc_khz);
    let differences = host.differences(record, khz);
    let may_force = differences.iter().all(|it| it.is_safe);
    let is_forced = order.force && may_force;
    if !differences.is_empty() && !is_forced {
        return Err(SnapshotError::Host { differences, may_force }.into());
    }
    for (vcpu, state) in vcpus.iter().zip(&record.vcpus) {
        state::restore_vcpu(vcpu, state, host.facts()).map_err(SnapshotError::State)?;
    }
    state::restore_vm(vm, &record.vm, order.is_real_time).map_err(SnapshotError::State)?;
    generation::renew(vm)?;
    restore_devices(source, virtio, legacy)?;
    Ok(vcpus)
}

fn restore_devices(
    source: &Source,
    virtio: &[Attached],
    legacy: &[Legacy],
) -> Result<(), SnapshotError> {
    let saved = &source.record.devices;
    let names = virtio.iter().enumerate().map(|(index, device)| device.state_name(index));
    let names: Vec<String> = names.collect();
    let is_here =
        |name: &str| names.iter().any(|it| it == name) || legacy.iter().any(|(it, _)| *it == name);
    let is_there = |name: &String| saved.iter().any(|(it, _)| it == name);
    // A device of the PC that has no state there has none here.
    if !saved.iter().all(|(name, _)| is_here(name)) || !names.iter().all(is_there) {
        let there = saved.iter().map(|(name, _)| name.clone()).collect();
        return Err(SnapshotError::Devices { there, here: names });
    }
    let failed = |id: &str| {
        let id = id.to_owned();
        move |source| SnapshotError::Device { id, source }
    };
    for (name, state) in saved {
        if let Some((_, device)) = legacy.iter().find(|(it, _)| it == name) {
            lock(device).restore(state).map_err(failed(name))?;
        }
        let index = names.iter().position(|it| it == name);
        if let Some(device) = index.and_then(|index| virtio.get(index)) {
            lock(&device.registers).restore(state).map_err(failed(name))?;
        }
    }
    Ok(())
}

fn lock<T: ?Sized>(device: &Mutex<T>) -> MutexGuard<'_, T> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}
