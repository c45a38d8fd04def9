use std::os::fd::AsRawFd;
use std::sync::mpsc::{Sender, channel};

use devices::event::Interest;
use devices::test_util::fake_interrupt;
use devices::virtio::device::{QueueHandler, Worker};
use devices::virtio::queue::{Queue, QueueError};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;

fn threads(texts: &[&str]) -> (IoThreads, Ending) {
    let plan: Vec<IoThread> = texts.iter().map(|text| text.parse().unwrap()).collect();
    let ending = Ending::new().unwrap();
    let mut threads = IoThreads::prepare(&plan).unwrap();
    threads.start(&ending, &Filters::off()).unwrap();
    (threads, ending)
}

/// Tells on which thread it was served.
struct Witness {
    kick: EventFd,
    seen: Sender<(String, CpuSet)>,
}

impl QueueHandler for Witness {
    fn interests(&self) -> Vec<Interest> {
        vec![Interest::readable(self.kick.as_raw_fd(), 0)]
    }

    fn handle(&mut self, _token: u16) -> Result<(), QueueError> {
        self.kick.read().unwrap();
        let name = std::thread::current().name().unwrap().to_owned();
        self.seen.send((name, CpuSet::of_this_thread().unwrap())).unwrap();
        Ok(())
    }

    fn queues(&self) -> Vec<&Queue> {
        Vec::new()
    }

    fn stop(self: Box<Self>) -> Vec<Queue> {
        Vec::new()
    }
}

#[test]
fn a_worker_is_served_by_its_thread_and_comes_back() {
    let all = CpuSet::of_this_thread().unwrap();
    let cpu = (0..u16::MAX).find(|&cpu| all.contains(cpu)).unwrap();
    let (threads, ending) = threads(&["a", &format!("b,pin={cpu}")]);
    assert!(threads.get("c").is_none());
    for (id, cpus) in [("a", all), ("b", CpuSet::new(&[cpu]))] {
        let on = threads.get(id).unwrap();
        let (seen, news) = channel();
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        kick.write(1).unwrap();
        let handlers: Vec<Box<dyn QueueHandler>> = vec![Box::new(Witness { kick, seen })];
        let worker = Worker::new(id.to_owned(), handlers, Vec::new(), fake_interrupt().0);
        let source = on.call(|workers| workers.add(worker)).unwrap();
        assert_eq!(news.recv().unwrap(), (format!("io {id}"), cpus));
        assert!(on.call(move |workers| Ok(workers.remove(source))).unwrap().is_some());
    }
    let handle = threads.get("a").unwrap().clone();
    // Dropping waits for the threads.
    drop(threads);
    let worker = Worker::new("late".to_owned(), Vec::new(), Vec::new(), fake_interrupt().0);
    assert!(handle.call(|workers| workers.add(worker)).is_err(), "the loop is gone");
    assert_eq!(ending.reason(), None);
}

#[test]
fn a_thread_that_cannot_work_ends_the_machine() {
    // No host has this one.
    let (threads, ending) = threads(&["x,pin=8191"]);
    drop(threads);
    let Some(EndReason::HostFailure(what)) = ending.reason() else { panic!("no end") };
    assert!(what.starts_with("iothread x: "), "{what}");
}
