//! The table: a row for each metric, with what was measured, what was aimed for, and whether it was reached.

use crate::stats::{Samples, Summary};

/// What a number counts; decides how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Time,
    /// Events each second.
    Rate,
    /// Pure number.
    Count,
    /// Bytes.
    Size,
}

/// Whom a target compares with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rival {
    /// The program that does the least there is.
    Floor,
    /// QEMU's microvm.
    Qemu,
}

/// What a metric should reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// Not more than this.
    Most(f64),
    /// Not more than so many times what the rival has.
    MostTimes(f64, Rival),
    /// Not less than so many times what the rival has.
    LeastTimes(f64, Rival),
}

/// What came of measuring a contender: samples, or why there are none.
pub type Outcome = Result<Samples, String>;

/// One metric.
pub struct Row {
    /// What it is.
    pub metric: String,
    /// What its numbers count.
    pub unit: Unit,
    /// Of `vmm`.
    pub ours: Outcome,
    /// Of the floor; `None` where it has no such thing.
    pub floor: Option<Outcome>,
    /// Of QEMU's microvm; `None` where it was not measured.
    pub qemu: Option<Outcome>,
    /// Of others, by their names.
    pub peers: Vec<(String, Outcome)>,
    /// All must be met.
    pub targets: Vec<Target>,
}

/// Whether a row's targets were met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All of them.
    Met,
    /// At least one was not.
    Missed,
    /// Something could not be measured, for this reason.
    Unknown(String),
}

impl Row {
    /// A row in which nobody else takes part.
    pub fn alone(metric: &str, unit: Unit, ours: Outcome, target: f64) -> Self {
        Self {
            metric: metric.to_owned(),
            unit,
            ours,
            floor: None,
            qemu: None,
            peers: Vec::new(),
            targets: vec![Target::Most(target)],
        }
    }

    fn rival(&self, rival: Rival) -> Result<&Samples, String> {
        let outcome = match rival {
            Rival::Floor => self.floor.as_ref(),
            Rival::Qemu => self.qemu.as_ref(),
        };
        let missing = || format!("{} was not measured", rival.name());
        match outcome {
            Some(Ok(samples)) => Ok(samples),
            Some(Err(reason)) => Err(format!("{}: {reason}", rival.name())),
            None => Err(missing()),
        }
    }

    fn ratio(&self, rival: Rival) -> Result<Summary, String> {
        let ours = self.ours.as_ref().map_err(|reason| format!("vmm: {reason}"))?;
        let theirs = self.rival(rival)?;
        ours.ratio(theirs).ok_or_else(|| "no round was complete".to_owned())
    }

    fn is_met(&self, target: Target) -> Result<bool, String> {
        match target {
            Target::Most(most) => {
                let ours = self.ours.as_ref().map_err(|reason| format!("vmm: {reason}"))?;
                let summary = ours.summary().ok_or("no round was complete")?;
                Ok(summary.median <= most)
            }
            Target::MostTimes(times, rival) => Ok(self.ratio(rival)?.median <= times),
            Target::LeastTimes(times, rival) => Ok(self.ratio(rival)?.median >= times),
        }
    }

    /// Compares with the targets. A miss counts more than what is unknown.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::Met;
        for &target in &self.targets {
            match self.is_met(target) {
                Ok(true) => {}
                Ok(false) => return Verdict::Missed,
                Err(reason) => verdict = Verdict::Unknown(reason),
            }
        }
        verdict
    }

    fn cells(&self) -> [String; 7] {
        let cell = |outcome: Option<&Outcome>| match outcome {
            None => "–".to_owned(),
            Some(Ok(samples)) => spread(samples.summary(), |value| self.unit.text(value)),
            Some(Err(_)) => "failed".to_owned(),
        };
        let ratios = self.targets.iter().filter_map(|target| {
            let (Target::MostTimes(_, rival) | Target::LeastTimes(_, rival)) = *target else {
                return None;
            };
            let ratio = self.ratio(rival).ok();
            Some(format!("{} × {}", spread(ratio, times), rival.name()))
        });
        let ratios: Vec<_> = ratios.collect();
        let targets: Vec<_> = self.targets.iter().map(|target| target.text(self.unit)).collect();
        let verdict = match self.verdict() {
            _ if self.targets.is_empty() => "–".to_owned(),
            Verdict::Met => "met".to_owned(),
            Verdict::Missed => "MISSED".to_owned(),
            Verdict::Unknown(reason) => format!("unknown: {reason}"),
        };
        [
            self.metric.clone(),
            cell(Some(&self.ours)),
            cell(self.floor.as_ref()),
            cell(self.qemu.as_ref()),
            if ratios.is_empty() { "–".to_owned() } else { ratios.join("; ") },
            targets.join("; "),
            verdict,
        ]
    }

    /// Peers, one line for each, under the row's own.
    fn peer_cells(&self) -> impl Iterator<Item = [String; 7]> {
        self.peers.iter().map(|(name, outcome)| {
            let (value, ratio) = match (outcome, &self.ours) {
                (Ok(theirs), Ok(ours)) => (
                    spread(theirs.summary(), |value| self.unit.text(value)),
                    format!("{} × {name}", spread(ours.ratio(theirs), times)),
                ),
                (Ok(theirs), Err(_)) => {
                    (spread(theirs.summary(), |value| self.unit.text(value)), "–".to_owned())
                }
                (Err(reason), _) => (format!("failed: {reason}"), "–".to_owned()),
            };
            let none = || "–".to_owned();
            [format!("… {name}: {value}"), none(), none(), none(), ratio, none(), none()]
        })
    }
}

impl Rival {
    const fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Qemu => "QEMU",
        }
    }
}

impl Target {
    fn text(self, unit: Unit) -> String {
        match self {
            Self::Most(most) => format!("≤ {}", unit.text(most)),
            Self::MostTimes(most, rival) => format!("≤ {} × {}", times(most), rival.name()),
            Self::LeastTimes(least, rival) => format!("≥ {} × {}", times(least), rival.name()),
        }
    }
}

impl Unit {
    /// Three digits that matter, with the unit that suits the size.
    pub fn text(self, value: f64) -> String {
        let (steps, last): (&[(f64, &str)], _) = match self {
            Self::Time => (&[(1.0, " s"), (1e-3, " ms"), (1e-6, " µs")], (1e-9, " ns")),
            Self::Rate => (&[(1e6, " M/s"), (1e3, " k/s")], (1.0, "/s")),
            Self::Count => (&[(1e6, " M"), (1e4, " k")], (1.0, "")),
            Self::Size => (&[(1_048_576.0, " MiB"), (1024.0, " KiB")], (1.0, " B")),
        };
        let fits = |&&(size, _): &&(f64, &str)| value.abs() >= size;
        let (mut size, name) = *steps.iter().find(fits).unwrap_or(&last);
        if name == " k" {
            size = 1e3;
        }
        format!("{}{name}", digits(value / size))
    }
}

fn digits(value: f64) -> String {
    let places = match value.abs() {
        size if size >= 99.95 || size.fract() == 0.0 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.0995 => 2,
        _ => 3,
    };
    format!("{value:.places$}")
}

fn times(value: f64) -> String {
    digits(value)
}

/// "median (min–max)", or the one value that all are.
fn spread(summary: Option<Summary>, text: impl Fn(f64) -> String) -> String {
    let Some(Summary { min, median, max }) = summary else {
        return "none".to_owned();
    };
    let (low, middle, high) = (text(min), text(median), text(max));
    if low == high { middle } else { format!("{middle} ({low}–{high})") }
}

/// The table in Markdown, its columns aligned.
pub fn markdown(rows: &[Row]) -> String {
    let head = ["metric", "vmm", "floor", "QEMU", "ratio", "target", "verdict"];
    let mut lines = vec![head.map(str::to_owned)];
    for row in rows {
        lines.push(row.cells());
        lines.extend(row.peer_cells());
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
    let rule = widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("|");
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells: Vec<_> =
            line.iter().zip(&widths).map(|(cell, width)| format!(" {cell:width$} ")).collect();
        text += &format!("|{}|\n", cells.join("|"));
        if number == 0 {
            text += &format!("|{rule}|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: &[f64], qemu: &[f64], target: Target) -> Row {
        let list = |list: &[f64]| -> Outcome { Ok(list.iter().copied().collect()) };
        Row {
            qemu: Some(list(qemu)),
            targets: vec![target],
            ..Row::alone("start", Unit::Time, list(ours), 0.0)
        }
    }

    #[test]
    fn a_bound_is_met_when_the_median_is_just_there() {
        let verdict = |ours: f64| row(&[0.1, ours, 9.0], &[], Target::Most(2.0)).verdict();
        assert_eq!(verdict(2.0), Verdict::Met);
        assert_eq!(verdict(2.01), Verdict::Missed);
    }

    #[test]
    fn a_ratio_bounds_from_above_or_below() {
        let slow = Target::MostTimes(0.5, Rival::Qemu);
        assert_eq!(row(&[1.0], &[2.0], slow).verdict(), Verdict::Met);
        assert_eq!(row(&[1.1], &[2.0], slow).verdict(), Verdict::Missed);
        let fast = Target::LeastTimes(2.0, Rival::Qemu);
        assert_eq!(row(&[4.0], &[2.0], fast).verdict(), Verdict::Met);
        assert_eq!(row(&[3.9], &[2.0], fast).verdict(), Verdict::Missed);
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let target = Target::MostTimes(2.0, Rival::Floor);
        let unknown = row(&[1.0], &[1.0], target).verdict();
        assert_eq!(unknown, Verdict::Unknown("floor was not measured".to_owned()));
        let mut failed = row(&[1.0], &[1.0], Target::LeastTimes(2.0, Rival::Qemu));
        failed.qemu = Some(Err("not installed".to_owned()));
        assert_eq!(failed.verdict(), Verdict::Unknown("QEMU: not installed".to_owned()));
        failed.targets.push(Target::Most(0.5));
        assert_eq!(failed.verdict(), Verdict::Missed);
    }

    #[test]
    fn numbers_have_three_digits_and_a_fitting_unit() {
        let texts = [
            (Unit::Time, 0.001_234_5, "1.23 ms"),
            (Unit::Time, 0.000_045_6, "45.6 µs"),
            (Unit::Time, 0.0, "0 ns"),
            (Unit::Time, -0.0005, "-500 µs"),
            (Unit::Rate, 123_456.0, "123 k/s"),
            (Unit::Rate, 2_500_000.0, "2.50 M/s"),
            (Unit::Count, 110.0, "110"),
            (Unit::Count, 1234.0, "1234"),
            (Unit::Count, 250_000.0, "250 k"),
            (Unit::Count, 0.0312, "0.031"),
            (Unit::Size, 1_572_864.0, "1.50 MiB"),
        ];
        for (unit, value, text) in texts {
            assert_eq!(unit.text(value), text);
        }
    }

    #[test]
    fn the_table_shows_values_ratios_and_verdicts() {
        let mut met = row(
            &[0.001, 0.002, 0.003],
            &[0.004, 0.004, 0.004],
            Target::MostTimes(0.5, Rival::Qemu),
        );
        met.peers.push(("other".to_owned(), Err("no such file".to_owned())));
        let text = markdown(&[met]);
        let squeezed: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            squeezed[2],
            "| start | 2 ms (1 ms–3 ms) | – | 4 ms | 0.50 (0.25–0.75) × QEMU | ≤ 0.50 × QEMU | met |"
        );
        assert!(squeezed[3].starts_with("| … other: failed: no such file |"), "{}", squeezed[3]);
    }

    #[test]
    fn all_lines_of_the_table_are_equally_wide() {
        let text = markdown(&[row(&[1.0], &[2.0], Target::Most(1.0))]);
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
    }
}
