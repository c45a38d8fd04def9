//! Numbers for tests that want any order or any size, and the same ones in every run.

use std::fmt::Debug;

/// Small numbers without a pattern (Marsaglia's xorshift64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`, which must not be 0: that one is all zeroes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, of all 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number less than `limit`, which is not 0.
    #[expect(clippy::expect_used, reason = "test helper: what is less than a number fits its type")]
    pub fn below<T>(&mut self, limit: T) -> T
    where
        T: Into<u64> + TryFrom<u64, Error: Debug>,
    {
        T::try_from(self.next_u64() % limit.into()).expect("less than the limit")
    }

    /// Yes in one of `n` cases.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `choices`, of which there is at least one.
    #[expect(clippy::expect_used, clippy::indexing_slicing, reason = "test helper")]
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).expect("an index")]
    }
}
