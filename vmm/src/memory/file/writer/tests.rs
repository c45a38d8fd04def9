use std::path::Path;
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::config::Backing;
use crate::memory::file::{check, restore};
use crate::memory::reserve;
use crate::test_dir::TestDir;

const MIB: u64 = 1 << 20;
const ID: [u8; 16] = [7; 16];

fn create(path: &Path) -> File {
    File::options().read(true).write(true).create_new(true).open(path).unwrap()
}

fn put(memory: &GuestMemory, at: u64, byte: u8) {
    memory.write_obj(byte, GuestAddress(at)).unwrap();
}

fn wait(writer: &Writer) -> io::Result<()> {
    loop {
        match writer.end() {
            Some(end) => return end,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn read(memory: &GuestMemory, at: u64) -> u8 {
    memory.read_obj(GuestAddress(at)).unwrap()
}

#[test]
fn memory_is_as_it_was_at_the_fork() {
    let dir = TestDir::new();
    let memory = reserve(64 * MIB, Backing::default()).unwrap();
    (0..32).for_each(|at| put(&memory, at * MIB, 1));
    let file = create(&dir.path().join("memory"));
    let writer = Writer::start(&memory, &[], &file, ID).unwrap();
    // What changes from here on is another one's.
    (0..64).for_each(|at| put(&memory, at * MIB, 2));
    wait(&writer).unwrap();
    check(&file, 64 * MIB, ID).unwrap();
    let layer = Layer { file: Arc::new(file), pages: None };
    let copy = restore(64 * MIB, std::slice::from_ref(&layer), Backing::default()).unwrap();
    assert!((0..32).all(|at| read(&copy, at * MIB) == 1));
    assert!((32..64).all(|at| read(&copy, at * MIB) == 0));
    let taken = std::os::unix::fs::MetadataExt::blocks(&layer.file.metadata().unwrap()) * 512;
    assert!(taken < 33 * 4096 + 64 * 1024, "{taken} bytes");

    // A copy that has touched little of its file is written whole.
    put(&copy, 40 * MIB, 3);
    let file = create(&dir.path().join("again"));
    let writer = Writer::start(&copy, std::slice::from_ref(&layer), &file, ID).unwrap();
    wait(&writer).unwrap();
    let layer = Layer { file: Arc::new(file), pages: None };
    let third = restore(64 * MIB, &[layer], Backing::default()).unwrap();
    assert!((0..32).all(|at| read(&third, at * MIB) == 1));
    assert_eq!((read(&third, 40 * MIB), read(&third, 41 * MIB)), (3, 0));
}

/// Closes everything, so that it is a child's business.
fn in_child(work: impl FnOnce() -> io::Result<()>) -> Writer {
    let stop = Arc::new(Stop::new().unwrap());
    let process = fork().unwrap();
    if process == 0 {
        exit_now(status(&work()));
    }
    Writer { process, stop }
}

#[test]
fn what_went_wrong_is_told() {
    let memory = reserve(32 * MIB, Backing::default()).unwrap();
    put(&memory, 0, 1);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut contents = Contents::of(&memory, Which::All, &[]).unwrap();
    let writer = in_child(|| work(&mut contents, &full, || false));
    assert_eq!(wait(&writer).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    let writer = in_child(|| Err(io::ErrorKind::WriteZero.into()));
    assert_eq!(wait(&writer).unwrap_err().raw_os_error(), Some(libc::EIO));

    let writer = in_child(|| {
        loop {
            std::hint::spin_loop();
        }
    });
    assert!(writer.end().is_none());
    // SAFETY: a child of this process.
    unsafe { libc::kill(writer.process, libc::SIGKILL) };
    assert_eq!(
        wait(&writer).unwrap_err().to_string(),
        "the process that wrote it was killed (signal 9)"
    );
    assert_eq!(writer.end().unwrap().unwrap_err().raw_os_error(), Some(libc::ECHILD));
}

#[test]
fn it_ends_when_it_is_told_to_or_nobody_waits() {
    let dir = TestDir::new();
    let memory = reserve(32 * MIB, Backing::default()).unwrap();
    put(&memory, 0, 1);
    let mut contents = Contents::of(&memory, Which::All, &[]).unwrap();
    let file = create(&dir.path().join("memory"));
    let stop = Stop::new().unwrap();
    assert!(!stop.is_set());
    let writer = in_child(|| work(&mut contents, &file, || stop.is_set()));
    wait(&writer).unwrap();
    // The word is common to both.
    let writer = in_child(|| {
        while !stop.is_set() {
            std::hint::spin_loop();
        }
        work(&mut contents, &file, || stop.is_set())
    });
    assert!(writer.end().is_none());
    stop.set();
    let error = wait(&writer).unwrap_err().to_string();
    assert_eq!(error, "it was given up: somebody changes the kernel's file");

    let gone = in_child(|| Ok(()));
    wait(&gone).unwrap();
    assert!(!is_there(gone.process));
    let writer = in_child(|| work(&mut contents, &file, || !is_there(gone.process)));
    assert!(wait(&writer).is_err());
    assert!(is_there(fatal::process()));
}
