//! The one thing that the inside can ask the outside for: a connection to the program that serves a port.
//!
//! A request is a port, four bytes; the answer an errno, four bytes, and with 0 a connected socket. The inside cannot
//! name a path, and the outside reads nothing else from it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use devices::backend::vsock::Connector;

use super::sys;

/// How long the inside waits for an answer, in seconds: the outside has nothing else to do, but may be stopped.
const PATIENCE: libc::time_t = 1;

/// The end inside.
#[derive(Debug)]
pub struct Channel(Mutex<OwnedFd>);

impl Channel {
    pub(super) fn new(end: OwnedFd) -> io::Result<Self> {
        sys::set_patience(end.as_fd(), PATIENCE)?;
        Ok(Self(Mutex::new(end)))
    }
}

impl Connector for Channel {
    fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let end = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sys::send(end.as_fd(), &port.to_le_bytes(), None)?;
        let mut answer = [0; 4];
        match sys::receive(end.as_fd(), &mut answer)? {
            (4, socket) => match (i32::from_le_bytes(answer), socket) {
                (0, Some(socket)) => Ok(UnixStream::from(socket)),
                (errno, _) => Err(io::Error::from_raw_os_error(errno)),
            },
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

/// Answers one request at the end outside; `false` when there will be none any more.
pub(super) fn answer(end: BorrowedFd<'_>, programs: Option<&dyn Connector>) -> bool {
    let mut request = [0; 4];
    match sys::receive(end, &mut request) {
        Ok((4, None)) => {}
        Ok((0, _)) | Err(_) => return false,
        // Nobody inside says anything else.
        Ok(_) => return true,
    }
    let port = u32::from_le_bytes(request);
    let refused = || io::Error::from_raw_os_error(libc::ECONNREFUSED);
    let connected = programs.ok_or_else(refused).and_then(|it| it.connect(port));
    let (errno, socket) = match &connected {
        Ok(stream) => (0, Some(stream.as_fd())),
        Err(error) => (error.raw_os_error().unwrap_or(libc::ECONNREFUSED), None),
    };
    sys::send(end, &errno.to_le_bytes(), socket).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::thread;

    struct Port52(Mutex<Vec<UnixStream>>);

    impl Connector for Port52 {
        fn connect(&self, port: u32) -> io::Result<UnixStream> {
            if port != 52 {
                return Err(io::Error::from_raw_os_error(libc::ENOENT));
            }
            let (ours, theirs) = UnixStream::pair()?;
            self.0.lock().unwrap().push(theirs);
            Ok(ours)
        }
    }

    #[test]
    fn a_connection_comes_through_and_a_refusal_keeps_its_errno() {
        let (outer, inner) = sys::socket_pair().unwrap();
        let program = Port52(Mutex::default());
        let channel = Channel::new(inner).unwrap();
        thread::scope(|scope| {
            let served = scope.spawn(|| while answer(outer.as_fd(), Some(&program)) {});
            let mut stream = channel.connect(52).unwrap();
            stream.write_all(b"x").unwrap();
            let mut byte = [0];
            program.0.lock().unwrap().pop().unwrap().read_exact(&mut byte).unwrap();
            assert_eq!(byte, [b'x']);
            let error = channel.connect(u32::MAX).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
            drop(channel);
            served.join().unwrap();
        });
    }

    #[test]
    fn without_a_socket_device_there_is_nobody_to_connect_to() {
        let (outer, inner) = sys::socket_pair().unwrap();
        sys::send(inner.as_fd(), &1_u32.to_le_bytes(), None).unwrap();
        assert!(answer(outer.as_fd(), None));
        let channel = Channel::new(inner).unwrap();
        thread::scope(|scope| {
            let served = scope.spawn(|| answer(outer.as_fd(), None));
            // The answer to the first request.
            assert_eq!(channel.connect(2).unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
            assert!(served.join().unwrap());
        });
    }

    #[test]
    fn what_is_no_port_gets_no_answer() {
        let (outer, inner) = sys::socket_pair().unwrap();
        for nonsense in [&b"x"[..], b"12345678"] {
            sys::send(inner.as_fd(), nonsense, None).unwrap();
        }
        sys::send(inner.as_fd(), b"port", Some(inner.as_fd())).unwrap();
        // Longer ones are cut off, so that is a port.
        let answers = [true, true, true];
        assert_eq!(answers.map(|_| answer(outer.as_fd(), None)), answers);
        drop(inner);
        assert!(!answer(outer.as_fd(), None));
    }

    #[test]
    fn an_outside_that_is_gone_is_a_refusal() {
        let (outer, inner) = sys::socket_pair().unwrap();
        let channel = Channel::new(inner).unwrap();
        drop(outer);
        assert!(channel.connect(1).is_err());
    }
}
