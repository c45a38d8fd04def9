//! The numbers of a machine, from the text of OpenMetrics 1.0 to a table or JSON.
//!
//! Reads what such a text may have and a machine's has: families with samples and labels. A line that is neither is left
//! out, not refused: it is shown to people.

use serde_json::{Map, Value};

use super::show::Table;

/// One number.
#[derive(Debug, PartialEq)]
struct Sample<'a> {
    name: &'a str,
    /// Between the braces, empty without.
    labels: &'a str,
    value: &'a str,
}

/// Every sample of `text`.
fn samples(text: &str) -> Vec<Sample<'_>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(sample).collect()
}

fn sample(line: &str) -> Option<Sample<'_>> {
    // What stands behind it is an example.
    let line = line.split_once(" # ").map_or(line, |(line, _)| line);
    let end = line.rfind('}').map_or_else(|| line.find(' '), |at| Some(at + 1))?;
    let (series, value) = line.split_at_checked(end)?;
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    // Behind the value there may be a time.
    let value = value.split_ascii_whitespace().next()?;
    Some(Sample { name, labels: labels.strip_suffix('}')?, value })
}

/// The samples as one object, each under its name and labels as they stand in the text.
pub(super) fn json(text: &str) -> String {
    let mut all = Value::Object(Map::new());
    for it in samples(text) {
        let mut key = it.name.to_owned();
        if !it.labels.is_empty() {
            key = key + "{" + it.labels + "}";
        }
        // What is no number in JSON either, such as +Inf, is a text.
        let value = serde_json::from_slice(it.value.as_bytes());
        if let Some(all) = all.as_object_mut() {
            all.insert(key, value.unwrap_or_else(|_| Value::from(it.value)));
        }
    }
    all.to_string() + "\n"
}

/// The samples as a table; of a histogram its count and sum, not its buckets.
pub(super) fn table(text: &str) -> String {
    let mut table = Table::default();
    table.row(&["METRIC", "OF", "VALUE"]);
    for sample in samples(text) {
        if !sample.name.ends_with("_bucket") {
            let labels = sample.labels.replace('"', "");
            table.row(&[sample.name, &labels, sample.value]);
        }
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE vmm_exits counter\n# HELP vmm_exits Exits by reason.\n\
        vmm_exits_total{reason=\"io\"} 12\nvmm_exits_total{reason=\"a}b\"} 3 1700000000\n\
        # TYPE vmm_latency_seconds histogram\n\
        vmm_latency_seconds_bucket{device=\"d\",le=\"0.1\"} 1\n\
        vmm_latency_seconds_bucket{device=\"d\",le=\"+Inf\"} 4 # {x=\"y\"} 0.3\n\
        vmm_latency_seconds_count{device=\"d\"} 4\nvmm_latency_seconds_sum{device=\"d\"} 0.002\n\
        # TYPE vmm_rss_bytes gauge\nvmm_rss_bytes 4096\n# EOF\n";

    #[test]
    fn a_table_has_a_row_for_each_series() {
        assert_eq!(
            table(TEXT),
            "METRIC                     OF          VALUE\n\
             vmm_exits_total            reason=io   12\n\
             vmm_exits_total            reason=a}b  3\n\
             vmm_latency_seconds_count  device=d    4\n\
             vmm_latency_seconds_sum    device=d    0.002\n\
             vmm_rss_bytes                          4096\n"
        );
    }

    #[test]
    fn json_has_every_sample() {
        let all: Value = serde_json::from_str(&json(TEXT)).unwrap();
        assert_eq!(all["vmm_rss_bytes"], 4096);
        assert_eq!(all["vmm_exits_total{reason=\"io\"}"], 12);
        assert_eq!(all["vmm_latency_seconds_bucket{device=\"d\",le=\"+Inf\"}"], 4);
        assert_eq!(all.as_object().unwrap().len(), 7);
    }

    #[test]
    fn what_is_no_sample_is_left_out() {
        assert_eq!(json("\nnonsense\n# x 1\na{ 5\n"), "{}\n");
        assert_eq!(table("a 1\n"), "METRIC  OF  VALUE\na           1\n");
    }
}
