//! Files of a machine's state: arbitrary ones, and right ones with arbitrary sections, whose checksums are right.

use vmm::snapshot::container::{Container, Section};
use vmm::snapshot::record::Record;

use super::check_complaint;

/// A machine with two vCPUs and two devices.
const RIGHT: &[u8] = include_bytes!("../../../snapshots/1/state");

/// See the module.
pub fn run(input: &[u8]) {
    decode(input);
    let Some((&which, rest)) = input.split_first() else { return };
    let mut container = Container::decode(RIGHT).expect("a right one");
    let count = container.sections.len();
    match container.sections.get_mut(usize::from(which)) {
        Some(section) => section.bytes = rest.to_vec(),
        // Some more, one per line: its name and what it holds.
        None => {
            container.sections.truncate(usize::from(which) % (count + 1));
            for line in rest.split(|&byte| byte == b'\n') {
                let at = line.iter().position(|&byte| byte == b'=').unwrap_or(line.len());
                let (name, bytes) = line.split_at(at);
                let name = String::from_utf8_lossy(name).into_owned();
                let mut section = Section::new(name, bytes.get(1..).unwrap_or_default().to_vec());
                section.is_optional = which & 1 == 1;
                container.sections.push(section);
            }
        }
    }
    let file = container.encode();
    assert_eq!(Container::decode(&file).as_ref(), Ok(&container));
    decode(&file);
}

/// What is accepted means the same when it is written and read again.
fn decode(file: &[u8]) {
    match Record::decode(file) {
        Ok(record) => {
            let again = Record::decode(&record.encode()).expect("what was just written");
            assert_eq!(again, record);
        }
        Err(error) => check_complaint(&error),
    }
}
