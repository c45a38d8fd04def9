//! Every request type, in every framing, on both engines.

use std::os::unix::fs::MetadataExt;

use super::super::{Serial, config};
use super::support::*;
use crate::backend::disk::io::Engine;
use crate::bus::BusDevice;
use crate::virtio::feature;
use crate::virtio::transport::mmio::MmioTransport;

const ENGINES: [Engine; 2] = [Engine::Sync, Engine::IoUring];

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

#[test]
fn data_is_written_and_read_back() {
    for engine in ENGINES {
        let mut rig = Setup::engine(engine).start();
        let data = pattern(4096);
        rig.put(DATA, &data);
        assert_eq!(rig.ask(OUT, 8, &[(DATA, 4096, false)]), (OK, 1));
        assert_eq!(rig.on_disk(8 * 512, 4096), data);
        assert_eq!(rig.ask(IN, 8, &[(DATA + 0x1_0000, 4096, true)]), (OK, 4097));
        assert_eq!(rig.get(DATA + 0x1_0000, 4096), data);
        assert_eq!(rig.running.line.edges(), 2);
        let counters = &rig.counters[0];
        assert_eq!((counters.reads.get(), counters.read_bytes.get()), (1, 4096));
        assert_eq!((counters.writes.get(), counters.written_bytes.get()), (1, 4096));
        assert_eq!((counters.refused.get(), counters.failed.get()), (0, 0));
    }
}

#[test]
fn the_last_sector_is_there_and_the_next_is_not() {
    for engine in ENGINES {
        let mut rig = Setup::engine(engine).start();
        rig.put(DATA, &[7; 1024]);
        assert_eq!(rig.ask(OUT, SECTORS - 1, &[(DATA, 512, false)]), (OK, 1));
        assert_eq!(rig.on_disk((SECTORS - 1) * 512, 512), [7; 512]);
        for (sector, len) in [(SECTORS - 1, 1024), (SECTORS, 512), (u64::MAX, 512), (1 << 55, 512)]
        {
            assert_eq!(rig.ask(IN, sector, &[(DATA, len, true)]), (IOERR, 1), "{sector:#x}");
            assert_eq!(rig.ask(OUT, sector, &[(DATA, len, false)]), (IOERR, 1), "{sector:#x}");
        }
        assert_eq!(rig.file.metadata().unwrap().len(), SECTORS * 512);
        assert_eq!(rig.counters[0].refused.get(), 8);
        rig.assert_alive();
    }
}

/// A driver may cut header, data and status wherever it likes: here at every set of two cuts.
#[test]
fn any_framing_is_understood() {
    let mut rig = Setup::default().start();
    rig.fill_disk(5 * 512, &pattern(512));
    // One buffer of header and data, one of data and status, each cut in three.
    let (sent, received) = (DATA, DATA + 0x1000);
    for (first, second) in (1..16).flat_map(|a| (a + 1..20).map(move |b| (a, b))) {
        rig.put(sent, &[&OUT.to_le_bytes()[..], &[0; 4], &5_u64.to_le_bytes()].concat());
        let data = vec![u8::try_from(first * 16 + second % 16).unwrap(); 512];
        rig.put(sent + 16, &data);
        rig.put(received, &[NONE; 513]);
        rig.running.queues[0].add(&[
            (sent, first, false),
            (sent + u64::from(first), second - first, false),
            (sent + u64::from(second), 528 - second, false),
            (received, 1, true),
        ]);
        assert_eq!(rig.finish(1)[0].1, 1);
        assert_eq!(rig.get(received, 1), [OK], "cut at {first} and {second}");
        assert_eq!(rig.on_disk(5 * 512, 512), data);

        rig.put(sent, &IN.to_le_bytes());
        let (a, b) = (first * 20, second * 25);
        rig.running.queues[0].add(&[
            (sent, 16, false),
            (received, a, true),
            (received + u64::from(a), b - a, true),
            (received + u64::from(b), 513 - b, true),
        ]);
        assert_eq!(rig.finish(1)[0].1, 513);
        assert_eq!(rig.get(received, 513), [&data[..], &[OK]].concat(), "cut at {a} and {b}");
    }
}

#[test]
fn a_request_may_lie_in_an_indirect_table() {
    for engine in ENGINES {
        let features = F_ALL | feature::INDIRECT_DESC;
        let mut rig = Setup { features, ..Setup::engine(engine) }.start();
        rig.fill_disk(512, &pattern(4096));
        let (header, status) = rig.place(IN, 1);
        // More pieces than the ring has entries.
        let mut chain = vec![(header, 16, false)];
        chain.extend((0..8).map(|i| (DATA + 0x2000 * i, 512, true)));
        chain.push((status, 1, true));
        rig.running.queues[0].add_indirect(DATA + 0x8_0000, &chain);
        assert_eq!(rig.finish(1)[0].1, 4097);
        let read: Vec<u8> = (0..8).flat_map(|i| rig.get(DATA + 0x2000 * i, 512)).collect();
        assert_eq!(read, pattern(4096));
        assert_eq!(rig.get(status, 1), [OK]);
    }
}

#[test]
fn the_driver_is_interrupted_once_per_batch_and_when_it_asks_to_be() {
    for engine in ENGINES {
        let features = F_ALL | feature::EVENT_IDX;
        let mut rig = Setup { features, ..Setup::engine(engine) }.start();
        rig.running.queues[0].set_used_event(2);
        for _ in 0..2 {
            rig.send(GET_ID, 0, &[(DATA, 20, true)]);
        }
        rig.finish(2);
        assert_eq!(rig.running.line.edges(), 0);
        for _ in 0..3 {
            rig.send(GET_ID, 0, &[(DATA, 20, true)]);
        }
        rig.finish(3);
        assert_eq!(rig.running.line.edges(), 1);
    }
}

#[test]
fn the_serial_number_has_20_bytes() {
    let mut rig = Setup::default().start();
    rig.put(DATA, &[NONE; 64]);
    assert_eq!(rig.ask(GET_ID, 0, &[(DATA, 20, true)]), (OK, 21));
    assert_eq!(rig.get(DATA, 21), [&b"serial-1"[..], &[0; 12], &[NONE]].concat());
    assert_eq!(rig.ask(GET_ID, 0, &[(DATA, 8, true), (DATA + 8, 24, true)]), (OK, 21));
    assert_eq!(rig.ask(GET_ID, 0, &[(DATA, 19, true)]), (IOERR, 1));
    rig.assert_alive();
}

#[test]
fn a_serial_number_is_short_and_printable() {
    assert!("12345678901234567890".parse::<Serial>().is_ok());
    for text in ["", "123456789012345678901", "tab\t", "é"] {
        assert!(text.parse::<Serial>().is_err(), "{text:?}");
    }
}

#[test]
fn a_discard_gives_the_space_back() {
    for engine in ENGINES {
        let mut rig = Setup::engine(engine).start();
        rig.fill_disk(0, &[0xaa; 1 << 20]);
        let before = rig.file.metadata().unwrap().blocks();
        rig.put_range(DATA, 0, 512, 0);
        rig.put_range(DATA + 16, 1024, 512, 0);
        assert_eq!(rig.ask(DISCARD, 0, &[(DATA, 32, false)]), (OK, 1));
        let metadata = rig.file.metadata().unwrap();
        assert!(metadata.blocks() + 1024 <= before, "{} of {before}", metadata.blocks());
        assert_eq!(metadata.len(), 512 * SECTORS);
        assert_eq!(rig.on_disk(512 * 512, 512), [0xaa; 512]);
        assert_eq!(rig.on_disk(1024 * 512, 512), [0; 512]);
        assert_eq!(rig.counters[0].clears.get(), 1);
    }
}

#[test]
fn zeroes_are_written_with_and_without_freeing() {
    for engine in ENGINES {
        let mut rig = Setup::engine(engine).start();
        for flags in [0, 1] {
            rig.fill_disk(0, &[0xaa; 1 << 20]);
            rig.put_range(DATA, 3, 1001, flags);
            assert_eq!(rig.ask(WRITE_ZEROES, 0, &[(DATA, 16, false)]), (OK, 1));
            assert_eq!(rig.on_disk(2 * 512, 512), [0xaa; 512]);
            assert_eq!(rig.on_disk(3 * 512, 1001 * 512), vec![0; 1001 * 512]);
            assert_eq!(rig.on_disk(1004 * 512, 512), [0xaa; 512]);
        }
    }
}

#[test]
fn a_flush_is_answered() {
    for engine in ENGINES {
        let mut rig = Setup::engine(engine).start();
        assert_eq!(rig.ask(FLUSH, 0, &[]), (OK, 1));
        assert_eq!(rig.counters[0].flushes.get(), 1);
    }
}

#[test]
fn a_read_only_disk_is_read_and_not_written() {
    for engine in ENGINES {
        let features = F_RO | F_FLUSH;
        let mut rig = Setup { read_only: true, features, ..Setup::engine(engine) }.start();
        rig.fill_disk(0, &pattern(4096));
        assert_eq!(rig.ask(IN, 0, &[(DATA, 4096, true)]), (OK, 4097));
        assert_eq!(rig.get(DATA, 4096), pattern(4096));
        rig.put(DATA, &[9; 512]);
        assert_eq!(rig.ask(OUT, 0, &[(DATA, 512, false)]), (IOERR, 1));
        rig.put_range(DATA, 0, 8, 0);
        assert_eq!(rig.ask(DISCARD, 0, &[(DATA, 16, false)]), (IOERR, 1));
        assert_eq!(rig.ask(WRITE_ZEROES, 0, &[(DATA, 16, false)]), (IOERR, 1));
        assert_eq!(rig.ask(FLUSH, 0, &[]), (OK, 1));
        assert_eq!(rig.on_disk(0, 4096), pattern(4096));
        rig.assert_alive();
    }
}

#[test]
fn direct_transfers_need_no_aligned_buffers() {
    for engine in ENGINES {
        let mut rig = Setup { direct: true, ..Setup::engine(engine) }.start();
        let data = pattern(96 << 10);
        for skew in [0, 1, 512, 4095] {
            rig.put(DATA + skew, &data);
            assert_eq!(rig.ask(OUT, 3, &[(DATA + skew, 96 << 10, false)]), (OK, 1), "{skew}");
            assert_eq!(rig.on_disk(3 * 512, 96 << 10), data);
            rig.put(DATA, &[NONE; 128 << 10]);
            assert_eq!(rig.ask(IN, 3, &[(DATA + skew, 96 << 10, true)]).0, OK, "{skew}");
            assert_eq!(rig.get(DATA + skew, 96 << 10), data);
            rig.fill_disk(3 * 512, &[0; 96 << 10]);
        }
    }
}

#[test]
fn each_queue_is_served_and_counted_by_itself() {
    for engine in ENGINES {
        let features = F_ALL | F_MQ;
        let mut rig = Setup { queues: 3, features, ..Setup::engine(engine) }.start();
        let (header, status) = rig.place(IN, 0);
        let chain = [(header, 16, false), (DATA, 512, true), (status, 1, true)];
        rig.running.queues[2].add(&chain);
        assert!(rig.running.kick(2));
        while rig.running.queues[2].take_used().is_empty() {
            assert!(rig.running.host.run());
        }
        assert_eq!(rig.get(status, 1), [OK]);
        assert_eq!(rig.counters[2].reads.get(), 1);
        assert_eq!(rig.counters[0].reads.get(), 0);
        rig.assert_alive();
    }
}

#[test]
fn the_configuration_space_tells_what_is_offered() {
    let features = F_ALL | F_MQ;
    let rig = Setup { queues: 2, features, ..Setup::default() }.start();
    let field = |offset: u64, len: usize| {
        let mut bytes = [0; 8];
        rig.running.transport.read_config(offset, &mut bytes[..len]);
        u64::from_le_bytes(bytes)
    };
    assert_eq!(field(0, 8), SECTORS);
    assert_eq!(field(12, 4), 254);
    assert_eq!(field(20, 4), 512);
    let physical = u64::from(1_u8) << field(24, 1);
    assert_eq!(field(26, 2), physical);
    assert_eq!(field(34, 2), 2);
    assert_eq!(field(36, 4), u64::from(config::MAX_DISCARD_SECTORS));
    assert_eq!(field(40, 4), u64::from(config::MAX_DISCARD_RANGES));
    assert_eq!(field(44, 4), physical);
    assert_eq!(field(48, 4), u64::from(config::MAX_ZERO_SECTORS));
    assert_eq!(field(52, 4), u64::from(config::MAX_ZERO_RANGES));
    assert_eq!(field(56, 4), 1);
    assert_eq!(field(60, 8), 0);
}

#[test]
fn offered_features_fit_the_disk() {
    let writable = Setup::default().start().running.transport.offered_features();
    assert_eq!(writable & (F_ALL | F_RO | F_MQ), F_ALL);
    let two = Setup { queues: 2, ..Setup::default() }.start();
    assert_eq!(two.running.transport.offered_features() & F_MQ, F_MQ);
    let features = F_RO;
    let read_only = Setup { read_only: true, features, ..Setup::default() }.start();
    let offered = read_only.running.transport.offered_features();
    assert_eq!(offered & (F_ALL | F_RO | F_MQ), F_RO | F_FLUSH);
}

#[test]
fn its_registers_say_block_device() {
    let rig = Setup::default().start();
    let mut registers = MmioTransport::new(rig.running.transport);
    let mut word = [0; 4];
    registers.read(0x08, &mut word);
    assert_eq!(u32::from_le_bytes(word), 2);
}

#[test]
fn a_pause_answers_what_is_in_flight_and_loses_nothing() {
    for engine in ENGINES {
        let mut rig = Setup::engine(engine).start();
        let data = pattern(4096);
        rig.fill_disk(0, &data);
        for round in 0..50 {
            let buffer = DATA + 0x1000 * (round % 4);
            let sent = rig.send(IN, 0, &[(buffer, 4096, true)]);
            // Whether the request was taken by then or not, it must be answered once.
            if round % 2 == 0 {
                rig.running.kick(0);
            } else {
                rig.running.transport.kick(0);
            }
            rig.running.transport.pause();
            let in_pause = rig.running.queues[0].take_used().len();
            rig.running.transport.resume();
            let after = if in_pause == 0 { rig.finish(1).len() } else { 0 };
            assert_eq!(in_pause + after, 1, "{engine:?}, round {round}");
            assert_eq!(rig.status(sent), OK);
            assert_eq!(rig.get(buffer, 4096), data);
            assert!(rig.running.host.run() && rig.running.queues[0].take_used().is_empty());
        }
    }
}
