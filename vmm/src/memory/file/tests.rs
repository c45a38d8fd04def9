use std::fs;
use std::path::Path;

use vm_memory::Bytes;

use super::*;
use crate::test_dir::TestDir;

const MIB: u64 = 1 << 20;
const ID: [u8; 16] = [9; 16];

fn create(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap()
}

fn put(memory: &GuestMemory, at: u64, byte: u8) {
    memory.write_obj(byte, GuestAddress(at)).unwrap();
}

fn read(memory: &GuestMemory, at: u64) -> u8 {
    memory.read_obj(GuestAddress(at)).unwrap()
}

fn save(memory: &GuestMemory, which: Which, under: &[Layer], path: &Path) -> Layer {
    let file = create(path);
    let pages = write(memory, which, under, &file, ID).unwrap();
    Layer { file: Arc::new(file), pages: (which == Which::Changed).then_some(pages) }
}

/// Bytes that a file takes of its file system.
fn taken(layer: &Layer) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&layer.file.metadata().unwrap()) * 512
}

#[test]
fn what_was_written_comes_back_and_the_rest_is_holes() {
    let dir = TestDir::new();
    let memory = reserve(64 * MIB, Backing::default()).unwrap();
    for at in [0, 5 * PAGE + 7, 10 * MIB, 10 * MIB + PAGE, 64 * MIB - 1] {
        put(&memory, at, 1 + (at % 200) as u8);
    }
    // Touched, and zero all the same.
    put(&memory, 20 * MIB, 0);
    let layer = save(&memory, Which::All, &[], &dir.path().join("memory"));
    check(&layer.file, 64 * MIB, ID).unwrap();
    assert!(taken(&layer) <= 6 * PAGE + 64 * 1024, "{} bytes", taken(&layer));
    for backing in [
        Backing::default(),
        Backing { prefault: true, ..Backing::default() },
        Backing { shared: true, ..Backing::default() },
    ] {
        let copy = restore(64 * MIB, std::slice::from_ref(&layer), backing).unwrap();
        for at in [0, 5 * PAGE + 7, 10 * MIB, 10 * MIB + PAGE, 64 * MIB - 1, 20 * MIB, 30 * MIB] {
            assert_eq!(read(&copy, at), read(&memory, at), "{at:#x} {backing:?}");
        }
        // What a copy writes is its own.
        put(&copy, 10 * MIB, 77);
        assert_ne!(read(&memory, 10 * MIB), 77);
    }
    let again = restore(64 * MIB, &[layer], Backing::default()).unwrap();
    assert_ne!(read(&again, 10 * MIB), 77);
}

#[test]
fn memory_beyond_the_hole_follows_in_the_file() {
    let dir = TestDir::new();
    let size = 5 << 30;
    let memory = reserve(size, Backing::default()).unwrap();
    let places = [0, (3 << 30) - 1, 4 << 30, (6 << 30) - 1];
    for (byte, at) in (1..).zip(places) {
        put(&memory, at, byte);
    }
    let layer = save(&memory, Which::All, &[], &dir.path().join("memory"));
    assert!(taken(&layer) < MIB, "{} bytes", taken(&layer));
    let copy = restore(size, std::slice::from_ref(&layer), Backing::default()).unwrap();
    for (byte, at) in (1..).zip(places) {
        assert_eq!(read(&copy, at), byte, "{at:#x}");
    }
    put(&copy, 4 << 30, 9);
    put(&copy, 1 << 30, 8);
    let diff = save(&copy, Which::Changed, std::slice::from_ref(&layer), &dir.path().join("diff"));
    let pages = diff.pages.clone().unwrap();
    assert_eq!(pages.iter().map(|run| run.count).sum::<u64>(), 2, "{pages:?}");
    let third = restore(size, &[layer, diff], Backing::default()).unwrap();
    let bytes = places.map(|at| read(&third, at));
    assert_eq!((bytes, read(&third, 1 << 30)), ([1, 2, 9, 4], 8));
}

#[test]
fn changes_lie_over_what_they_change() {
    let dir = TestDir::new();
    let memory = reserve(64 * MIB, Backing::default()).unwrap();
    for page in 0..64 {
        put(&memory, page * MIB, 1);
    }
    let mut layers = vec![save(&memory, Which::All, &[], &dir.path().join("0"))];
    drop(memory);
    // A page that becomes zero counts as changed.
    for generation in 1..=5_u8 {
        let copy = restore(64 * MIB, &layers, Backing::default()).unwrap();
        for page in 0..20 {
            put(&copy, 8 * MIB + page * PAGE, generation);
        }
        put(&copy, u64::from(generation) * MIB, 0);
        let _ = read(&copy, 40 * MIB);
        let path = dir.path().join(generation.to_string());
        let diff = save(&copy, Which::Changed, &layers, &path);
        let pages: u64 = diff.pages.iter().flatten().map(|run| run.count).sum();
        assert_eq!(pages, 21, "{:?}", diff.pages);
        layers.push(diff);
    }
    let all = |layers: &[Layer], backing| {
        let copy = restore(64 * MIB, layers, backing).unwrap();
        for at in [8 * MIB, 8 * MIB + 19 * PAGE] {
            assert_eq!(read(&copy, at), 5);
        }
        for generation in 0..64 {
            let is_gone = (1..=5).contains(&generation);
            let expected = if is_gone {
                0
            } else if generation == 8 {
                5
            } else {
                1
            };
            assert_eq!(read(&copy, generation * MIB), expected, "{generation}");
        }
        copy
    };
    all(&layers, Backing { shared: true, ..Backing::default() });
    // All in one again, without anything being touched before.
    let copy = restore(64 * MIB, &layers, Backing::default()).unwrap();
    let merged = save(&copy, Which::All, &layers, &dir.path().join("merged"));
    all(&[merged], Backing::default());
}

#[test]
fn memory_that_was_saved_goes_on_from_its_file() {
    let dir = TestDir::new();
    let memory = reserve(32 * MIB, Backing::default()).unwrap();
    (0..32).for_each(|page| put(&memory, page * MIB, 3));
    let base = save(&memory, Which::All, &[], &dir.path().join("base"));
    settle_on(&memory, &base).unwrap();
    assert_eq!(read(&memory, 7 * MIB), 3);
    put(&memory, 7 * MIB, 4);
    put(&memory, 7 * MIB + 100 * PAGE, 5);
    let diff = save(&memory, Which::Changed, std::slice::from_ref(&base), &dir.path().join("diff"));
    let runs = diff.pages.clone().unwrap();
    let page = 7 * MIB / PAGE;
    assert_eq!(runs, [Run { first: page, count: 1 }, Run { first: page + 100, count: 1 }]);
    let copy = restore(32 * MIB, &[base, diff], Backing::default()).unwrap();
    assert_eq!([7 * MIB, 7 * MIB + 100 * PAGE, 8 * MIB].map(|at| read(&copy, at)), [4, 5, 3]);
}

#[test]
fn other_files_are_refused() {
    let dir = TestDir::new();
    let memory = reserve(32 * MIB, Backing::default()).unwrap();
    let path = dir.path().join("memory");
    let layer = save(&memory, Which::All, &[], &path);
    assert!(matches!(check(&layer.file, 32 * MIB, [8; 16]), Err(FileError::Foreign)));
    let error = check(&layer.file, 33 * MIB, ID).unwrap_err();
    assert!(error.to_string().contains("not 34607104: it was cut short"), "{error}");
    for len in [0, 1, PAGE, 32 * MIB, 32 * MIB + PAGE - 1, 32 * MIB + PAGE + 1] {
        File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
        assert!(check(&layer.file, 32 * MIB, ID).is_err(), "{len}");
    }
    fs::write(&path, vec![0; usize::try_from(32 * MIB + PAGE).unwrap()]).unwrap();
    assert!(matches!(check(&layer.file, 32 * MIB, ID), Err(FileError::Foreign)));
}

#[test]
fn a_file_system_that_is_full_is_an_error() {
    let memory = reserve(32 * MIB, Backing::default()).unwrap();
    put(&memory, 0, 1);
    let full = File::options().write(true).open("/dev/full").unwrap();
    assert!(write(&memory, Which::All, &[], &full, ID).is_err());
}
