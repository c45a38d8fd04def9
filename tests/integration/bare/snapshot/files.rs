//! What happens to the files of a snapshot: writers that are out of room, readers whose file goes away.

use std::fs;
use std::path::Path;

use harness::confine::Confinement;
use harness::puppet::{FREE_MEMORY, Puppet};
use harness::virtio::Device;
use harness::{Need, Scratch, Vmm};
use libtest_mimic::Trial;

use super::{Subject, copy_of, kill, parent, save};
use crate::suite::trial;

pub fn tests() -> Vec<Trial> {
    let own: [(&str, fn()); 2] = [
        ("a_writer_without_room", a_writer_without_room),
        ("memory_that_goes_away", memory_that_goes_away),
    ];
    own.map(|(name, test)| trial(format!("bare::snapshot::{name}"), &[Need::Kvm], test)).into()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn a_writer_without_room() {
    let scratch = Scratch::new();
    let fails = |call| Confinement::Fails(call, libc::ENOSPC);
    for call in [libc::SYS_pwritev2, libc::SYS_fsync, libc::SYS_rename] {
        let puppet = Puppet::start(parent(&scratch).confined(fails(call)));
        let directory = scratch.join(&format!("saved-{call}"));
        let ctl =
            Vmm::new().arg("ctl").arg(scratch.join("api.sock")).arg("snapshot").arg(&directory);
        let end = ctl.run().expect_code(115);
        end.expect_one_line(&["cannot be written", "No space left on device"]);
        assert_eq!(names(&directory), Vec::<String>::new(), "{call}");
        // The guest has not noticed anything.
        puppet.write(4, FREE_MEMORY, 4);
        assert_eq!(puppet.read(4, FREE_MEMORY), 4);
        puppet.finish();
    }
    let puppet = Puppet::start(parent(&scratch));
    let file = scratch.file("file", "");
    let ctl = Vmm::new().arg("ctl").arg(scratch.join("api.sock")).arg("snapshot").arg(&file);
    ctl.run().expect_code(125).expect_one_line(&["make the directory"]);
    puppet.finish();
}

fn memory_that_goes_away() {
    let scratch = Scratch::new();
    let vmm = Vmm::puppet("").without_jail().arg("--api-sock").arg(scratch.join("api.sock"));
    let puppet = Puppet::start(vmm);
    let device = Device::find(&puppet, Subject::Rng.kind());
    let _queue = Subject::Rng.set_up(&device, 0);
    puppet.sync();
    let saved = save(&scratch, &["saved"]);
    kill(puppet);
    let copy = Puppet::go_on(copy_of(&saved));
    copy.sync();
    let memory = names(&saved).into_iter().find(|name| name != "state").unwrap();
    let memory = fs::File::options().write(true).open(saved.join(memory)).unwrap();
    // The guest's program stays, the rings do not. Its device looks at them at the kick, or because it has just begun.
    let device = Device::find(&copy, Subject::Rng.kind());
    memory.set_len(FREE_MEMORY.into()).unwrap();
    device.kick(0);
    copy.send_if_it_runs();
    let end = copy.release().expect_exit(149);
    end.expect_one_line(&["host failure", "a page of the snapshot's memory", "cut short"]);
}
