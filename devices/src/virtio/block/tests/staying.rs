//! A driver and a device on two threads: between staying at the ring, leaving it and being called again, no request is
//! lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::support::*;
use crate::backend::disk::io::Engine;
use crate::test_util::Random;
use crate::virtio::feature::EVENT_IDX;

/// Far longer than any of this takes: a request that was not answered by then never will be.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn no_request_is_lost_between_staying_and_leaving() {
    for engine in [Engine::Sync, Engine::IoUring] {
        let setup = Setup { features: F_ALL | EVENT_IDX, ..Setup::engine(engine) };
        let mut rig = setup.start();
        let sent = rig.send(IN, 3, &[(DATA, 512, true)]);
        let head = u16::try_from(sent.head).unwrap();
        let (host, mut running) = (rig.running.host.clone(), rig.running);
        let memory = rig.memory;
        let is_over = AtomicBool::new(false);
        thread::scope(|threads| {
            threads.spawn(|| {
                while !is_over.load(Ordering::Relaxed) && host.run() {
                    thread::yield_now();
                }
            });
            let mut pause = Random::new(5);
            let lost = (1..=3000_u16).find(|&round| {
                if round > 1 {
                    running.queues[0].offer(head);
                }
                // `avail_event`, as the driver of a queue of 16 entries reads it (virtio 1.3, 2.7.10).
                std::sync::atomic::fence(Ordering::SeqCst);
                let at = running.queues[0].config().device + 4 + 8 * 16;
                let event: u16 = memory.load(GuestAddress(at), Ordering::SeqCst).unwrap();
                if event == round - 1 {
                    running.transport.kick(0);
                }
                let deadline = Instant::now() + PATIENCE;
                while running.queues[0].take_used().is_empty() {
                    if Instant::now() >= deadline {
                        return true;
                    }
                    thread::yield_now();
                }
                // Mostly at once, at times just when the device loses its patience.
                if pause.one_in(8) {
                    thread::sleep(Duration::from_micros(pause.below(40_u64)));
                }
                false
            });
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(lost, None, "{engine:?}: a request was not answered");
        });
    }
}
