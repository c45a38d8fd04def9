//! A snapshot that the first version of its format made, and that is kept: later versions read it and go on from it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use harness::puppet::{FREE_MEMORY, Puppet};
use harness::state::State;
use harness::{Need, Scratch, Vmm, artifacts};
use serde_json::Value;

use super::snapshot::{copy_of, kill, parent, save};

crate::suite::tests! { "bare::snapshot" needs &[Need::Kvm];
    the_first_format_is_described,
    the_first_format_goes_on,
}

/// Where it is kept: the state as it is, of its memory what is not zero.
fn kept() -> PathBuf {
    artifacts::workspace().join("tests/snapshots/1")
}

/// Bytes of its machine's memory, and of the page behind that.
const MEMORY: u64 = (32 << 20) + 4096;
/// What of a vCPU belongs to the processor that it ran on.
const OF_THE_HOST: [&str; 5] = ["xsave", "xcrs", "msrs", "cpuid", "tsc_khz"];

fn the_first_format_is_described() {
    let end = Vmm::new().args(["snapshot", "info"]).arg(kept().join("state")).run().expect_code(0);
    for words in ["format   1", "kind     full", "vcpu 0", "device   serial", "32 MiB"] {
        assert!(end.stdout.contains(words), "{words}:\n{}", end.stdout);
    }
}

/// The snapshot with all of its memory, in a directory.
fn unpacked(scratch: &Scratch) -> PathBuf {
    let directory = scratch.join("kept");
    fs::create_dir(&directory).unwrap();
    let state = fs::read(kept().join("state")).unwrap();
    fs::write(directory.join("state"), &state).unwrap();
    // Its file is named by the snapshot's id, which stands in the head.
    let id: String = state[16..32].iter().map(|byte| format!("{byte:02x}")).collect();
    let memory = fs::File::create(directory.join(format!("memory-{id}"))).unwrap();
    memory.set_len(MEMORY).unwrap();
    // Pieces: offset and length, 64 bits each, and so many bytes.
    let pieces = fs::read(kept().join("memory")).unwrap();
    let mut rest = pieces.as_slice();
    while !rest.is_empty() {
        let (head, behind) = rest.split_at(16);
        let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
        let (bytes, behind) = behind.split_at(number(8) as usize);
        memory.write_all_at(bytes, number(0)).unwrap();
        rest = behind;
    }
    directory
}

fn meta(state: &State) -> Value {
    serde_json::from_slice(state.section("meta")).unwrap()
}

/// It is the puppet, waiting for a command.
#[track_caller]
fn goes_on(snapshot: &Path) {
    let copy = Puppet::go_on(copy_of(snapshot));
    assert_eq!(copy.read(4, 0x10_0000) & 0xff, 0xbc, "its first instruction");
    copy.write(4, FREE_MEMORY, 77);
    assert_eq!(copy.read(4, FREE_MEMORY), 77);
    assert_eq!(copy.load(0xe_0000, 8), b"RSD PTR ");
    copy.port_out(1, 0xf4, 33);
    copy.release().expect_exit(33);
}

fn the_first_format_goes_on() {
    let scratch = Scratch::new();
    let saved = unpacked(&scratch);
    let puppet = Puppet::start(parent(&scratch).args(["--cpus", "2"]));
    let own = State::read(&save(&scratch, &["own"]).join("state"));
    kill(puppet);

    let mut state = State::read(&saved.join("state"));
    let (there, here) = (meta(&state)["host"].clone(), meta(&own)["host"].clone());
    let differs =
        ["kvm", "vendor", "family", "model"].into_iter().find(|key| there[key] != here[key]);
    match differs {
        // What differs besides is what --restore DIR,force is for.
        None => goes_on(Path::new(&format!("{},force", saved.display()))),
        Some(key) => {
            let end = copy_of(&saved).run().expect_code(152);
            end.expect_one_line(&["this host is not like the one it was made on", key]);
        }
    }
    // With this host's processor in the place of that one it goes on anywhere.
    let mut said = meta(&state);
    said["host"] = here;
    state.set_section("meta", said.to_string().into_bytes());
    for vcpu in ["vcpu 0", "vcpu 1"] {
        let own = own.pieces(vcpu);
        let mut pieces = state.pieces(vcpu);
        for (name, piece) in &mut pieces {
            if OF_THE_HOST.contains(&name.as_str()) {
                piece.clone_from(&own.iter().find(|(it, _)| it == name).unwrap().1);
            }
        }
        state.set_pieces(vcpu, &pieces);
    }
    state.write(&saved.join("state"));
    goes_on(&saved);
}
