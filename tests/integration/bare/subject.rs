//! The devices that hostile drivers are let loose on, and for each a request that must work at any time after a
//! reset.

use harness::network::{Tap, in_own_network};
use harness::puppet::Puppet;
use harness::virtio::{Answer, Descriptor, Device, Kind, Queue};
use harness::{Need, Scratch, Vmm};

use harness::vsock::{Header, op};

/// A device and the queue that carries its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Entropy.
    Rng,
    /// Disk requests.
    Block,
    /// The transmit queue of a network card.
    Net,
    /// The transmit queue of a console.
    Console,
    /// The transmit queue of a socket device.
    Vsock,
    /// The inflate queue of a balloon.
    Balloon,
}

/// Sectors of the disk; each is filled with its number.
pub const SECTORS: u8 = 64;

impl Subject {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Rng, Self::Block, Self::Net, Self::Console, Self::Vsock, Self::Balloon];

    /// The name in the names of tests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rng => "rng",
            Self::Block => "block",
            Self::Net => "net",
            Self::Console => "console",
            Self::Vsock => "vsock",
            Self::Balloon => "balloon",
        }
    }

    /// What the host must have.
    pub fn needs(self) -> &'static [Need] {
        match self {
            Self::Net => &[Need::Kvm, Need::Network],
            _ => &[Need::Kvm],
        }
    }

    /// What the device says it is.
    pub fn kind(self) -> Kind {
        match self {
            Self::Rng => Kind::Rng,
            Self::Block => Kind::Block,
            Self::Net => Kind::Net,
            Self::Console => Kind::Console,
            Self::Vsock => Kind::Vsock,
            Self::Balloon => Kind::Balloon,
        }
    }

    /// Which queue takes the requests.
    pub fn queue_index(self) -> u16 {
        match self {
            Self::Rng | Self::Block | Self::Balloon => 0,
            Self::Net | Self::Console | Self::Vsock => 1,
        }
    }

    /// Runs `test` with a machine that has this device, and expects the machine to live through it.
    pub fn with_device(self, test: impl FnOnce(&Device<'_>) + Send + 'static) {
        let run = move |vmm: Vmm| {
            let puppet = Puppet::start(vmm);
            test(&Device::find(&puppet, self.kind()));
            puppet.finish();
        };
        let scratch = Scratch::new();
        match self {
            Self::Rng => run(Vmm::puppet("")),
            Self::Block => {
                let disk = scratch.file("disk", disk_contents());
                run(Vmm::puppet("").args(["--rng", "off"]).disk(disk, ""));
            }
            Self::Net => in_own_network(move || {
                let _tap = Tap::new("tap0");
                run(Vmm::puppet("").args(["--rng", "off", "--net", "tap=tap0"]));
            }),
            Self::Console => {
                let target = format!("file={}", scratch.join("console").display());
                run(Vmm::puppet("").args(["--rng", "off"]).console(&target));
            }
            Self::Vsock => {
                let vsock = format!("socket={}", scratch.join("vsock").display());
                run(Vmm::puppet("").args(["--rng", "off", "--vsock", &vsock]));
            }
            Self::Balloon => {
                // With every queue that there is.
                let options = "0,stats=3600s,reporting,hinting";
                run(Vmm::puppet("").args(["--rng", "off", "--balloon", options]));
            }
        }
    }

    /// Takes the device from whatever state to readiness, with `features` and all queues it cannot do without.
    #[track_caller]
    pub fn set_up<'p>(self, device: &Device<'p>, features: u64) -> Queue<'p> {
        device.negotiate(features);
        self.set_up_others(device);
        let queue = device.queue(self.queue_index());
        device.driver_ok();
        queue
    }

    /// Sets up the queues that the device cannot do without, but for the one that takes the requests.
    pub fn set_up_others(self, device: &Device<'_>) {
        let others: &[u16] = match self {
            Self::Rng | Self::Block => &[],
            Self::Net | Self::Console => &[0],
            Self::Vsock => &[0, 2],
            // What leaves the balloon.
            Self::Balloon => &[1],
        };
        for index in others {
            let _other = device.queue(*index);
        }
    }

    /// A chain that makes a correct request of one small answer.
    pub fn chain(self, queue: &Queue<'_>) -> Vec<Descriptor> {
        let buffer = |number| queue.buffer(number);
        match self {
            Self::Rng => vec![Descriptor::writable(buffer(0), 64)],
            Self::Block => vec![
                Descriptor::readable(buffer(0), 16).then(1),
                Descriptor::writable(buffer(1), 512).then(2),
                Descriptor::writable(buffer(2), 1),
            ],
            // The header that precedes each frame, and the smallest frame.
            Self::Net => vec![Descriptor::readable(buffer(0), 12 + 60)],
            Self::Console => vec![Descriptor::readable(buffer(0), 8)],
            Self::Vsock => vec![Descriptor::readable(buffer(0), 44)],
            Self::Balloon => vec![Descriptor::readable(buffer(0), 4 * 8)],
        }
    }

    /// The same request in pieces, as many as the queue has descriptors.
    pub fn chain_in_pieces(self, queue: &Queue<'_>) -> Vec<Descriptor> {
        let chain = self.chain(queue);
        let (first, rest) = chain.split_first().unwrap();
        let count = u32::from(Queue::SIZE) - u32::try_from(rest.len()).unwrap();
        let piece = first.len / count;
        let pieces = (0..count).map(|number| Descriptor {
            address: first.address + u64::from(number * piece),
            len: if number == count - 1 { first.len - number * piece } else { piece },
            ..*first
        });
        let all: Vec<Descriptor> = pieces.chain(rest.iter().copied()).collect();
        let successors = 1..=Queue::SIZE;
        let linked = all.into_iter().zip(successors).map(|(descriptor, next)| {
            let alone = Descriptor { flags: descriptor.flags & Descriptor::WRITE, ..descriptor };
            alone.then_if(next < Queue::SIZE, next)
        });
        linked.collect()
    }

    /// Puts into memory what [`Self::chain`] sends.
    pub fn fill_buffers(self, puppet: &Puppet, queue: &Queue<'_>) {
        match self {
            Self::Rng => puppet.store(queue.buffer(0), &[0; 64]),
            // Type "read" and sector 3; a status that no device answers with.
            Self::Block => {
                puppet.store(queue.buffer(0), &[0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
                puppet.store(queue.buffer(2), &[0x77]);
            }
            Self::Net => puppet.store(queue.buffer(0), &[&[0; 12], &frame()[..]].concat()),
            Self::Console => puppet.store(queue.buffer(0), b"console\n"),
            // A reset of a connection that does not exist.
            Self::Vsock => {
                let header = Header { op: op::RESET, ..Header::default() };
                puppet.store(queue.buffer(0), &header.bytes());
            }
            // The last pages of 32 MiB, in reverse.
            Self::Balloon => {
                let pages: Vec<u8> =
                    (0x1ff8..0x2000_u32).rev().flat_map(u32::to_le_bytes).collect();
                puppet.store(queue.buffer(0), &pages);
            }
        }
    }

    /// How many bytes the device writes for [`Self::chain`].
    pub fn written(self) -> u32 {
        match self {
            Self::Rng => 64,
            Self::Block => 512 + 1,
            Self::Net | Self::Console | Self::Vsock | Self::Balloon => 0,
        }
    }

    /// Whether the buffers hold the right answer to [`Self::chain`].
    #[track_caller]
    pub fn check_buffers(self, puppet: &Puppet, queue: &Queue<'_>) {
        match self {
            Self::Rng => assert_ne!(puppet.load(queue.buffer(0), 64), [0; 64], "no entropy"),
            Self::Block => {
                assert_eq!(puppet.load(queue.buffer(2), 1), [0], "status");
                assert_eq!(puppet.load(queue.buffer(1), 512), [3; 512], "contents of sector 3");
            }
            Self::Net | Self::Console | Self::Vsock | Self::Balloon => {}
        }
    }

    /// Resets the device, sets it up and makes a request, which must work.
    #[track_caller]
    pub fn good_request(self, device: &Device<'_>) {
        let mut queue = self.set_up(device, 0);
        self.fill_buffers(device.puppet(), &queue);
        let answer = queue.request(&self.chain(&queue));
        assert_eq!(answer, Answer::Used(0, self.written()), "a good request of {self:?}");
        self.check_buffers(device.puppet(), &queue);
    }
}

/// What the disk holds.
pub fn disk_contents() -> Vec<u8> {
    (0..SECTORS).flat_map(|sector| [sector; 512]).collect()
}

/// A broadcast frame of a type that nobody listens to.
pub fn frame() -> [u8; 60] {
    let mut frame = [0xa5; 60];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    // Local experimental ethertype 1 (IEEE 802)
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}
