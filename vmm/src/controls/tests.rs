//! A disk on a thread of its own, as in a machine but for KVM, is changed while its driver works.

use std::fs::File;
use std::io;
use std::num::NonZeroU16;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use devices::backend::disk::io::{Engine, Rings};
use devices::backend::disk::{Disk, DiskOptions};
use devices::memory::GuestMemory;
use devices::rate_limiter::{Limiter, Limits, Rate};
use devices::test_util::{DriverQueue, fake_interrupt, guest_memory};
use devices::virtio::block::{Block, BlockOptions};
use devices::virtio::device::{DeviceHost, Worker};
use devices::virtio::feature;
use devices::virtio::transport::{Transport, status};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::end::Ending;
use crate::event_loop::{LoopHandle, SourceId};
use crate::iothread::IoThreads;
use crate::seccomp::Filters;
use crate::test_dir::TestDir;

const QUEUE: u64 = 0x10_0000;
const HEADER: u64 = 0x20_0000;
const STATUS: u64 = 0x20_1000;
const DATA: u64 = 0x20_2000;
const SECTORS: u64 = 64;

/// Serves a device on a thread's loop.
struct OnThread {
    on: LoopHandle,
    source: Mutex<Option<SourceId>>,
}

impl DeviceHost for OnThread {
    fn start(&self, worker: Worker) -> io::Result<()> {
        *self.source.lock().unwrap() = Some(self.on.call(|workers| workers.add(worker))?);
        Ok(())
    }

    fn stop(&self) -> Option<Worker> {
        let source = self.source.lock().unwrap().take()?;
        self.on.call(move |workers| Ok(workers.remove(source))).unwrap()
    }

    fn on_loop(&self, work: Box<dyn FnOnce() + Send>) {
        let done = self.on.call(move |_| {
            work();
            Ok(())
        });
        done.unwrap();
    }
}

struct Rig {
    transport: Transport,
    memory: GuestMemory,
    driver: DriverQueue,
    controls: Controls,
    answered: usize,
    // After the device, which is on its loop.
    _threads: IoThreads,
}

impl Rig {
    fn new(disk: &Path, engine: Engine) -> Self {
        let ending = Ending::new().unwrap();
        let mut threads = IoThreads::prepare(&["io".parse().unwrap()]).unwrap();
        threads.start(&ending, &Filters::off()).unwrap();
        let block = Block::new(BlockOptions {
            id: "disk".to_owned(),
            serial: None,
            disk: Arc::new(Disk::open(disk, DiskOptions::default()).unwrap()),
            queues: NonZeroU16::MIN,
            engine,
            rings: Rings::for_queues(NonZeroU16::MIN),
            limiter: Limiter::new(Limits::NONE),
        });
        let mut controls = Controls::default();
        controls.add_disk("disk", block.control());
        let memory = guest_memory(4 << 20);
        memory.write_slice(&[0; 16], GuestAddress(HEADER)).unwrap();
        let driver = DriverQueue::new(&memory, QUEUE, 16);
        let host = OnThread { on: threads.get("io").unwrap().clone(), source: Mutex::default() };
        let mut transport = Transport::new(
            "disk".to_owned(),
            Box::new(block),
            Box::new(host),
            memory.clone(),
            fake_interrupt().0,
        );
        let steps = [
            status::ACKNOWLEDGE,
            status::ACKNOWLEDGE | status::DRIVER,
            status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK,
        ];
        for step in steps {
            transport.accept_features(1, u32::try_from(feature::VERSION_1 >> 32).unwrap());
            transport.write_status(step);
        }
        transport.configure_queue(0, |queue| *queue = driver.config());
        transport.write_status(steps[2] | status::DRIVER_OK);
        assert_eq!(transport.status(), steps[2] | status::DRIVER_OK);
        Self { transport, memory, driver, controls, answered: 0, _threads: threads }
    }

    fn control(&self) -> &BlockControl {
        self.controls.disk("disk").unwrap()
    }

    /// Reads sector 0 `count` times.
    fn send(&mut self, count: usize) {
        for _ in 0..count {
            self.driver.add(&[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
        }
        self.transport.kick(0);
    }

    /// Waits until `count` more requests were answered: a machine that loses one waits for good.
    fn finish(&mut self, count: usize) {
        let wanted = self.answered + count;
        while self.answered < wanted {
            self.answered += self.driver.take_used().len();
            std::thread::yield_now();
        }
        assert_eq!(self.answered, wanted);
    }

    fn data(&self) -> u8 {
        self.memory.read_obj(GuestAddress(DATA)).unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.transport.reset();
    }
}

fn disk(directory: &TestDir, name: &str, byte: u8) -> PathBuf {
    let path = directory.path().join(name);
    let contents = vec![byte; usize::try_from(SECTORS * 512).unwrap()];
    File::create(&path).unwrap().write_all_at(&contents, 0).unwrap();
    path
}

fn ops(size: u64, refill: Duration) -> Limits {
    Limits { bandwidth: None, ops: Rate::new(size, refill, 0) }
}

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

#[test]
fn names_lead_to_their_devices() {
    let directory = TestDir::new();
    let rig = Rig::new(&disk(&directory, "a", 0), Engine::Sync);
    assert!(rig.controls.disk("a").is_none() && rig.controls.net("disk").is_none());
    assert_eq!(rig.control().disk().path(), directory.path().join("a"));
}

#[test]
fn limits_change_while_requests_wait() {
    for engine in [Engine::Sync, Engine::IoUring] {
        let directory = TestDir::new();
        let mut rig = Rig::new(&disk(&directory, "a", 1), engine);
        rig.send(3);
        rig.finish(3);
        // The timer alone brings each of these.
        rig.control().set_limits(ops(1, Duration::from_millis(2)));
        rig.send(5);
        rig.finish(5);
        // Nobody but the change brings the last.
        rig.control().set_limits(ops(1, YEAR));
        rig.send(3);
        rig.finish(1);
        rig.control().set_limits(Limits::NONE);
        rig.finish(2);
    }
}

#[test]
fn the_disk_changes_while_requests_come_and_wait() {
    for engine in [Engine::Sync, Engine::IoUring] {
        let directory = TestDir::new();
        let (first, second) = (disk(&directory, "1", 1), disk(&directory, "2", 2));
        let mut rig = Rig::new(&first, engine);
        rig.send(1);
        rig.finish(1);
        assert_eq!(rig.data(), 1);
        // What waits when the disk changes has not begun, so it is for the new one.
        rig.control().set_limits(ops(1, YEAR));
        rig.send(2);
        rig.finish(1);
        rig.control().set_disk(&second).unwrap();
        rig.control().set_limits(Limits::NONE);
        rig.finish(1);
        assert_eq!(rig.data(), 2);
    }
}
