use super::*;

fn way(uid: Option<u32>, gid: Option<u32>, own: (u32, u32), is_root: bool) -> Result<Way, String> {
    let config = JailConfig { uid, gid, ..JailConfig::default() };
    Way::of(&config, own, is_root, |_, _| true).map_err(|error| error.to_string())
}

#[test]
fn an_ordinary_user_stays_who_it_is() {
    let own = Way::UserNamespace;
    assert_eq!(way(None, None, (1000, 100), false), Ok(own));
    assert_eq!(way(Some(1000), Some(100), (1000, 100), false), Ok(own));
    let error = way(Some(1001), None, (1000, 100), false).unwrap_err();
    assert!(error.contains("another user needs root"), "{error}");
}

#[test]
fn root_becomes_somebody_else() {
    let nobody = Way::Root { uid: NOBODY, gid: NOBODY };
    assert_eq!(way(None, None, (0, 0), true), Ok(nobody));
    let named = Way::Root { uid: 7, gid: 8 };
    assert_eq!(way(Some(7), Some(8), (0, 0), true), Ok(named));
    // Root without root's rights, as in a container.
    assert_eq!(way(None, None, (0, 0), false), Ok(Way::UserNamespace));
}

#[test]
fn root_of_a_namespace_without_others_is_an_ordinary_user() {
    let alone = |uid| {
        let config = JailConfig { uid, ..JailConfig::default() };
        Way::of(&config, (0, 0), true, |_, _| false)
    };
    assert_eq!(alone(None).unwrap(), Way::UserNamespace);
    let error = alone(Some(7)).unwrap_err().to_string();
    assert!(error.contains("no user 7 with group 65534"), "{error}");
}

#[test]
fn maps_of_user_namespaces() {
    for (map, number, is_there) in [
        ("         0          0 4294967295\n", NOBODY, true),
        ("0 1000 1\n", 0, true),
        ("0 1000 1\n", NOBODY, false),
        ("0 1000 1\n1 100000 65536\n", NOBODY, true),
        ("0 1000 1\n1 100000 65533\n", NOBODY, false),
        ("", NOBODY, true),
        ("nonsense", NOBODY, false),
    ] {
        assert_eq!(has_number(map, number), is_there, "{map:?} {number}");
    }
}

#[test]
fn nobody_is_root_inside() {
    for (uid, gid) in [(Some(0), None), (None, Some(0)), (Some(0), Some(0))] {
        let error = way(uid, gid, (0, 0), true).unwrap_err();
        assert!(error.contains("cannot be 0"), "{error}");
    }
}

#[test]
fn what_was_left_open_is_found() {
    use std::os::fd::AsRawFd;
    let file = File::open("/dev/null").unwrap();
    let found = open_descriptors().unwrap();
    assert!(found.contains(&file.as_raw_fd()), "{found:?}");
    assert!(found.iter().all(|fd| *fd > 2), "{found:?}");
}
