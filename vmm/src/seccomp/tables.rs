//! The rules: which system call, with which arguments, on which threads, and why.
//!
//! One table for all threads, so that everything that the process may ask of the kernel is seen at once. It is read
//! when the program is built, which makes one filter of it for each kind of thread, and by the tests, which hold that
//! nothing else passes and that the suite needs every row. What is not here ends the process.
//!
//! A row holds for a thread that is in its `on`. Rows with a [`Case`] are for machines that were started with what
//! they are for, and are not in the filters of others.

use libc::c_long;

/// A set of kinds of threads.
pub type Threads = u8;
/// The main thread: the loop of devices, consoles and timers.
pub const MAIN: Threads = 1;
/// Loops of their own for some devices.
pub const IO: Threads = 2;
/// The threads that run the guest.
pub const VCPU: Threads = 4;
/// The thread that speaks HTTP.
pub const API: Threads = 8;

/// What a machine must have been started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// Nothing special.
    Always,
    /// A socket device: the guest connects to sockets of the host.
    Vsock,
    /// An API, or `--on-reboot restart`: disks are exchanged, machines are built.
    Rebuild,
}

/// What an argument must be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    /// An `int` equal to this.
    Int(u32),
    /// A `long` equal to this.
    Long(u64),
    /// A `long` with none of these bits.
    Without(u64),
    /// The number of this process, for which filters have [`PROCESS`] until they are installed.
    Process,
    /// Flags of clone(2) for a copy of this process, for which filters have [`FORK`] until they are installed, and for good
    /// where nothing may be started.
    Fork,
}

/// Stands in a filter for the number of the process; no process has it (`PID_MAX_LIMIT` of Linux).
pub const PROCESS: u32 = 0x5eed_1d00;
/// Stands in a filter for the flags of a fork. Linux refuses these: a thread (bit 16) without common handlers (bit 11).
pub const FORK: u32 = 0x5eed_0011;

/// The number of an argument, from 0, and what it must be like.
pub type Test = (u8, Is);

/// A rule.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The threads that it is for.
    pub on: Threads,
    /// When it is there.
    pub case: Case,
    /// The system call.
    pub call: c_long,
    /// What its arguments must all be like.
    pub tests: &'static [Test],
    /// Whether the suite cannot be relied on to need it, with the reason in the comment at the row.
    pub rare: bool,
}

const fn row(on: Threads, call: c_long, tests: &'static [Test]) -> Row {
    Row { on, case: Case::Always, call, tests, rare: false }
}

impl Row {
    const fn when(self, case: Case) -> Self {
        Self { case, ..self }
    }

    const fn rare(self) -> Self {
        Self { rare: true, ..self }
    }

    /// Whether the row is in the filter of `thread`, in a machine that has these cases.
    #[must_use]
    pub const fn is_for(&self, thread: Threads, vsock: bool, rebuild: bool) -> bool {
        let is_case = match self.case {
            Case::Always => true,
            Case::Vsock => vsock,
            Case::Rebuild => rebuild,
        };
        self.on & thread != 0 && is_case
    }
}

/// Requests of ioctl(2), by the names of the kernel's headers.
mod request {
    pub(super) const TCGETS: u32 = 0x5401;
    pub(super) const TCSETS: u32 = 0x5402;
    pub(super) const TIOCGPGRP: u32 = 0x540f;
    pub(super) const TIOCGWINSZ: u32 = 0x5413;
    pub(super) const FIONBIO: u32 = 0x5421;
    pub(super) const BLKGETSIZE64: u32 = 0x8008_1272;
    pub(super) const BLKSSZGET: u32 = 0x1268;
    pub(super) const BLKPBSZGET: u32 = 0x127b;
    pub(super) const BLKDISCARD: u32 = 0x1277;
    pub(super) const FICLONERANGE: u32 = 0x4020_940d;
    pub(super) const TUNSETOFFLOAD: u32 = 0x4004_54d0;
    pub(super) const TUNSETQUEUE: u32 = 0x4004_54d9;
    pub(super) const KVM_GET_API_VERSION: u32 = 0xae00;
    pub(super) const KVM_CREATE_VM: u32 = 0xae01;
    pub(super) const KVM_CHECK_EXTENSION: u32 = 0xae03;
    pub(super) const KVM_GET_VCPU_MMAP_SIZE: u32 = 0xae04;
    pub(super) const KVM_GET_SUPPORTED_CPUID: u32 = 0xc008_ae05;
    pub(super) const KVM_CREATE_VCPU: u32 = 0xae41;
    pub(super) const KVM_SET_USER_MEMORY_REGION: u32 = 0x4020_ae46;
    pub(super) const KVM_SET_TSS_ADDR: u32 = 0xae47;
    pub(super) const KVM_CREATE_IRQCHIP: u32 = 0xae60;
    pub(super) const KVM_IRQFD: u32 = 0x4020_ae76;
    pub(super) const KVM_IOEVENTFD: u32 = 0x4040_ae79;
    pub(super) const KVM_RUN: u32 = 0xae80;
    pub(super) const KVM_GET_REGS: u32 = 0x8090_ae81;
    pub(super) const KVM_SET_REGS: u32 = 0x4090_ae82;
    pub(super) const KVM_SET_SREGS: u32 = 0x4138_ae84;
    pub(super) const KVM_GET_MSRS: u32 = 0xc008_ae88;
    pub(super) const KVM_SET_MSRS: u32 = 0x4008_ae89;
    pub(super) const KVM_SET_CPUID2: u32 = 0x4008_ae90;
    pub(super) const KVM_SET_FPU: u32 = 0x41a0_ae8d;
    pub(super) const KVM_GET_LAPIC: u32 = 0x8400_ae8e;
    pub(super) const KVM_SET_LAPIC: u32 = 0x4400_ae8f;
    pub(super) const KVM_GET_TSC_KHZ: u32 = 0xaea3;
    pub(super) const KVM_GET_MSR_INDEX_LIST: u32 = 0xc004_ae02;
    pub(super) const KVM_GET_SREGS: u32 = 0x8138_ae83;
    pub(super) const KVM_GET_CPUID2: u32 = 0xc008_ae91;
    pub(super) const KVM_GET_MP_STATE: u32 = 0x8004_ae98;
    pub(super) const KVM_GET_VCPU_EVENTS: u32 = 0x8040_ae9f;
    pub(super) const KVM_GET_DEBUGREGS: u32 = 0x8080_aea1;
    pub(super) const KVM_GET_XSAVE: u32 = 0x9000_aea4;
    pub(super) const KVM_GET_XSAVE2: u32 = 0x9000_aecf;
    pub(super) const KVM_GET_XCRS: u32 = 0x8188_aea6;
    pub(super) const KVM_GET_IRQCHIP: u32 = 0xc208_ae62;
    pub(super) const KVM_GET_CLOCK: u32 = 0x8030_ae7c;
    pub(super) const KVM_KVMCLOCK_CTRL: u32 = 0xaead;
}

const ALL: Threads = MAIN | IO | VCPU | API;
/// Threads that serve devices.
const LOOP: Threads = MAIN | IO;

/// Memory is never made executable.
const NO_EXEC: &[Test] = &[(2, Is::Without(libc::PROT_EXEC.cast_unsigned() as u64))];

/// Files that are opened are there already, and stay as they are.
const NO_CREATION: &[Test] =
    &[(2, Is::Without((libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND).cast_unsigned() as u64))];

/// A file that is made where there is none.
const NEW_FILE: &[Test] = &[(
    2,
    Is::Int((libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC).cast_unsigned()),
)];

const fn ioctl(on: Threads, request: &'static [Test]) -> Row {
    row(on, libc::SYS_ioctl, request)
}

macro_rules! is {
    ($argument:literal, $value:expr) => {
        &[($argument, Is::Int($value as u32))]
    };
}

/// Every rule.
pub const ROWS: &[Row] = &[
    // Waiting, and telling others.
    row(ALL, libc::SYS_futex, &[]),
    row(ALL, libc::SYS_write, &[]),
    row(LOOP | API, libc::SYS_read, &[]),
    row(LOOP | API, libc::SYS_epoll_wait, &[]),
    row(LOOP | API, libc::SYS_epoll_ctl, &[]),
    row(LOOP, libc::SYS_timerfd_settime, &[]),
    row(LOOP, libc::SYS_timerfd_create, &[]),
    // A descriptor that a log line goes to is asked first.
    row(MAIN, libc::SYS_poll, &[]),
    row(IO | VCPU | API, libc::SYS_poll, &[]).rare(),
    // Where the host's clock cannot be read without a call.
    row(ALL, libc::SYS_clock_gettime, &[]).rare(),
    // A channel on which two threads meet at the same moment.
    row(ALL, libc::SYS_sched_yield, &[]).rare(),
    // A wait with a time limit that was stopped and continued.
    row(MAIN | API, libc::SYS_restart_syscall, &[]).rare(),
    // The end, by a panic or a violation on any thread.
    row(ALL, libc::SYS_exit_group, &[]).rare(),
    // A bus error or a violation puts the terminal back first.
    ioctl(ALL, is!(1, request::TCSETS)).rare(),
    ioctl(ALL, is!(1, request::TIOCGPGRP)).rare(),
    // A signal that ends this process is sent again once the terminal is as it was.
    row(IO | VCPU | API, libc::SYS_tgkill, &[(0, Is::Process)]).rare(),
    // The standard library's own checks.
    #[cfg(debug_assertions)]
    row(ALL, libc::SYS_fcntl, is!(1, libc::F_GETFD)).rare(),
    // Memory of the process.
    row(ALL, libc::SYS_brk, &[]).rare(),
    row(ALL, libc::SYS_mmap, NO_EXEC).rare(),
    row(ALL, libc::SYS_munmap, &[]).rare(),
    row(ALL, libc::SYS_mremap, &[]).rare(),
    // Kicks, which interrupt the guest, and no other process.
    row(VCPU, libc::SYS_rt_sigreturn, &[]),
    // After a fault the terminal is put back; then it happens again and ends the process.
    row(LOOP | API, libc::SYS_rt_sigreturn, &[]).rare(),
    row(MAIN, libc::SYS_tgkill, &[(0, Is::Process)]),
    // The guest.
    ioctl(VCPU, is!(1, request::KVM_RUN)),
    ioctl(VCPU, is!(1, request::KVM_KVMCLOCK_CTRL)),
    // Where a guest is that cannot go on, which no KVM tells of every time.
    ioctl(VCPU, is!(1, request::KVM_GET_REGS)).rare(),
    // Devices begin and end.
    row(LOOP | API, libc::SYS_close, &[]),
    row(LOOP, libc::SYS_eventfd2, &[]),
    row(MAIN | API, libc::SYS_fcntl, is!(1, libc::F_DUPFD_CLOEXEC)),
    ioctl(LOOP, is!(1, request::KVM_IRQFD)),
    ioctl(LOOP, is!(1, request::KVM_IOEVENTFD)),
    // A ring is lent another file (IORING_REGISTER_FILES_UPDATE). Nobody makes a ring, which could do anything.
    row(LOOP, libc::SYS_io_uring_register, is!(1, 6)),
    // Whatever is read and written in pieces, or at a place: disks, overlays, taps, streams; what /proc says about this
    // process, for who asks for metrics.
    row(LOOP | API, libc::SYS_preadv2, &[]),
    row(LOOP, libc::SYS_pwritev2, &[]),
    // Disks.
    row(LOOP, libc::SYS_fdatasync, &[]),
    row(LOOP, libc::SYS_fallocate, &[]),
    row(LOOP, libc::SYS_io_uring_enter, &[]),
    ioctl(LOOP, is!(1, request::BLKDISCARD)).rare(),
    // Networks, consoles, sockets.
    ioctl(LOOP, is!(1, request::TUNSETQUEUE)),
    ioctl(LOOP, is!(1, request::TUNSETOFFLOAD)),
    row(MAIN | API, libc::SYS_accept4, &[]),
    row(MAIN | API, libc::SYS_shutdown, &[]),
    ioctl(MAIN | API, is!(1, request::FIONBIO)),
    row(MAIN, libc::SYS_socket, &[(0, Is::Int(libc::AF_UNIX as u32)), (1, Is::Int(SOCKET))])
        .when(Case::Vsock),
    row(MAIN, libc::SYS_connect, &[]).when(Case::Vsock),
    // A look at what is there, and connections that the process outside of a jail has made.
    row(MAIN, libc::SYS_recvmsg, &[]).when(Case::Vsock),
    ioctl(MAIN, is!(1, request::TCGETS)),
    // Somebody changes the size of a window.
    ioctl(MAIN, is!(1, request::TIOCGWINSZ)).rare(),
    // Balloons, and copies of a kernel that is about to change.
    row(LOOP, libc::SYS_madvise, is!(2, libc::MADV_DONTNEED)),
    row(MAIN, libc::SYS_madvise, is!(2, libc::MADV_DONTDUMP)),
    row(MAIN, libc::SYS_fcntl, is!(1, libc::F_SETLEASE)),
    row(MAIN, libc::SYS_madvise, is!(2, libc::MADV_REMOVE)).when(Case::Rebuild),
    // Files of sockets go with their owners.
    row(MAIN | API, libc::SYS_unlink, &[]),
    row(MAIN | API, libc::SYS_statx, &[]),
    // Machines are built and disks are exchanged.
    row(MAIN, libc::SYS_openat, NO_CREATION).when(Case::Rebuild),
    // Each machine has a number of its own.
    row(MAIN, libc::SYS_getrandom, &[]).when(Case::Rebuild),
    row(MAIN, libc::SYS_lseek, &[]).when(Case::Rebuild),
    row(MAIN, libc::SYS_madvise, is!(2, libc::MADV_POPULATE_WRITE)).when(Case::Rebuild),
    row(MAIN, libc::SYS_fcntl, is!(1, libc::F_OFD_SETLK)).when(Case::Rebuild),
    // Who has a disk, for whom it is in the way.
    row(MAIN, libc::SYS_flock, &[]).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::BLKGETSIZE64)).when(Case::Rebuild).rare(),
    ioctl(MAIN, is!(1, request::BLKSSZGET)).when(Case::Rebuild).rare(),
    ioctl(MAIN, is!(1, request::BLKPBSZGET)).when(Case::Rebuild).rare(),
    ioctl(MAIN, is!(1, request::KVM_GET_API_VERSION)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_CREATE_VM)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_CHECK_EXTENSION)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_GET_VCPU_MMAP_SIZE)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_GET_SUPPORTED_CPUID)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_CREATE_VCPU)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_SET_USER_MEMORY_REGION)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_SET_TSS_ADDR)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_CREATE_IRQCHIP)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_SET_REGS)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_SET_SREGS)).when(Case::Rebuild),
    // A template changes parts of registers.
    ioctl(MAIN, is!(1, request::KVM_GET_MSRS)).when(Case::Rebuild).rare(),
    ioctl(MAIN, is!(1, request::KVM_SET_MSRS)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_SET_CPUID2)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_SET_FPU)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_GET_LAPIC)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_SET_LAPIC)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_GET_TSC_KHZ)).when(Case::Rebuild),
    // Machines are saved. The thread of the API makes the files.
    ioctl(MAIN, is!(1, request::KVM_GET_MSR_INDEX_LIST)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_GET_REGS)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_GET_SREGS)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_GET_CPUID2)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_GET_MP_STATE)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_GET_VCPU_EVENTS)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_GET_DEBUGREGS)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_GET_XSAVE2)).when(Case::Rebuild),
    // Before Linux 5.17.
    ioctl(MAIN, is!(1, request::KVM_GET_XSAVE)).when(Case::Rebuild).rare(),
    ioctl(MAIN, is!(1, request::KVM_GET_XCRS)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_GET_IRQCHIP)).when(Case::Rebuild),
    ioctl(MAIN, is!(1, request::KVM_GET_CLOCK)).when(Case::Rebuild),
    // A copy of this process writes memory, and ends with its file or when this process is gone.
    row(MAIN, libc::SYS_clone, &[(0, Is::Fork), (1, Is::Long(0))]).when(Case::Rebuild),
    // What that copy does is recorded as of a thread without a filter.
    row(MAIN, libc::SYS_close_range, is!(2, 0)).when(Case::Rebuild).rare(),
    row(MAIN, libc::SYS_wait4, &[(2, Is::Int(libc::WNOHANG.cast_unsigned())), (3, Is::Long(0))])
        .when(Case::Rebuild),
    // An overlay's blocks are shared with the snapshot where they can be.
    ioctl(MAIN, is!(1, request::FICLONERANGE)).when(Case::Rebuild),
    row(API, libc::SYS_openat, NEW_FILE),
    row(API, libc::SYS_openat, is!(2, libc::O_RDONLY | libc::O_CLOEXEC)),
    // What a snapshot that was never finished has left is looked for.
    row(API, libc::SYS_openat, is!(2, libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NONBLOCK)),
    row(API, libc::SYS_getdents64, &[]),
    // The C library looks whether it has opened a directory, some versions by the second one.
    row(API, libc::SYS_newfstatat, is!(3, libc::AT_EMPTY_PATH)),
    row(API, libc::SYS_fstat, &[]).rare(),
    row(API, libc::SYS_lseek, &[]).rare(),
    row(API, libc::SYS_flock, &[]),
    row(API, libc::SYS_fsync, &[]),
    row(API, libc::SYS_rename, &[]),
];

/// The type of every socket that is made.
const SOCKET: u32 = (libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK).cast_unsigned();
