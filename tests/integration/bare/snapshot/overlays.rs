//! Disks with overlays: what was written to them is a part of the snapshot, and each copy has its own from there on.

use std::fs;
use std::path::{Path, PathBuf};

use harness::api::Api;
use harness::puppet::Puppet;
use harness::{Need, Scratch, Vmm};
use libtest_mimic::Trial;
use serde_json::json;

use super::super::storage::{DATA, Disk, IN, OK, OUT};
use super::{copy_of, kill, parent, save};
use crate::suite::trial;

pub fn tests() -> Vec<Trial> {
    let own: [(&str, fn()); 6] = [
        ("copies_begin_with_what_was_written", copies_begin_with_what_was_written),
        ("overlays_into_a_jail", overlays_into_a_jail),
        ("generations_of_overlays", generations_of_overlays),
        ("overlays_that_are_kept", overlays_that_are_kept),
        ("overlays_beside_two_files", overlays_beside_two_files),
        ("overlays_that_are_none", overlays_that_are_none),
    ];
    own.map(|(name, test)| trial(format!("bare::snapshot::{name}"), &[Need::Kvm], test)).into()
}

/// What the guest writes to, and what it never does.
const SECTOR: u64 = 8;
const OTHER: u64 = 700;
const SIZE: usize = 1 << 20;

fn image(scratch: &Scratch) -> PathBuf {
    scratch.file("image", vec![0x11; SIZE])
}

fn put(disk: &mut Disk<'_>, puppet: &Puppet, byte: u8) {
    puppet.store(DATA, &[byte; 512]);
    assert_eq!(disk.one(OUT, SECTOR, 512), OK);
}

/// What there is, by a driver that begins anew.
#[track_caller]
fn found(puppet: &Puppet) -> u8 {
    let mut disk = Disk::ready(puppet);
    let mut at = |sector| {
        assert_eq!(disk.one(IN, sector, 512), OK);
        let bytes = puppet.load(DATA, 512);
        assert_eq!(bytes, vec![bytes[0]; 512]);
        bytes[0]
    };
    assert_eq!(at(OTHER), 0x11, "the image");
    at(SECTOR)
}

/// A machine whose guest has written `byte`.
fn written(scratch: &Scratch, image: &Path, options: &str, byte: u8) -> Puppet {
    let _ = fs::remove_file(scratch.join("api.sock"));
    let puppet = Puppet::start(parent(scratch).disk(image, &format!(",id=data{options}")));
    put(&mut Disk::ready(&puppet), &puppet, byte);
    puppet
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn copies_begin_with_what_was_written() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    let kept = format!(",overlay={}", scratch.join("kept").display());
    for options in [",snapshot=overlay", &kept] {
        let puppet = written(&scratch, &image, options, 1);
        let saved = save(&scratch, &["saved"]);
        put(&mut Disk::ready(&puppet), &puppet, 2);
        // The one before goes when the new one is there.
        let again = save(&scratch, &["again"]);
        assert_eq!(save(&scratch, &["again"]), again);
        let names = names(&again);
        let kinds: Vec<_> = names.iter().map(|it| it.split('-').next().unwrap()).collect();
        assert_eq!(kinds, ["memory", "overlay", "state"], "{names:?}");
        assert!(names[1].starts_with("overlay-data-"), "{names:?}");
        let info = Vmm::new().args(["snapshot", "info"]).arg(&again).run().expect_code(0);
        assert!(info.stdout.contains(&format!("overlay  data {}", names[1])), "{}", info.stdout);

        // All at the same time, and the first machine lives.
        let copies = [&saved, &saved, &again].map(|saved| Puppet::go_on(copy_of(saved)));
        assert_eq!([&copies[0], &copies[1], &copies[2]].map(found), [1, 1, 2]);
        for (copy, byte) in copies.iter().zip(3..) {
            put(&mut Disk::ready(copy), copy, byte);
        }
        assert_eq!([&copies[0], &copies[1], &copies[2], &puppet].map(found), [3, 4, 5, 2]);
        copies.into_iter().for_each(|copy| drop(copy.finish()));
        puppet.finish();
        // Nothing of it stays.
        let copy = Puppet::go_on(copy_of(&saved));
        assert_eq!(found(&copy), 1);
        copy.finish();
    }
    assert!(fs::read(&image).unwrap() == vec![0x11; SIZE]);
}

/// There nothing can be opened or made, so both files come from outside.
fn overlays_into_a_jail() {
    let scratch = Scratch::new();
    let puppet = written(&scratch, &image(&scratch), ",snapshot=overlay", 1);
    let saved = save(&scratch, &["saved"]);
    puppet.finish();
    let copy = Puppet::go_on(copy_of(&saved).arg("--jail"));
    assert_eq!(found(&copy), 1);
    put(&mut Disk::ready(&copy), &copy, 2);
    assert_eq!(found(&copy), 2);
    copy.finish();
}

fn generations_of_overlays() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    let mut puppet = written(&scratch, &image, ",snapshot=overlay", 1);
    for generation in 1..5 {
        let saved = save(&scratch, &[&format!("saved-{}", generation % 2)]);
        kill(puppet);
        fs::remove_file(scratch.join("api.sock")).unwrap();
        let copy = copy_of(&saved).without_jail().arg("--api-sock").arg(scratch.join("api.sock"));
        puppet = Puppet::go_on(copy);
        assert_eq!(found(&puppet), generation);
        // One that boots again finds what it wrote.
        put(&mut Disk::ready(&puppet), &puppet, generation + 1);
    }
    let diff = save(&scratch, &["diff", "--diff"]);
    kill(puppet);
    let whole = scratch.join("whole");
    Vmm::new().args(["snapshot", "merge"]).arg(&diff).arg(&whole).run().expect_code(0);
    fs::remove_dir_all(diff).unwrap();
    let copy = Puppet::go_on(copy_of(&whole));
    assert_eq!(found(&copy), 5);
    copy.finish();
}

fn overlays_that_are_kept() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    let puppet = written(&scratch, &image, ",snapshot=overlay", 1);
    let saved = save(&scratch, &["saved"]);
    puppet.finish();
    let own = format!(",id=data,overlay={}", scratch.join("own").display());
    let copy = Puppet::go_on(copy_of(&saved).disk(&image, &own));
    assert_eq!(found(&copy), 1);
    put(&mut Disk::ready(&copy), &copy, 6);
    copy.finish();
    // What it wrote would not be what its guest remembers.
    let end = copy_of(&saved).disk(&image, &own).run().expect_code(152);
    end.expect_one_line(&["own", "is there already", "needs a new file"]);
    let next = Puppet::start(Vmm::puppet("").args(["--rng", "off"]).disk(&image, &own));
    assert_eq!(found(&next), 6);
    next.finish();
    // Another image is none that it could lie over; another disk is the user's choice.
    let other = scratch.file("other", vec![0x22; SIZE]);
    let end = copy_of(&saved).disk(&other, ",id=data,snapshot=overlay").run().expect_code(152);
    end.expect_one_line(&["overlay-data-", "belongs to another image"]);
    let plain = scratch.file("plain", vec![0x11; SIZE]);
    let copy = Puppet::go_on(copy_of(&saved).disk(&plain, ",id=data"));
    assert_eq!(found(&copy), 0x11);
    copy.finish();
}

fn overlays_beside_two_files() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    let puppet = written(&scratch, &image, ",snapshot=overlay", 1);
    let api = Api::at(&scratch.join("api.sock"));
    api.patch("/vm", &json!({ "state": "Paused" }));
    let directory = scratch.join("files");
    fs::create_dir(&directory).unwrap();
    let files = json!({
        "snapshot_path": directory.join("state_file"),
        "mem_file_path": directory.join("mem_file"),
    });
    api.put("/snapshot/create", &files);
    assert_eq!(names(&directory), ["mem_file", "state_file", "state_file.overlay-data"]);
    api.patch("/vm", &json!({ "state": "Resumed" }));
    put(&mut Disk::ready(&puppet), &puppet, 2);
    puppet.finish();
    let copy = Puppet::go_on(copy_of(&directory.join("state_file")));
    assert_eq!(found(&copy), 1);
    copy.finish();
}

fn overlays_that_are_none() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    let puppet = written(&scratch, &image, ",snapshot=overlay", 1);
    let saved = save(&scratch, &["saved"]);
    let other = save(&scratch, &["other"]);
    puppet.finish();
    let overlay = |directory: &Path| {
        let names = names(directory).into_iter();
        directory.join(names.into_iter().find(|name| name.starts_with("overlay-")).unwrap())
    };
    let (own, foreign) = (overlay(&saved), overlay(&other));
    let refused = |words: &[&str]| {
        copy_of(&saved).run().expect_code(152).expect_one_line(words);
    };
    let kept = fs::read(&own).unwrap();
    fs::copy(&foreign, &own).unwrap();
    refused(&["overlay-data-", "is not the overlay of this snapshot's disk"]);
    fs::write(&own, &kept[..20]).unwrap();
    refused(&["is not the overlay of this snapshot's disk"]);
    let mut damaged = kept.clone();
    damaged[20] ^= 1;
    fs::write(&own, &damaged).unwrap();
    refused(&["overlay-data-", "its header is damaged"]);
    fs::remove_file(&own).unwrap();
    refused(&["overlay-data-", "cannot be read"]);
    fs::write(&own, &kept).unwrap();
    Puppet::go_on(copy_of(&saved)).finish();
}
