//! Reads OpenMetrics text (version 1.0.0), and panics at whatever the format does not allow.
//!
//! As strict as a reader may be: names, order, units, escapes, what each type of metric must and must not have.

use std::collections::{BTreeMap, BTreeSet};

/// What kind of metric a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts below bounds, a sum and a count.
    Histogram,
    /// Text in labels.
    Info,
    /// Which of several states is the present one.
    StateSet,
}

/// One number.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its name, with the end that its type gives it.
    pub name: String,
    /// Its labels, in order.
    pub labels: Vec<(String, String)>,
    /// The number.
    pub value: f64,
}

/// A whole text.
#[derive(Debug, Default)]
pub struct Metrics {
    /// The families, in order.
    pub families: Vec<(String, Kind)>,
    /// Their numbers.
    pub samples: Vec<Sample>,
}

impl Metrics {
    /// Reads `text`.
    #[must_use]
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("the text ends with # EOF");
        let mut metrics = Self::default();
        let mut described = BTreeSet::new();
        let mut first_of_family = 0;
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let (keyword, rest) = comment.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
                let (name, value) = rest.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
                assert!(is_name(name), "{line:?}");
                if metrics.families.last().is_none_or(|(last, _)| last != name) {
                    assert_eq!(keyword, "TYPE", "the type comes first here: {line:?}");
                    metrics.check_histograms(first_of_family);
                    first_of_family = metrics.samples.len();
                    assert!(metrics.families.iter().all(|it| it.0 != name), "again: {line:?}");
                    metrics.families.push((name.to_owned(), kind(value)));
                }
                assert!(described.insert((keyword.to_owned(), name.to_owned())), "{line:?} twice");
                assert!(metrics.samples.len() == first_of_family, "{line:?} after samples");
                match keyword {
                    "TYPE" | "HELP" => {}
                    "UNIT" => assert!(name.ends_with(&format!("_{value}")), "{line:?}"),
                    _ => panic!("{line:?}"),
                }
            } else {
                let sample = Sample::parse(line);
                metrics.check(&sample);
                metrics.samples.push(sample);
            }
        }
        metrics.check_histograms(first_of_family);
        metrics
    }

    /// The number with this name and these labels.
    #[must_use]
    #[track_caller]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found = self.find(name, labels);
        found.unwrap_or_else(|| panic!("no {name} {labels:?} in {:#?}", self.samples))
    }

    /// The same, if there is one.
    #[must_use]
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |sample: &&Sample| {
            let own = sample.labels.iter().map(|(label, text)| (label.as_str(), text.as_str()));
            sample.name == name && own.eq(labels.iter().copied())
        };
        self.samples.iter().find(has).map(|sample| sample.value)
    }

    #[track_caller]
    fn check(&self, sample: &Sample) {
        let (family, kind) = self.families.last().expect("a sample before any family");
        let end = sample.name.strip_prefix(family.as_str());
        let end = end.unwrap_or_else(|| panic!("{sample:?} is none of {family}"));
        let twin = |it: &&Sample| (&it.name, &it.labels) == (&sample.name, &sample.labels);
        assert_eq!(self.samples.iter().find(twin), None, "twice");
        let is_fine = match kind {
            Kind::Counter => end == "_total" && sample.value.is_finite() && sample.value >= 0.0,
            Kind::Gauge => end.is_empty(),
            Kind::Histogram => {
                let has_bound = sample.labels.iter().any(|(label, _)| label == "le");
                ["_bucket", "_count", "_sum"].contains(&end) && has_bound == (end == "_bucket")
            }
            Kind::Info => end == "_info" && sample.value == 1.0,
            Kind::StateSet => {
                let has_state = sample.labels.iter().any(|(label, _)| label == family);
                end.is_empty() && has_state && [0.0, 1.0].contains(&sample.value)
            }
        };
        assert!(is_fine, "{sample:?} cannot be of a {kind:?}");
    }

    /// Checks the samples from `first` on, if they are of histograms.
    #[track_caller]
    fn check_histograms(&self, first: usize) {
        let Some((family, Kind::Histogram)) = self.families.last() else { return };
        let mut series: BTreeMap<Vec<_>, (Vec<_>, Option<f64>, Option<f64>)> = BTreeMap::new();
        for sample in &self.samples[first..] {
            let own = sample.labels.iter().filter(|(label, _)| label != "le").cloned().collect();
            let one = series.entry(own).or_default();
            let bound = sample.labels.iter().find(|(label, _)| label == "le");
            match (bound, &sample.name[family.len()..]) {
                (Some((_, bound)), _) => one.0.push((number(bound), sample.value)),
                (None, "_count") => one.1 = Some(sample.value),
                (None, _) => one.2 = Some(sample.value),
            }
        }
        for (labels, (buckets, count, sum)) in series {
            let grows = buckets.windows(2).all(|it| it[0].0 < it[1].0 && it[0].1 <= it[1].1);
            assert!(grows, "{family} {labels:?}: {buckets:?}");
            let all = buckets.last().map(|(bound, count)| (*bound, Some(*count)));
            assert_eq!(all, Some((f64::INFINITY, count)), "{family} {labels:?}");
            assert!(sum.is_some_and(|sum| sum >= 0.0), "{family} {labels:?} has no sum");
        }
    }
}

impl Sample {
    #[track_caller]
    fn parse(line: &str) -> Self {
        let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("not a sample: {line:?}"));
        let (name, rest) = line.split_at(end);
        assert!(is_name(name), "{line:?}");
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest, line),
            None => (Vec::new(), rest),
        };
        let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no value: {line:?}"));
        Self { name: name.to_owned(), labels, value: number(value) }
    }
}

/// Reads labels up to the closing brace; gives the rest of the line too.
#[track_caller]
fn labels<'a>(mut rest: &'a str, line: &str) -> (Vec<(String, String)>, &'a str) {
    let mut labels: Vec<(String, String)> = Vec::new();
    loop {
        let (label, text) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line:?}"));
        assert!(is_name(label) && !label.contains(':'), "{line:?}");
        assert!(labels.iter().all(|(other, _)| other != label), "twice: {line:?}");
        let mut value = String::new();
        let mut chars = text.char_indices();
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("no end: {line:?}")) {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, c @ ('\\' | '"'))) => c,
                    other => panic!("escape {other:?}: {line:?}"),
                }),
                (_, c) => value.push(c),
            }
        };
        labels.push((label.to_owned(), value));
        rest = &text[end + 1..];
        match rest.split_at(1) {
            (",", more) => rest = more,
            ("}", more) => return (labels, more),
            _ => panic!("{line:?}"),
        }
    }
}

#[track_caller]
fn number(text: &str) -> f64 {
    if text == "+Inf" {
        return f64::INFINITY;
    }
    let digits = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | '-' | '+');
    assert!(text.chars().all(digits), "not a number: {text:?}");
    text.parse().unwrap_or_else(|e| panic!("{text:?}: {e}"))
}

#[track_caller]
fn kind(word: &str) -> Kind {
    match word {
        "counter" => Kind::Counter,
        "gauge" => Kind::Gauge,
        "histogram" => Kind::Histogram,
        "info" => Kind::Info,
        "stateset" => Kind::StateSet,
        other => panic!("no such type here: {other:?}"),
    }
}

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    let is_first = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | ':');
    chars.next().is_some_and(is_first) && chars.all(|c| is_first(c) || c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(text: &str) -> bool {
        let text = text.to_owned();
        std::panic::catch_unwind(move || drop(Metrics::parse(&text))).is_err()
    }

    #[test]
    fn what_is_not_allowed_is_noticed() {
        for text in [
            "",
            "# TYPE a gauge\na 1\n",
            "a 1\n# EOF\n",
            "# TYPE a gauge\n\na 1\n# EOF\n",
            "# TYPE a counter\na 1\n# EOF\n",
            "# TYPE a counter\na_total -1\n# EOF\n",
            "# TYPE a gauge\n# UNIT a seconds\na 1\n# EOF\n",
            "# TYPE a gauge\na 1\n# HELP a late\n# EOF\n",
            "# TYPE a gauge\na 1\na 1\n# EOF\n",
            "# TYPE a gauge\n# TYPE b gauge\n# TYPE a gauge\n# EOF\n",
            "# TYPE a gauge\na{x=\"\\q\"} 1\n# EOF\n",
            "# TYPE a gauge\na{x=\"1\",x=\"2\"} 1\n# EOF\n",
            "# TYPE a gauge\na{x=\"1} 1\n# EOF\n",
            "# TYPE a gauge\na one\n# EOF\n",
            "# TYPE a histogram\na_bucket{le=\"1\"} 1\na_count 1\na_sum 1\n# EOF\n",
            "# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_count 1\na_sum 1\n# EOF\n",
            "# TYPE a info\na_info 2\n# EOF\n",
            "# TYPE a stateset\na{b=\"x\"} 1\n# EOF\n",
        ] {
            assert!(is_refused(text), "{text:?}");
        }
    }

    #[test]
    fn numbers_are_found_by_name_and_labels() {
        let text = "# TYPE a counter\n# HELP a Why.\na_total{x=\"\\\"\\n\"} 1e-06\na_total{x=\"\"} 2\n# EOF\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.families, [("a".to_owned(), Kind::Counter)]);
        assert_eq!(metrics.get("a_total", &[("x", "\"\n")]), 1e-6);
        assert_eq!(metrics.find("a_total", &[]), None);
    }
}
