use super::*;

#[test]
fn runs_of_bits() {
    let runs = |set: &[(usize, usize)], count| {
        let mut bits = Bits::new(count);
        set.iter().for_each(|(start, end)| bits.set(*start..*end));
        bits.runs().map(|run| (run.start, run.end)).collect::<Vec<_>>()
    };
    assert_eq!(runs(&[], 200), []);
    for one in [(0, 200), (64, 128), (199, 200)] {
        assert_eq!(runs(&[one], 200), [one]);
    }
    let several = [(3, 5), (5, 6), (63, 65), (199, 200)];
    assert_eq!(runs(&several, 200), [(3, 6), (63, 65), (199, 200)]);
    assert_eq!(runs(&[(0, 1)], 1), [(0, 1)]);
}
