use super::*;
use crate::test_dir::TestDir;

const ID: Id = Id(*b"0123456789abcdef");
const RAM: u64 = 1 << 30;

fn runs(list: &[(u64, u64)]) -> Vec<Run> {
    list.iter().map(|&(first, count)| Run { first, count }).collect()
}

#[test]
fn what_was_recorded_is_read_and_a_shorter_one_takes_its_place() {
    let dir = TestDir::new();
    let path = path(&dir.path().join("state"));
    assert!(path.ends_with("state.working-set"));
    assert_eq!(read(&path, ID, RAM).unwrap(), []);
    for list in [runs(&[(0, 1), (100, 7), (262_143, 1)]), runs(&[(5, 2)]), vec![]] {
        Recording::begin(path.clone(), ID).unwrap().finish(RAM, list.clone()).unwrap();
        assert_eq!(read(&path, ID, RAM).unwrap(), list);
    }
    let other = dir.path().join("other.working-set");
    drop(Recording::begin(other.clone(), ID).unwrap());
    assert!(!other.exists());
    // To begin and never to finish leaves what was there.
    Recording::begin(path.clone(), ID).unwrap().finish(RAM, runs(&[(5, 2)])).unwrap();
    drop(Recording::begin(path.clone(), ID).unwrap());
    assert_eq!(read(&path, ID, RAM).unwrap(), runs(&[(5, 2)]));
}

#[test]
fn another_snapshots_is_not_used() {
    let bytes = encode(ID, RAM, &runs(&[(1, 1)]));
    assert!(decode(&bytes, ID, RAM).is_ok());
    for (id, ram) in [(Id::default(), RAM), (ID, RAM * 2)] {
        assert!(matches!(decode(&bytes, id, ram), Err(WorkingSetError::Foreign)));
    }
}

#[test]
fn no_other_bit_and_no_other_length_passes() {
    let bytes = encode(ID, RAM, &runs(&[(1, 1), (50, 9), (1000, 30)]));
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut other = bytes.clone();
            other[at] ^= 1 << bit;
            assert!(decode(&other, ID, RAM).is_err(), "bit {bit} of byte {at}");
        }
        assert!(matches!(decode(&bytes[..at], ID, RAM), Err(WorkingSetError::Damaged)), "{at}");
    }
}

/// Whoever can write the file can also make its checksum.
#[test]
fn pages_that_are_not_there_or_out_of_order_are_refused() {
    let last = RAM / PAGE;
    for list in [
        runs(&[(last, 1)]),
        runs(&[(last - 1, 2)]),
        runs(&[(0, u64::MAX)]),
        runs(&[(u64::MAX, u64::MAX)]),
        runs(&[(3, 0)]),
        runs(&[(3, 2), (4, 1)]),
        runs(&[(9, 1), (3, 1)]),
    ] {
        let bytes = encode(ID, RAM, &list);
        assert!(matches!(decode(&bytes, ID, RAM), Err(WorkingSetError::Damaged)), "{list:?}");
    }
}

#[test]
fn close_runs_become_one_and_there_are_never_too_many() {
    let mut list = runs(&[(0, 1), (9, 1), (19, 1), (100, 1)]);
    compact(&mut list);
    assert_eq!(list, runs(&[(0, 10), (19, 1), (100, 1)]));
    let many: Vec<Run> = (0..100_000).map(|at| Run { first: at * 100, count: 1 }).collect();
    let mut few = many.clone();
    compact(&mut few);
    assert!(few.len() <= RUNS_MAX && !few.is_empty(), "{}", few.len());
    let covers =
        |run: &Run| few.iter().any(|it| (it.first..it.first + it.count).contains(&run.first));
    assert!(many.iter().step_by(997).all(covers));
}
