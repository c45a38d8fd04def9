//! The system calls of seccomp(2), and the handler of its signal.
//!
//! Makes no decisions. The handler allocates nothing, takes no lock, and makes only calls that every filter allows.

#![expect(unsafe_code, reason = "seccomp(2), prctl(2), a signal handler")]

use std::cell::Cell;
use std::io;

use super::names::name;
use crate::exit_code::ExitCode;

/// Bytes of a thread's name that are shown.
const NAME: usize = 16;
/// More than the longest line has.
const LINE: usize = 256;

thread_local! {
    /// The name of this thread, padded with zeroes.
    static THREAD: Cell<[u8; NAME]> = const { Cell::new([0; NAME]) };
}

/// This process, and what it starts, gains no rights by executing files (`PR_SET_NO_NEW_PRIVS`), without which an
/// ordinary user may not have filters.
pub(super) fn gain_nothing() -> io::Result<()> {
    // SAFETY: takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())
}

/// Installs `program` on the calling thread.
pub(super) fn install(program: &[u64]) -> io::Result<()> {
    remember_name();
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let filter = program.as_ptr().cast::<libc::sock_filter>().cast_mut();
    let program = libc::sock_fprog { len, filter };
    // SAFETY: the kernel reads `len` instructions of eight bytes from `filter`, which has as many, and keeps a copy.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    })
}

/// The number of the calling thread.
pub(super) fn thread_id() -> i64 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::syscall(libc::SYS_gettid) }
}

fn remember_name() {
    let mut name = [0; NAME];
    let thread = std::thread::current();
    for (to, from) in name.iter_mut().zip(thread.name().unwrap_or("main").bytes()) {
        *to = from;
    }
    THREAD.set(name);
}

/// A forbidden call ends the process with a line about it, a panic with its message: abort(3) makes calls that no
/// filter allows.
pub(super) fn end_on_violation() -> io::Result<()> {
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_violation;
    // SAFETY: all zeroes is a valid sigaction: default action, empty mask, no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the sigaction is valid, and the handler makes async-signal-safe calls only.
    let done = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) };
    check(done.into())?;
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        end(ExitCode::Bug);
    }));
    Ok(())
}

extern "C" fn on_violation(
    _signal: libc::c_int,
    _info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid context of the interrupted thread.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let register = |index: libc::c_int| {
        usize::try_from(index).ok().and_then(|index| registers.get(index)).copied().unwrap_or(0)
    };
    let mut line = Line::new();
    line.add(b"vmm: seccomp: thread \"");
    let thread = THREAD.get();
    line.add(thread.split(|byte| *byte == 0).next().unwrap_or_default());
    line.add(b"\" made the forbidden system call ");
    // The kernel has put the number back where the thread had it.
    let number = register(libc::REG_RAX);
    line.add_decimal(number.cast_unsigned());
    line.add(b" (");
    line.add(name(number).as_bytes());
    line.add(b") with arguments ");
    for (index, argument) in [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX].into_iter().enumerate() {
        line.add(if index == 0 { b"0x" } else { b", 0x" });
        line.add_hex(register(argument).cast_unsigned());
    }
    line.add(b"\n");
    devices::backend::console::restore_now();
    let line = line.bytes();
    // SAFETY: `line` is readable for its whole length. With stderr closed there is nobody to tell.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
    end(ExitCode::Violation);
}

fn end(code: ExitCode) -> ! {
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(code.code().into()) }
}

/// A line in the making; what does not fit is left out.
struct Line {
    text: [u8; LINE],
    len: usize,
}

impl Line {
    fn new() -> Self {
        Self { text: [0; LINE], len: 0 }
    }

    fn bytes(&self) -> &[u8] {
        self.text.get(..self.len).unwrap_or_default()
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(to) = self.text.get_mut(self.len) {
                *to = *byte;
                self.len += 1;
            }
        }
    }

    fn add_decimal(&mut self, number: u64) {
        self.add_digits(number, 10);
    }

    fn add_hex(&mut self, number: u64) {
        self.add_digits(number, 16);
    }

    fn add_digits(&mut self, number: u64, base: u64) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        if number >= base {
            self.add_digits(number / base, base);
        }
        let digit = usize::try_from(number % base).ok().and_then(|digit| DIGITS.get(digit));
        self.add(digit.map(std::slice::from_ref).unwrap_or_default());
    }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_everywhere() {
        let mut line = Line::new();
        line.add_decimal(0);
        line.add(b" ");
        line.add_decimal(u64::MAX);
        line.add(b" ");
        line.add_hex(0xdead_beef);
        assert_eq!(line.bytes(), b"0 18446744073709551615 deadbeef");
    }

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        let mut line = Line::new();
        line.add(&[b'x'; 2 * LINE]);
        assert_eq!(line.bytes().len(), LINE);
    }
}
