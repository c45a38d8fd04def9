use super::{Topology, TopologyError};

fn parts(topology: Topology) -> (u16, u16, u16) {
    (topology.sockets(), topology.cores_per_socket(), topology.threads_per_core())
}

#[test]
fn by_default_all_cores_share_a_socket() {
    for cpus in [1, 2, 3, 6, 64, 254] {
        let topology = Topology::new(cpus, None, None, None).unwrap();
        assert_eq!(topology.cpus(), cpus);
        assert_eq!(parts(topology), (1, cpus, 1));
    }
}

#[test]
fn what_is_missing_is_derived() {
    let grouped =
        |cores, threads, sockets| parts(Topology::new(12, cores, threads, sockets).unwrap());
    assert_eq!(grouped(Some(3), Some(2), None), (2, 3, 2));
    assert_eq!(grouped(Some(3), None, None), (4, 3, 1));
    assert_eq!(grouped(None, Some(2), None), (1, 6, 2));
    assert_eq!(grouped(None, None, Some(4)), (4, 3, 1));
    assert_eq!(grouped(None, Some(3), Some(2)), (2, 2, 3));
    assert_eq!(grouped(Some(2), Some(2), Some(3)), (3, 2, 2));
}

#[test]
fn the_number_of_cpus_is_bounded() {
    for cpus in [0, 255, u16::MAX] {
        let error = Topology::new(cpus, None, None, None).unwrap_err();
        assert_eq!(error, TopologyError::CpuCount { cpus });
    }
}

#[test]
fn a_remainder_is_refused_by_its_numbers() {
    let error = Topology::new(5, Some(2), Some(2), None).unwrap_err();
    assert_eq!(error, TopologyError::Uneven { cpus: 5, sockets: 1, cores: 2, threads: 2 });
    let text = error.to_string();
    assert!(text.contains("5 CPUs") && text.contains("2 cores x 2 threads"), "{text}");
    assert!(Topology::new(4, None, Some(8), None).is_err());
    assert!(Topology::new(4, Some(2), Some(2), Some(2)).is_err());
}

#[test]
fn no_part_may_be_zero_or_overflow() {
    let groupings = [
        (Some(0), None, None),
        (None, Some(0), None),
        (None, None, Some(0)),
        (Some(0), Some(0), Some(0)),
        (Some(u16::MAX), Some(u16::MAX), None),
        (Some(u16::MAX), Some(u16::MAX), Some(u16::MAX)),
    ];
    for (cores, threads, sockets) in groupings {
        assert!(matches!(
            Topology::new(4, cores, threads, sockets),
            Err(TopologyError::Uneven { .. })
        ));
    }
}
