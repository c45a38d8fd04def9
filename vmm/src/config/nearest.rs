//! Guesses which known word a mistyped one was meant to be.

/// The one of `known` that is at most a third of its letters away from `text`, the nearest first.
pub(super) fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|word| (distance(text, word), word))
        .filter(|(distance, word)| *distance * 3 <= word.len().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// How many letters were left out, added, changed, or swapped with their neighbour (optimal string
/// alignment). A capital letter is its small one, and "_" is "-".
fn distance(a: &str, b: &str) -> usize {
    let fold = |c: char| {
        if c == '_' { '-' } else { c.to_ascii_lowercase() }
    };
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().map(fold).collect(), b.chars().map(fold).collect());
    // Row i, cell j: the distance of the first i letters of `a` from the first j of `b`.
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let at = |up: usize, left: usize| {
                rows.get(i - up).and_then(|row| row.get(j - left)).copied()
            };
            let changed = at(1, 1).map(|cost| cost + usize::from(a.get(i - 1) != b.get(j - 1)));
            let left_out = at(1, 0).map(|cost| cost + 1);
            let added = row.last().map(|cost| cost + 1);
            let is_swap =
                i > 1 && j > 1 && a.get(i - 1) == b.get(j - 2) && a.get(i - 2) == b.get(j - 1);
            let swapped = is_swap.then(|| at(2, 2)).flatten().map(|cost| cost + 1);
            row.extend([changed, left_out, added, swapped].into_iter().flatten().min());
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
            ("Boot_Source", "boot-source", 0),
            ("drivs", "drives", 1),
            ("stdoi", "stdio", 1),
            ("ab", "ba", 1),
            ("abcd", "badc", 2),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn only_near_words_are_offered() {
        assert_eq!(nearest("readonyl", ["id", "readonly"]), Some("readonly"));
        assert_eq!(nearest("xyzzy", ["id", "readonly"]), None);
        assert_eq!(nearest("x", ["id"]), None);
        assert_eq!(nearest("is", ["id"]), Some("id"));
        assert_eq!(nearest("tpa", ["fd", "tap"]), Some("tap"));
    }
}
