//! Opening disks: what is accepted, what is refused and in which words, and who may share.

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;

use vmm_sys_util::tempdir::TempDir;
use vmm_sys_util::tempfile::TempFile;

use super::*;

const WRITABLE: DiskOptions = DiskOptions { read_only: false, direct: false };
const READ_ONLY: DiskOptions = DiskOptions { read_only: true, direct: false };
const DIRECT: DiskOptions = DiskOptions { read_only: false, direct: true };

fn file_of(size: u64) -> TempFile {
    let file = TempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    file
}

fn refusal(path: &Path, options: DiskOptions) -> DiskError {
    Disk::open(path, options).map(|_| ()).unwrap_err()
}

#[test]
fn a_file_is_a_disk_of_its_size() {
    let file = file_of(1 << 20);
    for options in [WRITABLE, READ_ONLY, DIRECT] {
        let disk = Disk::open(file.as_path(), options).unwrap();
        assert_eq!(disk.sectors(), 2048);
        assert_eq!(disk.is_read_only(), options.read_only);
        assert!(disk.logical_block().is_power_of_two() && disk.logical_block() >= 512);
        assert!(disk.physical_block().is_multiple_of(disk.logical_block()));
        assert_eq!(disk.path(), file.as_path());
    }
}

#[test]
fn bytes_beyond_the_last_whole_sector_are_hidden() {
    for (size, sectors) in [(512, 1), (513, 1), (1023, 1), (1024, 2), (1_000_000, 1953)] {
        let file = file_of(size);
        assert_eq!(Disk::open(file.as_path(), WRITABLE).unwrap().sectors(), sectors, "{size}");
    }
}

#[test]
fn a_disk_needs_at_least_one_sector() {
    for size in [0, 1, 511] {
        let error = refusal(file_of(size).as_path(), WRITABLE);
        assert!(matches!(error, DiskError::Empty { block: 512, .. }), "{error}");
    }
}

#[test]
fn what_is_not_a_disk_is_refused_without_waiting_for_it() {
    let directory = TempDir::new().unwrap();
    let fifo = directory.as_path().join("fifo");
    let name = CString::new(fifo.as_os_str().as_bytes()).unwrap();
    // SAFETY: `name` is a C string for the whole call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let socket = directory.as_path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let cases = [
        (directory.as_path(), "a directory"),
        (fifo.as_path(), "a FIFO"),
        (socket.as_path(), "a socket"),
        (Path::new("/dev/null"), "a character device"),
    ];
    for (path, expected) in cases {
        for options in [WRITABLE, READ_ONLY] {
            let error = refusal(path, options);
            assert!(matches!(error, DiskError::NotADisk { what, .. } if what == expected));
        }
    }
}

#[test]
fn a_missing_file_is_not_created() {
    let directory = TempDir::new().unwrap();
    let path = directory.as_path().join("missing.img");
    assert!(matches!(refusal(&path, WRITABLE), DiskError::Missing { .. }));
    assert!(!path.exists());
    let below_a_file = file_of(512).as_path().join("x");
    assert!(matches!(refusal(&below_a_file, WRITABLE), DiskError::Missing { .. }));
}

#[test]
fn a_file_that_cannot_be_written_may_still_be_read() {
    let program = std::env::current_exe().unwrap();
    let error = refusal(&program, WRITABLE);
    assert!(matches!(error, DiskError::NotWritable { .. }), "{error}");
    assert!(error.to_string().contains(",readonly"));
    assert!(Disk::open(&program, READ_ONLY).is_ok());
}

#[test]
fn the_host_s_refusals_are_told_apart() {
    let readable = file_of(512);
    let missing = Path::new("/nonexistent/disk.img");
    let meaning = |path: &Path, options: DiskOptions, errno| {
        let error = io::Error::from_raw_os_error(errno);
        DiskError::from_open(path, options.read_only, options.direct, error)
    };
    let path = readable.as_path();
    assert!(matches!(meaning(path, WRITABLE, libc::EACCES), DiskError::NotWritable { .. }));
    assert!(matches!(meaning(path, WRITABLE, libc::EROFS), DiskError::NotWritable { .. }));
    assert!(matches!(meaning(path, READ_ONLY, libc::EACCES), DiskError::Forbidden { .. }));
    assert!(matches!(meaning(missing, WRITABLE, libc::EACCES), DiskError::Forbidden { .. }));
    assert!(matches!(meaning(path, DIRECT, libc::EINVAL), DiskError::NoDirect { .. }));
    assert!(matches!(meaning(path, WRITABLE, libc::EINVAL), DiskError::Io { .. }));
    assert!(matches!(meaning(path, WRITABLE, libc::EMFILE), DiskError::Io { .. }));
}

#[test]
fn every_refusal_is_one_line_that_names_the_file() {
    let path = || PathBuf::from("/images/a\nb.img");
    let source = || io::Error::from_raw_os_error(libc::EIO);
    let all = [
        DiskError::Missing { path: path() },
        DiskError::NotADisk { path: path(), what: "a directory" },
        DiskError::Empty { path: path(), size: 0, block: 512 },
        DiskError::NotWritable { path: path(), source: source() },
        DiskError::Forbidden { path: path(), source: source() },
        DiskError::InUse { path: path(), holder: None },
        DiskError::NoDirect { path: path(), source: source() },
        DiskError::io(&path(), "lock it")(source()),
    ];
    for error in all {
        let text = crate::event::chain(&error);
        assert!(text.contains("/images/a\\nb.img") && text.lines().count() == 1, "{text}");
    }
    let holder = Some(Holder { pid: 42, name: Some("vmm".to_owned()) });
    let in_use = DiskError::InUse { path: path(), holder };
    assert!(in_use.to_string().contains("in use by process 42 (vmm);"));
}

#[test]
fn a_writable_disk_belongs_to_one_machine() {
    let file = file_of(4096);
    let first = Disk::open(file.as_path(), WRITABLE).unwrap();
    for options in [WRITABLE, READ_ONLY] {
        let error = refusal(file.as_path(), options);
        assert!(matches!(error, DiskError::InUse { holder: None, .. }), "{error}");
    }
    drop(first);
    assert!(Disk::open(file.as_path(), WRITABLE).is_ok());
}

#[test]
fn a_read_only_disk_is_shared_with_readers_only() {
    let file = file_of(4096);
    let _first = Disk::open(file.as_path(), READ_ONLY).unwrap();
    assert!(Disk::open(file.as_path(), READ_ONLY).is_ok());
    assert!(matches!(refusal(file.as_path(), WRITABLE), DiskError::InUse { .. }));
}

/// This process is not named to itself, so another one must have the disk.
#[test]
fn the_holder_is_named_where_the_kernel_knows_it() {
    let file = file_of(4096);
    let disk = Disk::open(file.as_path(), WRITABLE).unwrap();
    let listed = std::fs::read_to_string("/proc/locks").unwrap();
    let inode = format!(":{}", file.as_file().metadata().unwrap().ino());
    let on_it = |line: &&str| line.split_whitespace().nth(5).is_some_and(|it| it.ends_with(&inode));
    let mut kinds: Vec<_> =
        listed.lines().filter(on_it).filter_map(|line| line.split_whitespace().nth(1)).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["FLOCK", "OFDLCK"], "{listed}");
    drop(disk);
}

#[test]
fn a_lock_that_goes_away_is_waited_for() {
    let file = file_of(4096);
    let first = Disk::open(file.as_path(), WRITABLE).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        receiver.recv().unwrap();
        drop(first);
    });
    sender.send(()).unwrap();
    assert!(Disk::open(file.as_path(), WRITABLE).is_ok());
    other.join().unwrap();
}

#[test]
fn identities_tell_files_apart_and_outlast_a_reopening() {
    let files = [file_of(512), file_of(512)];
    let identity =
        |file: &TempFile| Disk::open(file.as_path(), WRITABLE).unwrap().identity().to_owned();
    assert_ne!(identity(&files[0]), identity(&files[1]));
    assert_eq!(identity(&files[0]), identity(&files[0]));
}

#[test]
fn the_descriptor_is_not_inherited() {
    let file = file_of(512);
    let disk = Disk::open(file.as_path(), WRITABLE).unwrap();
    // SAFETY: takes no pointers.
    let flags = unsafe { libc::fcntl(disk.file.as_raw_fd(), libc::F_GETFD) };
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
}
