//! Being at a machine's console from another terminal.
//!
//! The terminal is raw meanwhile and as before at every end. Ctrl-] leaves; everything else goes to the guest. The way
//! there is the API's own connection, so that it does not matter where else the console leads.

use std::io::{self, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use devices::backend::console::Terminal;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::client::Client;
use super::{CtlError, print};
use crate::exit_code::ExitCode;
use crate::requests::ConsoleDevice;
use crate::signals::{Signal, Signals};

/// Ctrl-], as in telnet.
const LEAVE: u8 = 0x1d;
/// Bytes that are moved at a time.
const PIECE: usize = 4096;
/// How long keys wait for a guest that does not read: the next one may be the key that leaves.
const PATIENCE: Duration = Duration::from_millis(100);

const OUTPUT: u64 = 0;
const SIGNAL: u64 = 1;

/// Joins this process's terminal, or its standard input and output, with a console until one side ends.
pub(super) fn attach(client: Client, device: Option<ConsoleDevice>) -> Result<u8, CtlError> {
    let path = match device {
        None => "/console",
        Some(ConsoleDevice::Serial) => "/console/serial",
        Some(ConsoleDevice::Virtio) => "/console/virtio",
    };
    let (stream, already) = client.into_console(path)?;
    // Before there is another thread.
    let mut signals = Signals::watch().map_err(host("watch signals"))?;
    let mut terminal = Keyboard::claim()?;
    if terminal.is_some() {
        say("at the console; Ctrl-] leaves it");
    }
    let left = Arc::new(AtomicBool::new(false));
    start_typing(&stream, terminal.is_some(), left.clone())?;
    print(&already)?;
    let end = show(&stream, &mut signals, terminal.as_mut())?;
    // The terminal is as before from here on.
    drop(terminal);
    Ok(match end {
        End::Signal(code) => code.code(),
        End::Closed if left.load(Ordering::Acquire) => {
            say("left the console; the machine goes on");
            0
        }
        End::Closed => {
            say("the console has ended");
            0
        }
    })
}

/// Why the console is not shown any more.
enum End {
    /// One side has closed it.
    Closed,
    /// This process was told to end.
    Signal(ExitCode),
}

/// Shows what comes, and looks after signals.
fn show(
    mut stream: &UnixStream,
    signals: &mut Signals,
    mut terminal: Option<&mut Keyboard>,
) -> Result<End, CtlError> {
    let epoll = Epoll::new().map_err(host("make an epoll descriptor"))?;
    for (fd, token) in [(stream.as_raw_fd(), OUTPUT), (signals.as_raw_fd(), SIGNAL)] {
        epoll
            .ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, token))
            .map_err(host("watch the console"))?;
    }
    let mut ready = [EpollEvent::default(); 2];
    let mut piece = [0; PIECE];
    loop {
        let count = match epoll.wait(-1, &mut ready) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.map_err(host("wait for the console"))?,
        };
        for event in ready.iter().take(count) {
            if event.data() == OUTPUT {
                match stream.read(&mut piece) {
                    Ok(0) => return Ok(End::Closed),
                    Ok(count) => print(piece.get(..count).unwrap_or_default())?,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // What was typed last was not read by anybody.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                        return Ok(End::Closed);
                    }
                    Err(error) => return Err(CtlError::Broken(error)),
                }
            }
        }
        while let Some(signal) = signals.take() {
            match signal {
                Signal::Terminate => return Ok(End::Signal(ExitCode::Terminated)),
                Signal::Interrupt => return Ok(End::Signal(ExitCode::Quit)),
                // After a stop, whoever had the terminal meanwhile has set it otherwise.
                Signal::Terminal => drop(terminal.as_mut().map(|it| it.0.claim())),
                Signal::Lease | Signal::Passed | Signal::Child => {}
            }
        }
    }
}

/// The terminal on standard input, raw.
struct Keyboard(Terminal);

impl Keyboard {
    /// Makes it raw; `None` when standard input is something else.
    fn claim() -> Result<Option<Self>, CtlError> {
        let input = io::stdin();
        if !input.is_terminal() {
            return Ok(None);
        }
        let fd = input.as_fd().try_clone_to_owned().map_err(host("use the terminal"))?;
        let mut terminal = Terminal::new(fd);
        if terminal.claim() {
            return Ok(Some(Self(terminal)));
        }
        let source = io::Error::other("another job has it: bring this one to the foreground");
        Err(CtlError::Host { what: "use the terminal", source })
    }
}

/// Sends what is typed, on a thread of its own: a terminal has no other way to wait for keys and for output.
fn start_typing(
    stream: &UnixStream,
    is_terminal: bool,
    left: Arc<AtomicBool>,
) -> Result<(), CtlError> {
    let stream = stream.try_clone().map_err(host("share the connection"))?;
    if is_terminal {
        stream.set_write_timeout(Some(PATIENCE)).map_err(host("share the connection"))?;
    }
    let work = move || send_keys(&stream, is_terminal, &left);
    thread::Builder::new().name("type".to_owned()).spawn(work).map_err(host("start a thread"))?;
    Ok(())
}

fn send_keys(mut stream: &UnixStream, is_terminal: bool, left: &AtomicBool) {
    let mut piece = [0; PIECE];
    loop {
        let bytes = match io::stdin().read(&mut piece) {
            // Fails when the machine has gone, which the other thread sees.
            Ok(0) => return drop(stream.shutdown(Shutdown::Write)),
            Ok(count) => piece.get(..count).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A terminal that is gone is followed by a signal.
            Err(_) => return,
        };
        let leave = bytes.iter().position(|byte| is_terminal && *byte == LEAVE);
        let keys = bytes.get(..leave.unwrap_or(bytes.len())).unwrap_or_default();
        match stream.write_all(keys) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
            // What a guest does not take that has a bufferful already is as if it had not been typed.
            _ => {}
        }
        if leave.is_some() {
            left.store(true, Ordering::Release);
            // The other thread sees the end.
            return drop(stream.shutdown(Shutdown::Both));
        }
    }
}

/// One line beside the guest's; with stderr closed there is nobody to tell.
fn say(words: &str) {
    let _ = writeln!(io::stderr(), "\r\nvmm: {words}");
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> CtlError {
    move |source| CtlError::Host { what, source }
}
