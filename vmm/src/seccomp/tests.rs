use super::tables::{self, ROWS};
use super::*;

mod used;

const THREADS: [(Thread, tables::Threads); 4] = [
    (Thread::Main, tables::MAIN),
    (Thread::Io, tables::IO),
    (Thread::Vcpu, tables::VCPU),
    (Thread::Api, tables::API),
];

/// Most system calls of the whole process, and of a vCPU's thread. Six of them (flock, fsync, rename; getdents64 and two
/// kinds of stat) are for snapshots that last, three (clone, wait4, close_range) for guests that go on meanwhile.
const UNION: usize = 48;
const VCPU: usize = 14;

/// The system calls of the rows that `is_meant`, each once.
fn calls(is_meant: impl Fn(&tables::Row) -> bool) -> Vec<&'static str> {
    let mut all: Vec<_> = ROWS.iter().filter(|row| is_meant(row)).map(|row| row.call).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter().map(name).collect()
}

#[test]
fn the_process_asks_for_little() {
    let union = calls(|_| true);
    println!("all: {}: {union:?}", union.len());
    for (thread, bit) in THREADS {
        let own = calls(|row| row.on & bit != 0);
        let plain = calls(|row| row.is_for(bit, false, false));
        println!("{thread:?}: {} of {}: {own:?}", plain.len(), own.len());
    }
    assert!(union.len() <= UNION, "{} system calls: {union:?}", union.len());
    let vcpu = calls(|row| row.on & tables::VCPU != 0);
    assert!(vcpu.len() <= VCPU, "{} system calls: {vcpu:?}", vcpu.len());
}

/// How a filter judges a call, by doing what the kernel does with its instructions.
fn judge(program: &[u64], number: u32, arguments: [u64; 6]) -> u32 {
    const ARCHITECTURE: u32 = 0xc000_003e;
    let (mut at, mut accumulator) = (0, 0_u32);
    loop {
        let [code, _, yes, no, operand @ ..] = program[at].to_le_bytes();
        let operand = u32::from_le_bytes(operand);
        at += 1;
        match code {
            // A word of struct seccomp_data: number, architecture, address of the instruction, arguments.
            0x20 => {
                accumulator = match operand {
                    0 => number,
                    4 => ARCHITECTURE,
                    _ => {
                        let argument = arguments[(operand as usize - 16) / 8];
                        let half = if operand.is_multiple_of(8) { 0 } else { 32 };
                        u32::try_from(argument >> half & 0xffff_ffff).unwrap()
                    }
                }
            }
            0x54 => accumulator &= operand,
            0x05 => at += operand as usize,
            0x15 => at += usize::from(if accumulator == operand { yes } else { no }),
            0x06 => return operand,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// Arguments that fit the tests of a row.
fn fitting(row: &tables::Row) -> [u64; 6] {
    let mut arguments = [0; 6];
    for (index, test) in row.tests {
        arguments[usize::from(*index)] = match *test {
            tables::Is::Int(value) => value.into(),
            tables::Is::Long(value) => value,
            tables::Is::Without(bits) => !bits,
            tables::Is::Process => tables::PROCESS.into(),
            tables::Is::Fork => tables::FORK.into(),
        };
    }
    arguments
}

#[test]
fn filters_are_what_the_table_says() {
    let allowed = |program: &[u64], number, arguments| {
        let judgement = judge(program, number, arguments);
        assert!([libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_TRAP].contains(&judgement));
        judgement == libc::SECCOMP_RET_ALLOW
    };
    for (vsock, rebuild) in [(false, false), (true, false), (false, true), (true, true)] {
        let filters = Filters::default().with(vsock, rebuild);
        for (thread, bit) in THREADS {
            let program = filters.program(thread);
            let rows: Vec<_> = ROWS.iter().filter(|row| row.is_for(bit, vsock, rebuild)).collect();
            for row in &rows {
                let number = u32::try_from(row.call).unwrap();
                let arguments = fitting(row);
                assert!(allowed(program, number, arguments), "{thread:?}: {row:?}");
                for (index, test) in row.tests {
                    let mut others = arguments;
                    others[usize::from(*index)] = match test {
                        tables::Is::Without(bits) => *bits,
                        _ => 0xdead_beef,
                    };
                    assert!(!allowed(program, number, others), "{thread:?}: {row:?}");
                }
            }
            // With the largest arguments no test is met but those for the absence of bits, which are met by none.
            for number in 0..1024 {
                let is_whole =
                    rows.iter().any(|row| row.call == i64::from(number) && row.tests.is_empty());
                assert_eq!(
                    allowed(program, number, [u64::MAX; 6]),
                    is_whole,
                    "{thread:?}: {number}"
                );
                let is_x32 = number | 0x4000_0000;
                assert!(!allowed(program, is_x32, [0; 6]), "{thread:?}: {is_x32:#x}");
            }
        }
    }
}

#[test]
fn one_kind_of_fork_is_allowed_where_it_is_wanted() {
    let number = u32::try_from(libc::SYS_clone).unwrap();
    let judged = |filters: &Filters, thread, flags: u64| {
        judge(&filters.own_program(thread), number, [flags, 0, 0, 0, 0, 0])
    };
    let fork = u64::from(libc::SIGCHLD.unsigned_abs());
    let without = Filters::default().with(false, true);
    let with = without.clone().and_forks(true);
    assert_eq!(judged(&with, Thread::Main, fork), libc::SECCOMP_RET_ALLOW);
    assert_eq!(judged(&without, Thread::Main, fork), libc::SECCOMP_RET_TRAP);
    let vm = u64::from(libc::CLONE_VM.unsigned_abs());
    for flags in [0, fork | vm, fork | 1 << 32, u64::from(tables::FORK)] {
        assert_eq!(judged(&with, Thread::Main, flags), libc::SECCOMP_RET_TRAP, "{flags:#x}");
    }
    for thread in [Thread::Io, Thread::Vcpu, Thread::Api] {
        assert_eq!(judged(&with, thread, fork), libc::SECCOMP_RET_TRAP, "{thread:?}");
    }
    // What stands for the flags elsewhere starts nothing.
    // SAFETY: the kernel refuses these flags before it looks at anything else.
    let refused = unsafe { libc::syscall(libc::SYS_clone, tables::FORK, 0, 0, 0, 0) };
    assert_eq!((refused, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EINVAL)));
}

#[test]
fn logging_lets_everything_pass() {
    let program = with_log(Filters::default().program(Thread::Vcpu));
    assert_eq!(judge(&program, 59, [0; 6]), libc::SECCOMP_RET_LOG);
    assert_eq!(judge(&program, 1, [0; 6]), libc::SECCOMP_RET_ALLOW);
}
