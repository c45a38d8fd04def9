//! Every input that was kept, on its target: what was found once is found at once if it comes back.

use std::cell::Cell;
use std::fs;
use std::panic;
use std::path::Path;

use fuzz::{TARGETS, archive};

/// Of all corpora together.
const MOST_BYTES: u64 = 1 << 20;

thread_local! {
    /// What is run: target, and which of its inputs.
    static CURRENT: Cell<(&'static str, usize)> = const { Cell::new(("", 0)) };
}

fn main() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let (target, number) = CURRENT.get();
        println!("test replay::{target} ... FAILED at input {number}");
        tell(info);
        println!(
            "\ntest result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n"
        );
    }));
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let only = std::env::args().nth(1).filter(|word| !word.starts_with('-'));
    let (mut passed, mut bytes) = (0, 0);
    println!("\nrunning {} tests", TARGETS.len());
    for target in
        TARGETS.iter().filter(|it| only.as_ref().is_none_or(|only| it.name.contains(only)))
    {
        let path = directory.join(target.name);
        let packed = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let inputs =
            archive::unpack(&packed).unwrap_or_else(|what| panic!("{}: {what}", path.display()));
        assert!(inputs.len() > 1, "{} has no corpus worth the name", target.name);
        for (number, input) in inputs.iter().enumerate() {
            CURRENT.set((target.name, number));
            (target.run)(input);
        }
        println!("test replay::{} ... ok ({} inputs)", target.name, inputs.len());
        passed += 1;
        bytes += packed.len() as u64;
    }
    assert!(bytes <= MOST_BYTES, "the corpora have {bytes} bytes");
    println!(
        "\ntest result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n"
    );
}
