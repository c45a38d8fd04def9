use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use devices::test_util::fake_interrupt;
use devices::virtio::device::QueueHandler;
use devices::virtio::queue::{Queue, QueueError};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;

/// Counts its wake-ups, and fails or stops at the wanted one.
struct Counting {
    fd: EventFd,
    seen: Arc<AtomicUsize>,
    last: usize,
}

impl Counting {
    fn new(last: usize) -> (Self, EventFd, Arc<AtomicUsize>) {
        let fd = EventFd::new(EFD_NONBLOCK).unwrap();
        let (writer, seen) = (fd.try_clone().unwrap(), Arc::new(AtomicUsize::new(0)));
        (Self { fd, seen: seen.clone(), last }, writer, seen)
    }

    fn count(&self) -> bool {
        self.fd.read().unwrap();
        self.seen.fetch_add(1, Ordering::SeqCst) + 1 < self.last
    }
}

impl LoopSource for Counting {
    fn interests(&self) -> Vec<Interest> {
        vec![Interest::readable(self.fd.as_raw_fd(), 7)]
    }

    fn handle(&mut self, token: u16) -> Next {
        assert_eq!(token, 7);
        if self.count() { Next::Keep } else { Next::Remove }
    }
}

impl QueueHandler for Counting {
    fn interests(&self) -> Vec<Interest> {
        LoopSource::interests(self)
    }

    fn handle(&mut self, _token: u16) -> Result<(), QueueError> {
        if self.count() { Ok(()) } else { Err(QueueError::Protocol { queue: 0, what: "enough" }) }
    }

    fn queues(&self) -> Vec<&Queue> {
        Vec::new()
    }

    fn stop(self: Box<Self>) -> Vec<Queue> {
        Vec::new()
    }
}

fn worker(handlers: Vec<Box<dyn QueueHandler>>) -> Worker {
    Worker::new("test".to_owned(), handlers, Vec::new(), fake_interrupt().0)
}

fn serve(on: &LoopHandle, worker: Worker) -> io::Result<SourceId> {
    on.call(|workers| workers.add(worker))
}

fn take_back(on: &LoopHandle, id: SourceId) -> Option<Worker> {
    on.call(move |workers| Ok(workers.remove(id))).unwrap()
}

#[test]
fn a_source_is_called_until_it_wants_no_more() {
    let mut event_loop = EventLoop::new().unwrap();
    let (source, fd, seen) = Counting::new(2);
    event_loop.add(Box::new(source)).unwrap();
    for _ in 0..4 {
        fd.write(1).unwrap();
        event_loop.run_for(0).unwrap();
    }
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

#[test]
fn a_source_that_cannot_be_watched_is_refused() {
    struct Unwatchable(std::fs::File);

    impl LoopSource for Unwatchable {
        fn interests(&self) -> Vec<Interest> {
            vec![Interest::readable(self.0.as_raw_fd(), 0)]
        }

        fn handle(&mut self, _token: u16) -> Next {
            Next::Keep
        }
    }

    let mut event_loop = EventLoop::new().unwrap();
    // A regular file is always ready, so that epoll does not take it.
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    assert!(event_loop.add(Box::new(Unwatchable(file))).is_err());
    event_loop.run_for(0).unwrap();
}

#[test]
fn a_worker_comes_and_goes_while_the_loop_runs() {
    let mut event_loop = EventLoop::new().unwrap();
    let handle = event_loop.handle();
    let (handler, fd, seen) = Counting::new(usize::MAX);
    let other = std::thread::spawn(move || {
        let id = serve(&handle, worker(vec![Box::new(handler)])).unwrap();
        fd.write(1).unwrap();
        while seen.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        let taken = take_back(&handle, id).is_some();
        fd.write(1).unwrap();
        (taken, take_back(&handle, id).is_none(), seen)
    });
    while !other.is_finished() {
        event_loop.run_for(1).unwrap();
    }
    event_loop.run_for(0).unwrap();
    let (taken, gone, seen) = other.join().unwrap();
    assert!(taken && gone);
    assert_eq!(seen.load(Ordering::SeqCst), 1, "no event after it was taken");
}

#[test]
fn a_worker_that_failed_is_not_called_again() {
    let mut event_loop = EventLoop::new().unwrap();
    let (first, fd_1, seen_1) = Counting::new(1);
    let (second, fd_2, seen_2) = Counting::new(usize::MAX);
    let worker = worker(vec![Box::new(first), Box::new(second)]);
    event_loop.manager.add_subscriber(Subscriber::Worker { worker, refused: None });
    fd_1.write(1).unwrap();
    event_loop.run_for(0).unwrap();
    fd_1.write(1).unwrap();
    fd_2.write(1).unwrap();
    event_loop.run_for(0).unwrap();
    assert_eq!((seen_1.load(Ordering::SeqCst), seen_2.load(Ordering::SeqCst)), (1, 0));
}

#[test]
fn a_descriptor_that_cannot_be_watched_fails_the_start() {
    struct OnAFile(std::fs::File);
    impl QueueHandler for OnAFile {
        fn interests(&self) -> Vec<Interest> {
            vec![Interest::readable(self.0.as_raw_fd(), 0)]
        }
        fn handle(&mut self, _: u16) -> Result<(), QueueError> {
            Ok(())
        }
        fn queues(&self) -> Vec<&Queue> {
            Vec::new()
        }

        fn stop(self: Box<Self>) -> Vec<Queue> {
            Vec::new()
        }
    }
    let mut event_loop = EventLoop::new().unwrap();
    let handle = event_loop.handle();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let other =
        std::thread::spawn(move || serve(&handle, worker(vec![Box::new(OnAFile(file))])).is_err());
    while !other.is_finished() {
        event_loop.run_for(1).unwrap();
    }
    assert!(other.join().unwrap());
}

/// Comes to need its second descriptor when the first one is ready.
struct Late {
    first: Counting,
    second: EventFd,
    seen: Arc<AtomicUsize>,
    is_asked: bool,
}

impl QueueHandler for Late {
    fn interests(&self) -> Vec<Interest> {
        LoopSource::interests(&self.first)
    }

    fn late_interest(&mut self) -> Option<Interest> {
        let is_news = self.first.seen.load(Ordering::SeqCst) == 1;
        let fd = self.second.as_raw_fd();
        (is_news && !std::mem::replace(&mut self.is_asked, true))
            .then_some(Interest::readable(fd, 9))
    }

    fn handle(&mut self, token: u16) -> Result<(), QueueError> {
        match token {
            9 => {
                self.second.read().unwrap();
                self.seen.fetch_add(1, Ordering::SeqCst);
            }
            _ => drop(self.first.count()),
        }
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
fn a_late_interest_is_watched_too() {
    let (first, writer, _) = Counting::new(9);
    let seen = Arc::new(AtomicUsize::new(0));
    let second = EventFd::new(EFD_NONBLOCK).unwrap();
    let late_writer = second.try_clone().unwrap();
    // It is not the first handler of its device, so that the upper half of the data matters.
    let (other, _other_writer, _) = Counting::new(9);
    let late = Late { first, second, seen: seen.clone(), is_asked: false };
    let mut event_loop = EventLoop::new().unwrap();
    let handle = event_loop.handle();
    let adder = std::thread::spawn(move || {
        serve(&handle, worker(vec![Box::new(other), Box::new(late)])).unwrap()
    });
    while !adder.is_finished() {
        event_loop.run_for(1).unwrap();
    }
    late_writer.write(1).unwrap();
    event_loop.run_for(0).unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 0, "it is not known yet");
    writer.write(1).unwrap();
    event_loop.run_once().unwrap();
    event_loop.run_once().unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}
