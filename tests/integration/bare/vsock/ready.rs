//! A guest that tells by a socket that it is ready.

use harness::api::Api;
use harness::vsock::{Header, op};
use harness::{Need, Puppet, Scratch, Vmm};

use super::Guest;

crate::suite::tests! { "bare::vsock::ready" needs &[Need::Kvm];
    ready_is_told_and_nothing_else_counts,
}

const PORT: u32 = 9999;

/// Says `text` to the port as a program does that then waits until all of it has been heard.
fn say(guest: &mut Guest<'_>, src_port: u32, text: &str) {
    let header = Header { src_port, dst_port: PORT, ..Header::default() };
    guest.send(Header { op: op::REQUEST, ..header }, &[]);
    guest.get_op(op::RESPONSE);
    for piece in text.as_bytes().chunks(5) {
        guest.send(Header { op: op::READ_WRITE, ..header }, piece);
    }
    guest.send(Header { op: op::SHUTDOWN, flags: 2, ..header }, &[]);
    assert_eq!(guest.get_op(op::SHUTDOWN).flags, 3, "there will be no answer");
    guest.send(Header { op: op::RESET, ..header }, &[]);
}

fn ready_is_told_and_nothing_else_counts() {
    let scratch = Scratch::new();
    let vsock = format!("socket=v,ready={PORT}");
    let vmm = Vmm::puppet("").inside(&scratch).args(["--rng", "off", "--vsock", &vsock]);
    let puppet = Puppet::start(vmm.args(["--api-sock", "api.sock"]));
    let api = Api::at(&scratch.join("api.sock"));
    let mut guest = Guest::ready(&puppet);
    say(&mut guest, 1000, "STATUS=Starting\nREADY=0\n");
    assert_eq!(api.get("/vm")["ready"], serde_json::Value::Null);
    say(&mut guest, 1001, "READY=1\nSTATUS=Ready\n");
    assert_eq!(api.get("/vm/wait/ready")["by"], "vsock");
    // The port is of this process: nothing of the host is looked for, and the configuration has it.
    assert_eq!(api.get("/vm/config")["vsock"]["ready_port"], PORT);
    puppet.finish();
}
