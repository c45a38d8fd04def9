use std::os::unix::fs::PermissionsExt;

use super::*;

/// A path of its own for each test.
fn path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("vmm-listen-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

#[test]
fn the_file_is_private_and_gone_at_the_end() {
    let path = path("mode");
    let (_socket, file) = listen(&path, 1).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(file.path(), path);
    drop(file);
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_not_ours_any_more_stays() {
    let path = path("theirs");
    let (_socket, file) = listen(&path, 1).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    drop(file);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_respected() {
    let path = path("stale");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let first = listen(&path, 1).unwrap();
    assert!(matches!(listen(&path, 1), Err(SocketError::InUse { .. })));
    drop(first);
    assert!(!path.exists());
}

#[test]
fn a_listener_that_is_overrun_is_alive_and_nobody_waits_for_it() {
    let path = path("full");
    let _listener = listen(&path, 0).unwrap();
    let mut waiting = Vec::new();
    let refusal = loop {
        match connect_now(&path) {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(refusal.kind(), io::ErrorKind::WouldBlock);
    assert!(matches!(listen(&path, 1), Err(SocketError::InUse { .. })));
}

#[test]
fn anything_else_at_the_path_is_left_alone() {
    let path = path("file");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(listen(&path, 1), Err(SocketError::InUse { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_path_that_does_not_fit_is_named_with_the_limit() {
    let long = std::env::temp_dir().join("x".repeat(108));
    for path in [long.as_path(), Path::new("")] {
        let error = listen(path, 1).unwrap_err();
        assert!(matches!(error, SocketError::Path { .. }));
        assert!(error.to_string().contains("107"));
    }
    let missing = listen(Path::new("/nowhere/sock"), 1);
    assert!(matches!(missing, Err(SocketError::Host { .. })));
}
