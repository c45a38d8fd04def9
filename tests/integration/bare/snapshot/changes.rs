//! Snapshots of what has changed since another one.

use std::fs;
use std::path::Path;

use harness::puppet::Puppet;
use harness::{Need, Scratch, Vmm};
use libtest_mimic::Trial;

use super::{copy_of, kill, parent, save};
use crate::suite::trial;

pub fn tests() -> Vec<Trial> {
    let own: [(&str, fn()); 2] =
        [("changes_alone", changes_alone), ("changes_that_are_tracked", changes_that_are_tracked)];
    own.map(|(name, test)| trial(format!("bare::snapshot::{name}"), &[Need::Kvm], test)).into()
}

/// Bytes that the files of a snapshot take, and the number of files.
fn taken(directory: &Path) -> (u64, usize) {
    let files: Vec<_> = fs::read_dir(directory).unwrap().map(|it| it.unwrap()).collect();
    let blocks =
        |it: &fs::DirEntry| std::os::unix::fs::MetadataExt::blocks(&it.metadata().unwrap());
    (files.iter().map(|it| blocks(it) * 512).sum(), files.len())
}

fn changes_alone() {
    let scratch = Scratch::new();
    let puppet = Puppet::start(parent(&scratch));
    for page in 0..256 {
        puppet.write(4, 0x100_0000 + page * 0x1000, 1);
    }
    puppet.sync();
    let base = save(&scratch, &["base"]);
    kill(puppet);
    fs::remove_file(scratch.join("api.sock")).unwrap();
    let copy = Puppet::go_on(
        copy_of(&base).without_jail().arg("--api-sock").arg(scratch.join("api.sock")),
    );
    for page in 0..3 {
        copy.write(4, 0x100_0000 + page * 0x5000, 2);
    }
    copy.write(4, 0x180_0000, 3);
    copy.sync();
    let first = save(&scratch, &["first", "--diff"]);
    assert!(taken(&first).0 < taken(&base).0 / 4, "{:?} {:?}", taken(&first), taken(&base));
    copy.write(4, 0x180_0000, 4);
    copy.sync();
    // In the place of the one before, whose base stays where it is.
    save(&scratch, &["first", "--diff"]);
    assert_eq!(taken(&first).1, 2);
    kill(copy);
    fs::remove_file(scratch.join("api.sock")).unwrap();
    let third = Puppet::go_on(
        copy_of(&first).without_jail().arg("--api-sock").arg(scratch.join("api.sock")),
    );
    let values = [0, 0x5000, 0xa000, 0x1000, 0x80_0000].map(|at| third.read(4, 0x100_0000 + at));
    assert_eq!(values, [2, 2, 2, 1, 4]);
    // A diff of a diff, and all in one.
    third.write(4, 0x180_0000, 5);
    third.sync();
    let second = save(&scratch, &["second", "--diff"]);
    let whole = save(&scratch, &["whole"]);
    kill(third);
    for saved in [&second, &whole] {
        let copy = Puppet::go_on(copy_of(saved));
        let values = [0, 0x5000, 0xa000, 0x1000, 0x80_0000].map(|at| copy.read(4, 0x100_0000 + at));
        assert_eq!(values, [2, 2, 2, 1, 5], "{saved:?}");
        copy.finish();
    }
    fs::remove_dir_all(&base).unwrap();
    Puppet::go_on(copy_of(&whole)).finish();
    let end = copy_of(&second).run().expect_code(152);
    end.expect_one_line(&["base/memory-", "cannot be read"]);
}

fn changes_that_are_tracked() {
    let scratch = Scratch::new();
    let puppet = Puppet::start(parent(&scratch).arg("--track-dirty"));
    let diff = |name: &str| {
        let end = Vmm::new().arg("ctl").arg(scratch.join("api.sock")).arg("snapshot");
        end.arg(scratch.join(name)).arg("--diff").run()
    };
    diff("x").expect_code(115).expect_one_line(&["nothing that a diff could differ from"]);
    puppet.write(4, 0x100_0000, 1);
    puppet.sync();
    save(&scratch, &["saved"]);
    for value in 2..5 {
        puppet.write(4, 0x100_0000 + value * 0x1000, value);
        puppet.sync();
        // Each into the directory of all that were before.
        save(&scratch, &["saved", "--diff"]);
        assert_eq!(taken(&scratch.join("saved")).1, value as usize + 1);
        assert_eq!(puppet.read(4, 0x100_0000), 1);
    }
    kill(puppet);
    let copy = Puppet::go_on(copy_of(&scratch.join("saved")));
    let values = [0, 2, 3, 4, 5].map(|page| copy.read(4, 0x100_0000 + page * 0x1000));
    assert_eq!(values, [1, 2, 3, 4, 0]);
    copy.finish();
}
