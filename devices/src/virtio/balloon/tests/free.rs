use super::super::{BalloonError, HintingStatus};
use super::support::{ALL, END, PAGES, Rig, Setup, config};

const HINTS: u32 = 3;
const REPORTS: u32 = 4;
const MIB: u32 = 1 << 20;

fn hint(rig: &mut Rig, address: u64, len: u32) -> Vec<(u64, u64)> {
    rig.running.queues[HINTS as usize].add(&[(address, len, true)]);
    assert!(rig.running.kick(HINTS));
    rig.reclaim.taken()
}

fn status(rig: &Rig) -> (u32, Option<u32>) {
    let HintingStatus { host_command, guest_command } = rig.control.hinting_status().unwrap();
    assert_eq!(config(rig, 8), host_command);
    (host_command, guest_command)
}

#[test]
fn reported_pages_are_released_and_handed_back() {
    let mut rig = Rig::new(Setup::default(), ALL);
    rig.running.queues[4].add(&[(PAGES, 4 * MIB, true), (PAGES + 0x60_0000, 2 * MIB, true)]);
    assert!(rig.running.kick(REPORTS));
    assert_eq!(rig.used(4), [(0, 0)]);
    assert_eq!(rig.reclaim.taken(), [(PAGES, 4 << 20), (PAGES + 0x60_0000, 2 << 20)]);
    assert_eq!(rig.control.counters().released, 6 << 20);
}

#[test]
fn a_report_covers_what_the_device_may_write_and_nothing_else() {
    let mut rig = Rig::new(Setup::default(), ALL);
    // A readable part, a part of a page at either end, less than a page.
    rig.running.queues[4].add(&[
        (PAGES, MIB, false),
        (PAGES + 0x10_0800, 0x3000, true),
        (PAGES + 0x20_0010, 0x800, true),
    ]);
    assert!(rig.running.kick(REPORTS));
    assert_eq!(rig.reclaim.taken(), [(PAGES + 0x10_1000, 0x2000)]);
    assert_eq!(rig.control.counters().partial, 0x1000 + 0x800);
}

#[test]
fn a_report_of_what_is_no_ram_needs_a_reset() {
    let mut rig = Rig::new(Setup::default(), ALL);
    rig.running.queues[4].add(&[(PAGES, MIB, true), (END - 0x1000, 0x2000, true)]);
    assert!(!rig.running.kick(REPORTS));
    assert_eq!(rig.reclaim.taken(), [], "a chain is good as a whole or not at all");
}

#[test]
fn reports_are_bounded() {
    let mut rig = Rig::new(Setup::default(), ALL);
    // The same 24 MiB over and over, of which 256 MiB count.
    rig.running.queues[4].add(&[(PAGES, 24 * MIB, true); 16]);
    assert!(rig.running.kick(REPORTS));
    let counters = rig.control.counters();
    assert_eq!((counters.released, counters.excess), (256 << 20, (16 * 24 - 256) << 20));
    assert_eq!(rig.reclaim.taken().last(), Some(&(PAGES, 16 << 20)));
    assert_eq!(rig.used(4), [(0, 0)]);
}

#[test]
fn a_run_of_hints_from_start_to_end() {
    let mut rig = Rig::new(Setup::default(), ALL);
    assert_eq!(status(&rig), (0, None));
    assert_eq!(hint(&mut rig, PAGES, 4 * MIB), [], "nobody asked");

    let edges = rig.running.line.edges();
    rig.control.start_hinting(true).unwrap();
    assert_eq!((status(&rig), rig.running.line.edges()), ((2, None), edges + 1));
    assert_eq!(hint(&mut rig, PAGES, 4 * MIB), [], "the driver has not begun");
    assert!(rig.send(HINTS, &2_u32.to_le_bytes()));
    assert_eq!(hint(&mut rig, PAGES, 4 * MIB), [(PAGES, 4 << 20)]);
    // The end of the run: the driver gets its pages back by a new command.
    let edges = rig.running.line.edges();
    assert!(rig.send(HINTS, &0_u32.to_le_bytes()));
    assert_eq!(status(&rig), (1, Some(0)));
    assert!(rig.running.line.edges() > edges);
    assert_eq!(hint(&mut rig, PAGES, 4 * MIB), [], "too late");
}

#[test]
fn without_acknowledgement_the_end_waits_for_a_stop() {
    let mut rig = Rig::new(Setup::default(), ALL);
    rig.control.start_hinting(false).unwrap();
    assert!(rig.send(HINTS, &2_u32.to_le_bytes()));
    assert!(rig.send(HINTS, &0_u32.to_le_bytes()));
    assert_eq!(status(&rig), (2, Some(0)));
    rig.control.stop_hinting().unwrap();
    assert_eq!(status(&rig), (1, Some(0)));
}

#[test]
fn hints_of_an_earlier_run_do_not_count() {
    let mut rig = Rig::new(Setup::default(), ALL);
    rig.control.start_hinting(true).unwrap();
    assert!(rig.send(HINTS, &2_u32.to_le_bytes()));
    rig.control.start_hinting(true).unwrap();
    assert_eq!(status(&rig), (3, Some(2)));
    assert_eq!(hint(&mut rig, PAGES, MIB), []);
    assert_eq!(rig.control.counters().excess, u64::from(MIB));
    // Nor do ids that mean something else, or that the host never gave.
    for id in [1, u32::MAX] {
        assert!(rig.send(HINTS, &u32::to_le_bytes(id)));
        assert_eq!(hint(&mut rig, PAGES, MIB), []);
    }
    assert!(rig.send(HINTS, &[3, 0]), "half an id");
    assert_eq!(status(&rig), (3, Some(u32::MAX)));
}

#[test]
fn hinting_must_be_configured_and_driven() {
    let rig = Rig::new(Setup { hinting: false, ..Setup::default() }, 0);
    assert!(matches!(rig.control.start_hinting(true), Err(BalloonError::NoHinting)));
    let mut rig = Rig::new(Setup::default(), ALL);
    rig.control.start_hinting(true).unwrap();
    rig.running.transport.write_status(0);
    assert!(matches!(rig.control.start_hinting(true), Err(BalloonError::NoDriver)));
    assert!(matches!(rig.control.hinting_status(), Err(BalloonError::NoDriver)));
    assert_eq!(config(&rig, 8), 0);
}
