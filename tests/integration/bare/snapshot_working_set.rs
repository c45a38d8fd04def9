//! The pages that a machine touches after it has gone on: written down once, read ahead for those that come later.

use std::fs;
use std::path::{Path, PathBuf};

use harness::api::Api;
use harness::puppet::{FREE_MEMORY, Puppet};
use harness::{Need, Scratch, Vmm};
use serde_json::json;

use super::snapshot::{copy_of, kill, parent, save};

crate::suite::tests! { "bare::snapshot::working_set" needs &[Need::Kvm];
    is_recorded_and_read_ahead,
    is_recorded_when_the_machine_rests,
    that_is_none_is_not_used,
    cannot_always_be_recorded,
}

/// Pages with something in them.
const PAGES: u32 = 4096;
/// Where the puppet looks later, in pages from [`FREE_MEMORY`].
const LATER: u32 = 1000;
const FEW: u32 = 100;

fn order(saved: &Path, words: &str) -> PathBuf {
    format!("{}{words}", saved.display()).into()
}

/// A snapshot of a guest that has filled its memory.
fn saved(scratch: &Scratch) -> PathBuf {
    let puppet = Puppet::start(parent(scratch));
    assert_eq!(puppet.ask(&format!("P {PAGES:x} {FREE_MEMORY:x}")), 0);
    let saved = save(scratch, &["saved"]);
    kill(puppet);
    let _ = fs::remove_file(scratch.join("api.sock"));
    saved
}

/// Has the guest read some of its pages, each of which has a 1.
fn look(puppet: &Puppet) {
    let from = FREE_MEMORY + LATER * 4096;
    assert_eq!(puppet.ask(&format!("p {FEW:x} {from:x}")), FEW);
}

/// What is in a file: first pages and how many, by the description of its format.
fn recorded(saved: &Path) -> Vec<(u32, u32)> {
    let file = fs::read(saved.join("state.working-set")).unwrap();
    let number = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as u32;
    assert_eq!((&file[..8], number(8)), (&b"vmmpages"[..], 1));
    (0..number(16) as usize).map(|run| (number(48 + 16 * run), number(56 + 16 * run))).collect()
}

/// The pages are there, and not many beside them.
#[track_caller]
fn is_what_was_looked_at(saved: &Path) {
    let runs = recorded(saved);
    let wanted = (FREE_MEMORY >> 12) + LATER;
    let has = |page: u32| runs.iter().any(|(first, count)| (*first..first + count).contains(&page));
    assert!((wanted..wanted + FEW).all(has), "{runs:?}");
    let count: u32 = runs.iter().map(|(_, count)| count).sum();
    assert!(count < PAGES / 4, "{count} pages: {runs:?}");
}

fn is_recorded_and_read_ahead() {
    let scratch = Scratch::new();
    let saved = saved(&scratch);
    let copy = Puppet::go_on(copy_of(&order(&saved, ",record")).without_jail());
    look(&copy);
    copy.finish();
    is_what_was_looked_at(&saved);
    // Read or not, the guest finds the same; who has a jail can read as well.
    for words in ["", ",prefetch=off"] {
        for jail in [&[][..], &["--jail"]] {
            let copy = Puppet::go_on(copy_of(&order(&saved, words)).args(jail));
            look(&copy);
            let end = copy.finish();
            assert!(!end.stderr.contains("working set"), "{}", end.story());
        }
    }
    // Over the API it is used too.
    let socket = scratch.join("copy.sock");
    let copy = Puppet::go_on(Vmm::new().arg("--api-sock").arg(&socket).without_jail());
    let serial = json!({ "serial": { "type": "stdio" } });
    let state = saved.join("state");
    let body = json!({ "snapshot_path": state, "resume_vm": true, "overrides": serial });
    Api::at(&socket).put("/snapshot/load", &body);
    look(&copy);
    copy.finish();
}

/// A snapshot that takes the place of another one has not got its working set.
fn is_recorded_when_the_machine_rests() {
    let scratch = Scratch::new();
    let saved = saved(&scratch);
    let socket = scratch.join("api.sock");
    let start = || {
        let _ = fs::remove_file(&socket);
        let copy = copy_of(&order(&saved, ",record")).without_jail();
        Puppet::go_on(copy.arg("--api-sock").arg(&socket))
    };
    let copy = start();
    look(&copy);
    Api::at(&socket).patch("/vm", &json!({ "state": "Paused" }));
    is_what_was_looked_at(&saved);
    // What comes later is not what a start needs.
    let before = recorded(&saved);
    Api::at(&socket).patch("/vm", &json!({ "state": "Resumed" }));
    assert_eq!(copy.ask(&format!("p {PAGES:x} {FREE_MEMORY:x}")), PAGES);
    copy.finish();
    assert_eq!(recorded(&saved), before);

    let copy = start();
    look(&copy);
    let other = save(&scratch, &["other"]);
    is_what_was_looked_at(&saved);
    save(&scratch, &["saved"]);
    kill(copy);
    for directory in [&saved, &other] {
        let names = fs::read_dir(directory).unwrap().count();
        assert_eq!(names, 2, "a working set of another snapshot");
    }
}

fn that_is_none_is_not_used() {
    let scratch = Scratch::new();
    let saved = saved(&scratch);
    let file = saved.join("state.working-set");
    let copy = Puppet::go_on(copy_of(&order(&saved, ",record")).without_jail());
    look(&copy);
    copy.finish();
    let whole = fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    damaged[49] ^= 1;
    let mut foreign = whole.clone();
    foreign[30] ^= 1;
    for (bytes, said) in [
        (damaged, "is damaged, or of another version"),
        (whole[..whole.len() - 1].to_vec(), "is damaged, or of another version"),
        (foreign, "is damaged, or of another version"),
        (vec![0xff; 1 << 20], "is damaged, or of another version"),
    ] {
        fs::write(&file, bytes).unwrap();
        let copy = Puppet::go_on(copy_of(&saved));
        look(&copy);
        let end = copy.finish();
        assert!(end.stderr.contains("the working set of the snapshot"), "{}", end.story());
        assert!(end.stderr.contains(said), "{}", end.story());
    }
    // Whole, and another snapshot's; nobody has asked for it, or nobody has finished it.
    let other = scratch.join("other");
    fs::create_dir(&other).unwrap();
    let puppet = Puppet::start(parent(&scratch));
    let other = save(&scratch, &["other"]);
    kill(puppet);
    fs::write(other.join("state.working-set"), &whole).unwrap();
    let copy = Puppet::go_on(copy_of(&other));
    copy.sync();
    assert!(copy.finish().stderr.contains("is another snapshot's"));
    fs::write(other.join("state.working-set"), []).unwrap();
    let end = {
        let copy = Puppet::go_on(copy_of(&other));
        copy.sync();
        copy.finish()
    };
    assert!(!end.stderr.contains("working set"), "{}", end.story());
}

fn cannot_always_be_recorded() {
    let scratch = Scratch::new();
    let saved = saved(&scratch);
    let recorded = |words: &str| copy_of(&order(&saved, &format!(",record{words}"))).without_jail();
    let end = recorded("").arg("--jail").run().expect_code(152);
    end.expect_one_line(&["jail", "leave record out"]);
    let end = recorded(",uffd=nowhere").run().expect_code(152);
    end.expect_one_line(&["record needs memory that is mapped"]);
    let end = copy_of(&order(&scratch.join("nowhere"), ",record")).run().expect_code(152);
    end.expect_one_line(&["nowhere", "No such file"]);
    // None of them has begun a file.
    fs::create_dir(saved.join("state.working-set")).unwrap();
    let end = recorded("").run().expect_code(152);
    end.expect_one_line(&["state.working-set", "cannot be made"]);
}
