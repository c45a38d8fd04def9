//! What a guest finds when it starts: its command line, its memory, its tables.

use harness::{Need, Puppet, Scratch, Vmm, artifacts};

crate::suite::tests! { "bare::boot" needs &[Need::Kvm];
    command_line_as_given,
    longest_command_line,
    appended_words,
    linux64_entry,
    memory_reaches_as_far_as_asked,
    start_info_describes_the_memory,
    acpi_tables_can_be_found,
    every_machine_has_an_identifier_of_its_own,
    several_processors,
    registers_follow_a_template,
    template_that_cannot_be_followed,
    guest_sees_its_serial_input,
}

/// Where the PVH start info is.
const START_INFO: u32 = 0x6000;
/// Where the device `VGEN` says that the generation identifier is.
const GENERATION_ID: u32 = 0xe_0030;

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

fn every_machine_has_an_identifier_of_its_own() {
    let id = || {
        let puppet = Puppet::alone();
        let id = puppet.load(GENERATION_ID, 16);
        puppet.finish();
        id
    };
    let (one, other) = (id(), id());
    assert_ne!(one, other);
    assert!(![one, other].contains(&vec![0; 16]));
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

/// `IA32_KERNEL_GS_BASE`: zero at the start, and any host lets it be anything.
const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// What a template does to CPUID is seen by a Linux guest: not every KVM that runs a puppet catches that instruction.
fn registers_follow_a_template() {
    let scratch = Scratch::new();
    let template = r#"{
        "kvm_capabilities": ["3"],
        "msr_modifiers": [{"addr": "0xc0000102", "bitmap": "0b1010_0000"}]
    }"#;
    let file = scratch.file("template.json", template.as_bytes());
    let config = scratch.file("vm.json", format!(r#"{{"cpu-config": {template}}}"#).as_bytes());
    for way in [["--cpu-template".into(), file.clone()], ["--config-file".into(), config]] {
        let puppet = Puppet::start(Vmm::puppet("").args(["--rng", "off"]).args(way));
        assert_eq!(puppet.msr(KERNEL_GS_BASE), 0xa0);
        puppet.finish();
    }
    let plain = Puppet::alone();
    assert_eq!(plain.msr(KERNEL_GS_BASE), 0);
    plain.finish();
}

fn template_that_cannot_be_followed() {
    let scratch = Scratch::new();
    for (template, words) in [
        (r#"{"kvm_capabilities": ["999999"]}"#, ["capability 999999", "template"]),
        (
            r#"{"cpuid_modifiers": [{"leaf": "0x3fffffff", "subleaf": "0x0", "modifiers": []}]}"#,
            ["leaf 0x3fffffff", "template"],
        ),
        (r#"{"msr_modifiers": [{"addr": "0x12345", "bitmap": "0b1"}]}"#, ["0x12345", "template"]),
        (r#"{"msr_modifiers": [{"addr": "0x1", "bitmap": "1z"}]}"#, ["msr_modifiers[0]", "'z'"]),
        ("[]", ["CPU template", "in braces"]),
    ] {
        let file = scratch.file("template.json", template.as_bytes());
        let end = Vmm::puppet("").args(["--cpu-template".into(), file]).run();
        end.expect_code(152).expect_one_line(&words);
    }
}
