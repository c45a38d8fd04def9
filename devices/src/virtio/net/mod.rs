//! Network card (virtio 1.3, 5.1) on a [`NetBackend`], usually a tap.
//!
//! Frames pass between the driver's buffers and the host without a copy and with their virtio-net header
//! unread: checksums and segmentation are between the driver and the host's network stack. This module
//! negotiates what the two may leave to each other and moves queues into handlers: one for receiving
//! ([`rx`]) and one for sending ([`tx`]) per queue pair, which share nothing but the backend, and one for
//! commands ([`control`]).
//!
//! Not offered: receive filtering (`CTRL_RX` and its kin), because the tap hands over whatever its bridge
//! sends and the driver filters better than a device that does not; UFO, which kernels dropped for USO.

mod control;
mod counters;
mod features;
mod header;
mod limits;
mod options;
mod posted;
mod rx;
mod tx;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use super::DeviceType;
use super::device::{ActivateError, Activation, QueueHandler, VirtioDevice, read_config_bytes};
use super::queue::Queue;
use super::session::{Session, Sessions};
use crate::backend::net::NetBackend;
use crate::interrupt::Interrupt;
use crate::metrics::Counter;
use crate::rate_limiter::Limiter;
use crate::state::{State, StateError};

pub use counters::Counters;
pub use limits::{NetControl, NetLimits};
pub use options::{MacAddress, Mtu, NetError};

/// Largest size of each queue, which is what Linux allocates buffers for.
const QUEUE_SIZE: u16 = 256;
/// Most queue pairs: what one tap has queues for.
const MAX_PAIRS: u16 = 256;
/// Configuration space: `mac`, `status`, `max_virtqueue_pairs`, `mtu` (virtio 1.3, 5.1.4).
const CONFIG_LEN: usize = 12;
/// `VIRTIO_NET_S_LINK_UP`.
const LINK_UP: u16 = 1;

/// What a network card is made of.
pub struct NetOptions {
    /// What the user calls it, for messages.
    pub id: String,
    /// Its address; without one the driver invents its own.
    pub mac: Option<MacAddress>,
    /// The MTU that the driver must use; without one it is free, which means 1500.
    pub mtu: Option<Mtu>,
    /// The host's side. It has as many queues as the card has queue pairs.
    pub backend: Arc<dyn NetBackend>,
    /// What frames towards the guest are limited by, on all queue pairs together.
    pub rx_limiter: Arc<Limiter>,
    /// What frames from the guest are.
    pub tx_limiter: Arc<Limiter>,
}

/// The network card.
pub struct Net {
    mac: Option<MacAddress>,
    mtu: Option<Mtu>,
    max_pairs: u16,
    queue_sizes: Vec<u16>,
    shared: Arc<Shared>,
    /// What the driver will find in force when it is activated next.
    commanded: Option<Commanded>,
}

/// What a driver can change by commands.
#[derive(Clone, Copy)]
struct Commanded {
    /// Queue pairs in use, from the first on; at least one.
    pairs: u16,
    /// The features of the offloads in force.
    offloads: u64,
}

/// What the handlers of one card have in common.
struct Shared {
    id: String,
    backend: Arc<dyn NetBackend>,
    counters: Arc<Counters>,
    /// Queue pairs that the driver wants to use, from the first on.
    active_pairs: AtomicU16,
    /// The offloads towards it that the driver wants, as feature bits.
    offloads: AtomicU64,
    is_link_up: AtomicBool,
    rx_limiter: Arc<Limiter>,
    tx_limiter: Arc<Limiter>,
    sessions: Sessions,
}

impl Net {
    /// A card on `options.backend`. The host is told the MTU; where that is not permitted, a warning
    /// says so and the card works all the same.
    #[must_use]
    pub fn new(options: NetOptions) -> Self {
        let NetOptions { id, mac, mtu, backend, rx_limiter, tx_limiter } = options;
        if let Some(mtu) = mtu
            && let Err(error) = backend.set_mtu(mtu.get())
        {
            let name = backend.name();
            log::warn!("{id}: mtu {} of {name} cannot be set: {error}", mtu.get());
        }
        let max_pairs = backend.queues().clamp(1, MAX_PAIRS);
        Self {
            mac,
            mtu,
            max_pairs,
            // The last one is for commands.
            queue_sizes: vec![QUEUE_SIZE; 2 * usize::from(max_pairs) + 1],
            shared: Arc::new(Shared {
                id,
                backend,
                counters: Arc::default(),
                active_pairs: AtomicU16::new(1),
                offloads: AtomicU64::new(0),
                is_link_up: AtomicBool::new(true),
                rx_limiter,
                tx_limiter,
                sessions: Sessions::default(),
            }),
            commanded: None,
        }
    }

    /// Changes the card later.
    #[must_use]
    pub fn control(&self) -> NetControl {
        NetControl::new(self.shared.clone())
    }

    /// What the card counts, from its creation on.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    fn config(&self) -> [u8; CONFIG_LEN] {
        let link_up = self.shared.is_link_up.load(Ordering::Acquire);
        let [a, b, c, d, e, f] = self.mac.map_or([0; 6], MacAddress::bytes);
        let [s, t] = if link_up { LINK_UP } else { 0 }.to_le_bytes();
        let [p, q] = self.max_pairs.to_le_bytes();
        let [m, n] = self.mtu.map_or(0, Mtu::get).to_le_bytes();
        [a, b, c, d, e, f, s, t, p, q, m, n]
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> DeviceType {
        DeviceType::NET
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        let mut offered = features::ALWAYS;
        for (has, feature) in [
            (self.mac.is_some(), features::MAC),
            (self.mtu.is_some(), features::MTU),
            (self.max_pairs > 1, features::MQ),
            (self.shared.backend.has_uso(), features::USO),
        ] {
            if has {
                offered |= feature;
            }
        }
        offered
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config(), offset, data);
    }

    fn activate(
        &mut self,
        mut activation: Activation,
    ) -> Result<Vec<Box<dyn QueueHandler>>, ActivateError> {
        let acked = activation.features;
        let queues = activation.queues.iter().flatten();
        let session = self.shared.sessions.begin(queues, activation.interrupt.clone());
        let mut pairs = vec![(activation.take_queue(0)?, activation.take_queue(1)?)];
        let control = self.take_control_queue(&mut activation);
        if control.is_some() && acked & features::MQ != 0 {
            pairs.extend(take_more_pairs(&mut activation, self.max_pairs));
        }
        let count = u16::try_from(pairs.len()).unwrap_or(MAX_PAIRS);
        let commanded = self.commanded.take().unwrap_or(Commanded { pairs: 1, offloads: acked });
        let offloads = commanded.offloads & acked;
        self.set_up_backend(offloads, count)?;
        self.shared.active_pairs.store(commanded.pairs.min(count), Ordering::Release);
        self.shared.offloads.store(offloads, Ordering::Release);

        let mut handlers: Vec<Box<dyn QueueHandler>> = Vec::with_capacity(2 * pairs.len() + 1);
        let shape = rx::Shape::new(acked, self.mtu);
        for (pair, (receive, transmit)) in (0..).zip(pairs) {
            let port = || Port {
                pair,
                shared: self.shared.clone(),
                interrupt: activation.interrupt.clone(),
                _session: session.clone(),
            };
            handlers.push(Box::new(rx::Receiver::new(port(), receive, shape)));
            handlers.push(Box::new(tx::Sender::new(port(), transmit)));
        }
        if let Some(queue) = control {
            let shared = self.shared.clone();
            handlers.push(Box::new(control::Commands::new(shared, queue, acked, count)));
        }
        Ok(handlers)
    }

    fn save(&self) -> State {
        let mut state = State::new();
        if self.shared.sessions.is_present() {
            state.set("pairs", self.shared.active_pairs.load(Ordering::Acquire));
            let offloads = self.shared.offloads.load(Ordering::Acquire);
            state.set("offloads", offloads & features::SWITCHABLE);
        }
        state
    }

    fn restore(&mut self, state: &State, is_active: bool) -> Result<(), StateError> {
        let (wanted, most) = ("a number of queue pairs that the card has", self.max_pairs);
        let pairs = state.checked("pairs", 1, wanted, |pairs| (1..=most).contains(pairs))?;
        let wanted = "a set of offloads";
        let is_right = |bits: &u64| bits & !features::SWITCHABLE == 0;
        let offloads = state.checked("offloads", features::SWITCHABLE, wanted, is_right)?;
        self.commanded = is_active.then_some(Commanded { pairs, offloads });
        Ok(())
    }
}

impl Net {
    /// The queue for commands, if driver and device have one. It follows the pairs that *could* be used:
    /// all of them with `MQ`, one without (virtio 1.3, 5.1.2).
    fn take_control_queue(&self, activation: &mut Activation) -> Option<Queue> {
        if activation.features & features::CTRL_VQ == 0 {
            return None;
        }
        let has_pairs = activation.features & features::MQ != 0;
        let pairs = if has_pairs { self.max_pairs } else { 1 };
        activation.queues.get_mut(2 * usize::from(pairs))?.take()
    }

    fn set_up_backend(&self, offloads: u64, pairs: u16) -> Result<(), ActivateError> {
        let backend = &self.shared.backend;
        // Only one pair is in use until the driver asks for more, but a tap's queue that is detached when
        // the event loop begins to watch it would never be heard of again. `Commands` detaches the rest.
        backend
            .set_active_queues(pairs)
            .and_then(|()| backend.set_offloads(features::offloads(offloads)))
            .map_err(|source| ActivateError::Host {
                what: format!("network {} cannot be set up", backend.name()),
                source,
            })
    }
}

/// The pairs after the first, up to the first that the driver did not set up.
fn take_more_pairs(activation: &mut Activation, max_pairs: u16) -> Vec<(Queue, Queue)> {
    let mut take = |index: usize| activation.queues.get_mut(index)?.take();
    (1..usize::from(max_pairs))
        .map_while(|pair| Some((take(2 * pair)?, take(2 * pair + 1)?)))
        .collect()
}

/// Where one handler is plugged in.
struct Port {
    pair: u16,
    shared: Arc<Shared>,
    interrupt: Interrupt,
    _session: Arc<Session>,
}

impl Port {
    /// Whether the driver uses this pair at present.
    fn is_active(&self) -> bool {
        self.pair < self.shared.active_pairs.load(Ordering::Acquire)
    }

    /// The host took the network away for good: the driver sees the link go down.
    fn lose_link(&self) {
        let Shared { id, backend, .. } = &*self.shared;
        if self.shared.is_link_up.swap(false, Ordering::AcqRel) {
            log::error!("{id}: {} is gone, the guest's link is down", backend.name());
            self.interrupt.config_changed();
        }
    }

    /// Counts a failure of the host and logs it, the more seldom the more there were.
    fn host_failed(&self, counter: &Counter, doing: &str, error: &std::io::Error) {
        if counter.increment().is_power_of_two() {
            let Shared { id, backend, .. } = &*self.shared;
            let name = backend.name();
            let hint = match error.raw_os_error() {
                Some(libc::EIO) => format!(": is it up (`ip link set {name} up`)?"),
                _ => String::new(),
            };
            let times = counter.get();
            log::warn!("{id}: {doing} {name} failed ({times} times so far): {error}{hint}");
        }
    }
}

/// Whether the host says that a network no longer exists.
fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::ENODEV | libc::ENOLINK))
}

#[cfg(test)]
pub(crate) mod tests;
