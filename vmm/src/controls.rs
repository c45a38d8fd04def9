//! What can be changed about the devices of a machine that runs, by the names that the user gave them, and what they
//! count.
//!
//! A change made here holds for this machine. Whoever makes it writes it into the plan too, so that it outlives a reboot.

use std::sync::Arc;

use devices::legacy::serial::SerialCounters;
use devices::metadata::MetadataStore;
use devices::metrics::Numbers;
use devices::rate_limiter::Limiter;
use devices::virtio::balloon::BalloonControl;
use devices::virtio::block::BlockControl;
use devices::virtio::net::NetControl;
use devices::virtio::{rng, vsock};

use crate::metrics::Snapshot;

/// A page of a balloon (virtio 1.3, 5.5.6), as a shift.
const BALLOON_PAGE_SHIFT: u32 = 12;

/// The handles of a machine's devices. They may be used from any thread and never wait for the guest.
#[derive(Clone, Default)]
pub struct Controls {
    disks: Vec<(String, BlockControl)>,
    nets: Vec<(String, NetControl)>,
    balloon: Option<BalloonControl>,
    metadata: Option<MetadataStore>,
    vsock: Option<Arc<vsock::Counters>>,
    rng: Option<Arc<rng::Counters>>,
    serial: Option<Arc<SerialCounters>>,
}

impl Controls {
    /// The disk called `id`.
    #[must_use]
    pub fn disk(&self, id: &str) -> Option<&BlockControl> {
        self.disks.iter().find(|(name, _)| name == id).map(|(_, control)| control)
    }

    /// The process ends, and nobody closes the disks: what their overlays hold in memory is written down.
    pub fn keep_overlays(&self) {
        for (id, control) in &self.disks {
            if let Err(error) = control.disk().keep_overlay() {
                log::error!("disk {id}: what was not flushed to its overlay is lost: {error}");
            }
        }
    }

    /// The network card called `id`.
    #[must_use]
    pub fn net(&self, id: &str) -> Option<&NetControl> {
        self.nets.iter().find(|(name, _)| name == id).map(|(_, control)| control)
    }

    /// The balloon, if the machine has one.
    #[must_use]
    pub fn balloon(&self) -> Option<&BalloonControl> {
        self.balloon.as_ref()
    }

    /// What the guest is told, if it is told anything. It outlives the machine.
    #[must_use]
    pub fn metadata(&self) -> Option<&MetadataStore> {
        self.metadata.as_ref()
    }

    /// Writes down what the devices have counted.
    #[inline(never)]
    pub fn count_into(&self, snapshot: &mut Snapshot) {
        for (id, control) in &self.disks {
            for (queue, counts) in control.counts().into_iter().enumerate() {
                let queue = queue.to_string();
                let labels = [("disk", id.as_str()), ("queue", &queue)];
                snapshot.push("disk", &labels, counts.numbers, counts.times);
            }
            add_limiter(snapshot, id, "both", control.limiter());
        }
        for (id, control) in &self.nets {
            snapshot.push("net", &[("net", id)], control.counts(), Vec::new());
            add_limiter(snapshot, id, "rx", control.rx_limiter());
            add_limiter(snapshot, id, "tx", control.tx_limiter());
        }
        if let Some(balloon) = &self.balloon {
            let bytes = |pages: u32| u64::from(pages) << BALLOON_PAGE_SHIFT;
            let sizes = [bytes(balloon.target_pages()), bytes(balloon.actual_pages())];
            snapshot.add("balloon", Numbers::new("target actual", &sizes));
            snapshot.add("inflation", balloon.counters().numbers());
        }
        if let Some(vsock) = &self.vsock {
            snapshot.add("vsock", vsock.read());
        }
        if let Some(rng) = &self.rng {
            snapshot.add("rng", rng.read());
        }
        if let Some(serial) = &self.serial {
            snapshot.add("serial", serial.read());
        }
    }

    pub(crate) fn set_vsock(&mut self, counters: Arc<vsock::Counters>) {
        self.vsock = Some(counters);
    }

    pub(crate) fn set_rng(&mut self, counters: Arc<rng::Counters>) {
        self.rng = Some(counters);
    }

    pub(crate) fn set_serial(&mut self, counters: Arc<SerialCounters>) {
        self.serial = Some(counters);
    }

    pub(crate) fn set_metadata(&mut self, store: MetadataStore) {
        self.metadata = Some(store);
    }

    pub(crate) fn set_balloon(&mut self, control: BalloonControl) {
        self.balloon = Some(control);
    }

    pub(crate) fn add_disk(&mut self, id: &str, control: BlockControl) {
        self.disks.push((id.to_owned(), control));
    }

    pub(crate) fn add_net(&mut self, id: &str, control: NetControl) {
        self.nets.push((id.to_owned(), control));
    }
}

#[inline(never)]
fn add_limiter(snapshot: &mut Snapshot, id: &str, direction: &str, limiter: &Limiter) {
    let numbers = Numbers::new("closures", &[limiter.closures()]);
    snapshot.push("limiter", &[("device", id), ("direction", direction)], numbers, Vec::new());
}

#[cfg(test)]
mod tests;
