//! How long requests take is measured once for each, whichever way it ends, and only where somebody wants to know.

use super::support::*;
use crate::backend::disk::io::Engine;

/// How many reads, writes and flushes were measured.
fn measured(rig: &Rig) -> Vec<u64> {
    rig.control.counts()[0].times.iter().map(|(_, times)| times.count()).collect()
}

fn counted(rig: &Rig, name: &str) -> u64 {
    rig.control.counts()[0].numbers.get(name).unwrap()
}

#[test]
fn each_request_is_measured_once() {
    for engine in [Engine::Sync, Engine::IoUring] {
        let mut rig = Setup { measured: true, ..Setup::engine(engine) }.start();
        for sector in 0..3 {
            assert_eq!(rig.ask(IN, sector, &[(DATA, 512, true)]), (OK, 513));
        }
        assert_eq!(rig.ask(OUT, 1, &[(DATA, 512, false)]), (OK, 1));
        assert_eq!(rig.ask(FLUSH, 0, &[]), (OK, 1));
        assert_eq!(rig.ask(GET_ID, 0, &[(DATA, 20, true)]), (OK, 21));
        assert_eq!(rig.ask(IN, SECTORS, &[(DATA, 512, true)]), (IOERR, 1));
        assert_eq!(measured(&rig), [3, 1, 1], "{engine:?}");
        let (_, times) = rig.control.counts()[0].times[0];
        assert!(!times.sum.is_zero() && times.shortest <= times.longest, "{times:?}");
        assert!(counted(&rig, "kicks") >= 7);
    }
}

#[test]
fn requests_that_end_later_and_badly_are_measured_too() {
    let (mut rig, script) = Setup { measured: true, ..Setup::default() }.start_scripted();
    let sent = [0, 8].map(|sector| rig.send(IN, sector, &[(DATA, 512, true)]));
    rig.finish(0);
    assert_eq!(measured(&rig), [0; 3], "nothing is answered yet");
    script.end(1, Ok(512));
    script.end(0, Err(std::io::Error::other("broken")));
    rig.finish(2);
    assert_eq!(sent.map(|sent| rig.status(sent)), [IOERR, OK]);
    assert_eq!(measured(&rig), [2, 0, 0]);
}

#[test]
fn nothing_is_measured_unasked() {
    let mut rig = Setup::default().start();
    rig.assert_alive();
    assert_eq!((measured(&rig), counted(&rig, "reads")), (vec![], 1));
}
