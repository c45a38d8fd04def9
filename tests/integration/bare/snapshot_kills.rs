//! Writers of snapshots that are killed, at any moment between their first file and their last name: the old snapshot is
//! there or the new one, and whole.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use harness::api::{Api, Connection};
use harness::puppet::{FREE_MEMORY, Puppet};
use harness::{Need, Random, Scratch};
use libtest_mimic::Trial;
use serde_json::json;

use super::snapshot::{copy_of, kill, parent};
use crate::suite::trial;

pub fn tests() -> Vec<Trial> {
    vec![trial("bare::snapshot::killed_at_any_moment", &[Need::Kvm], killed_at_any_moment)]
}

/// Kills that must fall between the first file and the last name.
const WITHIN: usize = 200;
/// Kills in all, after which somebody should see why so few do.
const MOST: usize = 5 * WITHIN;
/// Snapshots that are let through, to know how long one takes here.
const WHOLE: u32 = 5;
/// Memory that each writes: some pages, and words in them that all say the same.
const PAGES: u32 = 64;
const WORDS: [u32; 4] = [0, 1, PAGES / 2, PAGES - 1];
/// What the delays are drawn from.
const SEED: u64 = 0x5eed;

/// The files in a snapshot's directory; the old and the new ones differ.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect()
}

/// The name of the memory that the state there names.
fn named(directory: &Path) -> String {
    let state = fs::read(directory.join("state")).unwrap();
    let is_name =
        |it: &&[u8]| it.starts_with(b"memory-") && it[7..].iter().all(u8::is_ascii_hexdigit);
    String::from_utf8(state.windows(39).find(is_name).unwrap().to_vec()).unwrap()
}

struct Machine<'a> {
    puppet: Puppet,
    api: Api,
    scratch: &'a Scratch,
}

impl<'a> Machine<'a> {
    /// The one that goes on from the snapshot, or the first one.
    fn start(scratch: &'a Scratch, is_first: bool) -> Self {
        let socket = scratch.join("api.sock");
        let _ = fs::remove_file(&socket);
        let puppet = if is_first {
            Puppet::start(parent(scratch))
        } else {
            let copy = copy_of(&scratch.join("saved")).without_jail();
            Puppet::go_on(copy.arg("--api-sock").arg(&socket))
        };
        Self { puppet, api: Api::at(&socket), scratch }
    }

    /// What its memory says, which must all say the same.
    fn value(&self) -> u32 {
        let values = WORDS.map(|page| self.puppet.read(4, FREE_MEMORY + page * 0x1000));
        assert_eq!(values, [values[0]; WORDS.len()]);
        values[0]
    }

    /// Has its memory say something else, and begins to save it.
    fn begin(&self, value: u32) -> Connection {
        assert_eq!(self.puppet.ask(&format!("P {PAGES:x} {:x}", FREE_MEMORY + 8)), 0);
        for page in WORDS {
            self.puppet.write(4, FREE_MEMORY + page * 0x1000, value);
        }
        self.puppet.sync();
        let mut connection = self.api.connect();
        let body = json!({ "directory": self.scratch.join("saved") });
        connection.send("PUT", "/snapshot/create", &body.to_string());
        connection
    }
}

fn killed_at_any_moment() {
    let scratch = Scratch::in_memory();
    let saved = scratch.join("saved");
    fs::create_dir(&saved).unwrap();
    let first = Machine::start(&scratch, true);
    let mut whole = Duration::ZERO;
    for value in 1..=WHOLE {
        let begun = Instant::now();
        let _ = first.begin(value).reply().expect(204);
        whole += begun.elapsed() / WHOLE;
    }
    kill(first.puppet);
    println!("a snapshot takes {whole:?}; seed {SEED:#x}");

    let mut random = Random::new(SEED);
    let (mut last, mut within, mut kills) = (WHOLE, 0, 0);
    // How many of those that fell within left which one.
    let (mut old, mut new) = (0, 0);
    while within < WITHIN {
        assert!(kills < MOST, "{within} of {kills} kills fell within a snapshot");
        kills += 1;
        let value = last + 1;
        let machine = Machine::start(&scratch, false);
        assert_eq!(machine.value(), last);
        let (before, memory) = (names(&saved), named(&saved));
        let connection = machine.begin(value);
        let share = random.below(1000) as u32;
        thread::sleep(whole * share / 1000);
        kill(machine.puppet);
        drop(connection);
        let after = names(&saved);
        let is_new = named(&saved) != memory;
        match after != before {
            // It was done, or had not begun: how long one takes is not what it was.
            true if is_new && after.len() == 2 => whole = whole * 97 / 100,
            false => whole = whole * 103 / 100,
            true => {
                within += 1;
                *(if is_new { &mut new } else { &mut old }) += 1;
            }
        }
        last = if is_new { value } else { last };
    }
    println!("{within} of {kills} kills within: {old} left the old one, {new} the new one");
    assert!(old > 0);
    // What the last one left is there until the next one.
    let machine = Machine::start(&scratch, false);
    assert_eq!(machine.value(), last);
    let _ = machine.begin(0).reply().expect(204);
    assert_eq!(names(&saved), BTreeSet::from([named(&saved), "state".to_owned()]));
    machine.puppet.finish();
}
