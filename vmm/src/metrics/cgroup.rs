//! What the kernel counts for the cgroup of a machine in a jail: memory, processor time, processes.
//!
//! The files are opened when the cgroup is made, before the jail is entered, and read when somebody asks. What a version
//! of the interface or an old kernel does not count is left out.

use std::fs::File;
use std::path::PathBuf;

use devices::metrics::Numbers;

use super::Snapshot;
use super::host::read;

/// Files of a cgroup that say how much was used.
#[derive(Debug, Default)]
pub struct Accounts {
    memory: Option<File>,
    memory_peak: Option<File>,
    cpu: Option<File>,
    /// Of version 1, where [`Self::cpu`] tells only of waiting.
    cpu_used: Option<File>,
    pids: Option<File>,
}

impl Accounts {
    /// Opens what there is in `directories`, which are one cgroup of version 2, or one for each controller.
    pub(crate) fn open(directories: &[PathBuf]) -> Self {
        let find = |names: &[&str]| {
            let mut paths =
                directories.iter().flat_map(|at| names.iter().map(|name| at.join(name)));
            paths.find_map(|path| File::open(path).ok())
        };
        Self {
            memory: find(&["memory.current", "memory.usage_in_bytes"]),
            memory_peak: find(&["memory.peak", "memory.max_usage_in_bytes"]),
            cpu: find(&["cpu.stat"]),
            cpu_used: find(&["cpuacct.usage"]),
            pids: find(&["pids.current"]),
        }
    }

    /// Asks the kernel, and writes down what it tells.
    pub(super) fn count_into(&self, snapshot: &mut Snapshot) {
        let text = |file: &Option<File>| file.as_ref().and_then(read);
        let number = |file| text(file)?.trim().parse().ok();
        let mut add = |kind, names, values: &[Option<u64>]| {
            // Numbers have their names by their places, so what follows one that is missing is missing.
            let known: Vec<u64> = values.iter().map_while(|value| *value).collect();
            if !known.is_empty() {
                snapshot.add(kind, Numbers::new(names, &known));
            }
        };
        add("cgroup_memory", "now peak", &[number(&self.memory), number(&self.memory_peak)]);
        let stat = text(&self.cpu).unwrap_or_default();
        let used = nanoseconds(&stat, "usage_usec", "").or_else(|| number(&self.cpu_used));
        let throttled = nanoseconds(&stat, "throttled_usec", "throttled_time");
        add("cgroup_cpu", "used_ns throttled_ns", &[used, throttled]);
        add("cgroup_pids", "now", &[number(&self.pids)]);
    }
}

/// A time in lines of "name number", in microseconds under the name of version 2, in nanoseconds under that of version 1.
fn nanoseconds(stat: &str, micros: &str, nanos: &str) -> Option<u64> {
    let find = |name: &str| {
        let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(found, _)| *found == name)?.1.trim().parse::<u64>().ok()
    };
    find(micros).map(|us| us.saturating_mul(1000)).or_else(|| find(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::life_cycle::Phase;
    use crate::test_dir::TestDir;

    fn told(files: &[(&str, &str)]) -> Vec<(&'static str, Numbers)> {
        let directory = TestDir::new();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let mut snapshot = Snapshot::new("x", Phase::Running);
        Accounts::open(&[directory.path().to_owned()]).count_into(&mut snapshot);
        snapshot.subjects.into_iter().map(|it| (it.kind, it.numbers)).collect()
    }

    #[test]
    fn version_2() {
        let stat = "usage_usec 1500\nuser_usec 1000\nnr_throttled 2\nthrottled_usec 7\n";
        let files = [
            ("memory.current", "4096\n"),
            ("memory.peak", "8192\n"),
            ("cpu.stat", stat),
            ("pids.current", "3\n"),
        ];
        assert_eq!(
            told(&files),
            [
                ("cgroup_memory", Numbers::new("now peak", &[4096, 8192])),
                ("cgroup_cpu", Numbers::new("used_ns throttled_ns", &[1_500_000, 7000])),
                ("cgroup_pids", Numbers::new("now", &[3])),
            ]
        );
    }

    #[test]
    fn version_1() {
        let files = [
            ("memory.usage_in_bytes", "1\n"),
            ("memory.max_usage_in_bytes", "2\n"),
            ("cpu.stat", "nr_periods 1\nnr_throttled 0\nthrottled_time 9\n"),
            ("cpuacct.usage", "123\n"),
        ];
        assert_eq!(
            told(&files),
            [
                ("cgroup_memory", Numbers::new("now peak", &[1, 2])),
                ("cgroup_cpu", Numbers::new("used_ns throttled_ns", &[123, 9])),
            ]
        );
    }

    #[test]
    fn what_is_not_counted_is_left_out() {
        assert_eq!(told(&[]), []);
        let old = [("memory.current", "5\n"), ("pids.current", "nonsense\n")];
        assert_eq!(told(&old), [("cgroup_memory", Numbers::new("now peak", &[5]))]);
    }
}
