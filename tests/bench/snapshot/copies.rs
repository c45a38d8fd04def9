//! Machines that go on from one snapshot: by the API, many side by side, and what their memory costs when it is touched.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use harness::{artifacts, count};
use serde_json::json;

use crate::bench::Bench;
use crate::guest::Guest;
use crate::stats::Samples;
use crate::table::{Outcome, Row, Unit};

use super::{MIB, restored};

/// How many copies run side by side.
const CROWD: usize = 100;
/// How often they do.
const CROWDS: usize = 5;
/// What copies may need to come to rest after their guests did.
const SETTLE: Duration = Duration::from_millis(300);
/// How long a server may take to come up. It is no measure: only one that failed takes that long.
const PATIENCE: Duration = Duration::from_secs(10);

/// The memory that the guest touches, and how it was filled with what is not zero, in the words of the puppet.
const TOUCHED: &str = "2000 1000000";
const TOUCHED_MIB: f64 = 32.0;
pub(super) const FILL: &str = "I 4 ffff 800000 1000000";

type Saved = Result<PathBuf, String>;

/// The rows about copies of `saved`, and about those of `filled`, whose guest has filled its memory by [`FILL`]; both wait
/// for the end of a line.
pub(super) fn rows(bench: &Bench, saved: &Saved, filled: &Saved) -> Vec<Row> {
    let measured = |rounds, saved: &Saved, measure: &dyn Fn(&Path) -> Result<f64, String>| {
        let measure = |saved: &&Saved| measure(saved.as_ref().map_err(String::clone)?);
        bench.rounds(rounds, &[saved], measure).pop().unwrap_or_else(|| Ok(Samples::default()))
    };
    let by_api = measured(bench.start_rounds, saved, &|saved| by_api(bench, saved));
    let touched =
        |command| measured(bench.device_rounds, filled, &|filled| touched(filled, command));
    let crowds: Result<Vec<Crowd>, String> =
        saved.clone().and_then(|saved| (0..CROWDS).map(|_| Crowd::of(&saved)).collect());
    let part = |part: fn(&Crowd) -> f64| -> Outcome {
        crowds.as_ref().map(|all| all.iter().map(part).collect()).map_err(String::clone)
    };
    let alone = Row::alone;
    vec![
        alone("snapshot: restore by the API", Unit::Time, by_api, 4e-3),
        alone("snapshot: 100 copies, all up", Unit::Time, part(|it| it.up), 1.0),
        alone("snapshot: private of each, idle", Unit::Size, part(|it| it.private), 1.5 * MIB),
        alone("snapshot: each MiB read after a restore", Unit::Time, touched('p'), 1e-3),
        alone("snapshot: each MiB written after a restore", Unit::Time, touched('P'), 1e-3),
    ]
}

/// From the start of a process without a machine to the first byte of its guest.
fn by_api(bench: &Bench, saved: &Path) -> Result<f64, String> {
    let socket = bench.scratch.join("copy.sock");
    let _ = fs::remove_file(&socket);
    let mut guest = Guest::run(Command::new(artifacts::vmm()).arg("--api-sock").arg(&socket))?;
    let body = json!({
        "snapshot_path": saved.join("state"),
        "resume_vm": true,
        "overrides": { "serial": { "type": "stdio" } },
    });
    let body = body.to_string();
    let len = body.len();
    let request = format!("PUT /snapshot/load HTTP/1.1\r\nContent-Length: {len}\r\n\r\n{body}");
    // What the guest is told can be there before it.
    guest.send("\n")?;
    let deadline = Instant::now() + PATIENCE;
    let mut stream = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > deadline => return Err(error.to_string()),
            Err(_) => thread::yield_now(),
        }
    };
    let failed = |error: std::io::Error| error.to_string();
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut reply = [0; 512];
    let len = stream.read(&mut reply).map_err(failed)?;
    let reply = String::from_utf8_lossy(&reply[..len]);
    if !reply.starts_with("HTTP/1.1 204") {
        return Err(reply.into_owned());
    }
    let first = guest.expect(b'b')?;
    Ok((first - guest.started()).as_secs_f64())
}

/// Copies side by side, each of which says a byte and halts.
struct Crowd {
    /// Seconds until the last one has said its byte.
    up: f64,
    /// Bytes that each has for itself, those of its guest included.
    private: f64,
}

impl Crowd {
    fn of(saved: &Path) -> Result<Self, String> {
        let begun = Instant::now();
        let start = |_| {
            let mut guest = Guest::run(&mut restored(saved))?;
            guest.send("\nh\n")?;
            Ok(guest)
        };
        let mut guests: Vec<Guest> = (0..CROWD).map(start).collect::<Result<_, String>>()?;
        for guest in &mut guests {
            guest.expect(b'b')?;
        }
        let up = begun.elapsed().as_secs_f64();
        thread::sleep(SETTLE);
        let private = guests.iter().map(|guest| {
            let memory = count::memory(guest.pid(), super::SIZES[0].1);
            memory.private + memory.guest_private
        });
        Ok(Self { up, private: private.sum::<u64>() as f64 / CROWD as f64 })
    }
}

/// Seconds that a MiB takes more for the first time than for the second, all of it in the page cache. The difference,
/// because where guests are emulated the loop itself is most of it.
fn touched(saved: &Path, command: char) -> Result<f64, String> {
    let mut guest = Guest::run(&mut restored(saved))?;
    guest.send("\n")?;
    guest.line()?;
    let mut time = || -> Result<f64, String> {
        let begun = Instant::now();
        guest.send(&format!("{command} {TOUCHED}\n"))?;
        guest.line()?;
        Ok(begun.elapsed().as_secs_f64())
    };
    let (first, second) = (time()?, time()?);
    Ok((first - second) / TOUCHED_MIB)
}
