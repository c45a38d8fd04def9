use super::*;
use crate::backend::console::tests::drain;

/// As if it could not be opened anew.
fn polled(fd: OwnedFd, piece: usize) -> Descriptor {
    Descriptor { file: fd.into(), manner: Manner::Polled(piece) }
}

/// Writes until nothing more fits; returns how much did.
fn fill(to: &Descriptor) -> usize {
    let mut total = 0;
    loop {
        match to.write(&[b'x'; PIECE]) {
            Ok(count) => total += count,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                return total;
            }
        }
    }
}

fn expect_nothing(from: &Descriptor) {
    let error = from.read(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_blocking_pipe_that_cannot_be_opened_anew_is_never_waited_for() {
    let (reader, writer) = io::pipe().unwrap();
    let from = polled(reader.into(), PIECE);
    let to = polled(writer.into(), PIECE);
    expect_nothing(&from);
    assert_eq!(fill(&to), 64 << 10);
    let mut piece = [0; PIECE];
    assert_eq!(from.read(&mut piece).unwrap(), PIECE);
    assert_eq!(to.write(&piece).unwrap(), PIECE);
    assert_eq!(fill(&to), 0);
}

#[test]
fn a_blocking_terminal_that_cannot_be_opened_anew_is_never_waited_for() {
    let (master, slave, _) = sys::open_pty().unwrap();
    let slave_again = slave.try_clone().unwrap();
    expect_nothing(&polled(slave, 1));
    let sent = fill(&polled(slave_again, 1));
    assert!(sent > 0);
    let mut got = 0;
    let master = File::from(master);
    while got < sent {
        assert_ne!(sys::poll(master.as_fd(), libc::POLLIN, 10_000), 0);
        got += drain(&master).len();
    }
    assert_eq!(got, sent);
}

#[test]
fn pipes_and_terminals_are_opened_anew_and_pty_masters_are_not() {
    let (reader, writer) = io::pipe().unwrap();
    let (master, slave, _) = sys::open_pty().unwrap();
    let manner = |fd: OwnedFd, direction| Descriptor::shared(fd, direction).unwrap().manner;
    assert_eq!(manner(reader.into(), Direction::In), Manner::NonBlocking);
    assert_eq!(manner(writer.into(), Direction::Out), Manner::NonBlocking);
    assert_eq!(manner(slave, Direction::Out), Manner::NonBlocking);
    assert_eq!(manner(master, Direction::Out), Manner::Polled(1));
    let null = File::open("/dev/null").unwrap();
    assert_eq!(manner(null.into(), Direction::In), Manner::Polled(PIECE));
    let file = File::open("/proc/self/exe").unwrap();
    assert_eq!(manner(file.into(), Direction::In), Manner::AlwaysReady);
}

#[test]
fn a_peer_that_stopped_sending_is_not_hung_up() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let ours = Descriptor::non_blocking(ours.into());
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(ours.read(&mut [0; 4]).unwrap(), 0);
    assert!(!ours.is_hung_up());
    drop(theirs);
    assert!(ours.is_hung_up());
}
