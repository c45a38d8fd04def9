//! The network card, on sockets that carry one frame at a time as a tap does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use devices::backend::net::{NetBackend, Offloads};
use devices::rate_limiter::{Limiter, Limits};
use devices::virtio::device::VirtioDevice;
use devices::virtio::net::{Mtu, Net, NetOptions};

use crate::bytes::Bytes;
use crate::rig::{Rig, Subject, drive};

/// Header of virtio-net, and the shortest frame.
const HEADER: usize = 12;
const SHORTEST: usize = HEADER + 60;

/// The card, whose driver mostly sends.
pub fn subject() -> Box<dyn Subject> {
    Box::new(Card { wires: None, sends: true, pairs: 1 })
}

/// From the network to the guest.
pub fn receive(input: &[u8]) {
    drive(&mut Card { wires: None, sends: false, pairs: 1 }, input);
}

/// From the guest to the network, and its commands.
pub fn send(input: &[u8]) {
    drive(&mut Card { wires: None, sends: true, pairs: 1 }, input);
}

/// A network: of each queue, the device's end and the other.
struct Wires {
    queues: Vec<(UnixDatagram, UnixDatagram)>,
    refuses: AtomicBool,
}

impl Wires {
    fn new(queues: usize) -> Arc<Self> {
        let pair = || {
            let pair = UnixDatagram::pair().expect("a pair of sockets");
            for end in [&pair.0, &pair.1] {
                end.set_nonblocking(true).expect("a socket");
            }
            pair
        };
        Arc::new(Self {
            queues: (0..queues).map(|_| pair()).collect(),
            refuses: AtomicBool::default(),
        })
    }

    /// The next frame of a queue.
    fn take(&self, queue: usize) -> Option<Vec<u8>> {
        let mut frame = vec![0; 0x1_2000];
        let len = self.queues[queue].1.recv(&mut frame).ok()?;
        frame.truncate(len);
        Some(frame)
    }

    fn configured(&self) -> io::Result<()> {
        if self.refuses.load(Ordering::Relaxed) {
            Err(io::ErrorKind::InvalidInput.into())
        } else {
            Ok(())
        }
    }
}

impl NetBackend for Wires {
    fn name(&self) -> &str {
        "wires"
    }

    fn queues(&self) -> u16 {
        self.queues.len() as u16
    }

    fn has_uso(&self) -> bool {
        true
    }

    fn fd(&self, queue: u16) -> Option<BorrowedFd<'_>> {
        self.queues.get(usize::from(queue)).map(|(end, _)| end.as_fd())
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        let Offloads { checksum, tso4, tso6, ecn, uso } = offloads;
        assert!(checksum || !(tso4 || tso6 || ecn || uso), "{offloads:?}");
        self.configured()
    }

    fn set_active_queues(&self, count: u16) -> io::Result<()> {
        assert!((1..=self.queues()).contains(&count), "{count} queues");
        self.configured()
    }

    fn set_mtu(&self, _mtu: u16) -> io::Result<()> {
        Ok(())
    }
}

struct Card {
    wires: Option<Arc<Wires>>,
    sends: bool,
    pairs: usize,
}

impl Card {
    fn wires(&self) -> &Wires {
        self.wires.as_deref().expect("there is a device")
    }

    fn command(&self, rig: &mut Rig, input: &mut Bytes<'_>) {
        let mut command = input.of(&[[4, 0], [5, 0], [0, 0], [1, 0], [4, 1]]).to_vec();
        command.extend(input.take(input_len(command[0])));
        let from = rig.sent(&command);
        let answer = rig.room(u32::from(input.u8() & 3));
        rig.offer(2 * self.pairs, &[from, answer], input);
    }
}

/// How much data a command of a class takes.
fn input_len(class: u8) -> usize {
    if class == 5 { 8 } else { 2 }
}

impl Subject for Card {
    fn device(&mut self, input: &mut Bytes<'_>) -> Box<dyn VirtioDevice> {
        self.pairs = 1 + input.below(2);
        let wires = self.wires.insert(Wires::new(self.pairs)).clone();
        let mtu = input.of(&[None, None, Some(68), Some(9000)]);
        let limiter = || Limiter::new(Limits::NONE);
        Box::new(Net::new(NetOptions {
            id: "card".to_owned(),
            mac: None,
            mtu: mtu.map(|mtu| Mtu::new(mtu).expect("an MTU")),
            backend: wires,
            rx_limiter: limiter(),
            tx_limiter: limiter(),
        }))
    }

    fn request(&mut self, rig: &mut Rig, input: &mut Bytes<'_>) {
        let pair = input.below(self.pairs);
        if self.sends && input.one_in(4) {
            return self.command(rig, input);
        }
        if !self.sends {
            let count = 1 + input.below(3);
            let room = |rig: &mut Rig, input: &mut Bytes<'_>| match input.u8() & 3 {
                0 => rig.room(input.u16().into()),
                1 => rig.room(input.u8().into()),
                _ => rig.room(1600),
            };
            let buffers: Vec<_> = (0..count).map(|_| room(rig, input)).collect();
            return rig.offer(2 * pair, &buffers, input);
        }
        let mut buffers = vec![rig.sent(input.take(HEADER))];
        for _ in 0..input.below(5) {
            let len = if input.one_in(4) { u64::from(input.u16()) } else { u64::from(input.u8()) };
            let address = rig.buffer(len);
            buffers.push((address, len as u32, input.one_in(32)));
        }
        rig.offer(2 * pair + 1, &buffers, input);
    }

    fn host(&mut self, input: &mut Bytes<'_>) {
        let wires = self.wires();
        let queue = input.below(self.pairs);
        match input.below(4) {
            0 => while wires.take(queue).is_some() {},
            1 => wires.refuses.store(input.one_in(2), Ordering::Relaxed),
            kind => {
                let len = if kind == 2 { input.u16().into() } else { input.u8().into() };
                let mut frame = vec![0x5a; len];
                let head = input.take(HEADER);
                frame.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
                for _ in 0..1 + input.below(3) {
                    // A network that is full loses frames.
                    let _ = wires.queues[queue].1.send(&frame);
                }
            }
        }
    }

    fn calm(&mut self) {
        let wires = self.wires();
        wires.refuses.store(false, Ordering::Relaxed);
        for queue in 0..self.pairs {
            while wires.take(queue).is_some() {}
            let mut frame = [0; 0x1000];
            while wires.queues[queue].0.recv(&mut frame).is_ok() {}
        }
    }

    fn good(&mut self, rig: &mut Rig) {
        let sent = [&[0; HEADER][..], &[0xff; 60]].concat();
        let from = rig.sent(&sent);
        assert_eq!(rig.must_answer(1, &[from]), 0);
        assert_eq!(self.wires().take(0).as_ref(), Some(&sent));
        let room = rig.room(2048);
        self.wires().queues[0].1.send(&sent).expect("there is room");
        assert_eq!(rig.must_answer(0, &[room]) as usize, SHORTEST);
        // The number of buffers is the device's to fill in.
        assert_eq!(rig.read::<SHORTEST>(room.0)[HEADER - 2..], [&[1, 0], &[0xff; 60][..]].concat());
    }
}
