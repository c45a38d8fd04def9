//! A compromised process, enacted: what a payload can do once it runs on a thread.
//!
//! Only in the test build (feature `drill`), which is never what is released. `VMM_DRILL` names a kind of thread and what
//! is tried there: `vcpu:actions`, `main:calls`. The payload begins at the moment in which the thread has become what it is
//! while a guest runs; it says for each attempt on standard error what came of it, and ends the process.
//!
//! A forbidden call ends a real process at once. Here a handler of our own notes it and lets the payload go on, so that one
//! process tries everything.

#![expect(unsafe_code, reason = "system calls that nothing sane makes")]

use std::cell::Cell;
use std::ffi::CStr;
use std::io::{self, Write};
use std::sync::OnceLock;

use libc::{c_int, c_long, c_void};

use crate::seccomp::{Thread, name, tables};

/// One number after the last that is tried.
const CALLS: u32 = 461;
/// Status of a process that has tried everything.
const DONE: c_int = 42;
/// Descriptors that an attempt may find something behind.
const FDS: c_long = 64;

thread_local! {
    static IS_FORBIDDEN: Cell<bool> = const { Cell::new(false) };
}

static WANTED: OnceLock<String> = OnceLock::new();

/// Reads what is wanted, and takes the place of whoever handles forbidden calls. Before there is a filter.
pub(crate) fn prepare() {
    let Ok(wanted) = std::env::var("VMM_DRILL") else { return };
    let _ = WANTED.set(wanted);
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_forbidden;
    // SAFETY: all zeroes is a valid sigaction: default action, empty mask, no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the sigaction is valid, and the handler touches its own thread only.
    unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) };
}

extern "C" fn on_forbidden(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    IS_FORBIDDEN.set(true);
    // SAFETY: with SA_SIGINFO the kernel passes a valid context of the interrupted thread.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    // What the call returns.
    if let Some(result) = registers.get_mut(libc::REG_RAX as usize) {
        *result = -i64::from(libc::EPERM);
    }
}

/// The payload, on a thread that has just been confined.
pub(crate) fn run(thread: Thread, has_vsock: bool, may_rebuild: bool) {
    let (bit, kind) = match thread {
        Thread::Main => (tables::MAIN, "main"),
        Thread::Io => (tables::IO, "io"),
        Thread::Vcpu => (tables::VCPU, "vcpu"),
        Thread::Api => (tables::API, "api"),
    };
    match WANTED.get().and_then(|wanted| wanted.strip_prefix(kind)) {
        Some(":actions") => ACTIONS.iter().for_each(|(what, action)| {
            let result = attempt(*action);
            say(&format!("drill {kind}: {what}: {result}"));
        }),
        Some(":calls") => {
            let is_ours = |row: &&tables::Row| row.is_for(bit, has_vsock, may_rebuild);
            let rows: Vec<_> = tables::ROWS.iter().filter(is_ours).collect();
            make_every_call(kind, &rows);
        }
        _ => return,
    }
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(DONE) };
}

fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// What came of an attempt.
fn attempt(action: fn() -> c_long) -> String {
    IS_FORBIDDEN.set(false);
    let result = action();
    let error = io::Error::last_os_error();
    if result >= 0 {
        format!("DONE ({result})")
    } else if IS_FORBIDDEN.get() {
        "forbidden".to_owned()
    } else {
        format!("refused ({error})")
    }
}

/// Each number once, with arguments that meet no condition, unless it is allowed with any.
fn make_every_call(kind: &str, rows: &[&tables::Row]) {
    let (mut forbidden, mut allowed) = (0, 0);
    for number in (0..CALLS).flat_map(|number| [number, number | X32]) {
        if ENDING.contains(&number) {
            continue;
        }
        let call = c_long::from(number);
        if rows.iter().any(|row| row.call == call && row.tests.is_empty()) {
            allowed += 1;
            continue;
        }
        IS_FORBIDDEN.set(false);
        let most = c_long::MAX | c_long::MIN;
        // SAFETY: it is expected not to be made; addresses that are none make it fail otherwise.
        unsafe { libc::syscall(call, most, most, most, most, most, most) };
        if IS_FORBIDDEN.get() {
            forbidden += 1;
        } else {
            say(&format!("drill {kind}: call {number} ({}) was MADE", name(call)));
        }
    }
    say(&format!("drill {kind}: {forbidden} calls forbidden, {allowed} allowed"));
}

/// Calls that newer kernels show to no filter, and that end a process by SIGILL which makes them by itself: uretprobe and
/// uprobe, which the kernel has made for programs under examination.
const ENDING: [u32; 2] = [335, 336];

/// The other interface of 64-bit processes, which has the same calls.
const X32: u32 = 0x4000_0000;

fn call<const N: usize>(number: c_long, arguments: [c_long; N]) -> c_long {
    let mut all = [0; 6];
    all.iter_mut().zip(arguments).for_each(|(to, from)| *to = from);
    let [a, b, c, d, e, f] = all;
    // SAFETY: the process has nothing left to lose; pointers are those of constants or of no object at all.
    unsafe { libc::syscall(number, a, b, c, d, e, f) }
}

fn text(text: &'static CStr) -> c_long {
    text.as_ptr() as c_long
}

fn socket(family: c_int, kind: c_int) -> c_long {
    call(libc::SYS_socket, [family.into(), c_long::from(kind | libc::SOCK_CLOEXEC), 0])
}

/// What becomes of `action` on each descriptor: the best result.
fn on_each(action: impl Fn(c_long) -> c_long) -> c_long {
    (0..FDS).map(action).max().unwrap_or(-1)
}

/// In the way that is allowed where any is.
fn open(path: &'static CStr, flags: c_int) -> c_long {
    let (here, flags) = (libc::AT_FDCWD.into(), c_long::from(flags | libc::O_CLOEXEC));
    call(libc::SYS_openat, [here, text(path), flags, 0o600])
}

fn map(protection: c_int) -> c_long {
    let flags = c_long::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    call(libc::SYS_mmap, [0, 4096, protection.into(), flags, -1, 0])
}

/// A Unix address without a name.
const ADDRESS: [u16; 1] = [libc::AF_UNIX as u16];

fn address() -> c_long {
    ADDRESS.as_ptr() as c_long
}

/// Whoever started this process.
fn parent() -> c_long {
    // Not to be asked for here; the number of the first process does as well.
    1
}

type Action = (&'static str, fn() -> c_long);

const ACTIONS: &[Action] = &[
    ("open a file of the host", || open(c"/etc/passwd", libc::O_RDONLY)),
    ("make a file", || open(c"/tmp/vmm-drill", libc::O_CREAT | libc::O_WRONLY)),
    ("write to its own memory by a file", || open(c"/proc/self/mem", libc::O_RDWR)),
    ("open /dev/kvm", || open(c"/dev/kvm", libc::O_RDWR)),
    ("open a file by openat2", || {
        let how = [0_u64; 3];
        call(libc::SYS_openat2, [-100, text(c"/"), how.as_ptr() as c_long, 24])
    }),
    ("rename a file", || call(libc::SYS_rename, [text(c"/vmm-drill"), text(c"/vmm-drill-")])),
    ("make a link", || call(libc::SYS_symlink, [text(c"/"), text(c"/tmp/vmm-drill")])),
    ("make a machine", || on_each(|fd| call(libc::SYS_ioctl, [fd, 0xae01, 0]))),
    ("make a vCPU", || on_each(|fd| call(libc::SYS_ioctl, [fd, 0xae41, 63]))),
    ("type into the terminal", || on_each(|fd| call(libc::SYS_ioctl, [fd, 0x5412, text(c"x")]))),
    ("make a ring", || {
        let parameters = [0_u64; 15];
        call(libc::SYS_io_uring_setup, [1, parameters.as_ptr() as c_long])
    }),
    ("make an Internet socket", || socket(libc::AF_INET, libc::SOCK_STREAM)),
    ("make a socket of IPv6", || socket(libc::AF_INET6, libc::SOCK_DGRAM)),
    ("make a netlink socket", || socket(libc::AF_NETLINK, libc::SOCK_RAW)),
    ("make a packet socket", || socket(libc::AF_PACKET, libc::SOCK_RAW)),
    ("make a vsock socket", || socket(libc::AF_VSOCK, libc::SOCK_STREAM)),
    ("make a Unix socket for datagrams", || socket(libc::AF_UNIX, libc::SOCK_DGRAM)),
    ("make a pair of sockets", || {
        call(libc::SYS_socketpair, [1, 1, 0, ADDRESS.as_ptr() as c_long])
    }),
    ("connect", || on_each(|fd| call(libc::SYS_connect, [fd, address(), 2]))),
    ("bind", || on_each(|fd| call(libc::SYS_bind, [fd, address(), 2]))),
    ("trace another process", || {
        call(libc::SYS_ptrace, [c_long::from(libc::PTRACE_SEIZE), parent(), 0, 0])
    }),
    ("read another process", || call(libc::SYS_process_vm_readv, [parent(), 0, 0, 0, 0, 0])),
    ("send all processes a signal", || call(libc::SYS_kill, [-1, 0])),
    ("send another process a signal", || call(libc::SYS_tgkill, [parent() + 1, parent() + 1, 0])),
    ("hold another process", || call(libc::SYS_pidfd_open, [parent(), 0])),
    ("mount", || call(libc::SYS_mount, [text(c"x"), text(c"/tmp"), text(c"tmpfs"), 0, 0])),
    ("unmount", || call(libc::SYS_umount2, [text(c"/"), c_long::from(libc::MNT_DETACH)])),
    ("open a tree of mounts", || call(libc::SYS_open_tree, [-100, text(c"/"), 1])),
    ("change the root", || call(libc::SYS_pivot_root, [text(c"."), text(c".")])),
    ("change the root by chroot", || call(libc::SYS_chroot, [text(c"/")])),
    ("become another user", || call(libc::SYS_setuid, [0])),
    ("become another group", || call(libc::SYS_setresgid, [0, 0, 0])),
    ("gain capabilities", || {
        const HEADER: [u32; 2] = [0x2008_0522, 0];
        const ALL: [u32; 6] = [u32::MAX; 6];
        call(libc::SYS_capset, [HEADER.as_ptr() as c_long, ALL.as_ptr() as c_long])
    }),
    ("make namespaces", || call(libc::SYS_unshare, [c_long::from(libc::CLONE_NEWUSER)])),
    ("join namespaces", || on_each(|fd| call(libc::SYS_setns, [fd, 0]))),
    ("start a process", || {
        let process = call(libc::SYS_clone, [c_long::from(libc::SIGCHLD), 0, 0, 0, 0]);
        if process == 0 {
            // SAFETY: ends the process without running anything of it.
            unsafe { libc::_exit(0) };
        }
        process
    }),
    ("start a process with the same memory", || {
        call(libc::SYS_clone, [c_long::from(libc::CLONE_VM | libc::SIGCHLD), 0, 0, 0, 0])
    }),
    ("start a process in another namespace", || {
        call(libc::SYS_clone, [c_long::from(libc::CLONE_NEWUSER | libc::SIGCHLD), 0, 0, 0, 0])
    }),
    ("start a thread", || {
        const THREAD: c_int = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
        call(libc::SYS_clone, [THREAD.into(), 0, 0, 0, 0])
    }),
    ("start a process by vfork", || call(libc::SYS_vfork, [])),
    ("start a process by clone3", || call(libc::SYS_clone3, [0, 0])),
    ("execute a program", || call(libc::SYS_execve, [text(c"/bin/true"), 0, 0])),
    ("execute a descriptor", || {
        on_each(|fd| call(libc::SYS_execveat, [fd, text(c""), 0, 0, 0x1000]))
    }),
    ("load a program into the kernel", || call(libc::SYS_bpf, [5, 0, 0])),
    ("read keys", || call(libc::SYS_keyctl, [0, -3, 1])),
    ("add a key", || call(libc::SYS_add_key, [text(c"user"), text(c"x"), text(c"x"), 1, -3])),
    ("handle page faults", || call(libc::SYS_userfaultfd, [0])),
    ("count events of the processor", || call(libc::SYS_perf_event_open, [0, 0, -1, -1, 0])),
    ("map code", || map(libc::PROT_READ | libc::PROT_EXEC)),
    ("map code that can be written", || map(libc::PROT_WRITE | libc::PROT_EXEC)),
    ("make memory executable", || {
        let page = map(libc::PROT_READ | libc::PROT_WRITE);
        call(libc::SYS_mprotect, [page, 4096, c_long::from(libc::PROT_EXEC)])
    }),
    ("make a file of memory", || call(libc::SYS_memfd_create, [text(c"x"), 0])),
    ("become dumpable", || call(libc::SYS_prctl, [c_long::from(libc::PR_SET_DUMPABLE), 1])),
    ("have another filter", || call(libc::SYS_seccomp, [1, 0, 0])),
    ("have another handler", || {
        call(libc::SYS_rt_sigaction, [c_long::from(libc::SIGSYS), 0, 0, 8])
    }),
    ("have other limits", || call(libc::SYS_prlimit64, [0, 7, 0, 0])),
    ("load a module", || on_each(|fd| call(libc::SYS_finit_module, [fd, text(c""), 0]))),
    ("load another kernel", || call(libc::SYS_kexec_load, [0, 0, 0, 0])),
    ("use ports", || call(libc::SYS_iopl, [3])),
    ("set the clock", || call(libc::SYS_clock_settime, [0, 0])),
    ("send another thread to a processor", || call(libc::SYS_sched_setaffinity, [0, 0, 0])),
];
