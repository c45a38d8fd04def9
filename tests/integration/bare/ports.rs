//! What answers where no device is, and accesses of every width and repetition.

use harness::puppet::FREE_MEMORY;
use harness::virtio::{Device, Kind};
use harness::{Need, Puppet, Vmm};

crate::suite::tests! { "bare::ports" needs &[Need::Kvm];
    absent_ports_read_as_ones,
    absent_memory_reads_as_ones,
    string_input,
    string_output,
    string_output_longer_than_a_page,
    string_output_to_the_serial_line,
    string_output_stops_at_the_end_of_the_machine,
    wide_access_of_narrow_devices,
    storm_of_random_accesses,
}

/// A port that no device has.
const ABSENT: u16 = 0x1234;

fn absent_ports_read_as_ones() {
    let puppet = Puppet::alone();
    for port in [0x0, ABSENT, 0x3f7, 0x400, 0x604, 0xcfc, 0xfff8] {
        assert_eq!(puppet.port_in(1, port), 0xff, "{port:#x}");
        assert_eq!(puppet.port_in(2, port), 0xffff, "{port:#x}");
        assert_eq!(puppet.port_in(4, port), 0xffff_ffff, "{port:#x}");
        puppet.port_out(1, port, 1);
        puppet.port_out(2, port, 1);
        puppet.port_out(4, port, 1);
    }
    puppet.finish();
}

fn absent_memory_reads_as_ones() {
    let puppet = Puppet::alone();
    // The end of RAM, the 32-bit hole, the windows without a device.
    for address in [0x200_0000, 0x8000_0000, 0xc000_1000, 0xc000_1ffc, 0xd000_0000, 0xfec0_1000] {
        assert_eq!(puppet.read(1, address), 0xff, "{address:#x}");
        assert_eq!(puppet.read(2, address), 0xffff, "{address:#x}");
        assert_eq!(puppet.read(4, address), 0xffff_ffff, "{address:#x}");
        puppet.write(1, address, 0);
        puppet.write(2, address, 0);
        puppet.write(4, address, 0);
    }
    puppet.finish();
}

fn string_input() {
    let puppet = Puppet::alone();
    for width in [1, 2, 4] {
        puppet.store(FREE_MEMORY, &[0; 32]);
        puppet.port_in_string(width, ABSENT, 3, FREE_MEMORY);
        let mut wanted = vec![0; 32];
        wanted[..3 * width as usize].fill(0xff);
        assert_eq!(puppet.load(FREE_MEMORY, 32), wanted, "width {width}");
    }
    puppet.port_in_string(1, ABSENT, 0, FREE_MEMORY);
    puppet.port_in_string(4, ABSENT, 3000, FREE_MEMORY);
    assert_eq!(puppet.read(4, FREE_MEMORY + 4 * 2999), u32::MAX);
    puppet.finish();
}

fn string_output() {
    let puppet = Puppet::alone();
    for width in [1, 2, 4] {
        for count in [0, 1, 3, 100] {
            puppet.port_out_string(width, ABSENT, count, FREE_MEMORY);
        }
    }
    puppet.finish();
}

fn string_output_longer_than_a_page() {
    let puppet = Puppet::alone();
    for width in [1, 2, 4] {
        puppet.port_out_string(width, ABSENT, 5000, FREE_MEMORY + 1);
    }
    puppet.finish();
}

fn string_output_to_the_serial_line() {
    let puppet = Puppet::alone();
    puppet.store(FREE_MEMORY, b"all of this in one instruction\n");
    puppet.port_out_string(1, 0x3f8, 31, FREE_MEMORY);
    let mut machine = puppet.release();
    machine.wait_for("all of this in one instruction\n");
    machine.signal(libc::SIGINT);
    machine.expect_exit(130);
}

fn string_output_stops_at_the_end_of_the_machine() {
    let puppet = Puppet::alone();
    puppet.store(FREE_MEMORY, &[9, 8, 7]);
    puppet.port_out_string(1, 0xf4, 3, FREE_MEMORY);
    puppet.release().expect_exit(9);
}

fn wide_access_of_narrow_devices() {
    let puppet = Puppet::alone();
    for port in [0x60, 0x64, 0x3f8, 0x3fd, 0x505] {
        let _ = puppet.port_in(2, port);
        let _ = puppet.port_in(4, port);
    }
    // Two bytes at the last port of the serial line reach beyond it.
    assert_eq!(puppet.port_in(2, 0x3ff), 0xffff);
    puppet.port_out(2, 0x505, 0x0001);
    puppet.port_out(4, 0x64, 0xfefe_fefe);
    puppet.finish();
}

/// Twelve thousand random accesses of registers and ports; then the device still works.
fn storm_of_random_accesses() {
    for seed in 1..=4 {
        let puppet = Puppet::start(Vmm::puppet(""));
        let descriptors_open = puppet.with_machine(|machine| machine.open_files());
        puppet.storm(0x9e37_79b9_u32.wrapping_mul(seed), 3000);
        let rng = Device::find(&puppet, Kind::Rng);
        super::subject::Subject::Rng.good_request(&rng);
        rng.reset();
        puppet.sync();
        let open_now = puppet.with_machine(|machine| machine.open_files());
        assert_eq!(open_now, descriptors_open, "descriptors after storm and reset");
        puppet.finish();
    }
}
