use std::collections::BTreeSet;

use super::{ApicIds, Place, bits};
use crate::Topology;

fn ids(cpus: u16, cores: u16, threads: u16) -> Vec<u32> {
    let topology = Topology::new(cpus, Some(cores), Some(threads), None).unwrap();
    ApicIds::new(&topology).iter().collect()
}

#[test]
fn powers_of_two_are_numbered_without_gaps() {
    assert_eq!(ids(1, 1, 1), [0]);
    assert_eq!(ids(2, 2, 1), [0, 1]);
    assert_eq!(ids(8, 2, 2), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn other_sizes_leave_gaps() {
    assert_eq!(ids(6, 3, 1), [0, 1, 2, 4, 5, 6]);
    assert_eq!(ids(6, 1, 3), [0, 1, 2, 4, 5, 6]);
    assert_eq!(ids(12, 3, 2), [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
}

#[test]
fn one_socket_of_254_cores_stays_in_eight_bits() {
    let ids = ids(254, 254, 1);
    assert_eq!(ids.last(), Some(&253));
}

#[test]
fn a_sparse_grouping_goes_beyond_eight_bits() {
    let ids = ids(243, 9, 3);
    assert_eq!(ids.last(), Some(&((8 << 6) | (8 << 2) | 2)));
}

#[test]
fn field_widths_are_ceilings_of_the_logarithm() {
    let widths: Vec<u32> = [1, 2, 3, 4, 5, 64, 65, 254].into_iter().map(bits).collect();
    assert_eq!(widths, [0, 1, 2, 2, 3, 6, 7, 8]);
}

#[test]
fn identifiers_of_every_grouping_ascend_and_shift_back_to_their_place() {
    for cpus in 1..=254 {
        for threads in (1..=cpus).filter(|threads| cpus % threads == 0) {
            for cores in (1..=cpus / threads).filter(|cores| (cpus / threads) % cores == 0) {
                let topology = Topology::new(cpus, Some(cores), Some(threads), None).unwrap();
                let ids = ApicIds::new(&topology);
                let all: Vec<u32> = ids.iter().collect();
                assert!(all.is_sorted_by(|a, b| a < b), "{topology:?}");
                let cores_seen: BTreeSet<u32> =
                    all.iter().map(|id| id >> ids.core_shift()).collect();
                let sockets_seen: BTreeSet<u32> =
                    all.iter().map(|id| id >> ids.package_shift()).collect();
                assert_eq!(cores_seen.len(), usize::from(cpus / threads), "{topology:?}");
                assert_eq!(sockets_seen.len(), usize::from(topology.sockets()), "{topology:?}");
            }
        }
    }
}

#[test]
fn the_last_thread_has_the_last_place() {
    let topology = Topology::new(12, Some(3), Some(2), None).unwrap();
    let place = ApicIds::new(&topology).place(11);
    assert_eq!(place, Place { socket: 1, core: 2, thread: 1 });
}
