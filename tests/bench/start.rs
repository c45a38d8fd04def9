//! From the start of the process to the first byte of its guest.

use harness::artifacts;

use crate::bench::Bench;
use crate::contender::{Contender, Machine};
use crate::table::{Outcome, Rival, Row, Target, Unit};

/// What one disk and one tap may add, in seconds.
const DEVICES: f64 = 0.5e-3;
/// What the API may add.
const API: f64 = 0.5e-3;
/// What the jail may add.
const JAIL: f64 = 1e-3;

/// The rows about the start, all contenders in turn within each round.
pub fn rows(bench: &Bench) -> Vec<Row> {
    if !bench.wants("start") {
        return Vec::new();
    }
    let bare = Machine { kernel: artifacts::first_guest(), ..Machine::default() };
    let tap = bench.tap();
    let equipped = Machine { disk: Some(bench.disk()), tap: tap.clone().ok(), ..bare.clone() };
    let served = Machine { api: Some(bench.scratch.join("api.sock")), ..bare.clone() };
    let jailed = Machine { is_jailed: true, ..bare.clone() };
    let mut entrants = vec![
        (Contender::Vmm, &bare),
        (Contender::Floor, &bare),
        (Contender::Qemu, &bare),
        (Contender::Vmm, &equipped),
        (Contender::Qemu, &equipped),
        (Contender::Vmm, &served),
        (Contender::Vmm, &jailed),
    ];
    entrants.extend(bench.peers.iter().map(|peer| (peer.clone(), &bare)));
    let mut outcomes = bench.rounds(bench.start_rounds, &entrants, |(contender, machine)| {
        let mut guest = bench.start(contender, machine)?;
        let first = guest.expect(b'S')?;
        Ok((first - guest.started()).as_secs_f64())
    });
    let peers = outcomes.split_off(7);
    let mut outcomes = outcomes.into_iter();
    let mut next = || outcomes.next().unwrap_or_else(|| Err("not run".to_owned()));
    let (ours, floor, qemu) = (next(), next(), next());
    let more = |(equipped, bare): (Outcome, &Outcome)| -> Outcome {
        tap.clone()?;
        Ok(equipped?.minus(bare.as_ref().map_err(String::clone)?))
    };
    let more = [more((next(), &ours)), more((next(), &qemu))];
    let [ours_more, qemu_more] = more;
    let api = next().and_then(|served| Ok(served.minus(ours.as_ref().map_err(String::clone)?)));
    let jail = next().and_then(|jailed| Ok(jailed.minus(ours.as_ref().map_err(String::clone)?)));
    let peer_names = bench.peers.iter().map(|peer| peer.name().to_owned());
    vec![
        Row {
            metric: "start: exec to the first guest byte".to_owned(),
            unit: Unit::Time,
            ours,
            floor: Some(floor),
            qemu: Some(qemu),
            peers: peer_names.zip(peers).collect(),
            targets: vec![
                Target::MostTimes(2.0, Rival::Floor),
                Target::MostTimes(1.0 / 15.0, Rival::Qemu),
            ],
        },
        Row {
            qemu: Some(qemu_more),
            ..Row::alone("start: what a disk and a tap add", Unit::Time, ours_more, DEVICES)
        },
        Row::alone("start: what the API adds", Unit::Time, api, API),
        Row::alone("start: what the jail adds", Unit::Time, jail, JAIL),
    ]
}
