use serde_json::json;

use super::*;

/// Made by the first version that had this format.
const FIRST: &[u8] = include_bytes!("../../../../tests/snapshots/1/state");

fn changed(change: impl FnOnce(&mut Container)) -> Result<Record, String> {
    let mut container = Container::decode(FIRST).unwrap();
    change(&mut container);
    Record::decode(&container.encode()).map_err(|error| error.to_string())
}

fn set(container: &mut Container, name: &str, bytes: impl Into<Vec<u8>>) {
    let section = container.sections.iter_mut().find(|it| it.name == name).unwrap();
    section.bytes = bytes.into();
}

#[test]
fn the_first_format_is_read_and_written_the_same() {
    let record = Record::decode(FIRST).unwrap();
    assert_eq!(record.encode(), FIRST);
    assert_eq!((record.vcpus.len(), record.memory.bytes), (2, 32 << 20));
    assert_eq!(record.config["machine-config"]["vcpu_count"], 2);
    let names: Vec<_> = record.devices.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["serial", "0 rng"]);
    assert_eq!(record.vcpus[0].find("regs").unwrap().len(), 144);
}

#[test]
fn what_later_versions_add_is_passed_over_if_they_say_so() {
    let with = |is_optional, version| {
        changed(|it| {
            let section = Section { version, is_optional, ..Section::new("news 1", b"x".to_vec()) };
            it.sections.push(section);
        })
    };
    assert!(with(true, 9).is_ok());
    let words = "its section \"news 1\", version 9, is not known to this version of vmm";
    assert_eq!(with(false, 9).unwrap_err(), words);
    let error = changed(|it| it.sections[0].version = 2).unwrap_err();
    assert!(error.contains("version 2, is not known"), "{error}");
}

#[test]
fn a_section_that_is_missing_or_wrong_is_named() {
    for name in ["meta", "config", "memory", "vm"] {
        let error = changed(|it| it.sections.retain(|section| section.name != name)).unwrap_err();
        assert!(error.contains(&format!("{name:?} is missing")), "{error}");
        for bytes in [&b""[..], b"{", b"\xff\xff"] {
            let empty_is_fine = name == "vm" && bytes.is_empty();
            assert_eq!(changed(|it| set(it, name, bytes)).is_ok(), empty_is_fine, "{name}");
        }
    }
    for name in ["vcpu 0", "vcpu 1"] {
        let result = changed(|it| it.sections.retain(|section| section.name != name));
        assert_eq!(result.is_ok(), name == "vcpu 1", "{name}");
        assert!(changed(|it| set(it, name, b"x")).is_err());
    }
    assert!(changed(|it| set(it, "device serial", b"[]")).is_err());
}

#[test]
fn overlays_are_there_where_disks_have_some() {
    let said = br#"[{"disk":"data","file":"overlay-data"}]"#;
    let none = Record::decode(FIRST).unwrap();
    assert!(none.overlays.is_empty());
    let some = changed(|it| it.sections.push(Section::new("overlays", said.to_vec()))).unwrap();
    let expected = OverlayRecord { disk: "data".to_owned(), file: "overlay-data".into() };
    assert_eq!(some.overlays, [expected]);
    assert_eq!(Record::decode(&some.encode()).unwrap(), some);
    let wrong = changed(|it| it.sections.push(Section::new("overlays", b"{}".to_vec())));
    assert!(wrong.unwrap_err().contains("overlays"));
}

#[test]
fn layers_must_make_a_whole() {
    let with = |layers: Value, pages: &[(&str, Vec<u64>)]| {
        changed(|it| {
            set(it, "memory", json!({ "bytes": 32 << 20, "layers": layers }).to_string());
            for (name, numbers) in pages {
                let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                it.sections.push(Section::new(*name, bytes));
            }
        })
    };
    let layer = json!({ "file": "m", "id": "0" });
    let two = json!([layer, layer]);
    assert!(with(json!([layer]), &[]).is_ok());
    assert!(with(json!([]), &[]).is_err());
    assert!(with(two.clone(), &[]).is_err());
    assert!(with(json!([layer]), &[("pages 0", vec![0, 1])]).is_err());
    let record = with(two.clone(), &[("pages 1", vec![0, 1, 8191, 1])]).unwrap();
    assert_eq!(record.memory.layers[1].pages.as_ref().unwrap().len(), 2);
    assert_eq!(Record::decode(&record.encode()).unwrap(), record);
    for wrong in [vec![0], vec![8191, 2], vec![u64::MAX, 2], vec![0, u64::MAX]] {
        assert!(with(two.clone(), &[("pages 1", wrong)]).is_err());
    }
}
