//! What can be changed about the devices of a machine that runs, by the names that the user gave them.
//!
//! A change made here holds for this machine. Whoever makes it writes it into the plan too, so that it outlives a reboot.

use devices::metadata::MetadataStore;
use devices::virtio::balloon::BalloonControl;
use devices::virtio::block::BlockControl;
use devices::virtio::net::NetControl;

/// The handles of a machine's devices. They may be used from any thread and never wait for the guest.
#[derive(Clone, Default)]
pub struct Controls {
    disks: Vec<(String, BlockControl)>,
    nets: Vec<(String, NetControl)>,
    balloon: Option<BalloonControl>,
    metadata: Option<MetadataStore>,
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
