//! The process that stays outside: what a user, a shell and a supervisor see.
//!
//! It holds no descriptor of the machine, so that what the inside closes is closed. Signals go through it, exactly once
//! each: the inside takes those that end it only from here, whoever else of its group got them as well.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use devices::backend::console;
use devices::backend::vsock::{Beside, Connector};

use super::cgroup::Cgroups;
use super::sys::{self, End};
use super::{Left, channel};
use crate::exit_code::ExitCode;
use crate::signals::passed_on;

/// Signals that mean something to the inside, or to its terminal.
const WATCHED: [libc::c_int; 6] =
    [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGCONT];

/// Watches over `child` until it ends, then ends in the same way.
pub(super) fn watch(child: BorrowedFd<'_>, channel: OwnedFd, left: Left, cgroups: Cgroups) -> ! {
    let programs = left.vsock.map(Beside);
    let programs = programs.as_ref().map(|programs| programs as &dyn Connector);
    let end = serve(child, channel, programs).and_then(|()| sys::wait_for_end(child));
    console::restore_now();
    drop(left.files);
    drop(cgroups);
    match end {
        Ok(End::Exit(code)) => sys::exit_now(code),
        Ok(End::Signal(signal)) => {
            sys::raise_by_default(signal);
            // Where the signal does not end a process.
            sys::exit_now(128 + signal)
        }
        // The inside ends with this process.
        Err(error) => {
            eprintln!("vmm: error: jail: the process inside cannot be watched: {error}");
            sys::exit_now(ExitCode::HostFailure.code().into())
        }
    }
}

/// Passes signals on and answers the inside until that has ended.
fn serve(
    child: BorrowedFd<'_>,
    channel: OwnedFd,
    programs: Option<&dyn Connector>,
) -> io::Result<()> {
    let kept = [Some(child.as_raw_fd()), Some(channel.as_raw_fd()), console::terminal_fd()];
    let kept: Vec<RawFd> = kept.into_iter().flatten().collect();
    sys::close_all_but_numbers(&kept)?;
    let mut signals = File::from(sys::watch_signals(&WATCHED)?);
    let mut channel = Some(channel);
    loop {
        let asks = channel.as_ref().map(AsFd::as_fd);
        let [ended, signalled, asked] =
            match sys::wait_for([Some(child), Some(signals.as_fd()), asks]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                ready => ready?,
            };
        if ended {
            return Ok(());
        }
        if signalled {
            pass_on(child, &mut signals);
        }
        if asked && !channel.as_ref().is_some_and(|end| channel::answer(end.as_fd(), programs)) {
            channel = None;
        }
    }
}

fn pass_on(child: BorrowedFd<'_>, signals: &mut File) {
    let mut info = [0; size_of::<libc::signalfd_siginfo>()];
    while let Ok(count) = signals.read(&mut info)
        && count == info.len()
    {
        let [a, b, c, d, ..] = info;
        let signal = libc::c_int::from_le_bytes([a, b, c, d]);
        // Each fails only when the inside has ended.
        let _ = match signal {
            // The first process of a PID namespace has no default action, so that is done for it, and to this one.
            libc::SIGQUIT => sys::send_signal(child, libc::SIGKILL).map(|()| {
                let _ = sys::wait_for_end(child);
                console::restore_now();
                sys::raise_by_default(libc::SIGQUIT);
            }),
            libc::SIGTSTP => sys::send_signal(child, libc::SIGSTOP).map(|()| sys::stop()),
            libc::SIGCONT => sys::send_signal(child, libc::SIGCONT).and_then(|()| {
                // In the background the terminal is somebody else's.
                if sys::is_in_foreground(io::stdin()) { pass(child, signal) } else { Ok(()) }
            }),
            signal => pass(child, signal),
        };
    }
}

fn pass(child: BorrowedFd<'_>, signal: libc::c_int) -> io::Result<()> {
    passed_on(signal).map_or(Ok(()), |signal| sys::send_signal(child, signal))
}
