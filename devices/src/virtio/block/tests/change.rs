//! Replacing the disk of a device: what was begun ends where it began, the rest goes to the new one.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::tempfile::TempFile;

use super::faults::restart;
use super::support::*;
use crate::backend::disk::io::{Engine, Op};
use crate::backend::disk::{Disk, DiskError, DiskOptions};
use crate::virtio::block::BlockControl;

const ENGINES: [Engine; 2] = [Engine::Sync, Engine::IoUring];
/// Interrupt status: the configuration changed.
const CONFIG_CHANGE: u32 = 2;

/// A disk with `byte` in every place.
fn filled(sectors: u64, byte: u8) -> TempFile {
    let file = TempFile::new().unwrap();
    let len = usize::try_from(sectors * 512).unwrap();
    file.as_file().write_all_at(&vec![byte; len], 0).unwrap();
    file
}

fn sectors(rig: &Rig) -> u64 {
    let mut bytes = [0; 8];
    rig.running.transport.read_config(0, &mut bytes);
    u64::from_le_bytes(bytes)
}

fn config_news(rig: &Rig) -> bool {
    rig.running.transport.interrupt().status() & CONFIG_CHANGE != 0
}

/// Whether nobody has the file at `path` open for writing.
fn is_free(path: &Path) -> bool {
    Disk::open(path, DiskOptions::default()).is_ok()
}

#[test]
fn the_new_disk_is_read_and_written_and_the_old_one_is_let_go() {
    for engine in ENGINES {
        let mut rig = Setup::engine(engine).start();
        let old = rig.control.disk().path().to_owned();
        let (second, third) = (filled(SECTORS, 0xbb), filled(SECTORS, 0xcc));
        rig.assert_alive();
        for (disk, byte) in [(&second, 0xbb), (&third, 0xcc)] {
            rig.control.set_disk(disk.as_path()).unwrap();
            assert_eq!(rig.ask(IN, 5, &[(DATA, 4096, true)]), (OK, 4097));
            assert_eq!(rig.get(DATA, 4096), [byte; 4096]);
        }
        rig.put(DATA, &[0x11; 512]);
        assert_eq!(rig.ask(OUT, 7, &[(DATA, 512, false)]), (OK, 1));
        assert_eq!(rig.ask(FLUSH, 0, &[]), (OK, 1));
        let mut written = [0; 512];
        third.as_file().read_exact_at(&mut written, 7 * 512).unwrap();
        assert_eq!(written, [0x11; 512]);
        assert!(is_free(&old) && is_free(second.as_path()) && !is_free(third.as_path()));
        assert!(!config_news(&rig), "the same size is no news");
    }
}

#[test]
fn an_idle_queue_lets_the_old_disk_go_too() {
    let rig = Setup::default().start();
    let old = rig.control.disk().path().to_owned();
    let new = filled(SECTORS, 1);
    rig.control.set_disk(new.as_path()).unwrap();
    assert!(rig.running.host.run());
    assert!(is_free(&old));
}

#[test]
fn requests_under_way_end_on_the_old_disk() {
    let (mut rig, script) = Setup::default().start_scripted();
    let old = rig.control.disk();
    rig.send(IN, 1, &[(DATA, 512, true)]);
    rig.send(OUT, 2, &[(DATA, 1024, false)]);
    rig.running.kick(0);
    let new = filled(SECTORS, 0);
    rig.control.set_disk(new.as_path()).unwrap();
    rig.send(IN, 3, &[(DATA, 512, true)]);
    rig.running.kick(0);
    let on = |path| script.lock().disk.as_ref().unwrap().path() == path;
    // A short transfer: the rest of the request belongs to the old disk as well.
    script.end(1, Ok(512));
    rig.running.host.run();
    script.end(0, Ok(512));
    rig.running.host.run();
    assert!(on(old.path()) && script.lock().submitted.len() == 3);
    script.end(0, Ok(512));
    rig.running.host.run();
    assert!(on(new.as_path()));
    let Op::Read { offset, .. } = script.end(0, Ok(512)) else { panic!("the last request") };
    assert_eq!(offset, 3 * 512);
    rig.running.host.run();
    assert_eq!(rig.running.queues[0].take_used().len(), 3);
}

#[test]
fn another_capacity_is_made_known_and_obeyed() {
    for engine in ENGINES {
        let mut rig = Setup::engine(engine).start();
        let (large, small) = (filled(2 * SECTORS, 1), filled(8, 2));
        let generation = rig.running.transport.interrupt().generation();
        assert_eq!(rig.ask(IN, SECTORS, &[(DATA, 512, true)]), (IOERR, 1));
        rig.control.set_disk(large.as_path()).unwrap();
        assert!(config_news(&rig));
        assert_ne!(rig.running.transport.interrupt().generation(), generation);
        assert_eq!(sectors(&rig), 2 * SECTORS);
        assert_eq!(rig.ask(IN, SECTORS, &[(DATA, 512, true)]), (OK, 513));
        rig.control.set_disk(small.as_path()).unwrap();
        assert_eq!(sectors(&rig), 8);
        assert_eq!(rig.ask(IN, 8, &[(DATA, 512, true)]), (IOERR, 1));
        assert_eq!(rig.ask(IN, 7, &[(DATA, 512, true)]), (OK, 513));
    }
}

#[test]
fn the_same_file_again_is_looked_at_again() {
    for engine in ENGINES {
        let mut rig = Setup::engine(engine).start();
        let path = rig.control.disk().path().to_owned();
        rig.control.set_disk(&path).unwrap();
        assert!(!config_news(&rig));
        rig.file.set_len(2 * SECTORS * 512).unwrap();
        rig.control.set_disk(&path).unwrap();
        assert!(config_news(&rig));
        assert_eq!(rig.ask(IN, 2 * SECTORS - 1, &[(DATA, 512, true)]), (OK, 513));
        assert!(!is_free(&path), "it stays locked");
        rig.assert_alive();
    }
}

#[test]
fn a_disk_that_cannot_be_opened_changes_nothing() {
    let mut rig = Setup::default().start();
    let missing = rig.control.set_disk("/nonexistent/disk".as_ref());
    assert!(matches!(missing, Err(DiskError::Missing { .. })), "{missing:?}");
    let taken = filled(8, 0);
    let _holder = Disk::open(taken.as_path(), DiskOptions::default()).unwrap();
    let busy = rig.control.set_disk(taken.as_path());
    assert!(matches!(busy, Err(DiskError::InUse { .. })), "{busy:?}");
    assert_eq!(sectors(&rig), SECTORS);
    rig.assert_alive();
}

#[test]
fn a_read_only_disk_is_followed_by_a_read_only_one() {
    let rig = Setup { read_only: true, ..Setup::default() }.start();
    let (first, shared) = (rig.control.disk(), filled(8, 0));
    rig.control.set_disk(shared.as_path()).unwrap();
    assert!(first.is_read_only() && rig.control.disk().is_read_only());
}

#[test]
fn a_change_between_two_drivers_holds_for_the_next() {
    let mut rig = Setup { queues: 2, features: F_ALL | F_MQ, ..Setup::default() }.start();
    let (second, third) = (filled(64, 2), filled(64, 3));
    rig.running.transport.write_status(0);
    rig.control.set_disk(second.as_path()).unwrap();
    assert!(!config_news(&rig), "there is no driver to tell");
    restart(&mut rig);
    assert!(config_news(&rig), "it may have read the capacity before");
    assert_eq!(sectors(&rig), 64);
    assert_eq!(rig.ask(IN, 0, &[(DATA, 512, true)]), (OK, 513));
    assert_eq!(rig.get(DATA, 512), [2; 512]);
    rig.control.set_disk(third.as_path()).unwrap();
    // The queue that nobody kicks lets go of it too.
    assert!(rig.running.host.run());
    assert!(is_free(second.as_path()));
}

/// Two disks take turns while a driver reads: each answer is wholly of one of them.
#[test]
fn a_change_under_load_tears_nothing() {
    for engine in ENGINES {
        let mut rig = Setup::engine(engine).start();
        let disks = [filled(SECTORS, 0xaa), filled(SECTORS, 0xbb)];
        rig.control.set_disk(disks[0].as_path()).unwrap();
        let (control, done) = (rig.control.clone(), AtomicBool::new(false));
        let change = |control: &BlockControl| {
            let mut turns = 0_usize;
            while !done.load(Ordering::Acquire) {
                turns += 1;
                // The one from two turns ago may still be in use by the last request.
                match control.set_disk(disks[turns % 2].as_path()) {
                    Ok(()) | Err(DiskError::InUse { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| change(&control));
            for _ in 0..300 {
                let sent = rig.send(IN, 8, &[(DATA, 64 << 10, true)]);
                rig.finish(1);
                assert_eq!(rig.status(sent), OK);
                let data = rig.get(DATA, 64 << 10);
                assert!(matches!(data[0], 0xaa | 0xbb) && data.iter().all(|&b| b == data[0]));
            }
            done.store(true, Ordering::Release);
        });
    }
}
