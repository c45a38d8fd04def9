//! `make bench`: measures `vmm`, the floor and QEMU's microvm in turns, and prints one table of what was found and what
//! was aimed for.
//!
//! `BENCHMARKS.md` says how each number comes about.

mod bench;
mod contender;
mod counts;
mod device;
mod flood;
mod frame;
mod guest;
mod host;
mod interrupt;
mod memory;
mod snapshot;
mod start;
mod stats;
mod table;

use std::env;
use std::process::ExitCode;

use harness::{artifacts, network};

use bench::Bench;
use contender::Contender;
use table::{Row, Verdict};

/// A part of the table, and what makes it.
type Group = (&'static str, fn(&Bench) -> Vec<Row>);

const GROUPS: &[Group] = &[
    ("start", start::rows),
    ("snapshot", snapshot::rows),
    ("idle", memory::rows),
    ("block", device::block_rows),
    ("net", device::net_rows),
    ("counts", counts::rows),
];

/// From this spread on, the times of a run say more about the host than about the contenders.
const UNREST: f64 = 2.0;

fn main() -> ExitCode {
    interrupt::handle();
    host::hurry();
    let outcome = options().and_then(|options| match bench::missing() {
        Some(reason) => Err(reason),
        // Taps live and die with the thread's network.
        None if network::missing().is_none() => Ok(network::in_own_network(move || run(options))),
        None => Ok(run(options)),
    });
    artifacts::clean_up();
    match outcome {
        Ok(rows) => {
            print_summary(&rows);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(2)
        }
    }
}

/// What the environment asks for.
struct Options {
    rounds: usize,
    only: Vec<String>,
    peers: Vec<Contender>,
}

fn options() -> Result<Options, String> {
    let text = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let rounds = match text("ROUNDS") {
        None => 50,
        Some(text) => match text.parse() {
            Ok(rounds) if rounds > 0 => rounds,
            _ => return Err(format!("ROUNDS={text} is not a number of rounds")),
        },
    };
    let only = text("ONLY").unwrap_or_default();
    let only = only.split(',').map(str::trim).filter(|part| !part.is_empty());
    let only: Vec<String> = only.map(str::to_owned).collect();
    let peers = Contender::peers(&text("VMM_PEERS").unwrap_or_default())?;
    Ok(Options { rounds, only, peers })
}

fn run(options: Options) -> Vec<Row> {
    let bench = Bench::new(options.rounds, options.only, options.peers);
    interrupt::remove(bench.scratch.path());
    let mut rows = Vec::new();
    for (name, measure) in GROUPS {
        let new = measure(&bench);
        if !new.is_empty() {
            eprintln!("bench: {name} done");
        }
        rows.extend(new);
    }
    if rows.is_empty() {
        let names: Vec<_> = GROUPS.iter().map(|&(name, _)| name).collect();
        eprintln!("bench: ONLY takes groups ({}) or parts of the names of rows", names.join(", "));
    }
    println!("{}", host::description(&artifacts::vmm()));
    print!("{}", table::markdown(&rows));
    rows
}

/// Says what was missed, and how far the times can be trusted.
fn print_summary(rows: &[Row]) {
    let named = |wanted: fn(&Verdict) -> bool| -> Vec<&str> {
        let rows = rows.iter().filter(|row| wanted(&row.verdict()));
        rows.map(|row| row.metric.as_str()).collect()
    };
    let missed = named(|verdict| *verdict == Verdict::Missed);
    let unknown = named(|verdict| matches!(verdict, Verdict::Unknown(_)));
    println!("\n{} of {} met", rows.len() - missed.len() - unknown.len(), rows.len());
    for (what, metrics) in [("missed", missed), ("unknown", unknown)] {
        for metric in metrics {
            println!("{what}: {metric}");
        }
    }
    let floors = rows.iter().filter_map(|row| row.floor.as_ref()?.as_ref().ok()?.unrest());
    let unrest = floors.fold(1.0, f64::max);
    if unrest > UNREST {
        println!(
            "The host was busy: the floor's own time varied by a factor of {unrest:.1}. Counts stand, times do not."
        );
    }
}
