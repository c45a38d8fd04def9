use super::*;
use crate::test_dir::TestDir;

/// The state of a snapshot whose memory is in `file`.
fn state_of(file: &str, draft: &Draft) -> Vec<u8> {
    let first = include_bytes!("../../../../tests/snapshots/1/state");
    let mut record = Record::decode(first).unwrap();
    record.id = draft.id();
    record.memory.layers[0].file = file.into();
    record.encode()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn finished(directory: &Path) -> String {
    let draft = Draft::begin(Place::Directory(directory.to_owned()), &[]).unwrap();
    let name = format!("memory-{}", draft.id());
    draft.finish(&state_of(&name, &draft)).unwrap();
    assert!(draft.is_done());
    name
}

#[test]
fn a_new_one_takes_the_place_of_the_old_one() {
    let dir = TestDir::new();
    let first = finished(dir.path());
    assert_eq!(names(dir.path()), [first.clone(), STATE.to_owned()]);
    let second = finished(dir.path());
    assert_ne!(first, second);
    assert_eq!(names(dir.path()), [second, STATE.to_owned()]);
}

#[test]
fn one_that_is_given_up_leaves_nothing() {
    let dir = TestDir::new();
    let first = finished(dir.path());
    let draft = Draft::begin(Place::Directory(dir.path().to_owned()), &[]).unwrap();
    assert_eq!(names(dir.path()).len(), 4);
    drop(draft);
    assert_eq!(names(dir.path()), [first, STATE.to_owned()]);
}

#[test]
fn what_a_killed_one_left_is_removed_and_what_another_writes_is_not() {
    let dir = TestDir::new();
    let kept = finished(dir.path());
    let other = Draft::begin(Place::Directory(dir.path().to_owned()), &[]).unwrap();
    let id = "0123456789abcdef0123456789abcdef";
    let (undone, memory) = (format!("{UNDONE}{id}-{STATE}"), format!("{MEMORY}{id}"));
    for name in [&undone, &memory] {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    let draft = Draft::begin(Place::Directory(dir.path().to_owned()), &[]).unwrap();
    assert!(!names(dir.path()).contains(&undone));
    drop(draft);
    let now = finished(dir.path());
    let left = names(dir.path());
    assert!(!left.contains(&memory) && !left.contains(&kept), "{left:?}");
    assert_eq!(left.len(), 4);
    drop(other);
    assert_eq!(names(dir.path()), [now, STATE.to_owned()]);
}

#[test]
fn overlays_come_and_go_with_their_snapshot() {
    let dir = TestDir::new();
    let begin = || Draft::begin(Place::Directory(dir.path().to_owned()), &["a-b".to_owned()]);
    let old = begin().unwrap();
    let id = old.id();
    assert_eq!(names(dir.path()).len(), 3);
    old.finish(b"of nobody").unwrap();
    let expected = [format!("memory-{id}"), format!("overlay-a-b-{id}"), STATE.to_owned()];
    assert_eq!(names(dir.path()), expected);
    drop(old);
    drop(begin().unwrap());
    assert_eq!(names(dir.path()), expected);
    // It belongs to no state that is there from now on.
    let now = finished(dir.path());
    assert_eq!(names(dir.path()), [now, STATE.to_owned()]);
    let place = Place::Files { state: dir.path().join("s"), memory: dir.path().join("m") };
    let two = Draft::begin(place, &["data".to_owned()]).unwrap();
    assert_eq!(two.overlay_path("data"), dir.path().join("s.overlay-data"));
}

#[test]
fn two_files_are_named_as_they_are_asked_for() {
    let dir = TestDir::new();
    let (state, memory) = (dir.path().join("s"), dir.path().join("m"));
    let id = "0123456789abcdef0123456789abcdef";
    let left = ["s", "m", "s.overlay-data"].map(|name| format!("{UNDONE}{id}-{name}"));
    let others = [format!("{UNDONE}{id}-other"), format!("{UNDONE}s")];
    for name in left.iter().chain(&others) {
        fs::write(dir.path().join(name), "of one that was killed").unwrap();
    }
    let draft = Draft::begin(Place::Files { state, memory: memory.clone() }, &[]).unwrap();
    assert_eq!(draft.memory_path(), memory);
    assert!(left.iter().all(|name| !names(dir.path()).contains(name)));
    for name in &others {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    draft.finish(b"anything").unwrap();
    assert_eq!(names(dir.path()), ["m", "s"]);
    let nowhere = Place::Directory(dir.path().join("nowhere"));
    assert!(Draft::begin(nowhere, &[]).unwrap_err().to_string().contains("cannot be made"));
}

#[test]
fn only_files_are_replaced_and_two_of_them() {
    let dir = TestDir::new();
    let path = |name: &str| dir.path().join(name);
    std::os::unix::fs::symlink("/dev/null", path("link")).unwrap();
    fs::create_dir(path("directory")).unwrap();
    let refused = |state: &str, memory: &str| {
        let place = Place::Files { state: path(state), memory: path(memory) };
        let before = names(dir.path());
        let error = Draft::begin(place, &[]).unwrap_err();
        assert!(matches!(error, SnapshotError::Place { .. }), "{error}");
        assert_eq!(names(dir.path()), before);
    };
    refused("link", "m");
    refused("s", "link");
    refused("directory", "m");
    refused("same", "same");
    let place = Place::Files { state: "/dev/null".into(), memory: path("m") };
    let error = Draft::begin(place, &[]).unwrap_err().to_string();
    assert_eq!(error, "snapshot: \"/dev/null\": it is there, and is not a file");
    fs::create_dir(path("directory").join(STATE)).unwrap();
    assert!(Draft::begin(Place::Directory(path("directory")), &[]).is_err());
}
