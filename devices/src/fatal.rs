//! Signals that end a process, and whoever has something to do before: handlers that know who was there first.
//!
//! A thread that may make hardly any system call can neither ask who it is nor change what a signal does. So a handler
//! is for one signal only ([`watch`]), the one before it is called instead of being put back, and what must be known of
//! the process is asked for in time ([`remember_process`]).

#![expect(unsafe_code, reason = "signal handlers")]

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

/// A handler of a signal: its number, what the kernel tells of it, the thread that it interrupts.
pub type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// Not asked yet.
const UNKNOWN: i32 = -1;
static PROCESS: AtomicI32 = AtomicI32::new(UNKNOWN);
static GROUP: AtomicI32 = AtomicI32::new(UNKNOWN);

/// Asks for the number of this process, and of its group if it has a terminal, as nobody may later.
pub fn remember_process(has_terminal: bool) {
    // SAFETY: takes nothing and cannot fail.
    PROCESS.store(unsafe { libc::getpid() }, Ordering::Relaxed);
    if has_terminal {
        // SAFETY: as above.
        GROUP.store(unsafe { libc::getpgrp() }, Ordering::Relaxed);
    }
}

/// The number of this process. Async-signal-safe.
#[must_use]
pub fn process() -> libc::pid_t {
    match PROCESS.load(Ordering::Relaxed) {
        // SAFETY: takes nothing and cannot fail.
        UNKNOWN => unsafe { libc::getpid() },
        process => process,
    }
}

/// The number of this process's group, 0 where it cannot be seen. Async-signal-safe.
#[must_use]
pub fn group() -> libc::pid_t {
    match GROUP.load(Ordering::Relaxed) {
        // SAFETY: takes nothing and cannot fail.
        UNKNOWN => unsafe { libc::getpgrp() },
        group => group,
    }
}

/// Where a signal went before.
#[derive(Clone, Copy)]
pub struct Previous(libc::sigaction);

impl Previous {
    /// Whether the signal had a handler.
    #[must_use]
    pub fn is_handler(&self) -> bool {
        self.0.sa_sigaction != libc::SIG_DFL && self.0.sa_sigaction != libc::SIG_IGN
    }

    /// Calls the handler that was there before, if there was one. Otherwise the signal has its default action by now, and
    /// a fault that happens again ends the process.
    ///
    /// # Safety
    /// The arguments are those of the handler that calls this, for the same signal.
    pub unsafe fn pass_on(
        &self,
        signal: libc::c_int,
        info: *mut libc::siginfo_t,
        context: *mut libc::c_void,
    ) {
        let Self(action) = self;
        if !self.is_handler() {
            return;
        }
        if action.sa_flags & libc::SA_SIGINFO != 0 {
            // SAFETY: with SA_SIGINFO the address is that of such a function.
            let handler: Handler = unsafe { std::mem::transmute(action.sa_sigaction) };
            handler(signal, info, context);
        } else {
            // SAFETY: without it the address is that of such a function.
            let handler: extern "C" fn(libc::c_int) =
                unsafe { std::mem::transmute(action.sa_sigaction) };
            handler(signal);
        }
    }
}

/// Has `handler` called at the first `signal`, after which the signal has its default action. A signal that is ignored
/// stays so, which is `None`.
///
/// # Errors
/// The errno of sigaction(2).
///
/// # Safety
/// `handler` makes async-signal-safe calls only.
pub unsafe fn watch(signal: libc::c_int, handler: Handler) -> io::Result<Option<Previous>> {
    // SAFETY: all zeroes is a valid sigaction: default action, empty mask, no flags.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks for the action that there is, and writes it to a valid place.
    if unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut old) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if old.sa_sigaction == libc::SIG_IGN {
        return Ok(None);
    }
    // SAFETY: as above.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // The stack may be what ran out.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
    // SAFETY: a valid sigaction, and the caller vouches for the handler.
    if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Some(Previous(old)))
}

/// Sends this process a signal that has its default action, from a handler of it. Async-signal-safe.
pub fn send_again(signal: libc::c_int) {
    let process = process();
    // The first process of a PID namespace has no default actions for signals of its own.
    if process == 1 {
        // SAFETY: ends the process without running anything of it; the status is a shell's for the signal.
        unsafe { libc::_exit(128 + signal) };
    }
    // To the first thread, which has the number of the process: whoever gets it, it ends them all.
    // SAFETY: takes numbers.
    unsafe { libc::syscall(libc::SYS_tgkill, process, process, signal) };
}
