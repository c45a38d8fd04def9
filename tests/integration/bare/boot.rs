//! What a guest finds when it starts: its command line, its memory, its tables.

use harness::{Need, Puppet, Vmm, artifacts};

crate::suite::tests! { "bare::boot" needs &[Need::Kvm];
    command_line_as_given,
    longest_command_line,
    appended_words,
    linux64_entry,
    memory_reaches_as_far_as_asked,
    start_info_describes_the_memory,
    acpi_tables_can_be_found,
    several_processors,
    guest_sees_its_serial_input,
}

/// Where the PVH start info is.
const START_INFO: u32 = 0x6000;

fn command_line_as_given() {
    let mut machine = Vmm::puppet("one  two=\"three four\"").spawn();
    machine.wait_for("puppet: one  two=\"three four\"\n");
}

fn longest_command_line() {
    let words = "x".repeat(2047);
    let mut machine = Vmm::puppet(&words).spawn();
    machine.wait_for(&format!("puppet: {words}\n"));
    let end = Vmm::puppet(&format!("{words}x")).run();
    end.expect_code(152).expect_one_line(&["2047", "2048"]);
}

fn appended_words() {
    let mut machine = Vmm::puppet("a").args(["--append", "b", "--append", "c d"]).spawn();
    machine.wait_for("puppet: a b c d\n");
}

fn linux64_entry() {
    for boot in ["auto", "linux64"] {
        let vmm =
            Vmm::new().kernel(artifacts::puppet_64()).args(["--memory", "32M", "--boot", boot]);
        let puppet = Puppet::start(vmm.args(["--cmdline", "in long mode"]));
        // The setup header's magic number, in the zero page that the entry was given.
        assert_eq!(puppet.read(4, 0x7000 + 0x202), u32::from_le_bytes(*b"HdrS"));
        assert!(puppet.with_machine(|machine| machine.stdout()).contains("puppet: in long mode\n"));
        puppet.finish();
    }
}

fn memory_reaches_as_far_as_asked() {
    let vmm = Vmm::new().kernel(artifacts::puppet()).args(["--cmdline", "", "--memory", "48M"]);
    let puppet = Puppet::start(vmm);
    let end = 48 << 20;
    puppet.write(4, end - 4, 0x1234_5678);
    assert_eq!(puppet.read(4, end - 4), 0x1234_5678);
    puppet.write(4, end, 0x1234_5678);
    assert_eq!(puppet.read(4, end), u32::MAX, "beyond the end of memory");
    assert_eq!(puppet.read(4, end - 2), 0xffff_1234, "across the end of memory");
    puppet.finish();
}

fn start_info_describes_the_memory() {
    let puppet = Puppet::alone();
    assert_eq!(puppet.read(4, START_INFO), 0x336e_c578, "magic number");
    let (table, entries) = (puppet.read(4, START_INFO + 40), puppet.read(4, START_INFO + 48));
    let entry = |index: u32| {
        let bytes = puppet.load(table + 24 * index, 24);
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        (number(0), number(8), number(16) as u32)
    };
    let map: Vec<(u64, u64, u32)> = (0..entries).map(entry).collect();
    const RAM: u32 = 1;
    let ram: u64 = map.iter().filter(|(_, _, kind)| *kind == RAM).map(|(_, len, _)| len).sum();
    let ram_end = map.iter().filter(|e| e.2 == RAM).map(|(start, len, _)| start + len).max();
    assert_eq!(ram_end, Some(32 << 20));
    assert!(ram > (31 << 20), "{ram} bytes in {map:x?}");
    let mut ends: Vec<_> = map.iter().map(|(start, len, _)| (*start, start + len)).collect();
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "overlaps in {map:x?}");
    puppet.finish();
}

fn acpi_tables_can_be_found() {
    let puppet = Puppet::alone();
    let rsdp = puppet.load(puppet.read(4, START_INFO + 32), 36);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!(sum(&rsdp), 0);
    let table = |at: u32| puppet.load(at, puppet.read(4, at + 4));
    let xsdt = table(u32::from_le_bytes(rsdp[24..28].try_into().unwrap()));
    assert_eq!((&xsdt[..4], sum(&xsdt)), (&b"XSDT"[..], 0));
    let mut names = Vec::new();
    for pointer in xsdt[36..].chunks(8) {
        let bytes = table(u32::from_le_bytes(pointer[..4].try_into().unwrap()));
        let name = String::from_utf8_lossy(&bytes[..4]).into_owned();
        assert_eq!(sum(&bytes), 0, "checksum of {name}");
        names.push(name);
    }
    assert!(["FACP", "APIC"].iter().all(|name| names.iter().any(|n| n == name)), "{names:?}");
    puppet.finish();
}

/// The processors but the first wait for a kernel that starts them, and do not disturb.
fn several_processors() {
    for cpus in ["1", "2", "8,cores=2,threads=2", "64"] {
        let puppet = Puppet::start(Vmm::puppet("").args(["--cpus", cpus]));
        let wanted: usize = cpus.split(',').next().unwrap().parse().unwrap();
        let threads = puppet.with_machine(|machine| machine.threads());
        assert!(threads > wanted, "{threads} threads for {wanted} processors");
        puppet.finish();
    }
}

fn guest_sees_its_serial_input() {
    let mut machine = Vmm::puppet("").serial("stdio").spawn();
    machine.wait_for("puppet: \n");
    // Longer than any chip's buffer, and all of it is sent before the guest reads the first byte.
    let text = format!("m 200000 {}\nd 200000 800\n", "a5".repeat(2048));
    machine.send(text);
    machine.wait_for(&format!("{}\n", "a5".repeat(2048)));
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}
