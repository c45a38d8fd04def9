//! The VMClock page: what a program of the guest sees there when its machine goes on from a snapshot.

use std::fs;

use harness::puppet::Puppet;
use harness::{Need, Scratch};

use super::snapshot::{copy_of, kill, parent, save};

crate::suite::tests! { "bare::vmclock" needs &[Need::Kvm];
    a_restore_is_a_disruption_and_a_generation,
}

/// Where the device `VCLK` says that the page is, and how much of it means something.
const PAGE: u32 = 0xf_f000;
const LEN: u32 = 112;

/// Sequence, disruption marker and generation.
fn numbers(puppet: &Puppet) -> [u64; 3] {
    let page = puppet.load(PAGE, LEN);
    let number = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
    assert_eq!(number(0), 0x1000_4b4c_4356, "VCLK, a page");
    assert_eq!(number(24), 0x300, "generation and notifications");
    assert_eq!(number(8) >> 32 & 1, 0, "somebody changes it");
    [number(8) >> 32, number(16), number(104)]
}

fn a_restore_is_a_disruption_and_a_generation() {
    let scratch = Scratch::new();
    let puppet = Puppet::start(parent(&scratch));
    let mut seen = vec![numbers(&puppet)];
    assert_eq!(seen, [[0, 0, 0]]);
    puppet.sync();
    let saved = save(&scratch, &["saved"]);
    // Nothing has happened to this one.
    assert_eq!(numbers(&puppet), seen[0]);
    kill(puppet);
    fs::remove_file(scratch.join("api.sock")).unwrap();
    let copy = copy_of(&saved).without_jail().arg("--api-sock").arg(scratch.join("api.sock"));
    let copy = Puppet::go_on(copy);
    seen.push(numbers(&copy));
    copy.sync();
    let again = save(&scratch, &["again"]);
    kill(copy);
    for saved in [&again, &again, &saved] {
        let copy = Puppet::go_on(copy_of(saved));
        seen.push(numbers(&copy));
        copy.finish();
    }
    for (index, numbers) in seen.iter().enumerate() {
        let is_other = |other: &[u64; 3]| other.iter().zip(numbers).all(|(a, b)| a != b);
        assert!(seen[..index].iter().all(is_other), "{seen:x?}");
    }
}
