//! The balloon, on a host that only looks at what it is given.

use std::sync::Arc;
use std::time::Duration;

use devices::backend::reclaim::{MemoryReclaim, ReclaimError};
use devices::memory::{GuestMemory, is_ram};
use devices::virtio::balloon::{Balloon, BalloonControl, BalloonOptions};
use devices::virtio::device::VirtioDevice;
use vm_memory::GuestAddress;

use crate::bytes::Bytes;
use crate::rig::{Rig, Subject, drive};

/// More than anybody waits for.
const NEVER: Duration = Duration::from_secs(3600);
const MEMORY_MIB: u32 = 16;

/// See the module.
pub fn run(input: &[u8]) {
    drive(&mut *subject(), input);
}

/// The balloon.
pub fn subject() -> Box<dyn Subject> {
    Box::new(Taking(None))
}

struct Host {
    page_size: u64,
}

impl MemoryReclaim for Host {
    fn page_size(&self) -> u64 {
        self.page_size
    }

    fn reclaim(
        &self,
        memory: &GuestMemory,
        start: GuestAddress,
        len: u64,
    ) -> Result<(), ReclaimError> {
        assert!(is_ram(memory, start, len as usize), "{start:?}+{len:#x} is not RAM");
        assert!(start.0.is_multiple_of(self.page_size) && len.is_multiple_of(self.page_size));
        assert!(len > 0);
        Ok(())
    }
}

struct Taking(Option<BalloonControl>);

impl Subject for Taking {
    fn device(&mut self, input: &mut Bytes<'_>) -> Box<dyn VirtioDevice> {
        let kind = input.u8();
        let balloon = Balloon::new(BalloonOptions {
            id: "balloon".to_owned(),
            target_mib: u32::from(kind & 3),
            memory_mib: MEMORY_MIB.into(),
            deflate_on_oom: kind & 4 != 0,
            statistics: (kind & 8 == 0).then_some(NEVER),
            reporting: kind & 16 == 0,
            hinting: kind & 32 == 0,
            reclaim: Arc::new(Host { page_size: if kind & 64 == 0 { 4096 } else { 16384 } }),
        });
        let balloon = balloon.expect("a target within memory");
        self.0 = Some(balloon.control());
        Box::new(balloon)
    }

    fn request(&mut self, rig: &mut Rig, input: &mut Bytes<'_>) {
        match input.below(8) {
            // Pages, in and out.
            queue @ (0 | 1) => {
                let pages: Vec<u8> = (0..input.u8() & 31)
                    .flat_map(|_| {
                        if input.one_in(8) { input.u32() } else { input.u8().into() }.to_le_bytes()
                    })
                    .collect();
                let cut = pages.len().saturating_sub(input.below(4));
                let from = rig.sent(&pages[..cut]);
                rig.offer(queue, &[from], input);
            }
            2 => {
                let from = rig.sent(input.some());
                rig.offer(2, &[from], input);
            }
            3 => {
                let from = rig.sent(&u32::from(input.u8() & 3).to_le_bytes());
                rig.offer(3, &[from], input);
            }
            // Free pages by hint and by report.
            queue @ (4 | 5) => {
                let pages: Vec<_> = (0..1 + input.below(4))
                    .map(|_| {
                        let start = u64::from(input.u8()) << 10;
                        (start, u32::from(input.u8()) << 10, true)
                    })
                    .collect();
                rig.offer(queue - 1, &pages, input);
            }
            6 => rig.set(0x104, input.u32()),
            _ => rig.any_access(input),
        }
    }

    fn host(&mut self, input: &mut Bytes<'_>) {
        let Some(control) = &self.0 else { return };
        // Each may be refused: by what the driver is, or by what was asked for.
        match input.below(6) {
            0 => drop(control.set_target(input.u8().into())),
            1 => drop(control.start_hinting(input.one_in(2))),
            2 => drop(control.stop_hinting()),
            3 => drop(control.statistics()),
            4 => drop(control.hinting_status()),
            _ => drop(control.set_stats_interval(NEVER)),
        }
    }

    fn good(&mut self, rig: &mut Rig) {
        for queue in [0, 1] {
            let from = rig.sent(&[5, 0, 0, 0, 6, 0, 0, 0]);
            assert_eq!(rig.must_answer(queue, &[from]), 0);
        }
    }
}
