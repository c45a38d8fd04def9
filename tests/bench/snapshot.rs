//! Snapshots: how soon a guest goes on, how long it stands still for one.

mod copies;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use harness::artifacts;
use serde_json::Value;

use crate::bench::Bench;
use crate::guest::Guest;
use crate::table::{Outcome, Row, Unit};

const MIB: f64 = 1_048_576.0;
/// Sizes of memory, of which a restore should know nothing. What KVM itself takes for more of it is in the floor, a machine
/// that boots with as much.
const SIZES: [(&str, u64); 3] = [("128M", 128 << 20), ("2G", 2 << 30), ("8G", 8 << 30)];

/// The rows about snapshots.
pub fn rows(bench: &Bench) -> Vec<Row> {
    if !bench.wants("snapshot") {
        return Vec::new();
    }
    let place = |name: &str| bench.scratch.join(name);
    let saved = SIZES.map(|(size, _)| {
        let directory = place(&format!("saved-{size}"));
        let parent = Parent::start(&place("parent"), size, &[])?;
        parent.save(&directory, false).map(|_| directory)
    });
    let restores = saved.iter().map(Start::Restore);
    let starts: Vec<_> = restores.chain(SIZES.map(|(_, bytes)| Start::Floor(bytes))).collect();
    let mut outcomes = bench.rounds(bench.start_rounds, &starts, Start::first_byte);
    let floors = outcomes.split_off(SIZES.len());
    let outcomes = outcomes.into_iter().zip(floors).zip(SIZES);
    let mut rows: Vec<Row> = outcomes
        .map(|((outcome, floor), (size, _))| {
            let metric = format!("snapshot: restore to the first guest byte, {size}");
            Row { floor: Some(floor), ..Row::alone(&metric, Unit::Time, outcome, 3e-3) }
        })
        .collect();
    let rounds = bench.device_rounds;
    let full: Outcome = (0..rounds).map(|_| full_pause(&place("full"))).collect();
    rows.push(Row::alone("snapshot: pause, 64 MiB touched", Unit::Time, full, 13e-3));
    let diffs: Result<Vec<_>, String> = (0..rounds).map(|_| diff(&place("diff"))).collect();
    let part = |part: fn(&(f64, f64)) -> f64| -> Outcome {
        diffs.as_ref().map(|all| all.iter().map(part).collect()).map_err(String::clone)
    };
    rows.push(Row::alone("snapshot: pause of a diff of 1 MiB", Unit::Time, part(|it| it.0), 5e-3));
    rows.push(Row::alone("snapshot: size of it", Unit::Size, part(|it| it.1), 1.2 * MIB));
    let filled = Parent::start(&place("parent"), SIZES[0].0, &[]).and_then(|mut parent| {
        parent.tell(copies::FILL)?;
        parent.save(&place("filled"), false)
    });
    rows.extend(copies::rows(bench, &saved[0], &filled.map(|_| place("filled"))));
    rows
}

/// What is started for a first byte.
enum Start<'a> {
    /// A machine that goes on.
    Restore(&'a Result<PathBuf, String>),
    /// The floor with that many bytes of memory.
    Floor(u64),
}

impl Start<'_> {
    /// Seconds until it comes.
    fn first_byte(&self) -> Result<f64, String> {
        match self {
            Self::Restore(saved) => first_byte(saved.as_ref()?),
            Self::Floor(bytes) => {
                let mut command = Command::new(artifacts::floor());
                command.arg(artifacts::first_guest()).arg((bytes >> 20).to_string());
                let mut guest = Guest::run(&mut command)?;
                let first = guest.expect(b'S')?;
                Ok((first - guest.started()).as_secs_f64())
            }
        }
    }
}

/// A puppet whose machine can be saved.
struct Parent {
    guest: Guest,
    directory: PathBuf,
}

impl Parent {
    fn start(directory: &Path, memory: &str, more: &[&str]) -> Result<Self, String> {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir(directory).map_err(|e| e.to_string())?;
        let mut command = Command::new(artifacts::vmm());
        command.args(["--cmdline", "", "--rng", "off", "--serial", "stdio", "--memory", memory]);
        command.arg("--kernel").arg(artifacts::puppet()).args(more);
        let parent = Self::run(command, directory)?;
        Ok(parent)
    }

    fn run(mut command: Command, directory: &Path) -> Result<Self, String> {
        command.arg("--api-sock").arg(directory.join("api.sock"));
        command.arg("--events").arg(directory.join("events"));
        let mut guest = Guest::run(&mut command)?;
        if command.get_args().any(|arg| arg == "--kernel") {
            guest.line()?;
            // The rest comes when it goes on: that is a line feed.
            guest.send("r 1 100000")?;
            thread::sleep(Duration::from_millis(50));
        }
        Ok(Self { guest, directory: directory.to_owned() })
    }

    /// Has a command done that is followed by the end of the one that waits, and waits for the next one to come so far.
    fn tell(&mut self, command: &str) -> Result<(), String> {
        self.guest.send(&format!("\n{command}\nr 1 100000\nr 1 100000"))?;
        self.guest.line()?;
        self.guest.line()?;
        thread::sleep(Duration::from_millis(50));
        Ok(())
    }

    /// Seconds for which the guest stood still.
    fn save(&self, to: &Path, is_diff: bool) -> Result<f64, String> {
        let mut command = Command::new(artifacts::vmm());
        command.arg("ctl").arg(self.directory.join("api.sock")).arg("snapshot").arg(to);
        let output =
            command.args(is_diff.then_some("--diff")).output().map_err(|e| e.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let events =
            fs::read_to_string(self.directory.join("events")).map_err(|e| e.to_string())?;
        let line = events.lines().rfind(|line| line.contains("snapshotted")).unwrap_or_default();
        let event: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
        event["pause_us"].as_f64().map(|us| us * 1e-6).ok_or_else(|| "no pause_us".to_owned())
    }
}

fn restored(saved: &Path) -> Command {
    let mut command = Command::new(artifacts::vmm());
    command.arg("--restore").arg(saved).args(["--serial", "stdio"]);
    command
}

fn first_byte(saved: &Path) -> Result<f64, String> {
    let mut guest = Guest::run(&mut restored(saved))?;
    guest.send("\n")?;
    let first = guest.expect(b'b')?;
    Ok((first - guest.started()).as_secs_f64())
}

/// 64 MiB are written to by the guest, none of it zero.
fn full_pause(place: &Path) -> Result<f64, String> {
    let mut parent = Parent::start(place, "256M", &[])?;
    parent.tell("I 4 ffff 1000000 1000000")?;
    parent.save(&place.join("saved"), false)
}

/// Of 1 MiB: seconds and bytes.
fn diff(place: &Path) -> Result<(f64, f64), String> {
    let mut parent = Parent::start(place, "256M", &["--track-dirty"])?;
    parent.save(&place.join("saved"), false)?;
    parent.tell("I 4 ffff 40000 1000000")?;
    let to = place.join("diff");
    let pause = parent.save(&to, true)?;
    let files = fs::read_dir(&to).map_err(|e| e.to_string())?.filter_map(Result::ok);
    let blocks = files.filter_map(|file| file.metadata().ok()).map(|it| it.blocks() * 512);
    Ok((pause, blocks.sum::<u64>() as f64))
}
