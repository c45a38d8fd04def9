use super::*;

fn way(uid: Option<u32>, gid: Option<u32>, own: (u32, u32), is_root: bool) -> Result<Way, String> {
    let config = JailConfig { uid, gid, ..JailConfig::default() };
    Way::of(&config, own, is_root).map_err(|error| error.to_string())
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
