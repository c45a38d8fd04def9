//! Disks and nets with limits, queues and threads of their own; threads that are pinned.

use std::fs;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Instant;

use harness::api::Api;
use harness::confine::Confinement;
use harness::network::{Tap, in_own_network, interface_counter, interfaces};
use harness::puppet::Puppet;
use harness::virtio::{Answer, Descriptor, Device, Kind, Queue, register};
use harness::{Machine, Need, Scratch, Vmm, patience};
use libtest_mimic::Trial;
use serde_json::json;

use super::subject::{Subject, disk_contents};
use crate::suite::trial;

crate::suite::tests! { "bare::io" needs &[Need::Kvm];
    disk_beyond_its_limit_waits,
    disk_within_its_limit_answers_all,
    a_limit_has_a_timer_when_it_is_reached,
    disks_on_threads_of_their_own,
    threads_end_with_their_machine,
    vcpus_and_threads_are_pinned,
}

/// The tests that need a network as well.
pub fn network_tests() -> Vec<Trial> {
    const NEEDS: &[Need] = &[Need::Kvm, Need::Network];
    let own = |name, test: fn()| trial(name, NEEDS, move || in_own_network(test));
    vec![
        own("bare::io::net_beyond_its_limit_waits", net_beyond_its_limit_waits),
        own("bare::io::net_with_two_queues", net_with_two_queues),
        own("bare::io::net_on_inherited_queues", net_on_inherited_queues),
        own("bare::io::net_on_a_thread_of_its_own", net_on_a_thread_of_its_own),
        own("bare::io::net_over_pauses_loses_nothing", net_over_pauses_loses_nothing),
        own("bare::io::tap_that_has_one_queue_only", tap_that_has_one_queue_only),
    ]
}

/// A puppet whose devices are those of a configuration file.
fn configured(scratch: &Scratch, json: &str) -> Vmm {
    let file = scratch.file("vm.json", json);
    Vmm::puppet("").args(["--rng", "off", "--config-file"]).arg(file)
}

/// Offers the chain at descriptor 0 once more, and kicks.
fn offer_again(queue: &mut Queue<'_>) {
    queue.offer(0);
    queue.kick();
}

/// Nothing is answered although the guest runs on.
fn assert_waiting(puppet: &Puppet, queue: &Queue<'_>, answered: u16) {
    for _ in 0..20 {
        puppet.sync();
        assert_eq!(queue.used_index(), answered, "answers");
    }
}

/// Three requests at once, and the next in a year.
const THREE: &str = r#"{ "ops": { "size": 2, "one_time_burst": 1, "refill_time": 63072000000 } }"#;

fn disk_beyond_its_limit_waits() {
    for engine in ["Sync", "Async"] {
        let scratch = Scratch::new();
        let disk = scratch.file("disk", disk_contents());
        let drive = format!(
            r#"{{ "path_on_host": {disk:?}, "io_engine": "{engine}", "rate_limiter": {THREE} }}"#
        );
        let json = format!(r#"{{ "drives": [{drive}] }}"#);
        let puppet = Puppet::start(configured(&scratch, &json));
        let device = Device::find(&puppet, Kind::Block);
        for answered_before in [0, 3] {
            let mut queue = Subject::Block.set_up(&device, 0);
            Subject::Block.fill_buffers(&puppet, &queue);
            queue.describe(&Subject::Block.chain(&queue));
            // A reset forgets what waited, and not what was used up: one more is owed at most.
            let at_once = if answered_before == 0 { 3 } else { 1 };
            for _ in 0..5 {
                offer_again(&mut queue);
            }
            for _ in 0..at_once {
                assert_eq!(queue.answer(), Answer::Used(0, 513));
            }
            assert_waiting(&puppet, &queue, at_once);
        }
        // It ends while requests wait.
        puppet.finish();
    }
}

fn disk_within_its_limit_answers_all() {
    let scratch = Scratch::new();
    let disk = scratch.file("disk", disk_contents());
    for options in [
        ",iops=1k,burst=1ms",
        ",bw=512K,burst=1ms,engine=uring",
        ",bw=1G,iops=1M",
        ",iops=1k,burst=1ms,iothread=io0",
    ] {
        let mut vmm = Vmm::puppet("").args(["--rng", "off"]).disk(&disk, options);
        if options.contains("iothread") {
            vmm = vmm.args(["--iothread", "io0"]);
        }
        let puppet = Puppet::start(vmm);
        let device = Device::find(&puppet, Kind::Block);
        for features in [0, harness::virtio::feature::EVENT_IDX] {
            let mut queue = Subject::Block.set_up(&device, features);
            Subject::Block.fill_buffers(&puppet, &queue);
            queue.describe(&Subject::Block.chain(&queue));
            for _ in 0..5 {
                for _ in 0..8 {
                    queue.offer(0);
                }
                queue.kick();
                for _ in 0..8 {
                    assert_eq!(queue.answer(), Answer::Used(0, 513));
                }
            }
        }
        Subject::Block.good_request(&device);
        puppet.finish();
    }
}

/// There is a timer from the first time on that something has to wait.
fn a_limit_has_a_timer_when_it_is_reached() {
    let scratch = Scratch::new();
    let disk = scratch.file("disk", disk_contents());
    let json =
        format!(r#"{{ "drives": [{{ "path_on_host": {disk:?}, "rate_limiter": {THREE} }}] }}"#);
    let puppet = Puppet::start(configured(&scratch, &json));
    let device = Device::find(&puppet, Kind::Block);
    let timers = || {
        puppet.with_machine(|machine| {
            let directory = fs::read_dir(format!("/proc/{}/fd", machine.pid())).unwrap();
            let links = directory.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
            links.filter(|link| link.to_string_lossy().contains("timerfd")).count()
        })
    };
    let before = timers();
    Subject::Block.good_request(&device);
    assert_eq!(timers(), before, "nothing had to wait");
    let mut queue = Subject::Block.set_up(&device, 0);
    Subject::Block.fill_buffers(&puppet, &queue);
    queue.describe(&Subject::Block.chain(&queue));
    for _ in 0..3 {
        offer_again(&mut queue);
    }
    puppet.sync();
    let deadline = Instant::now() + patience();
    while timers() == before {
        assert!(Instant::now() < deadline, "there is no timer");
    }
    assert_eq!((timers(), queue.used_index()), (before + 1, 2));
    device.reset();
    puppet.sync();
    assert_eq!(timers(), before, "a reset takes it along");
    puppet.finish();
}

/// What /proc tells about the thread `name`: the value of `key` in its status.
#[track_caller]
fn thread_status(machine: &Machine, name: &str, key: &str) -> String {
    let tasks = format!("/proc/{}/task", machine.pid());
    for task in fs::read_dir(tasks).unwrap() {
        let path = task.unwrap().path();
        let status = fs::read_to_string(path.join("status")).unwrap_or_default();
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
            line.unwrap_or_default().to_owned()
        };
        if value("Name") == name {
            return value(key);
        }
    }
    panic!("no thread {name:?}\n{}", machine.story());
}

fn thread_names(machine: &Machine) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", machine.pid())).unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    let mut names: Vec<String> = names.map(|name| name.trim_end().to_owned()).collect();
    names.sort();
    names
}

fn disks_on_threads_of_their_own() {
    let scratch = Scratch::new();
    let (one, two) = (scratch.file("1", disk_contents()), scratch.file("2", disk_contents()));
    let threads = ["--rng", "off", "--iothread", "fast", "--iothread", "slow"];
    let vmm = Vmm::puppet("").args(threads);
    let vmm = vmm.disk(&one, ",iothread=slow,engine=uring,queues=2").disk(&two, ",iothread=fast");
    let puppet = Puppet::start(vmm);
    let names = puppet.with_machine(|machine| thread_names(machine));
    assert!(names.contains(&"io fast".to_owned()) && names.contains(&"io slow".to_owned()));
    let disks = Device::all(&puppet);
    let switches = |name: &str| {
        let of = |machine: &mut Machine| {
            thread_status(machine, name, "voluntary_ctxt_switches").parse::<u64>().unwrap()
        };
        puppet.with_machine(of)
    };
    for (disk, name) in disks.iter().zip(["io slow", "io fast"]) {
        let before = switches(name);
        Subject::Block.good_request(disk);
        assert!(switches(name) > before, "{name} did nothing");
        Subject::Block.good_request(disk);
    }
    // The one goes on when the driver of the other breaks its ring.
    let mut broken = Subject::Block.set_up(&disks[0], 0);
    broken.offer_index(0x4000);
    broken.kick();
    assert_eq!(broken.answer(), Answer::NeedsReset);
    Subject::Block.good_request(&disks[1]);
    Subject::Block.good_request(&disks[0]);
    puppet.finish();
}

fn threads_end_with_their_machine() {
    const I8042_COMMAND: u16 = 0x64;
    let scratch = Scratch::new();
    let disk = scratch.file("disk", disk_contents());
    let vmm = Vmm::puppet("").args(["--rng", "off", "--iothread", "io0", "--on-reboot", "restart"]);
    let puppet = Puppet::start(vmm.disk(&disk, ",iothread=io0"));
    let device = Device::find(&puppet, Kind::Block);
    Subject::Block.good_request(&device);
    let before = puppet.with_machine(|machine| (thread_names(machine), machine.open_files()));
    puppet.port_out(1, I8042_COMMAND, 0xfe);
    let mut machine = puppet.release();
    machine.wait_for("puppet: ");
    let after = (thread_names(&machine), machine.open_files());
    assert_eq!(before.0, after.0, "threads");
    assert!(after.1 <= before.1, "descriptors: {} before, {} after", before.1, after.1);
    machine.send("o 1 f4 5\n");
    machine.expect_exit(5);
}

/// The CPUs that this process may use.
fn allowed_cpus() -> Vec<u16> {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t")).unwrap();
    let number = |text: &str| text.parse::<u16>().unwrap();
    let ranges = list.trim().split(',').map(|part| part.split_once('-').unwrap_or((part, part)));
    ranges.flat_map(|(first, last)| number(first)..=number(last)).collect()
}

fn vcpus_and_threads_are_pinned() {
    let cpus = allowed_cpus();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    let scratch = Scratch::new();
    let disk = scratch.file("disk", disk_contents());
    let (pin, thread) = (format!("2,pin={last}:{first}"), format!("io0,pin={last}"));
    let vmm = Vmm::puppet("").args(["--rng", "off", "--cpus", &pin, "--iothread", &thread]);
    let puppet = Puppet::start(vmm.disk(&disk, ",iothread=io0"));
    Subject::Block.good_request(&Device::find(&puppet, Kind::Block));
    puppet.with_machine(|machine| {
        for (name, cpu) in [("vcpu 0", last), ("vcpu 1", first), ("io io0", last)] {
            let list = thread_status(machine, name, "Cpus_allowed_list");
            assert_eq!(list, cpu.to_string(), "{name}");
        }
        let main = thread_status(machine, "vmm", "Cpus_allowed_list");
        assert_eq!(main.split([',', '-']).next(), Some(first.to_string().as_str()), "{main}");
    });
    puppet.finish();
}

fn net_beyond_its_limit_waits() {
    let _tap = Tap::new("tap0");
    let scratch = Scratch::new();
    let json = format!(
        r#"{{ "network-interfaces": [{{ "host_dev_name": "tap0", "tx_rate_limiter": {THREE} }}] }}"#
    );
    let puppet = Puppet::start(configured(&scratch, &json));
    let device = Device::find(&puppet, Kind::Net);
    let mut send = Subject::Net.set_up(&device, 0);
    Subject::Net.fill_buffers(&puppet, &send);
    send.describe(&Subject::Net.chain(&send));
    let before = interface_counter("tap0", "rx_packets");
    for _ in 0..5 {
        offer_again(&mut send);
    }
    for _ in 0..3 {
        assert_eq!(send.answer(), Answer::Used(0, 0));
    }
    assert_waiting(&puppet, &send, 3);
    assert_eq!(interface_counter("tap0", "rx_packets"), before + 3);
    puppet.finish();
}

fn net_with_two_queues() {
    let args = ["--rng", "off", "--net", "tap=tap0,queues=2"];
    let puppet = Puppet::start(Vmm::puppet("").args(args));
    harness::network::set_up("tap0").unwrap();
    send_on_both_queues(&puppet);
    puppet.finish();
    assert!(!interfaces().contains(&"tap0".to_owned()), "a tap that vmm made is gone");
}

fn net_on_inherited_queues() {
    let tap = Tap::with_queues("tap0");
    let (first, second) = (tap.open_queue(), tap.open_queue());
    let fds = [first.as_raw_fd(), second.as_raw_fd()];
    let net = format!("fd={}:{}", fds[0], fds[1]);
    let vmm = Vmm::puppet("").args(["--rng", "off", "--net", &net]);
    let vmm = fds.into_iter().fold(vmm, |vmm, fd| vmm.confined(Confinement::Inherits(fd)));
    let puppet = Puppet::start(vmm);
    drop((first, second));
    send_on_both_queues(&puppet);
    puppet.finish();
}

fn send_on_both_queues(puppet: &Puppet) {
    const MQ: u64 = 1 << 22;
    const CTRL_VQ: u64 = 1 << 17;
    let device = Device::find(puppet, Kind::Net);
    assert_eq!(device.offered() & (MQ | CTRL_VQ), MQ | CTRL_VQ);
    assert_eq!(puppet.read(2, device.window + register::CONFIG + 8), 2, "queue pairs");
    device.negotiate(MQ | CTRL_VQ);
    let mut queues: Vec<Queue<'_>> = (0..5).map(|index| device.queue(index)).collect();
    device.driver_ok();
    let control = &mut queues[4];
    // VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET (virtio 1.3, 5.1.6.5.5): both.
    puppet.store(control.buffer(0), &[4, 0, 2, 0]);
    let answer = Descriptor::writable(control.buffer(1), 1);
    let command = [Descriptor::readable(control.buffer(0), 4).then(1), answer];
    assert_eq!(control.request(&command), Answer::Used(0, 1));
    assert_eq!(puppet.load(control.buffer(1), 1), [0], "the command is obeyed");
    let before = interface_counter("tap0", "rx_packets");
    for index in [1, 3] {
        let send = &mut queues[index];
        Subject::Net.fill_buffers(puppet, send);
        assert_eq!(send.request(&Subject::Net.chain(send)), Answer::Used(0, 0));
    }
    assert_eq!(interface_counter("tap0", "rx_packets"), before + 2);
}

/// Frames both ways while the machine is paused a thousand times: each arrives once, in its turn.
fn net_over_pauses_loses_nothing() {
    /// Headers of virtio-net, Ethernet, IPv4 and UDP.
    const HEADERS: u32 = 12 + 14 + 20 + 8;
    let tap = Tap::new("tap0");
    let scratch = Scratch::new();
    let socket = scratch.join("api.sock");
    let vmm = Vmm::puppet("").args(["--rng", "off", "--net", "tap=tap0", "--api-sock"]);
    let puppet = Puppet::start(vmm.arg(&socket));
    let device = Device::find(&puppet, Kind::Net);
    device.negotiate(0);
    let (mut receive, mut send) = (device.queue(0), device.queue(1));
    device.driver_ok();
    // What comes before is not for this driver.
    puppet.sync();
    Subject::Net.fill_buffers(&puppet, &send);
    send.describe(&Subject::Net.chain(&send));
    receive.describe(&[Descriptor::writable(receive.buffer(0), 2048)]);
    let api = Api::at(&socket);
    let pausing = thread::spawn(move || {
        let mut connection = api.connect();
        for _ in 0..1000 {
            for state in ["Paused", "Resumed"] {
                let body = json!({ "state": state }).to_string();
                connection.request("PATCH", "/vm", &body).expect(204);
            }
        }
    });
    let before = interface_counter("tap0", "rx_packets");
    let mut frames = 0;
    while !pausing.is_finished() {
        offer_again(&mut send);
        // Its length tells one frame from another.
        let len = 100 + frames % 1000;
        tap.send_broadcast(len as usize);
        loop {
            offer_again(&mut receive);
            let answer = receive.answer();
            let kind = puppet.load(receive.buffer(0) + 12 + 12, 2);
            // The host has things of its own to say, by another protocol.
            if kind == [0x08, 0x00] {
                assert_eq!(answer, Answer::Used(0, HEADERS + len), "frame {frames}");
                break;
            }
        }
        assert_eq!(send.answer(), Answer::Used(0, 0));
        frames += 1;
    }
    pausing.join().unwrap();
    assert!(frames > 0);
    assert_eq!(interface_counter("tap0", "rx_packets") - before, u64::from(frames), "frames sent");
    puppet.finish();
}

fn net_on_a_thread_of_its_own() {
    let _tap = Tap::new("tap0");
    let net = "tap=tap0,iothread=net,bw=1G,pps=1M";
    let vmm = Vmm::puppet("").args(["--rng", "off", "--iothread", "net", "--net", net]);
    let puppet = Puppet::start(vmm);
    Subject::Net.good_request(&Device::find(&puppet, Kind::Net));
    let names = puppet.with_machine(|machine| thread_names(machine));
    assert!(names.contains(&"io net".to_owned()), "{names:?}");
    puppet.finish();
}

fn tap_that_has_one_queue_only() {
    let _tap = Tap::new("tap0");
    let end = Vmm::puppet("").args(["--net", "tap=tap0,queues=2"]).run().expect_code(152);
    end.expect_one_line(&["tap0", "multi_queue"]);
}
