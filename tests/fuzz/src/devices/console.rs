//! The console, on a pair of sockets.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use devices::backend::console::{Console as Backend, ConsoleSource, Stage};
use devices::test_util::console_on;
use devices::virtio::console::Console;
use devices::virtio::device::VirtioDevice;

use crate::bytes::Bytes;
use crate::rig::{Rig, Subject, drive};

/// See the module.
pub fn run(input: &[u8]) {
    drive(&mut *subject(), input);
}

/// The console.
pub fn subject() -> Box<dyn Subject> {
    Box::new(Line(None))
}

/// A console and whoever sits in front of it.
struct Line(Option<(Backend, UnixStream)>);

impl Line {
    fn parts(&mut self) -> &mut (Backend, UnixStream) {
        self.0.as_mut().expect("there is a device")
    }

    /// All output so far.
    fn read(&mut self) -> Vec<u8> {
        let (backend, person) = self.parts();
        let mut all = Vec::new();
        loop {
            let _ = backend.handle(0);
            let before = all.len();
            // Until there is no more now.
            let _ = person.read_to_end(&mut all);
            if all.len() == before {
                return all;
            }
        }
    }
}

impl Subject for Line {
    fn device(&mut self, input: &mut Bytes<'_>) -> Box<dyn VirtioDevice> {
        let (ours, person) = UnixStream::pair().expect("a pair of sockets");
        person.set_nonblocking(true).expect("a socket");
        let output = ours.try_clone().expect("a descriptor");
        let backend = console_on(ours.into(), output.into()).expect("a console");
        let port = backend.port(Stage::Late).expect("a port");
        if input.one_in(2) {
            // Another device on the same console.
            backend.port(Stage::Early).expect("a port").write(b"early");
        }
        self.0 = Some((backend, person));
        Box::new(Console::new(port))
    }

    fn request(&mut self, rig: &mut Rig, input: &mut Bytes<'_>) {
        let count = 1 + input.below(3);
        if input.one_in(2) {
            let buffers: Vec<_> = (0..count).map(|_| rig.sent(input.some())).collect();
            rig.offer(1, &buffers, input);
        } else {
            let buffers: Vec<_> = (0..count).map(|_| rig.room(input.u8().into())).collect();
            rig.offer(0, &buffers, input);
        }
    }

    fn host(&mut self, input: &mut Bytes<'_>) {
        match input.below(4) {
            0 => drop(self.read()),
            1 => {
                let _ = self.parts().0.handle(0);
            }
            _ => {
                let text = input.some();
                // A person types only as fast as is read.
                let _ = self.parts().1.write(text);
                let _ = self.parts().0.handle(0);
            }
        }
    }

    fn good(&mut self, rig: &mut Rig) {
        self.read();
        let from = rig.sent(b"good");
        assert_eq!(rig.must_answer(1, &[from]), 0);
        assert_eq!(self.read(), b"good");
        // What was typed to a driver that is gone goes to the one that speaks now.
        while {
            let before = rig.used(0).0;
            let to = rig.room(4096);
            rig.offer(0, &[to], &mut Bytes::new(&[]));
            let _ = self.parts().0.handle(0);
            rig.used(0).0 != before
        } {}
        self.parts().1.write_all(b"typed").expect("room for a word");
        let _ = self.parts().0.handle(0);
        let (before, _) = rig.used(0);
        rig.run();
        let (after, len) = rig.used(0);
        assert_eq!((after.wrapping_sub(before), len), (1, 5), "what was typed did not come");
    }
}
