//! The virtio devices of a plan: each opened on the host and put on the bus.
//!
//! Which there are is decided by the plan, where they are by the device manager.

use std::sync::Arc;

use devices::backend::disk::Disk;
use devices::backend::disk::io::{Engine, Rings};
use devices::backend::net::NetBackend;
use devices::backend::net::tap::Tap;
use devices::backend::reclaim::HostReclaim;
use devices::metadata::MetadataNet;
use devices::rate_limiter::Limiter;
use devices::virtio::balloon::{Balloon, BalloonError, BalloonOptions};
use devices::virtio::block::{Block, BlockOptions};
use devices::virtio::console::Console;
use devices::virtio::net::{MacAddress, Mtu, Net, NetOptions};
use devices::virtio::rng::Rng;
use devices::virtio::vsock::Vsock;

use super::{BuildError, Persistent};
use crate::config::{BalloonPlan, DiskEngine, DiskPlan, NetPlan, Plan};
use crate::controls::Controls;
use crate::device_manager::DeviceManager;
use crate::events::{self, Throttling};

/// Bytes of a page that is not huge.
const USUAL_PAGE: u64 = 4096;

/// The virtio devices, in the order in which the guest numbers them, and the handles to change them.
pub(super) fn attach_virtio(
    manager: &mut DeviceManager<'_>,
    plan: &Plan,
    around: &Persistent<'_>,
) -> Result<Controls, BuildError> {
    let mut controls = Controls::default();
    let on = |id: &Option<String>| {
        let own = id.as_deref().and_then(|id| around.iothreads.get(id));
        own.unwrap_or(&around.on).clone()
    };
    for (index, disk) in plan.disks.iter().enumerate() {
        let rings = match disk.engine {
            DiskEngine::Sync => Rings::default(),
            DiskEngine::Uring => around.provisions.rings(index, disk.queues),
        };
        let block = block(disk, around.provisions.disk(index, disk)?, rings)?;
        let control = block.control();
        if around.is_measured {
            control.measure_times();
        }
        tell_of_throttling(&disk.id, &[control.limiter()]);
        controls.add_disk(&disk.id, control);
        manager.attach_virtio_on(on(&disk.iothread), &disk.id, Box::new(block))?;
    }
    for (index, net) in plan.nets.iter().enumerate() {
        let tap = around.provisions.tap(index, net)?;
        let card = network(net, with_metadata(tap, net, plan, around)?)?;
        let control = card.control();
        tell_of_throttling(&net.id, &[control.rx_limiter(), control.tx_limiter()]);
        controls.add_net(&net.id, control);
        manager.attach_virtio_on(on(&net.iothread), &net.id, Box::new(card))?;
    }
    if let (Some(plan), Some(endpoint)) = (&plan.vsock, around.vsock) {
        let backends = endpoint.backends();
        let device = Vsock::new(plan.guest_cid, Box::new(move || backends.open()));
        controls.set_vsock(device.counters());
        manager.attach_virtio("vsock", Box::new(device))?;
    }
    if let Some(port) = around.consoles.virtio() {
        manager.attach_virtio("console", Box::new(Console::new(port.clone())))?;
    }
    if plan.rng {
        let device = Rng::new(around.provisions.random()?);
        controls.set_rng(device.counters());
        manager.attach_virtio("rng", Box::new(device))?;
    }
    if let Some(service) = around.metadata {
        controls.set_metadata(service.store().clone());
    }
    if let Some(wanted) = &plan.balloon {
        let balloon = balloon(wanted, plan)?;
        controls.set_balloon(balloon.control());
        manager.attach_virtio("balloon", Box::new(balloon))?;
    }
    Ok(controls)
}

/// Makes an event of it when one of the limiters of `device` closes.
fn tell_of_throttling(device: &str, limiters: &[&Arc<Limiter>]) {
    if events::is_on() {
        let throttling = Arc::new(Throttling::of(device));
        for limiter in limiters {
            let throttling = throttling.clone();
            limiter.on_closure(move || throttling.happened());
        }
    }
}

fn block(plan: &DiskPlan, disk: Disk, rings: Rings) -> Result<Block, BuildError> {
    let disk = Arc::new(disk);
    let serial = Some(plan.serial.parse()?);
    let engine = match plan.engine {
        DiskEngine::Sync => Engine::Sync,
        DiskEngine::Uring => Engine::IoUring,
    };
    let (id, queues) = (plan.id.clone(), plan.queues);
    let limiter = Limiter::new(plan.limits);
    Ok(Block::new(BlockOptions { id, serial, disk, queues, engine, rings, limiter }))
}

/// The host's side of a card, with the metadata service in front of it where it is wanted.
fn with_metadata(
    tap: Arc<Tap>,
    net: &NetPlan,
    plan: &Plan,
    around: &Persistent<'_>,
) -> Result<Arc<dyn NetBackend>, BuildError> {
    match (&plan.metadata, around.metadata) {
        (Some(metadata), Some(service)) if net.metadata => {
            let with_service = MetadataNet::new(tap, service.clone(), metadata.address);
            Ok(Arc::new(with_service.map_err(BuildError::Metadata)?))
        }
        _ => Ok(tap),
    }
}

fn network(plan: &NetPlan, backend: Arc<dyn NetBackend>) -> Result<Net, BuildError> {
    Ok(Net::new(NetOptions {
        id: plan.id.clone(),
        mac: Some(MacAddress::new(plan.mac)?),
        mtu: plan.mtu.map(Mtu::new).transpose()?,
        backend,
        rx_limiter: Limiter::new(plan.rx_limits),
        tx_limiter: Limiter::new(plan.tx_limits),
    }))
}

fn balloon(wanted: &BalloonPlan, plan: &Plan) -> Result<Balloon, BalloonError> {
    // Transparent huge pages can be broken up, reserved ones cannot.
    let page_size = plan.backing.pages.reserved_size().unwrap_or(USUAL_PAGE);
    Balloon::new(BalloonOptions {
        id: "balloon".to_owned(),
        target_mib: wanted.size_mib,
        memory_mib: plan.memory_bytes >> 20,
        deflate_on_oom: wanted.deflate_on_oom,
        statistics: wanted.statistics,
        reporting: wanted.reporting,
        hinting: wanted.hinting,
        reclaim: Arc::new(HostReclaim::new(page_size)),
    })
}
