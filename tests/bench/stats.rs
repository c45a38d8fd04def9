//! Numbers from rounds: what is in the middle, how far they spread, and how two contenders compare.

/// Samples of one contender, one for each round in the order of the rounds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples(Vec<f64>);

/// Where samples lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The smallest.
    pub min: f64,
    /// Half of all are above it, half below.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Samples {
    /// Adds the sample of the next round.
    pub fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// The same without the first `count` rounds, which pay for cold caches.
    pub fn without_first(&self, count: usize) -> Self {
        Self(self.0.iter().skip(count).copied().collect())
    }

    /// `None` when there are none.
    pub fn summary(&self) -> Option<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Summary { min, median: f64::midpoint(low, high), max })
    }

    /// How many times the smallest sample the 95th of a hundred is: what the host's other work did to them.
    pub fn unrest(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let high = sorted.get((sorted.len() * 95).div_ceil(100).checked_sub(1)?)?;
        Some(high / sorted.first()?)
    }

    /// How many times as large as `other` these are: the ratio of the medians, and the smallest and the largest ratio of
    /// one round, in which both saw the same state of the host.
    pub fn ratio(&self, other: &Self) -> Option<Summary> {
        let rounds = self.0.iter().zip(&other.0).map(|(ours, theirs)| ours / theirs);
        let Summary { min, max, .. } = Self(rounds.collect()).summary()?;
        Some(Summary { min, median: self.summary()?.median / other.summary()?.median, max })
    }

    /// Each sample turned into another one.
    pub fn map(&self, turn: impl Fn(f64) -> f64) -> Self {
        Self(self.0.iter().copied().map(turn).collect())
    }

    /// What each round's sample has more than the one of `other`.
    pub fn minus(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(ours, theirs)| ours - theirs).collect())
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(list: &[f64]) -> Samples {
        list.iter().copied().collect()
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_ones() {
        assert_eq!(samples(&[]).summary(), None);
        let one = Summary { min: 4.0, median: 4.0, max: 4.0 };
        assert_eq!(samples(&[4.0]).summary(), Some(one));
        assert_eq!(samples(&[9.0, 1.0, 2.0]).summary().unwrap().median, 2.0);
        let four = Summary { min: 1.0, median: 2.5, max: 9.0 };
        assert_eq!(samples(&[9.0, 1.0, 3.0, 2.0]).summary(), Some(four));
    }

    #[test]
    fn a_ratio_is_of_medians_and_spreads_as_its_rounds() {
        let (ours, theirs) = (samples(&[2.0, 4.0, 6.0]), samples(&[1.0, 8.0, 2.0]));
        let ratio = Summary { min: 0.5, median: 2.0, max: 3.0 };
        assert_eq!(ours.ratio(&theirs), Some(ratio));
        assert_eq!(ours.ratio(&samples(&[])), None);
    }

    #[test]
    fn unrest_passes_over_the_worst_twentieth() {
        let mut list: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(samples(&list).unrest(), Some(19.0));
        list.truncate(2);
        assert_eq!(samples(&list).unrest(), Some(2.0));
        assert_eq!(samples(&[]).unrest(), None);
    }

    #[test]
    fn rounds_are_dropped_from_the_front() {
        assert_eq!(samples(&[7.0, 8.0, 1.0]).without_first(2), samples(&[1.0]));
        assert_eq!(samples(&[7.0]).without_first(2), samples(&[]));
    }

    #[test]
    fn differences_are_within_rounds() {
        assert_eq!(samples(&[3.0, 5.0]).minus(&samples(&[1.0, 1.0])), samples(&[2.0, 4.0]));
    }
}
