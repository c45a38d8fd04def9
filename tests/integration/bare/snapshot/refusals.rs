//! What cannot become a machine, and what is said of it.

use std::fs;

use harness::puppet::Puppet;
use harness::{Need, Scratch, Vmm};
use libtest_mimic::Trial;

use super::{copy_of, kill, parent, save};
use crate::suite::trial;

pub fn tests() -> Vec<Trial> {
    let own: [(&str, fn()); 2] = [
        ("files_that_are_none", files_that_are_none),
        ("what_the_guest_has_seen_stays", what_the_guest_has_seen_stays),
    ];
    own.map(|(name, test)| trial(format!("bare::snapshot::{name}"), &[Need::Kvm], test)).into()
}

fn files_that_are_none() {
    let scratch = Scratch::new();
    let puppet = Puppet::start(parent(&scratch));
    let saved = save(&scratch, &["saved"]);
    let other = save(&scratch, &["other"]);
    kill(puppet);
    let memory = |directory: &std::path::Path| {
        let mut files = fs::read_dir(directory).unwrap().map(|it| it.unwrap().path());
        files.find(|path| !path.ends_with("state")).unwrap()
    };
    let refused = |words: &[&str]| {
        let end = copy_of(&saved).run().expect_code(152);
        end.expect_one_line(words);
    };
    let whole = fs::read(saved.join("state")).unwrap();
    let state = saved.join("state");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&state, &damaged).unwrap();
    refused(&["snapshot: ", "state\"", "it is damaged: section"]);
    fs::write(&state, &whole[..whole.len() - 1]).unwrap();
    refused(&["it is damaged: it has"]);
    fs::write(&state, "{}").unwrap();
    refused(&["it is not a snapshot of vmm"]);
    fs::remove_file(&state).unwrap();
    refused(&["cannot be read", "No such file"]);
    fs::write(&state, &whole).unwrap();
    let (own, foreign) = (memory(&saved), memory(&other));
    let kept = fs::read(&own).unwrap();
    fs::copy(&foreign, &own).unwrap();
    refused(&["memory file", "is not the memory of this snapshot"]);
    fs::write(&own, &kept[..kept.len() - 4096]).unwrap();
    refused(&["memory file", "bytes, not", "cut short"]);
    fs::remove_file(&own).unwrap();
    refused(&["memory-", "cannot be read"]);
    fs::write(&own, &kept).unwrap();
    Puppet::go_on(copy_of(&saved)).finish();
}

fn what_the_guest_has_seen_stays() {
    let scratch = Scratch::new();
    let disk = scratch.sparse_file("disk", 1 << 20);
    let vmm = parent(&scratch).disk(&disk, ",id=data");
    let puppet = Puppet::start(vmm);
    let saved = save(&scratch, &["saved"]);
    kill(puppet);
    let path = disk.display();
    for (words, said) in [
        (vec!["--kernel".to_owned(), "x".to_owned()], "--kernel cannot be other than the guest"),
        (vec!["--memory".to_owned(), "1G".to_owned()], "--memory cannot be other"),
        (vec!["--cpus".to_owned(), "2".to_owned()], "--cpus cannot be other"),
        (vec!["--disk".to_owned(), format!("{path},id=x")], "has no disk \"x\"; it has [\"data\"]"),
        (vec!["--disk".to_owned(), format!("{path},id=data,readonly")], "disk \"data\" cannot be"),
        (vec!["--net".to_owned(), "tap=t0".to_owned()], "say which net is meant"),
        (vec!["--vsock".to_owned(), "socket=x".to_owned()], "the guest has no vsock"),
        (vec!["--console".to_owned(), "pty".to_owned()], "the guest has no virtio console"),
        (vec!["--config-file".to_owned(), "x".to_owned()], "exclude each other"),
    ] {
        let end = copy_of(&saved).args(words).run().expect_code(152);
        end.expect_one_line(&[said]);
    }
    let end = Vmm::restored(&saved).args(["--serial", "off"]).run().expect_code(152);
    end.expect_one_line(&["the guest has a serial port"]);
    let end = Vmm::restored(scratch.join("nowhere")).run().expect_code(152);
    end.expect_one_line(&["nowhere", "No such file"]);
    // Another disk without a name can only be the one that there is.
    let copy = copy_of(&saved).disk(scratch.sparse_file("other", 1 << 20), "");
    Puppet::go_on(copy).finish();
}
