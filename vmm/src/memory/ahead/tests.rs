use std::fs::File;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::config::Backing;
use crate::memory::file::Which;
use crate::memory::{file, reserve};
use crate::test_dir::TestDir;

const MIB: u64 = 1 << 20;

/// A file with the memory of a machine that has written one page in each MiB.
fn layer(dir: &TestDir, ram: u64) -> Layer {
    let memory = reserve(ram, Backing::default()).unwrap();
    for mib in 0..ram / MIB {
        memory.write_obj(1_u8, GuestAddress(mib * MIB)).unwrap();
    }
    let path = dir.path().join("memory");
    let options = File::options().read(true).write(true).create(true).truncate(true).open(path);
    let file = Arc::new(options.unwrap());
    file::write(&memory, Which::All, &[], &file, [0; 16]).unwrap();
    file.sync_all().unwrap();
    Layer { file, pages: None }
}

#[test]
fn what_was_touched_is_told_and_little_else() {
    let dir = TestDir::new();
    let layers = [layer(&dir, 64 * MIB)];
    let memory = file::restore(64 * MIB, &layers, Backing::default()).unwrap();
    read_one_by_one(&memory, &layers);
    for page in [3, 5000, 10_000] {
        memory.read_obj::<u8>(GuestAddress(page * PAGE)).unwrap();
    }
    memory.write_obj(1_u8, GuestAddress(64 * MIB - 1)).unwrap();
    let runs = file::touched(&memory).unwrap();
    for page in [3, 5000, 10_000, 64 * 256 - 1] {
        let has = |run: &Run| (run.first..run.first + run.count).contains(&page);
        assert!(runs.iter().any(has), "{page} in {runs:?}");
    }
    // Around each the kernel may map sixteen.
    assert!(runs.iter().map(|run| run.count).sum::<u64>() <= 4 * 16, "{runs:?}");
    assert!(runs.windows(2).all(|pair| pair[0].first + pair[0].count < pair[1].first), "{runs:?}");
}

/// Reading ahead changes nothing that anybody can see, but in the page cache.
#[test]
fn what_is_read_ahead_is_not_touched() {
    let dir = TestDir::new();
    let layers = [layer(&dir, 64 * MIB)];
    let memory = file::restore(64 * MIB, &layers, Backing::default()).unwrap();
    let last = 64 * 256;
    let all =
        [(0, 1), (500, 1000), (last - 1, 1), (last - 1, 100), (u64::MAX / PAGE, 1), (last, 5)];
    read_ahead(&memory, &all.map(|(first, count)| Run { first, count }));
    assert_eq!(file::touched(&memory).unwrap(), []);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(MIB)).unwrap(), 1);
}
