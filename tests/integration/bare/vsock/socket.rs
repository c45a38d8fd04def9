//! The file of the host's socket.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};

use harness::puppet::Puppet;
use harness::{Need, Scratch, Vmm};

use super::Setup;

crate::suite::tests! { "bare::vsock::socket" needs &[Need::Kvm];
    socket_file_is_taken_care_of,
    socket_file_survives_a_reboot,
}

fn socket_file_is_taken_care_of() {
    let setup = Setup::new();
    let path = setup.scratch.join("v");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    // Another machine must not take it.
    let vsock = format!("socket={}", path.display());
    let second = Vmm::puppet("").args(["--vsock", &vsock]).run();
    second.expect_code(152).expect_one_line(&["vsock", "v\"", "in use"]);
    setup.puppet.finish();
    assert_eq!(setup.scratch.names(), [""; 0], "the socket is gone");
    // What a process that was killed has left is no obstacle; anything else is.
    drop(UnixListener::bind(&path).unwrap());
    let puppet = Puppet::start(Vmm::puppet("").args(["--vsock", &vsock]));
    puppet.finish();
    fs::write(&path, "precious").unwrap();
    let refused = Vmm::puppet("").args(["--vsock", &vsock]).run();
    refused.expect_code(152).expect_one_line(&["not a socket"]);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

fn socket_file_survives_a_reboot() {
    let scratch = Scratch::new();
    let vmm = Vmm::puppet("").inside(&scratch);
    let puppet = Puppet::start(vmm.args(["--vsock", "socket=v", "--on-reboot", "restart"]));
    let inode = fs::metadata(scratch.join("v")).unwrap().ino();
    let mut program = UnixStream::connect(scratch.join("v")).unwrap();
    program.write_all(b"CONNECT 7\n").unwrap();
    puppet.port_out(1, 0x64, 0xfe);
    let mut machine = puppet.release();
    machine.wait_for("puppet: ");
    machine.wait_for("\n");
    assert_eq!(fs::metadata(scratch.join("v")).unwrap().ino(), inode);
    machine.send("o 1 f4 0\n");
    machine.expect_exit(0);
}
