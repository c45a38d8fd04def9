//! What a snapshot is, for people and programs.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::container::FORMAT;
use super::record::{Record, overlays_to_json};
use super::source::read_record;
use super::{STATE, SnapshotError, at};
use crate::ctl::printable;

/// The snapshot in a directory, or of a file of state, as text or as JSON.
///
/// # Errors
/// [`SnapshotError`] when the state cannot be used. Memory files are not looked at.
pub fn describe(path: &Path, is_json: bool) -> Result<String, SnapshotError> {
    let path = if path.is_dir() { path.join(STATE) } else { path.to_owned() };
    let record = read_record(&path)?;
    Ok(if is_json { json(&record).to_string() + "\n" } else { text(&record) })
}

fn json(record: &Record) -> Value {
    let layers = record.memory.layers.iter().map(|layer| {
        let pages = layer.pages.as_ref();
        let pages = pages.map(|runs| runs.iter().map(|run| run.count).sum::<u64>());
        json!({ "file": layer.file, "id": layer.id, "pages": pages })
    });
    let vcpus = record.vcpus.iter().map(|vcpu| {
        vcpu.sizes().map(|(name, len)| (name.to_owned(), json!(len))).collect::<Value>()
    });
    json!({
        "format": FORMAT,
        "id": record.id.to_string(),
        "meta": record.meta,
        "config": record.config,
        "memory": { "bytes": record.memory.bytes, "layers": layers.collect::<Vec<_>>() },
        "overlays": overlays_to_json(&record.overlays),
        "vcpus": vcpus.collect::<Vec<_>>(),
        "devices": record.devices.iter().map(|(id, state)| (id.clone(), json!(state))).collect::<Value>(),
    })
}

fn text(record: &Record) -> String {
    let whole = json(record);
    let (meta, host) = (&record.meta, at(&record.meta, "host"));
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut text = String::new();
    let mut line = |name: &str, what: String| {
        // A file may say anything. Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<8} {}", printable(&what));
    };
    line("id", record.id.to_string());
    line("format", format!("{FORMAT} (vmm {})", word(at(meta, "vmm"))));
    line("kind", word(at(meta, "kind")));
    line("created", format!("{} (seconds since 1970)", at(meta, "created")));
    let [vendor, family, model, stepping, kvm] =
        ["vendor", "family", "model", "stepping", "kvm"].map(|key| word(at(host, key)));
    line("host", format!("{vendor} family {family} model {model} stepping {stepping}, {kvm}"));
    line("memory", format!("{} MiB", record.memory.bytes >> 20));
    for layer in at(at(&whole, "memory"), "layers").as_array().into_iter().flatten() {
        let pages = match at(layer, "pages").as_u64() {
            Some(pages) => format!("{} KiB of changes", pages * 4),
            None => "all pages".to_owned(),
        };
        line("", format!("{} ({pages})", word(at(layer, "file"))));
    }
    for overlay in &record.overlays {
        line("overlay", format!("{} {}", overlay.disk, overlay.file.display()));
    }
    for (index, vcpu) in record.vcpus.iter().enumerate() {
        let sizes: Vec<_> = vcpu.sizes().map(|(name, len)| format!("{name} {len}")).collect();
        line(&format!("vcpu {index}"), sizes.join(", "));
    }
    for (id, state) in &record.devices {
        let status = at(&json!(state), "status").as_u64().map(|it| format!("status {it:#x}"));
        line("device", format!("{id} {}", status.unwrap_or_default()).trim_end().to_owned());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::test_dir::TestDir;

    #[test]
    fn what_a_file_says_does_nothing_to_a_terminal() {
        let mut record =
            Record::decode(include_bytes!("../../../tests/snapshots/1/state")).unwrap();
        *record.meta.get_mut("vmm").unwrap() = json!("1\u{1b}[2J\n2");
        record.memory.layers[0].file = "memory\r\u{7}".into();
        let dir = TestDir::new();
        fs::write(dir.path().join(STATE), record.encode()).unwrap();
        let text = describe(dir.path(), false).unwrap();
        assert!(text.contains("(vmm 1?[2J?2)") && text.contains("memory??"), "{text}");
        assert!(!text.contains(|it: char| it.is_control() && it != '\n'), "{text}");
    }
}
