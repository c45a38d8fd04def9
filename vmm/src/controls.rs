//! What can be changed about the devices of a machine that runs, by the names that the user gave them, and what they
//! count.
//!
//! A change made here holds for this machine. Whoever makes it writes it into the plan too, so that it outlives a reboot.

use std::sync::Arc;

use devices::legacy::serial::SerialCounters;
use devices::metadata::MetadataStore;
use devices::metrics::Live;
use devices::virtio::balloon::BalloonControl;
use devices::virtio::block::BlockControl;
use devices::virtio::net::NetControl;
use devices::virtio::{rng, vsock};

use crate::metrics::{Balloon, Disk, Net, Snapshot};

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
    pub fn count_into(&self, snapshot: &mut Snapshot) {
        let disk = |(id, control): &(String, BlockControl)| Disk {
            id: id.clone(),
            throttled: control.limiter().closures(),
            queues: control.counts(),
        };
        let net = |(id, control): &(String, NetControl)| Net {
            id: id.clone(),
            rx_throttled: control.rx_limiter().closures(),
            tx_throttled: control.tx_limiter().closures(),
            counts: control.counts(),
        };
        let balloon = |control: &BalloonControl| Balloon {
            target_pages: control.target_pages(),
            actual_pages: control.actual_pages(),
            counts: control.counters(),
        };
        snapshot.disks = self.disks.iter().map(disk).collect();
        snapshot.nets = self.nets.iter().map(net).collect();
        snapshot.balloon = self.balloon.as_ref().map(balloon);
        snapshot.vsock = self.vsock.as_ref().map(|counters| counters.read());
        snapshot.rng = self.rng.as_ref().map(|counters| counters.read());
        snapshot.serial = self.serial.as_ref().map(|counters| counters.read());
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

#[cfg(test)]
mod tests;
