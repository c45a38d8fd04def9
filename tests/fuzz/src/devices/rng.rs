//! The entropy source, whose host may have none.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use devices::virtio::device::VirtioDevice;
use devices::virtio::rng::Rng;

use crate::bytes::Bytes;
use crate::rig::{Rig, Subject, drive};

/// See the module.
pub fn run(input: &[u8]) {
    drive(&mut *subject(), input);
}

/// The source.
pub fn subject() -> Box<dyn Subject> {
    Box::new(Entropy { fails: Arc::default() })
}

struct Entropy {
    fails: Arc<AtomicBool>,
}

/// The same byte for ever, or an error.
struct Source(Arc<AtomicBool>);

impl Read for Source {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.0.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Other.into());
        }
        to.fill(0xa5);
        Ok(to.len())
    }
}

impl Subject for Entropy {
    fn device(&mut self, _input: &mut Bytes<'_>) -> Box<dyn VirtioDevice> {
        let fails = self.fails.clone();
        Box::new(Rng::new(Box::new(move || Ok(Box::new(Source(fails.clone()))))))
    }

    fn request(&mut self, rig: &mut Rig, input: &mut Bytes<'_>) {
        let count = 1 + input.below(4);
        let buffers: Vec<_> = (0..count).map(|_| rig.room(input.u16().into())).collect();
        rig.offer(0, &buffers, input);
    }

    fn host(&mut self, input: &mut Bytes<'_>) {
        self.fails.store(input.one_in(2), Ordering::Relaxed);
    }

    fn calm(&mut self) {
        self.fails.store(false, Ordering::Relaxed);
    }

    fn good(&mut self, rig: &mut Rig) {
        let to = rig.room(64);
        assert_eq!(rig.must_answer(0, &[to]), 64);
        assert_eq!(rig.read::<64>(to.0), [0xa5; 64]);
    }
}
