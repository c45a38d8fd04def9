use std::time::Duration;

use devices::rate_limiter::Rate;

use super::*;

fn read(text: &str) -> DiskConfig {
    text.parse().unwrap()
}

fn refusal(text: &str) -> String {
    text.parse::<DiskConfig>().unwrap_err().to_string()
}

fn plan(texts: &[&str]) -> Result<(Vec<DiskPlan>, Option<Root>), String> {
    resolve(texts.iter().map(|text| read(text)).collect()).map_err(|error| error.to_string())
}

#[test]
fn every_part_is_read() {
    assert_eq!(
        read(
            "a.img,readonly,root,id=x,serial=S 1,format=raw,engine=uring,direct,snapshot=overlay,overlay=o,,v,queues=4,\
             bw=10M,iops=1k,burst=1s,iothread=io0"
        ),
        DiskConfig {
            path: "a.img".into(),
            read_only: Some(true),
            id: Some("x".to_owned()),
            serial: Some("S 1".to_owned()),
            format: Some(DiskFormat::Raw),
            engine: Some(DiskEngine::Uring),
            direct: Some(true),
            overlay: Some(DiskOverlay::Kept("o,v".into())),
            queues: Some(4),
            limits: Limits {
                bandwidth: Rate::new(10 << 20, Duration::from_secs(1), 0),
                ops: Rate::new(1000, Duration::from_secs(1), 0),
            },
            iothread: Some("io0".to_owned()),
            root: Some(true),
            partuuid: None,
        }
    );
    assert_eq!(read("a.img"), DiskConfig { path: "a.img".into(), ..DiskConfig::default() });
}

#[test]
fn any_path_can_be_written() {
    for (text, path) in [
        ("a,,b.img", "a,b.img"),
        ("path=a,,b.img", "a,b.img"),
        ("key=value.img", "key=value.img"),
        ("readonly=1", "readonly=1"),
        ("path=id=1", "id=1"),
        ("path=path=1", "path=1"),
        ("id=1,path=z", "z"),
    ] {
        assert_eq!(read(text).path, PathBuf::from(path), "{text}");
    }
}

#[test]
fn every_mistake_has_its_message() {
    for (text, message) in [
        ("", "the disk's path is missing: write path=PATH"),
        ("id=x", "the disk's path is missing: write path=PATH"),
        ("path=", "\"path\" must be written path=PATH"),
        ("a,path=b", "\"path\" is given twice"),
        ("readonly,path=a", "\"path\" is given twice"),
        ("a,readonly=on", "\"readonly\" must be written readonly"),
        ("a,root=1", "\"root\" must be written root"),
        ("a,id", "\"id\" must be written id=ID"),
        ("a,id=", "\"id\" must be written id=ID"),
        ("a,serial", "\"serial\" must be written serial=TEXT"),
        ("a,engine=aio", "engine: \"aio\" is none of sync, uring"),
        ("a,snapshot=on", "snapshot: \"on\" is none of overlay"),
        ("a,overlay", "\"overlay\" must be written overlay=FILE"),
        ("a,direct=1", "\"direct\" must be written direct"),
        ("a,queues=x", "queues: \"x\" is not a whole number from 0 to 65535"),
        ("a,format=qcow2", "format: \"qcow2\" is none of raw"),
        ("a,readonly,readonly", "\"readonly\" is given twice"),
        (
            "a,read-only",
            "unknown part \"read-only\"; did you mean \"readonly\"?; \
             known: path=PATH, readonly, root, id=ID, serial=TEXT, format=raw, engine=sync|uring, direct, snapshot=overlay, \
             overlay=FILE, queues=N, bw=RATE, iops=RATE, burst=TIME, iothread=ID",
        ),
        (
            "a,seral=1",
            "unknown part \"seral\"; did you mean \"serial\"?; \
             known: path=PATH, readonly, root, id=ID, serial=TEXT, format=raw, engine=sync|uring, direct, snapshot=overlay, \
             overlay=FILE, queues=N, bw=RATE, iops=RATE, burst=TIME, iothread=ID",
        ),
        ("a,", "\"a,\" has an empty part: remove the comma, or double it if it belongs to a name"),
    ] {
        assert_eq!(refusal(text), message, "{text}");
    }
}

#[test]
fn an_overlay_is_thrown_away_unless_it_has_a_place() {
    let overlay = |text| plan(&[text]).unwrap().0.remove(0).overlay;
    assert_eq!(overlay("a,snapshot=overlay"), Some(DiskOverlay::ThrownAway));
    let kept = Some(DiskOverlay::Kept("b".into()));
    for text in ["a,overlay=b", "a,snapshot=overlay,overlay=b", "a,overlay=b,snapshot=overlay"] {
        assert_eq!(overlay(text), kept);
    }
    for word in ["readonly", "direct", "engine=uring"] {
        let text = format!("a,id=x,snapshot=overlay,{word}");
        let complaint = plan(&[text.as_str()]).unwrap_err();
        let expected =
            format!("disk x: {word} and an overlay do not go together: leave one of them out");
        assert_eq!(complaint, expected);
    }
}

#[test]
fn defaults() {
    let (disks, root) = plan(&["a", "b,readonly"]).unwrap();
    let disk = |id: &str, path: &str, read_only| DiskPlan {
        id: id.to_owned(),
        path: path.into(),
        read_only,
        serial: id.to_owned(),
        format: DiskFormat::Raw,
        engine: DiskEngine::Sync,
        direct: false,
        overlay: None,
        queues: NonZeroU16::MIN,
        limits: Limits::NONE,
        iothread: None,
    };
    assert_eq!(disks, [disk("disk0", "a", false), disk("disk1", "b", true)]);
    assert_eq!(root, Some(Root { partuuid: None, read_only: false }));
    assert_eq!(plan(&[]).unwrap(), (Vec::new(), None));
}

#[test]
fn the_root_disk_comes_first() {
    let (disks, root) = plan(&["a", "b", "c,root,readonly"]).unwrap();
    let order: Vec<_> = disks.iter().map(|disk| (disk.id.as_str(), disk.path.to_str())).collect();
    assert_eq!(order, [("disk2", Some("c")), ("disk0", Some("a")), ("disk1", Some("b"))]);
    assert_eq!(root, Some(Root { partuuid: None, read_only: true }));
    assert_eq!(
        plan(&["a,root", "b,root"]).unwrap_err(),
        "\"a\" and \"b\" are both the root disk: keep one"
    );
}

#[test]
fn a_first_disk_that_is_not_the_root_leaves_none() {
    let not_root = DiskConfig { path: "a".into(), root: Some(false), ..DiskConfig::default() };
    assert_eq!(resolve(vec![not_root.clone(), read("b")]).unwrap().1, None);
    let (disks, root) = resolve(vec![not_root, read("b,root")]).unwrap();
    assert_eq!(disks[0].path, PathBuf::from("b"));
    assert!(root.is_some());
}

#[test]
fn serial_numbers_have_20_printable_bytes() {
    let long_id = "i".repeat(30);
    let (disks, _) = plan(&[&format!("a,id={long_id}"), "b,serial=12345678901234567890"]).unwrap();
    assert_eq!(disks[0].serial, "i".repeat(20));
    assert_eq!(disks[1].serial, "12345678901234567890");
    for serial in ["123456789012345678901", "ä", "a\tb"] {
        let message = plan(&[&format!("a,serial={serial}")]).unwrap_err();
        assert!(message.starts_with("disk disk0: serial "), "{message}");
    }
}

#[test]
fn a_partition_belongs_to_the_root_and_is_one_word() {
    let disk = |partuuid: &str, root| DiskConfig {
        path: "a".into(),
        root,
        partuuid: Some(partuuid.to_owned()),
        ..DiskConfig::default()
    };
    let uuid = "0eaa91a0-01/PARTNROFF=1";
    let (_, root) = resolve(vec![disk(uuid, Some(true))]).unwrap();
    assert_eq!(root, Some(Root { partuuid: Some(uuid.to_owned()), read_only: false }));
    assert!(resolve(vec![disk(uuid, Some(false))]).is_err());
    for broken in ["", "a b", "a\"", "a\n", "é"] {
        assert!(resolve(vec![disk(broken, Some(true))]).is_err(), "{broken}");
    }
}

#[test]
fn queues_have_limits() {
    for queues in ["1", "64"] {
        assert!(plan(&[&format!("a,queues={queues}")]).is_ok(), "{queues}");
    }
    for queues in ["0", "65", "65535"] {
        let message = format!("disk disk0: {queues} queues are not possible: use 1 to 64");
        assert_eq!(plan(&[&format!("a,queues={queues}")]).unwrap_err(), message);
    }
}
