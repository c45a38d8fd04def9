//! Saving a device at any step of its life changes nothing for its guest, neither for the one that was saved nor for
//! the one that goes on from what was saved.

use super::Random;

/// Steps of a life.
const STEPS: u32 = 40;

/// A device with its driver and its host.
pub(crate) trait Life: Sized {
    /// What the guest, and the host, have of it in the end.
    type Outcome: PartialEq;

    /// Something happens in the guest or on the host, or the device gets to work.
    fn step(&mut self, random: &mut Random);

    /// The device goes on in another machine as well.
    fn copy(&mut self) -> Self;

    /// Everything is brought to an end.
    fn end(self) -> Self::Outcome;
}

/// Lives the lives that `begin` begins, saved at every step and never.
pub(crate) fn is_never_noticed<L: Life>(seeds: std::ops::Range<u64>, begin: impl Fn() -> L) {
    for seed in seeds {
        let mut random = Random::new(seed);
        let mut unsaved = begin();
        (0..STEPS).for_each(|_| unsaved.step(&mut random));
        let expected = unsaved.end();
        for saved_at in 0..=STEPS {
            let mut random = Random::new(seed);
            let mut parent = begin();
            (0..saved_at).for_each(|_| parent.step(&mut random));
            let mut copy = parent.copy();
            let mut others = random.clone();
            for _ in saved_at..STEPS {
                copy.step(&mut random);
                parent.step(&mut others);
            }
            assert!(copy.end() == expected, "seed {seed}, the copy of step {saved_at}");
            assert!(parent.end() == expected, "seed {seed}, after step {saved_at}");
        }
    }
}
