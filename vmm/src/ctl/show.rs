//! Answers as text for people: tables, and one line for each event.
//!
//! What a machine says is data: it is shown without whatever a terminal would obey, and what is missing or of another
//! kind than expected is left out.

use serde_json::Value;

/// Rows of columns, each as wide as its widest cell.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    #[inline(never)]
    pub(super) fn row(&mut self, cells: &[&str]) {
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    /// The rows as lines.
    pub(super) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut text = String::new();
        let widths: Vec<usize> = (0..columns).map(|column| self.width_of(column)).collect();
        for row in &self.rows {
            let start = text.len();
            for (cell, width) in row.iter().zip(&widths) {
                text.push_str(cell);
                for _ in width_of(cell)..width + 2 {
                    text.push(' ');
                }
            }
            let end = text.trim_end_matches(' ').len();
            text.truncate(end.max(start));
            text.push('\n');
        }
        text
    }

    fn width_of(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| width_of(cell)).max().unwrap_or(0)
    }
}

/// Characters of a cell.
#[inline(never)]
fn width_of(cell: &str) -> usize {
    cell.chars().fold(0, |count, _| count + 1)
}

/// `text` without control characters.
#[inline(never)]
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Both objects as one.
pub(super) fn merged(mut all: Value, more: Value) -> String {
    if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
        all.extend(more);
    }
    all.to_string() + "\n"
}

/// A machine together with its configuration.
pub(super) fn whole(mut machine: Value, config: Value) -> Value {
    if let Some(machine) = machine.as_object_mut() {
        machine.insert("config".to_owned(), config);
    }
    machine
}

/// What a value is shown as.
#[derive(Clone, Copy)]
enum As {
    /// As it is.
    Itself,
    /// A size.
    Mib,
    /// A size that is told in bytes.
    Bytes,
    /// Whether a disk is written.
    Access,
    /// The kind of a console and where it leads to.
    Console,
    /// A limiter, whose operations are called that.
    Limits(&'static str),
}

/// A name, the place of its value (keys with slashes between them), and how that is shown.
type Field = (&'static str, &'static str, As);

const ABOUT: &[Field] = &[
    ("process", "pid", As::Itself),
    ("kernel", "config/boot-source/kernel_image_path", As::Itself),
    ("cpus", "config/machine-config/vcpu_count", As::Itself),
    ("memory", "config/machine-config/mem_size_mib", As::Mib),
    ("console", "config/console", As::Console),
    ("serial", "config/serial", As::Console),
    ("vsock", "config/vsock/uds_path", As::Itself),
    ("balloon", "config/balloon/amount_mib", As::Mib),
];

const DISKS: &[Field] = &[
    ("DISK", "drive_id", As::Itself),
    ("PATH", "path_on_host", As::Itself),
    ("ACCESS", "is_read_only", As::Access),
    ("LIMITS", "rate_limiter", As::Limits("iops")),
];

const NETS: &[Field] = &[
    ("NET", "iface_id", As::Itself),
    ("TAP", "host_dev_name", As::Itself),
    ("ADDRESS", "guest_mac", As::Itself),
    ("IN", "rx_rate_limiter", As::Limits("pps")),
    ("OUT", "tx_rate_limiter", As::Limits("pps")),
];

const BALLOON: &[Field] = &[
    ("target", "amount_mib", As::Mib),
    ("actual", "actual_mib", As::Mib),
    ("total memory", "total_memory", As::Bytes),
    ("free memory", "free_memory", As::Bytes),
    ("available", "available_memory", As::Bytes),
    ("disk caches", "disk_caches", As::Bytes),
    ("swapped in", "swap_in", As::Bytes),
    ("swapped out", "swap_out", As::Bytes),
    ("major faults", "major_faults", As::Itself),
    ("minor faults", "minor_faults", As::Itself),
    ("oom kills", "oom_kill", As::Itself),
];

/// A machine with its configuration as tables.
pub(super) fn info(machine: &Value) -> String {
    let mut about = Table::default();
    about.row(&["machine", &plain(at(machine, "id"))]);
    about.row(&["state", &state(machine)]);
    add(&mut about, ABOUT, machine);
    let mut text = about.text();
    for (list, fields) in [("config/drives", DISKS), ("config/network-interfaces", NETS)] {
        text.push_str(&devices(at(machine, list), fields));
    }
    text
}

fn state(machine: &Value) -> String {
    let mut state = plain(at(machine, "state")).to_ascii_lowercase();
    if let Some(micros) = at(machine, "uptime_us").as_u64() {
        let (seconds, tenths) = (micros / 1_000_000, micros / 100_000 % 10);
        state += &format!(", started {seconds}.{tenths} s ago");
    }
    if let Some(sign) = at(machine, "ready").as_str() {
        state.push_str(", ready by ");
        state.push_str(sign);
    }
    state
}

/// A row for each field that `of` has.
fn add(table: &mut Table, fields: &[Field], of: &Value) {
    for (name, path, kind) in fields {
        let value = at(of, path);
        if !value.is_null() {
            table.row(&[name, &cell(value, *kind)]);
        }
    }
}

/// A column for each field and a row for each device, after an empty line; nothing without devices.
fn devices(list: &Value, fields: &[Field]) -> String {
    let mut table = Table::default();
    for device in list.as_array().into_iter().flatten() {
        if table.rows.is_empty() {
            table.rows.push(fields.iter().map(|(name, ..)| (*name).to_owned()).collect());
        }
        let cells = fields.iter().map(|(_, path, kind)| cell(at(device, path), *kind));
        table.rows.push(cells.map(|cell| printable(&cell)).collect());
    }
    if table.rows.is_empty() { String::new() } else { format!("\n{}", table.text()) }
}

fn cell(value: &Value, kind: As) -> String {
    match kind {
        As::Itself => plain(value),
        As::Mib => plain(value) + " MiB",
        As::Bytes => format!("{} MiB", value.as_u64().unwrap_or(0) >> 20),
        As::Access => (if *value == Value::Bool(true) { "read" } else { "write" }).to_owned(),
        As::Console => plain(at(value, "type")) + " " + &plain(at(value, "path")),
        As::Limits(ops) => limits(value, ops),
    }
}

/// A limiter in the words in which limits are said.
fn limits(limiter: &Value, ops: &str) -> String {
    let mut said = Vec::new();
    for (key, name) in [("bandwidth", "bw"), ("ops", ops)] {
        let bucket = at(limiter, key);
        let number = |key| at(bucket, key).as_u64();
        if let (Some(size), Some(millis)) = (number("size"), number("refill_time")) {
            let rate = u128::from(size) * 1000 / u128::from(millis.max(1));
            let rate = if name == "bw" { scaled(rate) } else { rate.to_string() };
            said.push(format!("{name}={rate}"));
        }
    }
    if said.is_empty() { "none".to_owned() } else { said.join(" ") }
}

/// Bytes in the largest unit that leaves a number worth reading, rounded down.
fn scaled(bytes: u128) -> String {
    let reads_well =
        |shift: u32| bytes >> shift >= 10 || bytes > 0 && bytes.trailing_zeros() >= shift;
    let unit = [(30, "G"), (20, "M"), (10, "K")].into_iter().find(|(shift, _)| reads_well(*shift));
    let (shift, unit) = unit.unwrap_or((0, ""));
    format!("{}{unit}", bytes >> shift)
}

/// The balloon, and what the guest says of its memory.
pub(super) fn balloon(balloon: &Value, said: &Value) -> String {
    let mut table = Table::default();
    add(&mut table, BALLOON, balloon);
    add(&mut table, BALLOON, said);
    if said.is_null() {
        table.row(&["statistics", "off: start with --balloon SIZE,stats=TIME"]);
    }
    table.text()
}

/// What was waited for.
pub(super) fn outcome(answer: &Value, json: bool) -> String {
    if json {
        return answer.to_string() + "\n";
    }
    match (at(answer, "by").as_str(), at(answer, "detail").as_str()) {
        (Some(sign), _) => format!("ready by {}\n", printable(sign)),
        (_, Some(detail)) => format!("{} (exit code {})\n", printable(detail), at(answer, "code")),
        _ => answer.to_string() + "\n",
    }
}

/// A line of the event stream, with the time since the first one that was shown.
pub(super) fn event(line: &str, first: &mut Option<u64>) -> String {
    let Ok(event) = serde_json::from_slice::<Value>(line.as_bytes()) else {
        return printable(line) + "\n";
    };
    let time = at(&event, "time_us").as_u64().unwrap_or(0);
    let passed = time.saturating_sub(*first.get_or_insert(time));
    let name = plain(at(&event, "event"));
    let mut shown = format!("{:6}.{:03}  {name:14}", passed / 1_000_000, passed / 1000 % 1000);
    for (key, value) in event.as_object().into_iter().flatten() {
        match key.as_str() {
            "seq" | "time_us" | "id" | "event" | "reason" => continue,
            // The last line that says something; the JSON has them all.
            "console" => {
                let said = plain(value);
                let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
                shown.push_str(" said last: ");
                shown.push_str(last.unwrap_or_default());
            }
            "by" | "device" | "detail" => {
                shown.push(' ');
                shown.push_str(&plain(value));
            }
            key => shown.push_str(&format!(" {key}={}", plain(value))),
        }
    }
    printable(shown.trim_end()) + "\n"
}

/// What stands at `path`, keys with slashes between them; null without.
#[inline(never)]
pub(super) fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('/').try_fold(value, |value, key| value.get(key)).unwrap_or(&Value::Null)
}

/// A value by itself; null is nothing.
#[inline(never)]
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
