use super::*;
use crate::test_dir::TestDir;

#[test]
fn an_id_is_a_name_and_no_path() {
    for good in ["a", "551e7604-e35c-42b3-b825-416853441234", &"x".repeat(64)] {
        assert!(check_id(good).is_ok(), "{good}");
    }
    for bad in ["", "..", "a/b", "a_b", "a b", &"x".repeat(65)] {
        assert!(check_id(bad).unwrap_err().to_string().contains("cannot be an id"), "{bad}");
    }
}

#[test]
fn limits_are_read() {
    assert_eq!("fsize=10".parse(), Ok(ResourceLimit::FileSize(10)));
    assert_eq!("no-file=4096".parse(), Ok(ResourceLimit::Files(4096)));
    for bad in ["fsize", "fsize=", "no-file=x", "cpu=1"] {
        assert_eq!(bad.parse::<ResourceLimit>(), Err(LimitError), "{bad}");
    }
}

#[test]
fn a_program_is_a_file() {
    let dir = TestDir::new();
    let path = dir.path().join("monitor");
    assert!(open_program(&path).is_err());
    assert!(open_program(dir.path()).is_err());
    fs::write(&path, "x").unwrap();
    assert_eq!(open_program(&path).unwrap().0, "monitor");
}

/// Whoever may write below the base cannot lead root elsewhere.
#[test]
fn no_link_is_followed_below_the_base() {
    let (dir, elsewhere) = (TestDir::new(), TestDir::new());
    let open = |name: &str| Root::open(dir.path(), [name.as_ref(), "id".as_ref()]);
    assert!(open("good").is_ok());
    assert!(dir.path().join("good/id/root").is_dir());
    std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("bad")).unwrap();
    let Err(error) = open("bad") else { panic!("a link was followed") };
    assert!(error.to_string().contains("nothing may be a link"), "{error}");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);

    let root = open("good").unwrap();
    let victim = elsewhere.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, dir.path().join("good/id/root/good.pid")).unwrap();
    root.write(Path::new("good.pid"), "7").unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(fs::read_to_string(dir.path().join("good/id/root/good.pid")).unwrap(), "7");
}
