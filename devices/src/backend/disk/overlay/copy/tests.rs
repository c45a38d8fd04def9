use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::super::tests::{CLUSTER, Opened, Place, SIZE, change, image};
use super::super::{OverlayError, SavedOverlay};
use crate::backend::disk::{Disk, DiskError};
use crate::test_util::Random;

use super::*;

const ID: [u8; 16] = [8; 16];

/// Saves what `disk` has as it is now.
fn save(disk: &Opened, path: &Path) -> SavedOverlay {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    disk.disk.save_overlay(&file, ID).unwrap();
    // Somebody else opens it, for reading.
    let saved = SavedOverlay { path: path.to_owned(), file: Arc::new(File::open(path).unwrap()) };
    assert_eq!(saved.snapshot().unwrap(), ID);
    saved
}

fn open(place: &Place, kept: Option<&Path>, saved: Option<&SavedOverlay>) -> Opened {
    Opened::of(Disk::open_overlaid(&place.image(), kept, saved).unwrap())
}

#[test]
fn each_generation_begins_with_what_was_saved_of_the_one_before() {
    for seed in 1..20 {
        let place = Place::new();
        let mut random = Random::new(seed);
        let (mut model, mut saved) = (image(), None);
        for generation in 0..5 {
            let path = |kind: &str| place.file(&format!("{kind}-{generation}"));
            let kept = path("kept");
            let kept = (generation % 2 == 1).then_some(&*kept);
            let mut disk = open(&place, kept, saved.as_ref());
            assert!(disk.read(0, SIZE) == model, "seed {seed} generation {generation}");
            for step in 0..15 {
                change(&mut disk, &mut model, &mut random);
                assert!(disk.read(0, SIZE) == model, "seed {seed} {generation} step {step}");
            }
            saved = Some(save(&disk, &path("saved")));
            // What changes later is nobody else's.
            let mut later = model.clone();
            (0..10).for_each(|_| change(&mut disk, &mut later, &mut random));
            assert!(disk.read(0, SIZE) == later, "seed {seed} {generation}: afterwards");
            if let Some(kept) = kept {
                drop(disk);
                assert!(open(&place, Some(kept), None).read(0, SIZE) == later);
            }
        }
        // It is an overlay as any other, and several have it.
        let saved = saved.unwrap();
        let mut disks = [0, 1].map(|_| open(&place, None, Some(&saved)));
        disks[0].write(0, &[1; CLUSTER]).unwrap();
        assert!(disks[1].read(0, SIZE) == model);
        let error = Disk::open_overlaid(&place.image(), Some(&saved.path), None).unwrap_err();
        assert!(matches!(error, DiskError::InUse { .. }), "while others read it: {error}");
        drop((disks, saved.file));
        assert!(open(&place, Some(&saved.path), None).read(0, SIZE) == model);
        assert!(std::fs::read(place.image()).unwrap() == image());
    }
}

#[test]
fn zeroes_take_no_space_and_nothing_takes_none() {
    let place = Place::new();
    let mut disk = open(&place, None, None);
    let empty = save(&disk, &place.file("empty"));
    assert!(open(&place, Some(&empty.path), None).read(0, SIZE) == image());
    disk.write(0, &[0; 4 * CLUSTER]).unwrap();
    disk.write(CLUSTER, &[3; 512]).unwrap();
    disk.zero(4 * CLUSTER, CLUSTER);
    let saved = save(&disk, &place.file("saved"));
    let taken = saved.file.metadata().unwrap().blocks() * 512;
    assert!(taken <= 2 * CLUSTER as u64, "{taken} bytes");
    let mut copy = open(&place, None, Some(&saved));
    assert!(copy.read(0, SIZE) == disk.read(0, SIZE));
}

#[test]
fn what_cannot_begin_with_it_is_refused() {
    let place = Place::new();
    let mut disk = open(&place, Some(&place.file("kept")), None);
    disk.write(0, &[1; 512]).unwrap();
    let saved = save(&disk, &place.file("saved"));
    drop(disk);
    let refused = |kept: Option<&Path>, saved: &SavedOverlay| match Disk::open_overlaid(
        &place.image(),
        kept,
        Some(saved),
    ) {
        Err(DiskError::Overlay { source, .. }) => source,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(Some(&place.file("kept")), &saved), OverlayError::NotNew);
    std::fs::write(place.file("none"), [1; 100]).unwrap();
    let path = place.file("none");
    let none = SavedOverlay { file: Arc::new(File::open(&path).unwrap()), path };
    assert_eq!(refused(None, &none), OverlayError::NotOne);
    assert_eq!(none.snapshot().unwrap(), [1; 16]);
    let mut other = image();
    other[17] ^= 1;
    std::fs::write(place.image(), other).unwrap();
    assert_eq!(refused(None, &saved), OverlayError::OtherBase);
    assert_eq!(refused(Some(&place.file("new")), &saved), OverlayError::OtherBase);
}
