//! What a piece of code costs in allocations and system calls: exact numbers, the same on any machine.
//!
//! Allocations are counted by the global allocator, system calls by tracing a child process (ptrace), so
//! that those of libraries and of the kernel's own helpers in this process count as well.

#![expect(unsafe_code, reason = "an allocator, and tracing a child, take raw calls")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what it passes on to the system's allocator.
pub(crate) struct CountingAllocator;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on unchanged to an allocator that keeps the contract.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's obligations are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// How many allocations this process has made so far.
pub(crate) fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

/// How often each system call was made, by number.
pub(crate) type Calls = BTreeMap<u64, u64>;

/// Closing this descriptor, which nobody has, begins and ends what is counted.
const MARK: i64 = -0x7661;

/// Runs `setup` and then `work` on its result in a child process; the system calls that `work` made.
/// `None` when this host does not permit tracing.
pub(crate) fn syscalls<T>(setup: impl FnOnce() -> T, work: impl FnOnce(&mut T)) -> Option<Calls> {
    // SAFETY: this process has one thread, so that the child's copy is whole.
    match unsafe { libc::fork() } {
        0 => {
            let mut subject = setup();
            // SAFETY: takes no pointers that are followed.
            let traced = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
            if traced == 0 {
                // SAFETY: stops this process until its parent is ready.
                unsafe { libc::raise(libc::SIGSTOP) };
                mark();
                work(&mut subject);
                mark();
            }
            drop(subject);
            // SAFETY: ends the child without running the parent's exit handlers a second time.
            unsafe { libc::_exit(i32::from(traced != 0)) }
        }
        child if child > 0 => count(child),
        _ => None,
    }
}

fn mark() {
    // SAFETY: there is no such descriptor.
    unsafe { libc::syscall(libc::SYS_close, MARK) };
}

/// Follows `child` to its end.
fn count(child: libc::pid_t) -> Option<Calls> {
    let mut calls = Calls::new();
    let mut is_counting = false;
    if !libc::WIFSTOPPED(wait(child)) {
        return None;
    }
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    // SAFETY: `options` is a number; `child` is stopped and ours.
    unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, child, 0, options) };
    loop {
        // SAFETY: lets the child go on to its next system call, without a signal.
        unsafe { libc::ptrace(libc::PTRACE_SYSCALL, child, 0, 0) };
        let status = wait(child);
        if libc::WIFEXITED(status) {
            return (libc::WEXITSTATUS(status) == 0).then_some(calls);
        }
        assert!(
            !libc::WIFSIGNALED(status),
            "the traced child died of signal {}",
            libc::WTERMSIG(status)
        );
        match entered(child) {
            Some((libc::SYS_close, MARK)) => is_counting = !is_counting,
            Some((number, _)) if is_counting => {
                *calls.entry(number.unsigned_abs()).or_default() += 1;
            }
            _ => {}
        }
    }
}

/// The number and first argument of the system call that the stopped `child` is about to make; `None`
/// where it stopped for another reason.
fn entered(child: libc::pid_t) -> Option<(i64, i64)> {
    // SAFETY: all zeroes is a valid value of this structure of numbers.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let len = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: the kernel writes at most `len` bytes to `info`.
    let got = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, child, len, &raw mut info) };
    if got <= 0 || info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: `op` says that this is the member in use.
    let entry = unsafe { info.u.entry };
    Some((entry.nr.cast_signed(), entry.args[0].cast_signed()))
}

fn wait(child: libc::pid_t) -> libc::c_int {
    let mut status = 0;
    // SAFETY: writes to `status` only.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child, "waiting for the traced child: {}", io::Error::last_os_error());
    status
}

/// The name of a system call that a data path makes, or its number.
pub(crate) fn name(number: u64) -> String {
    let known = [
        (libc::SYS_read, "read"),
        (libc::SYS_write, "write"),
        (libc::SYS_readv, "readv"),
        (libc::SYS_writev, "writev"),
        (libc::SYS_preadv, "preadv"),
        (libc::SYS_preadv2, "preadv2"),
        (libc::SYS_pwritev, "pwritev"),
        (libc::SYS_epoll_wait, "epoll_wait"),
        (libc::SYS_epoll_pwait, "epoll_pwait"),
        (libc::SYS_io_uring_enter, "io_uring_enter"),
        (libc::SYS_fdatasync, "fdatasync"),
        (libc::SYS_sendto, "sendto"),
    ];
    let found = known.iter().find(|(known, _)| known.unsigned_abs() == number);
    found.map_or_else(|| format!("#{number}"), |(_, name)| (*name).to_owned())
}
