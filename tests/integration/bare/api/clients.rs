//! The socket, and clients of every kind.

use std::io::Write;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::thread;

use harness::api::{Api, Connection};
use harness::{Need, Scratch, Vmm};

use super::{FREE, ask, bare, end, start, state};

crate::suite::tests! { "bare::api::clients" needs &[Need::Kvm];
    the_socket_and_its_file,
    a_socket_of_the_parent,
    sixty_four_clients,
    clients_that_misbehave,
    requests_sent_ahead,
}

fn the_socket_and_its_file() {
    let scratch = Scratch::new();
    let (machine, _api) = bare(&scratch, &[]);
    let mode = std::fs::metadata(scratch.join("api.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = Vmm::new().inside(&scratch).args(["--api-sock", "api.sock"]).run();
    second.expect_code(152).expect_one_line(&["api.sock", "in use"]);
    // What a killed process leaves, the next one replaces.
    machine.kill();
    let (machine, api) = bare(&scratch, &[]);
    assert_eq!(state(&api), "Not started");
    machine.signal(libc::SIGINT);
    machine.expect_exit(130);
    assert!(scratch.names().is_empty());
    scratch.file("file", "");
    let refused = Vmm::new().inside(&scratch).args(["--api-sock", "file"]).run();
    refused.expect_code(152).expect_one_line(&["file", "not a socket"]);
    assert_eq!(scratch.names(), ["file"]);
    // A machine that fails to start takes its socket along.
    let failed = Vmm::new().inside(&scratch).args(["--api-sock", "s", "--kernel", "file"]).run();
    failed.expect_code(152);
    assert_eq!(scratch.names(), ["file"]);
}

fn a_socket_of_the_parent() {
    let scratch = Scratch::new();
    let path = scratch.join("parent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    // Who asks before there is anybody to answer is answered all the same.
    let mut early = Api::at(&path).connect();
    early.send("GET", "/version", "");
    // SAFETY: duplicates a descriptor that is open; the copy is inherited, and closed below.
    let inherited = unsafe { libc::dup(listener.as_raw_fd()) };
    let machine = Vmm::new().args(["--api-sock", &format!("fd={inherited}")]).spawn();
    // SAFETY: it is the copy made above.
    unsafe { libc::close(inherited) };
    drop(listener);
    assert_eq!(early.reply().status, 200);
    assert_eq!(state(&Api::at(&path)), "Not started");
    machine.signal(libc::SIGINT);
    machine.expect_exit(130);
    let refused = Vmm::new().args(["--api-sock", "fd=0"]).run().expect_code(152);
    refused.expect_one_line(&["descriptor 0", "listening"]);
}

fn sixty_four_clients() {
    let scratch = Scratch::new();
    let (mut machine, api) = bare(&scratch, &[]);
    start(&mut machine, &api);
    let client = |number: u32| {
        let api = api.clone();
        move || {
            let mut served = 0;
            while served < 20 {
                let mut connection = api.connect();
                // A server that is full says so, and the next attempt may succeed.
                while served < 20 {
                    let reply = connection.request(
                        "GET",
                        if number.is_multiple_of(2) { "/" } else { "/vm/config" },
                        "",
                    );
                    if reply.status == 503 {
                        assert_eq!(reply.body["code"], "too_many_connections");
                        break;
                    }
                    assert_eq!(reply.status, 200);
                    served += 1;
                }
            }
        }
    };
    let clients: Vec<_> = (0..64).map(|number| thread::spawn(client(number))).collect();
    for _ in 0..50 {
        assert_eq!(ask(&mut machine, &format!("r 4 {FREE:x}")), "0", "the guest goes on");
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    end(machine);
}

fn clients_that_misbehave() {
    let scratch = Scratch::new();
    let (mut machine, api) = bare(&scratch, &[]);
    start(&mut machine, &api);
    let files = machine.open_files();
    // Nine that never finish a sentence leave a place for others.
    let mut slow: Vec<Connection> = (0..9).map(|_| api.connect()).collect();
    for connection in &mut slow {
        connection.stream.write_all(b"GET /vm/con").unwrap();
    }
    assert_eq!(state(&api), "Running");
    for (text, code) in [
        (&b"\0\xff\xfe garbage \r\n\r\n"[..], "malformed_request"),
        (b"PUT /actions HTTP/1.1\r\nContent-Length: 10485760\r\n\r\n", "body_too_large"),
        (b"PUT /actions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "malformed_request"),
        (b"BREW / HTTP/1.1\r\n\r\n", "malformed_request"),
    ] {
        let mut connection = api.connect();
        connection.stream.write_all(text).unwrap();
        let reply = connection.reply();
        assert_eq!((reply.status, reply.body["code"].as_str()), (400, Some(code)));
        assert_eq!(reply.body["error"], reply.body["fault_message"]);
        assert_eq!(connection.rest(), "", "and the connection is closed");
    }
    // Ten MiB that nobody asked for are dropped, and the reason can be read.
    let mut connection = api.connect();
    connection
        .stream
        .write_all(b"PUT /actions HTTP/1.1\r\nContent-Length: 10485760\r\n\r\n")
        .unwrap();
    let _ = connection.stream.write_all(&vec![b'x'; 10 << 20]);
    assert_eq!(connection.reply().body["code"], "body_too_large");
    assert_eq!(connection.rest(), "", "and its place is free again");
    // One that says no more is still answered.
    let mut connection = api.connect();
    connection.send("GET", "/version", "");
    connection.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(connection.reply().status, 200);
    assert_eq!(connection.rest(), "");
    // One that leaves before its answer harms nobody.
    for _ in 0..50 {
        api.connect().send("GET", "/vm/config", "");
    }
    assert_eq!(api.get_in_turn("/")["state"], "Running");
    drop(slow);
    // Every client is forgotten in the end: only our own connections count.
    while machine.open_files() > files {
        api.get_in_turn("/version");
    }
    let memory = machine.own_memory();
    assert!(memory < 4 << 20, "{memory} bytes of its own after all that");
    end(machine);
}

fn requests_sent_ahead() {
    let scratch = Scratch::new();
    let (machine, api) = bare(&scratch, &[]);
    let mut connection = api.connect();
    for _ in 0..20 {
        connection.send("GET", "/version", "");
        connection.send("PUT", "/entropy", "{}");
        connection.send("GET", "/nothing", "");
    }
    for _ in 0..20 {
        assert_eq!([(); 3].map(|()| connection.reply().status), [200, 204, 400]);
    }
    let body = r#"{"vcpu_count": 1, "mem_size_mib": 64}"#;
    let head = format!(
        "PUT /machine-config HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    connection.stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(connection.head().status, 100);
    connection.stream.write_all(body.as_bytes()).unwrap();
    assert_eq!(connection.reply().status, 204);
    assert_eq!(api.get("/machine-config")["mem_size_mib"], 64);
    machine.signal(libc::SIGINT);
    machine.expect_exit(130);
}
