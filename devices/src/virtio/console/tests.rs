mod saved;

use std::io::Write;
use std::os::unix::net::UnixStream;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::backend::console::tests::{connected, drain, settle};
use crate::backend::console::{Console as Backend, Size, Stage};
use crate::memory::GuestMemory;
use crate::test_util::{DriverQueue, Running, guest_memory};
use crate::virtio::feature;

const RX: u32 = 0;
const TX: u32 = 1;
/// Where the tests keep their buffers.
const BUFFER: u64 = 0x10_0000;
const SIZE: Size = Size { columns: 132, rows: 50 };

struct Setup {
    memory: GuestMemory,
    running: Running,
    backend: Backend,
    port: ConsolePort,
    person: UnixStream,
}

impl Setup {
    fn new(features: u64) -> Self {
        let (backend, person) = connected();
        let port = backend.port(Stage::Late).unwrap();
        port.set_size(SIZE);
        let memory = guest_memory(4 << 20);
        let device = Box::new(Console::new(port.clone()));
        let running = Running::new(device, &memory, features, 0);
        assert!(running.host.is_running());
        Self { memory, running, backend, port, person }
    }

    fn transmit(&mut self, text: &[u8]) -> bool {
        self.memory.write_slice(text, GuestAddress(BUFFER)).unwrap();
        let len = u32::try_from(text.len()).unwrap();
        self.running.queues[1].add(&[(BUFFER, len, false)]);
        self.running.kick(TX)
    }

    fn type_keys(&mut self, keys: &[u8]) {
        self.person.write_all(keys).unwrap();
        self.turn();
    }

    fn turn(&mut self) {
        settle(&mut self.backend);
        assert!(self.running.host.run());
    }

    /// What the device has filled in since the last call, when every buffer has 16 bytes.
    fn received(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        for (head, len) in self.running.queues[0].take_used() {
            let mut bytes = vec![0; len as usize];
            let at = BUFFER + 16 * u64::from(head);
            self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            all.extend(bytes);
        }
        all
    }

    fn offer_buffers(&mut self, count: u64) {
        for _ in 0..count {
            // The head that the driver's queue will use next has its own place.
            let head = u64::from(self.running.queues[0].avail_index()) % 16;
            self.running.queues[0].add(&[(BUFFER + 16 * head, 16, true)]);
        }
    }
}

fn config(running: &Running, offset: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0xee; len];
    running.transport.read_config(offset, &mut data);
    data
}

#[test]
fn the_device_has_two_queues_and_a_size() {
    let setup = Setup::new(0);
    let transport = &setup.running.transport;
    assert_eq!(transport.device().device_type(), DeviceType::CONSOLE);
    assert_eq!(transport.device().features(), F_SIZE | F_EMERG_WRITE);
    assert_eq!((transport.max_queue_size(0), transport.max_queue_size(1)), (64, 256));
    assert_eq!(config(&setup.running, 0, 12), [132, 0, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(config(&setup.running, 2, 2), [50, 0]);
    assert_eq!(config(&setup.running, 12, 4), [0; 4]);
    assert_eq!(config(&setup.running, u64::MAX, 4), [0; 4]);
}

#[test]
fn a_console_that_is_no_terminal_has_no_size() {
    let (backend, _person) = connected();
    let device = Console::new(backend.port(Stage::Late).unwrap());
    assert_eq!(device.features(), F_EMERG_WRITE);
    let mut data = [0xee; 4];
    device.read_config(0, &mut data);
    assert_eq!(data, [0; 4]);
}

#[test]
fn what_the_driver_sends_is_shown_at_once_and_the_buffer_comes_back() {
    for features in [0, feature::EVENT_IDX] {
        let mut setup = Setup::new(features);
        for text in ["hello ", "world"] {
            assert!(setup.transmit(text.as_bytes()));
            assert_eq!(setup.running.queues[1].take_used().len(), 1);
        }
        // Delivered without a turn of the backend.
        assert_eq!(drain(&setup.person), b"hello world");
        assert!(setup.running.line.edges() > 0);
    }
}

#[test]
fn a_chain_of_pieces_is_one_text() {
    let mut setup = Setup::new(feature::INDIRECT_DESC);
    setup.memory.write_slice(b"one two three", GuestAddress(BUFFER)).unwrap();
    let pieces = [(BUFFER, 4, false), (BUFFER + 4, 4, false), (BUFFER + 8, 5, false)];
    setup.running.queues[1].add(&pieces);
    setup.running.queues[1].add_indirect(BUFFER + 0x1000, &pieces);
    assert!(setup.running.kick(TX));
    assert_eq!(drain(&setup.person), b"one two threeone two three");
    let used = setup.running.queues[1].take_used();
    assert!(used.iter().all(|&(_, written)| written == 0));
}

#[test]
fn keys_fill_the_buffers_that_are_there() {
    for features in [0, feature::EVENT_IDX] {
        let mut setup = Setup::new(features);
        setup.offer_buffers(2);
        assert!(setup.running.kick(RX));
        assert!(setup.running.queues[0].take_used().is_empty());
        setup.type_keys(b"ls\r");
        assert_eq!(setup.received(), b"ls\r");
        assert_eq!(setup.running.line.edges(), 1);
        setup.type_keys(b"q");
        assert_eq!(setup.received(), b"q");
    }
}

#[test]
fn keys_without_buffers_wait_for_a_kick() {
    for features in [0, feature::EVENT_IDX] {
        let mut setup = Setup::new(features);
        let keys: Vec<u8> = (0..100).collect();
        setup.type_keys(&keys);
        let mut got = Vec::new();
        while got.len() < keys.len() {
            setup.offer_buffers(1);
            assert!(setup.running.kick(RX));
            let more = setup.received();
            assert_eq!(more.len(), 16.min(keys.len() - got.len()));
            got.extend(more);
        }
        assert_eq!(got, keys);
    }
}

#[test]
fn a_driver_with_event_index_is_asked_to_kick_when_buffers_are_missing() {
    let mut setup = Setup::new(feature::EVENT_IDX);
    setup.offer_buffers(2);
    setup.type_keys(&[b'k'; 100]);
    assert_eq!(setup.received().len(), 32);
    // `avail_event`, behind the used ring of 16 entries.
    let asked: u16 = setup.memory.read_obj(GuestAddress(0x3000 + 4 + 8 * 16)).unwrap();
    assert_eq!(asked, 2);
}

#[test]
fn more_buffers_than_one_turn_serves_are_all_served() {
    let mut setup = Setup::new(0);
    setup.running.transport.reset();
    setup.running.queues[0] = DriverQueue::new(&setup.memory, 0, 64);
    setup.running.queues[1] = DriverQueue::new(&setup.memory, 0x40000, 16);
    setup.memory.write_slice(&[0; 0x80000], GuestAddress(0)).unwrap();
    setup.running.bring_up(0);
    for i in 0..40 {
        setup.running.queues[0].add(&[(BUFFER + i, 1, true)]);
    }
    setup.type_keys(&[b'k'; 40]);
    for _ in 0..4 {
        setup.turn();
    }
    assert_eq!(setup.running.queues[0].take_used().len(), 40);
}

#[test]
fn a_long_paste_arrives_complete() {
    let mut setup = Setup::new(feature::EVENT_IDX);
    let paste: Vec<u8> = (0..20_000_u32).map(|i| (i % 253) as u8).collect();
    setup.type_keys(&paste);
    let mut got = Vec::new();
    while got.len() < paste.len() {
        setup.offer_buffers(16);
        assert!(setup.running.kick(RX));
        for _ in 0..4 {
            setup.turn();
        }
        let more = setup.received();
        assert!(!more.is_empty(), "stuck after {} bytes", got.len());
        got.extend(more);
    }
    assert_eq!(got, paste);
}

#[test]
fn a_new_size_is_announced_once_to_a_driver_that_wants_to_know() {
    for features in [0, F_SIZE] {
        let mut setup = Setup::new(features);
        let generation = setup.running.transport.interrupt().generation();
        for _ in 0..2 {
            setup.port.set_size(Size { columns: 80, rows: 25 });
            setup.turn();
        }
        let announced = setup.running.transport.interrupt().generation() - generation;
        assert_eq!(announced, u32::from(features == F_SIZE));
        assert_eq!(setup.running.line.edges(), usize::from(features == F_SIZE));
        assert_eq!(config(&setup.running, 0, 4), [80, 0, 25, 0]);
    }
}

#[test]
fn an_emergency_character_is_shown_without_queues() {
    let mut setup = Setup::new(F_EMERG_WRITE);
    setup.running.transport.write_config(8, &[b'!', 0, 0, 0]);
    setup.running.transport.write_config(8, b"?");
    for (offset, data) in [(0, &b"x"[..]), (4, b"x"), (9, b"x"), (12, b"x"), (8, b"")] {
        setup.running.transport.write_config(offset, data);
    }
    settle(&mut setup.backend);
    assert_eq!(drain(&setup.person), b"!?");
    setup.port.write(b"");
}

#[test]
fn a_reset_gives_the_terminal_back_and_the_device_starts_again() {
    let mut setup = Setup::new(0);
    let serial = setup.backend.port(Stage::Early).unwrap();
    for _ in 0..3 {
        serial.write(b"[serial]");
        assert!(setup.transmit(b"[console]"));
        serial.write(b"[hidden]");
        setup.running.transport.reset();
        serial.write(b"[serial]");
        settle(&mut setup.backend);
        assert_eq!(drain(&setup.person), b"[serial][console][serial]");
        setup.running.queues = (0..2)
            .map(|i| {
                let base = 0x40000 * i;
                setup.memory.write_slice(&[0; 0x4000], GuestAddress(base)).unwrap();
                DriverQueue::new(&setup.memory, base, 16)
            })
            .collect();
        setup.running.bring_up(0);
    }
}

#[test]
fn buffers_of_the_wrong_direction_come_back_empty() {
    let mut setup = Setup::new(0);
    setup.running.queues[1].add(&[(BUFFER, 16, true)]);
    assert!(setup.running.kick(TX));
    assert_eq!(setup.running.queues[1].take_used(), [(0, 0)]);
    setup.running.queues[0].add(&[(BUFFER, 16, false)]);
    setup.running.queues[0].add(&[(BUFFER + 16, 16, true)]);
    setup.type_keys(b"k");
    assert_eq!(setup.running.queues[0].take_used(), [(0, 0), (1, 1)]);
}

#[test]
fn malformed_chains_need_a_reset_and_a_reset_is_enough() {
    type Case = (&'static str, fn(&mut Setup));
    let cases: [Case; 5] = [
        ("loop", |s| {
            s.running.queues[1].descriptor(0, BUFFER, 1, 1, 0);
            s.running.queues[1].offer(0);
        }),
        ("outside memory", |s| {
            s.running.queues[1].add(&[(1 << 40, 16, false)]);
        }),
        ("length zero", |s| {
            s.running.queues[1].add(&[(BUFFER, 0, false)]);
        }),
        ("head beyond the table", |s| s.running.queues[1].offer(999)),
        ("index jump", |s| s.running.queues[1].set_avail_index(1000)),
    ];
    for (name, break_it) in cases {
        let mut setup = Setup::new(0);
        break_it(&mut setup);
        assert!(!setup.running.kick(TX), "{name}");
        let status = setup.running.transport.status();
        assert_ne!(status & crate::virtio::transport::status::NEEDS_RESET, 0, "{name}");
        setup.running.transport.reset();
        setup.memory.write_slice(&[0; 0x80000], GuestAddress(0)).unwrap();
        for (i, queue) in (0..).zip(&mut setup.running.queues) {
            *queue = DriverQueue::new(&setup.memory, 0x40000 * i, 16);
        }
        setup.running.bring_up(0);
        assert!(setup.transmit(b"fine again"), "{name}");
        assert_eq!(drain(&setup.person), b"fine again", "{name}");
    }
}

#[test]
fn a_malformed_receive_chain_is_found_when_it_is_used() {
    let mut setup = Setup::new(0);
    setup.running.queues[0].add(&[(1 << 40, 16, true)]);
    setup.person.write_all(b"k").unwrap();
    settle(&mut setup.backend);
    assert!(!setup.running.host.run());
}

#[test]
fn gigabytes_in_one_chain_are_cut() {
    let mut setup = Setup::new(0);
    let huge = [(BUFFER, 2 << 20, false); 10];
    setup.running.queues[1].add(&huge);
    assert!(setup.running.kick(TX));
    assert_eq!(setup.running.queues[1].take_used().len(), 1);
    assert_eq!(setup.backend.counters().output, 256 << 10);
}

#[test]
fn a_stalled_reader_does_not_hold_the_driver_up() {
    let mut setup = Setup::new(0);
    let text = vec![b'x'; 32 << 10];
    for _ in 0..512 {
        assert!(setup.transmit(&text));
        assert_eq!(setup.running.queues[1].take_used().len(), 1);
    }
    let counters = setup.backend.counters();
    assert_eq!(counters.output, 16 << 20);
    assert!(counters.lost > 15 << 20);
}
