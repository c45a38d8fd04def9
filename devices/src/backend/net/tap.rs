//! A tap: a network interface of the host whose other end is a file descriptor.
//!
//! Opens, checks and configures taps; addresses, bridges and routes are the host administrator's.

mod sys;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, PoisonError};

use sys::{IfReq, ioctl_int, ioctl_request, ioctl_value, knows_nowait, set_nonblocking};

use super::ring::{FrameRing, Lost};
use super::{Frames, NetBackend, Offloads, Slots, read_first, write_each};
use crate::guest_io::IoVecs;
use crate::memory::GuestMemory;

/// The device that makes taps.
const TUN_DEVICE: &str = "/dev/net/tun";
/// Most queues that the kernel gives one tap (`MAX_TAP_QUEUES`).
const MAX_QUEUES: u16 = 256;
/// Length of the virtio-net header before each frame.
const HEADER_LEN: libc::c_int = 12;
/// Most frames dropped when the offloads change. The queue of a tap holds 1000 by default; a peer that
/// sends faster than they are dropped must not keep us here.
const MAX_STALE_FRAMES: usize = 4096;

/// Why a tap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No interface can have this name.
    #[error("`{name}` is not an interface name: 1 to 15 bytes without `/`, `:`, `%` and spaces")]
    Name {
        /// What was asked for.
        name: String,
    },
    /// Too few or too many queues.
    #[error("tap with {queues} queues: from 1 to {MAX_QUEUES} are possible")]
    Queues {
        /// What was asked for.
        queues: usize,
    },
    /// The kernel has no tap driver loaded.
    #[error("{TUN_DEVICE} is missing: load the driver with `modprobe tun`")]
    NoDriver,
    /// The tap driver is there, but cannot be opened.
    #[error("cannot open {TUN_DEVICE}")]
    Open {
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// Neither may this process create the tap, nor does an existing one belong to its user.
    #[error(
        "not permitted to use tap `{name}`: let root run `ip tuntap add dev {name} mode tap user \
         $USER vnet_hdr{}`", if *.queues > 1 { " multi_queue" } else { "" }
    )]
    Permission {
        /// The interface.
        name: String,
        /// How many queues were asked for.
        queues: u16,
    },
    /// The tap has a reader already.
    #[error("tap `{name}` is in use by another process")]
    Busy {
        /// The interface.
        name: String,
    },
    /// The name belongs to an interface that is no tap, or one with another queue model.
    #[error(
        "interface `{name}` exists but is not a tap made {}",
        if *.queues > 1 {
            "with multi_queue: make it again with `ip tuntap add ... multi_queue`, or take one queue"
        } else {
            "without multi_queue: ask for two queues or more, or make it again"
        }
    )]
    Mismatch {
        /// The interface.
        name: String,
        /// How many queues were asked for.
        queues: u16,
    },
    /// A descriptor that was handed over is not an attached tap.
    #[error("descriptor {fd} is not a tap")]
    NotTap {
        /// The descriptor.
        fd: RawFd,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// A descriptor is a tap whose frames have another form.
    #[error("descriptor {fd} (`{name}`) must be opened with {missing}")]
    Form {
        /// The descriptor.
        fd: RawFd,
        /// The interface.
        name: String,
        /// The flags of TUNSETIFF that it lacks.
        missing: &'static str,
    },
    /// Descriptors of several interfaces were handed over as one.
    #[error("descriptors belong to different taps: `{name}` and `{other}`")]
    Mixed {
        /// The first interface.
        name: String,
        /// The one that differs.
        other: String,
    },
    /// The kernel refused to configure the tap.
    #[error("tap `{name}`: {call} failed")]
    Configure {
        /// The interface.
        name: String,
        /// The failed call.
        call: &'static str,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
}

/// A tap with one or more queues. Dropping it detaches from the interface, which vanishes unless it was
/// made persistent.
#[derive(Debug)]
pub struct Tap {
    name: String,
    queues: Vec<File>,
    /// For each queue a way to move many frames at once, where the host has one.
    rings: Vec<Mutex<Option<FrameRing>>>,
    has_uso: bool,
    /// Whether the name was resolved in this process's network namespace, so that it means the same
    /// interface in other calls.
    is_local: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Queues from 0 on that are attached.
    attached: usize,
    /// What was set last; nothing is known of a tap before that.
    offloads: Option<Offloads>,
    /// The same.
    mtu: Option<u16>,
}

impl Tap {
    /// Attaches to the tap `name` with `queues` queues, creating it when it does not exist and this
    /// process may (`CAP_NET_ADMIN`). A tap created here is gone when it is dropped.
    ///
    /// # Errors
    /// [`TapError`], which names the remedy.
    pub fn open(name: &str, queues: u16) -> Result<Self, TapError> {
        let request = IfReq::named(name).ok_or_else(|| TapError::Name { name: name.to_owned() })?;
        if queues == 0 || queues > MAX_QUEUES {
            return Err(TapError::Queues { queues: usize::from(queues) });
        }
        let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if queues > 1 {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        let files = (0..queues)
            .map(|_| attach(name, request.with_flags(flags), queues))
            .collect::<Result<_, _>>()?;
        Self::configure(name.to_owned(), files, true)
    }

    /// Uses a descriptor of a tap or macvtap that somebody else opened with `IFF_VNET_HDR` and
    /// `IFF_NO_PI`. The kernel does not tell whether the latter was given, so the opener must see to it.
    ///
    /// # Errors
    /// [`TapError`] when it is no tap, or one whose frames have another form.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, TapError> {
        Self::from_fds(vec![fd])
    }

    /// Uses one descriptor for each queue of one tap or macvtap.
    ///
    /// # Errors
    /// As [`Self::from_fd`]; also when they do not belong together.
    pub fn from_fds(fds: Vec<OwnedFd>) -> Result<Self, TapError> {
        if fds.is_empty() || fds.len() > usize::from(MAX_QUEUES) {
            return Err(TapError::Queues { queues: fds.len() });
        }
        let mut name: Option<String> = None;
        let mut files = Vec::with_capacity(fds.len());
        for fd in fds {
            let other = check_handed_over(fd.as_fd())?;
            let name = name.get_or_insert_with(|| other.clone());
            if *name != other {
                return Err(TapError::Mixed { name: name.clone(), other });
            }
            files.push(File::from(fd));
        }
        Self::configure(name.unwrap_or_default(), files, false)
    }

    fn configure(name: String, queues: Vec<File>, is_local: bool) -> Result<Self, TapError> {
        for file in &queues {
            for (call, request, value) in [
                ("TUNSETVNETHDRSZ", libc::TUNSETVNETHDRSZ, HEADER_LEN),
                ("TUNSETVNETLE", libc::TUNSETVNETLE, 1),
            ] {
                ioctl_int(file.as_fd(), request, value).map_err(|source| TapError::Configure {
                    name: name.clone(),
                    call,
                    source,
                })?;
            }
        }
        let mut tap = Self {
            name,
            rings: queues.iter().map(|queue| Mutex::new(ring_for(queue))).collect(),
            queues,
            has_uso: false,
            is_local,
            state: Mutex::default(),
        };
        tap.has_uso = tap.probe_uso().map_err(|source| TapError::Configure {
            name: tap.name.clone(),
            call: "TUNSETOFFLOAD",
            source,
        })?;
        tap.state = Mutex::new(State { attached: tap.queues.len(), ..State::default() });
        Ok(tap)
    }

    /// Whether the kernel knows unsegmented UDP (Linux 6.2): there is no way to ask but to try.
    fn probe_uso(&self) -> io::Result<bool> {
        let uso = libc::TUN_F_CSUM | libc::TUN_F_USO4 | libc::TUN_F_USO6;
        let first = self.queue(0)?;
        let has_uso = ioctl_value(first, libc::TUNSETOFFLOAD, uso.into()).is_ok();
        ioctl_value(first, libc::TUNSETOFFLOAD, 0)?;
        Ok(has_uso)
    }

    /// Lets `transfer` use the ring of `queue`; `false` when there is none.
    fn with_ring(
        &self,
        queue: u16,
        transfer: impl FnOnce(&mut FrameRing, BorrowedFd<'_>) -> Result<(), Lost>,
    ) -> bool {
        let Some((ring, tap)) = self.rings.get(usize::from(queue)).zip(self.fd(queue)) else {
            return false;
        };
        // The two handlers of a queue are on one thread, so that nobody waits here.
        let mut place = ring.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ring) = place.as_mut() else { return false };
        if transfer(ring, tap) == Err(Lost) {
            log::warn!("tap {}: frames pass one by one: the ring is lost", self.name);
            *place = None;
        }
        true
    }

    fn queue(&self, index: usize) -> io::Result<BorrowedFd<'_>> {
        let file = self.queues.get(index);
        file.map(AsFd::as_fd).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

impl NetBackend for Tap {
    fn name(&self) -> &str {
        &self.name
    }

    fn queues(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(MAX_QUEUES)
    }

    fn has_uso(&self) -> bool {
        self.has_uso
    }

    fn fd(&self, queue: u16) -> Option<BorrowedFd<'_>> {
        self.queue(usize::from(queue)).ok()
    }

    fn read_frames(
        &self,
        queue: u16,
        iovecs: &mut IoVecs,
        memory: &GuestMemory,
        slots: &mut Slots,
        came: &mut dyn FnMut(io::Result<usize>),
    ) {
        if slots.wanted() > 1 && self.with_ring(queue, |ring, tap| ring.receive(tap, slots, came)) {
            return;
        }
        read_first(self, queue, iovecs, memory, slots, came);
    }

    fn write_frames(
        &self,
        queue: u16,
        iovecs: &mut IoVecs,
        memory: &GuestMemory,
        frames: &Frames,
        sent: &mut dyn FnMut(usize, io::Result<usize>),
    ) {
        if frames.len() > 1
            && self.with_ring(queue, |ring, tap| ring.send(tap, iovecs, memory, frames, sent))
        {
            return;
        }
        write_each(self, queue, iovecs, memory, frames, sent);
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.offloads == Some(offloads) {
            return Ok(());
        }
        ioctl_value(self.queue(0)?, libc::TUNSETOFFLOAD, offload_flags(offloads).into())?;
        state.offloads = Some(offloads);
        // What waits was shaped for another driver, which may have accepted larger frames.
        for file in &self.queues {
            drop_waiting(file);
        }
        Ok(())
    }

    fn set_active_queues(&self, count: u16) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let count = usize::from(count).clamp(1, self.queues.len());
        // One step at a time, so that a failure leaves the truth behind.
        while state.attached > count {
            switch_queue(self.queue(state.attached - 1)?, libc::IFF_DETACH_QUEUE)?;
            state.attached -= 1;
        }
        while state.attached < count {
            switch_queue(self.queue(state.attached)?, libc::IFF_ATTACH_QUEUE)?;
            state.attached += 1;
        }
        Ok(())
    }

    fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked again, this process may have left the tap's network.
        if state.mtu == Some(mtu) {
            return Ok(());
        }
        if !self.is_local {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the tap was handed over open; set its mtu where it was made",
            ));
        }
        let mut request = IfReq::named(&self.name).ok_or(io::ErrorKind::InvalidInput)?;
        request.set_int(mtu.into());
        // Interfaces are configured through any socket; this kind exists in every kernel.
        let socket = UnixDatagram::unbound()?;
        ioctl_request(socket.as_fd(), libc::SIOCSIFMTU, &mut request)?;
        state.mtu = Some(mtu);
        Ok(())
    }
}

/// Makes one queue: opens the driver and names the interface that it is for.
fn attach(name: &str, mut request: IfReq, queues: u16) -> Result<File, TapError> {
    let opened =
        File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN_DEVICE);
    let file = opened.map_err(|source| match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NoDriver,
        _ => TapError::Open { source },
    })?;
    let name = name.to_owned();
    match ioctl_request(file.as_fd(), libc::TUNSETIFF, &mut request) {
        Ok(()) => Ok(file),
        Err(source) => Err(match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => TapError::Permission { name, queues },
            Some(libc::EBUSY) => TapError::Busy { name },
            Some(libc::EINVAL) => TapError::Mismatch { name, queues },
            _ => TapError::Configure { name, call: "TUNSETIFF", source },
        }),
    }
}

/// Checks that `fd` is a tap whose frames have our form, and makes it non-blocking. Returns the name of
/// the interface.
fn check_handed_over(fd: BorrowedFd<'_>) -> Result<String, TapError> {
    let number = fd.as_raw_fd();
    let mut request = IfReq::empty();
    let asked = ioctl_request(fd, libc::TUNGETIFF, &mut request);
    asked.map_err(|source| TapError::NotTap { fd: number, source })?;
    let name = request.name();
    // IFF_NO_PI cannot be checked: in this answer its bit also means that no filter is attached.
    for (flag, missing) in [(libc::IFF_TAP, "IFF_TAP"), (libc::IFF_VNET_HDR, "IFF_VNET_HDR")] {
        if request.flags() & flag == 0 {
            return Err(TapError::Form { fd: number, name, missing });
        }
    }
    match set_nonblocking(fd) {
        Ok(()) => Ok(name),
        Err(source) => Err(TapError::Configure { name, call: "fcntl", source }),
    }
}

fn offload_flags(offloads: Offloads) -> libc::c_uint {
    let Offloads { checksum, tso4, tso6, ecn, uso } = offloads;
    [
        (checksum, libc::TUN_F_CSUM),
        (tso4, libc::TUN_F_TSO4),
        (tso6, libc::TUN_F_TSO6),
        (ecn, libc::TUN_F_TSO_ECN),
        // The kernel takes the two together or not at all.
        (uso, libc::TUN_F_USO4 | libc::TUN_F_USO6),
    ]
    .into_iter()
    .filter_map(|(on, flag)| on.then_some(flag))
    .sum()
}

/// Reads frames into nowhere: a read takes a whole frame off the queue, however little of it is wanted.
fn drop_waiting(mut file: &File) {
    let mut head = [0; 64];
    for _ in 0..MAX_STALE_FRAMES {
        if file.read(&mut head).is_err() {
            return;
        }
    }
}

fn switch_queue(fd: BorrowedFd<'_>, what: libc::c_int) -> io::Result<()> {
    let mut request = IfReq::empty().with_flags(what);
    ioctl_request(fd, libc::TUNSETQUEUE, &mut request)
}

/// A ring for the frames of a queue, unless the host permits none or the tap is of a kind that cannot use one.
fn ring_for(tap: &File) -> Option<FrameRing> {
    if !knows_nowait(tap) {
        return None;
    }
    FrameRing::open().inspect_err(|error| log::debug!("no ring for a tap: {error}")).ok()
}

#[cfg(test)]
mod tests;
