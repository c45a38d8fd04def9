//! Sockets between Linux and programs of the host: Linux's own driver, `vsock` in the guest, Unix sockets here.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use harness::network::{md5, noise};
use harness::{Machine, Need, Scratch, Vmm, patience};

use super::scaled;

crate::suite::tests! { "linux::vsock" needs &[Need::LinuxKvm, Need::Guest];
    both_ways,
    halves_and_abrupt_ends,
    many_connections,
    driver_unbound_and_bound,
}

/// Connections at the same time, first from the host, then from the guest.
const CONNECTIONS: usize = 1000;

/// What is sent again and again, in bytes.
const PIECE: usize = 1 << 20;

struct Setup {
    scratch: Scratch,
    guest: Machine,
}

impl Setup {
    fn new() -> Self {
        let scratch = Scratch::new();
        let vsock = format!("cid=42,socket={}", scratch.join("v").display());
        let guest = Vmm::linux().args(["--vsock", &vsock]).spawn().booted();
        Self { scratch, guest }
    }

    /// A program of the host that waits for the guest on `port`.
    fn listener(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.scratch.join(&format!("v_{port}"))).unwrap()
    }

    /// A program of the host that reaches `port` of the guest, as soon as somebody listens there.
    #[track_caller]
    fn connect(&self, port: u32) -> UnixStream {
        let deadline = Instant::now() + patience();
        loop {
            if let Some(stream) = self.try_connect(port) {
                return stream;
            }
            assert!(Instant::now() < deadline, "nobody listens on port {port}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn try_connect(&self, port: u32) -> Option<UnixStream> {
        let mut stream = UnixStream::connect(self.scratch.join("v")).unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        let mut line = Vec::new();
        let mut byte = [0];
        while line.last() != Some(&b'\n') {
            if stream.read(&mut byte).unwrap() == 0 {
                assert!(line.is_empty(), "half an answer: {line:?}");
                return None;
            }
            line.push(byte[0]);
        }
        assert!(line.starts_with(b"OK "), "{line:?}");
        Some(stream)
    }
}

fn accept(listener: &UnixListener) -> UnixStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    stream
}

fn both_ways() {
    let mut setup = Setup::new();
    let piece = noise(PIECE);
    let pieces = scaled(1 << 30) / PIECE;
    let sender = |listener: UnixListener, pieces: usize| {
        let piece = piece.clone();
        thread::spawn(move || {
            let mut stream = accept(&listener);
            (0..pieces).try_for_each(|_| stream.write_all(&piece))
        })
    };

    let first = sender(setup.listener(52), 1);
    let sum = setup.guest.shell("vsock connect 2 52 </dev/null >/tmp/piece; md5sum </tmp/piece");
    first.join().unwrap().unwrap();
    assert_eq!(sum, format!("{}  -", md5(&piece)));
    let feed = format!("(i=0; while [ $i -lt {pieces} ]; do cat /tmp/piece; i=$((i+1)); done)");
    let wanted = setup.guest.shell(&format!("{feed} | md5sum"));

    let host = sender(setup.listener(53), pieces);
    let sum = setup.guest.shell("vsock connect 2 53 </dev/null | md5sum");
    host.join().unwrap().unwrap();
    assert_eq!(sum, wanted, "host to guest");

    let (listener, wanted) = (setup.listener(54), piece.clone());
    let host = thread::spawn(move || are_pieces(&mut accept(&listener), &wanted, pieces));
    setup.guest.shell(&format!("{feed} | vsock connect 2 54"));
    assert!(host.join().unwrap().unwrap(), "guest to host");

    // Both ways at once on one connection, which the host asked for.
    setup.guest.shell("vsock echo 7 >/dev/null 2>&1 & :");
    let mut stream = setup.connect(7);
    let (mut reader, wanted) = (stream.try_clone().unwrap(), piece.clone());
    let echo = thread::spawn(move || are_pieces(&mut reader, &wanted, pieces));
    (0..pieces).try_for_each(|_| stream.write_all(&piece)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(echo.join().unwrap().unwrap(), "the echo is another one");
    setup.guest.power_off();
}

/// Whether a program hears `piece` as often as it should, and then the end.
fn are_pieces(stream: &mut UnixStream, piece: &[u8], pieces: usize) -> io::Result<bool> {
    let mut got = vec![0; piece.len()];
    for _ in 0..pieces {
        stream.read_exact(&mut got)?;
        if got != piece {
            return Ok(false);
        }
    }
    Ok(stream.read(&mut [0])? == 0)
}

fn halves_and_abrupt_ends() {
    let mut setup = Setup::new();
    let (status, said) = setup.guest.try_shell("vsock connect 2 9 2>&1");
    assert_eq!((status, said.as_str()), (1, "vsock: connect: Connection reset by peer"));
    assert!(setup.try_connect(9).is_none(), "nobody listens in the guest");

    // Each half ends by itself: the guest's answer comes after the end of what it was sent.
    setup.guest.shell("(echo answer | vsock listen 7 >/tmp/heard; echo over >>/tmp/heard) & :");
    let mut stream = setup.connect(7);
    stream.write_all(b"question\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer\n", "the guest has ended its half");
    stream.shutdown(Shutdown::Write).unwrap();
    setup.guest.shell("until grep -q over /tmp/heard; do sleep 0.1; done");
    assert_eq!(setup.guest.shell("cat /tmp/heard"), "question\nover");

    // A program of the host goes in the midst of what the guest sends.
    let listener = setup.listener(52);
    let program = thread::spawn(move || accept(&listener).read_exact(&mut [0; 100_000]));
    let (status, said) = setup.guest.try_shell("vsock connect 2 52 </dev/zero 2>&1");
    program.join().unwrap().unwrap();
    let known = ["Broken pipe", "Connection reset by peer"];
    assert!(status == 1 && known.iter().any(|text| said.contains(text)), "{status}: {said}");

    // A program of the guest is killed in the midst of what the host sends, which waits for it.
    setup.guest.shell("sleep 1000 | vsock listen 8 >/dev/null & :");
    let mut stream = setup.connect(8);
    let writer = thread::spawn(move || {
        let block = [0; 1 << 16];
        loop {
            if let Err(error) = stream.write_all(&block) {
                return error;
            }
        }
    });
    setup.guest.shell("sleep 0.2; killall vsock; killall sleep");
    let error = writer.join().unwrap();
    let known = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
    assert!(known.contains(&error.kind()), "{error}");

    // A program of the host that does not read holds the guest up, and nothing else.
    let listener = setup.listener(53);
    setup.guest.shell("head -c 3000000 /dev/zero | vsock connect 2 53 >/dev/null & :");
    let mut slow = accept(&listener);
    setup.guest.shell("vsock echo 10 >/dev/null 2>&1 & :");
    let mut other = setup.connect(10);
    other.write_all(b"still there").unwrap();
    let mut echo = [0; 11];
    other.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"still there");
    let mut all = Vec::new();
    slow.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 3_000_000);
    setup.guest.power_off();
}

fn many_connections() {
    let mut setup = Setup::new();
    setup.guest.shell("ulimit -n 4096; vsock echo 7 >/dev/null 2>&1 & :");
    let mut streams = vec![setup.connect(7)];
    streams.extend((1..CONNECTIONS).map(|_| setup.connect(7)));
    for (number, stream) in (0..=u32::MAX).zip(&mut streams) {
        stream.write_all(&number.to_le_bytes()).unwrap();
    }
    for (number, stream) in (0..=u32::MAX).zip(&mut streams) {
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).unwrap();
        assert_eq!(u32::from_le_bytes(echo), number);
    }
    drop(streams);

    let listener = setup.listener(52);
    let host = thread::spawn(move || {
        let streams: Vec<UnixStream> = (0..CONNECTIONS).map(|_| accept(&listener)).collect();
        for mut stream in &streams {
            let mut number = [0; 4];
            stream.read_exact(&mut number)?;
            stream.write_all(&number)?;
        }
        io::Result::Ok(())
    });
    let many = format!("ulimit -n 4096; vsock many 2 52 {CONNECTIONS}");
    assert_eq!(setup.guest.shell(&many), CONNECTIONS.to_string());
    host.join().unwrap().unwrap();
    setup.guest.power_off();
}

/// The driver resets the device, which must forget every connection, and starts it again.
fn driver_unbound_and_bound() {
    let mut setup = Setup::new();
    setup.guest.shell("vsock echo 7 >/dev/null 2>&1 & :");
    let mut before = setup.connect(7);
    let driver = "/sys/bus/virtio/drivers/vmw_vsock_virtio_transport";
    let device = setup.guest.shell(&format!("basename {driver}/virtio*"));
    setup.guest.shell(&format!("echo {device} >{driver}/unbind"));
    let end = before.read(&mut [0]);
    assert!(matches!(&end, Ok(0)) || end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    setup.guest.shell(&format!("echo {device} >{driver}/bind"));
    let mut after = setup.connect(7);
    after.write_all(b"again").unwrap();
    let mut echo = [0; 5];
    after.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"again");
    setup.guest.power_off();
}
