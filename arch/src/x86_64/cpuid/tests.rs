use super::*;

fn entry(function: u32, index: u32, registers: [u32; 4]) -> CpuidEntry {
    let [eax, ebx, ecx, edx] = registers;
    let significant_index = matches!(function, 4 | 0xb | 0x1f | 0x8000_001d);
    CpuidEntry { function, index, significant_index, eax, ebx, ecx, edx }
}

fn word(text: &[u8]) -> u32 {
    u32::from_le_bytes(text.try_into().unwrap())
}

fn signature(function: u32, eax: u32, name: &[u8; 12]) -> CpuidEntry {
    let [b, c, d] = [&name[..4], &name[4..8], &name[8..]].map(word);
    entry(function, 0, [eax, b, c, d])
}

/// An Intel host of 32 identifiers, CPU 9, as older kernels report it.
fn intel() -> Vec<CpuidEntry> {
    vec![
        entry(0, 0, [0x1f, word(b"Genu"), word(b"ntel"), word(b"ineI")]),
        entry(1, 0, [0x50657, 0x0920_0800, 0, 1 << 19]),
        entry(4, 0, [0x7c00_4121, 0x1c0_003f, 0x3f, 0]),
        entry(4, 2, [0x7c00_4143, 0x3c0_003f, 0x3ff, 0]),
        entry(4, 3, [0x7c07_c163, 0x280_003f, 0x9fff, 4]),
        entry(4, 4, [0, 0, 0, 0]),
        entry(0xa, 0, [0x0830_0402, 0, 0, 0x603]),
        entry(0xb, 0, [1, 2, 0x100, 9]),
        entry(0xb, 1, [5, 32, 0x201, 9]),
        entry(0x15, 0, [2, 168, 0, 0]),
        entry(0x1f, 0, [1, 2, 0x100, 9]),
        signature(0x4000_0000, 0x4000_0001, b"KVMKVMKVM\0\0\0"),
        entry(0x4000_0001, 0, [0x100_7efb, 0, 0, 0]),
        entry(0x8000_0008, 0, [0x302e, 0, 0, 0]),
    ]
}

/// An AMD host, whose kernel leaves leaf 0xb empty.
fn amd() -> Vec<CpuidEntry> {
    vec![
        entry(0, 0, [0x10, word(b"Auth"), word(b"cAMD"), word(b"enti")]),
        entry(1, 0, [0x0083_0f10, 0x0540_0800, 1 << 24, (1 << 19) | (1 << 28)]),
        entry(4, 0, [0; 4]),
        signature(0x4000_0000, 0, b"KVMKVMKVM\0\0\0"),
        entry(0x8000_0001, 0, [0, 0, 1 << 22, 0]),
        entry(0x8000_0008, 0, [0x3030, 0, 0x703f, 0]),
        entry(0x8000_001d, 0, [0x4121, 0x1c0_003f, 0x3f, 0]),
        entry(0x8000_001d, 3, [0x01c1_c163, 0x3c0_003f, 0x3fff, 1]),
        entry(0x8000_001e, 0, [5, 0x102, 0x300, 0]),
        entry(0x8000_0026, 0, [1, 2, 0x100, 5]),
    ]
}

fn facts(cpus: u16, cores: u16, threads: u16, index: u16) -> CpuFacts {
    let topology = Topology::new(cpus, Some(cores), Some(threads), None).unwrap();
    CpuFacts { index, topology, tsc_khz: Some(2_100_000), tsc_deadline_timer: true }
}

fn configured(mut entries: Vec<CpuidEntry>, facts: &CpuFacts) -> Vec<CpuidEntry> {
    configure(&mut entries, facts).unwrap();
    entries
}

fn get(entries: &[CpuidEntry], function: u32, index: u32) -> CpuidEntry {
    let mut found =
        entries.iter().filter(|entry| entry.function == function && entry.index == index);
    let entry = *found.next().unwrap();
    assert_eq!(found.next(), None, "leaf {function:#x}/{index} is there twice");
    entry
}

#[test]
fn leaf_1_has_the_guests_identifier_size_and_features() {
    let leaf = get(&configured(intel(), &facts(8, 4, 2, 5)), 1, 0);
    assert_eq!(leaf.ebx, 0x0508_0800, "identifier 5, 8 CPUs, CLFLUSH of 64 bytes");
    assert_eq!(leaf.ecx, (1 << 31) | (1 << 24) | (1 << 21));
    assert_eq!(leaf.edx, (1 << 28) | (1 << 19));
    assert_eq!(leaf.eax, 0x50657, "the model stays");
}

#[test]
fn a_lone_cpu_has_no_siblings_and_only_the_timer_of_its_host() {
    let mut facts = facts(1, 1, 1, 0);
    facts.tsc_deadline_timer = false;
    let leaf = get(&configured(amd(), &facts), 1, 0);
    assert_eq!(leaf.ebx, 0x0001_0800);
    assert_eq!(leaf.ecx, (1 << 31) | (1 << 21));
    assert_eq!(leaf.edx, 1 << 19);
}

#[test]
fn identifiers_beyond_8_bits_are_cut_only_where_there_is_no_room() {
    let entries = configured(intel(), &facts(243, 9, 3, 242));
    let id = (8 << 6) | (8 << 2) | 2;
    assert_eq!(get(&entries, 1, 0).ebx >> 24, id & 0xff);
    assert_eq!(get(&entries, 0xb, 0).edx, id);
}

#[test]
fn topology_leaves_replace_the_hosts() {
    let entries = configured(intel(), &facts(12, 3, 2, 11));
    let id = 8 | (2 << 1) | 1;
    for function in [0xb, 0x1f] {
        let thread = entry(function, 0, [1, 2, 0x100, id]);
        let core = entry(function, 1, [3, 6, 0x201, id]);
        assert_eq!(get(&entries, function, 0), thread);
        assert_eq!(get(&entries, function, 1), core);
    }
}

#[test]
fn topology_leaf_is_made_where_the_host_has_none() {
    let entries = configured(amd(), &facts(4, 2, 2, 3));
    assert_eq!(get(&entries, 0xb, 1), entry(0xb, 1, [2, 4, 0x201, 3]));
    assert!(entries.iter().all(|entry| entry.function != 0x1f), "the host stops before it");
    assert!(entries.iter().all(|entry| entry.function != 0x8000_0026));
}

#[test]
fn an_old_hosts_last_leaf_is_raised_to_the_topology_leaf() {
    let mut entries = intel();
    entries[0].eax = 4;
    let entries = configured(entries, &facts(1, 1, 1, 0));
    assert_eq!(get(&entries, 0, 0).eax, 0xb);
    assert!(entries.iter().all(|entry| entry.function != 0x1f));
}

#[test]
fn intel_caches_are_shared_by_core_and_by_socket() {
    let entries = configured(intel(), &facts(12, 3, 2, 0));
    let fields = |index| {
        let eax = get(&entries, 4, index).eax;
        (eax >> 26, (eax >> 14) & 0xfff, eax & 0x3fff)
    };
    assert_eq!(fields(0), (3, 1, 0x121), "4 core identifiers, 2 threads, level 1");
    assert_eq!(fields(2), (3, 1, 0x143));
    assert_eq!(fields(3), (3, 7, 0x163), "8 identifiers share level 3");
    assert_eq!(get(&entries, 4, 4).eax, 0, "no cache, no sharing");
}

#[test]
fn intel_core_identifiers_are_capped_to_their_field() {
    let entries = configured(intel(), &facts(254, 254, 1, 253));
    let eax = get(&entries, 4, 3).eax;
    assert_eq!((eax >> 26, (eax >> 14) & 0xfff), (63, 255));
}

#[test]
fn amd_leaves_describe_the_group() {
    let entries = configured(amd(), &facts(12, 3, 2, 11));
    assert_eq!(get(&entries, 0x8000_0001, 0).ecx, (1 << 22) | (1 << 1));
    assert_eq!(get(&entries, 0x8000_0008, 0).ecx, 0x3005);
    let sharing = |index| get(&entries, 0x8000_001d, index).eax >> 14;
    assert_eq!((sharing(0), sharing(3) & 0xfff), (1, 5));
    let leaf = get(&entries, 0x8000_001e, 0);
    assert_eq!((leaf.eax, leaf.ebx, leaf.ecx), (13, 0x102, 0x001));
    let alone = configured(amd(), &facts(1, 1, 1, 0));
    assert_eq!(get(&alone, 0x8000_0001, 0).ecx, 1 << 22);
    assert_eq!(get(&alone, 0x8000_0008, 0).ecx, 0);
}

#[test]
fn other_vendors_keep_their_own_leaves() {
    let mut entries = intel();
    entries[0].ebx = word(b"Shan");
    let configured = configured(entries.clone(), &facts(4, 4, 1, 2));
    for (function, index) in [(4, 0), (4, 3), (0x15, 0), (0x8000_0008, 0)] {
        assert_eq!(get(&configured, function, index), get(&entries, function, index));
    }
}

#[test]
fn frequencies_are_told_when_known() {
    let entries = configured(intel(), &facts(1, 1, 1, 0));
    let leaf = get(&entries, 0x15, 0);
    assert_eq!((leaf.eax, leaf.ebx, leaf.ecx), (10, 21, 1_000_000_000));
    let leaf = get(&entries, 0x4000_0010, 0);
    assert_eq!((leaf.eax, leaf.ebx), (2_100_000, 1_000_000));
    let leaf = get(&entries, 0x4000_0000, 0);
    assert_eq!(leaf, signature(0x4000_0000, 0x4000_0010, b"KVMKVMKVM\0\0\0"));
}

#[test]
fn a_frequency_that_is_no_short_fraction_is_left_to_the_hypervisor_leaf() {
    for (khz, expected) in [
        (2_095_078, (0, 0, 0)),
        (0, (0, 0, 0)),
        (u32::MAX, (0, 0, 0)),
        (2_995_200, (625, 1872, 1_000_000_000)),
    ] {
        let mut facts = facts(1, 1, 1, 0);
        facts.tsc_khz = Some(khz);
        let entries = configured(intel(), &facts);
        let leaf = get(&entries, 0x15, 0);
        assert_eq!((leaf.eax, leaf.ebx, leaf.ecx), expected, "{khz}");
        assert_eq!(get(&entries, 0x4000_0010, 0).eax, khz);
    }
}

#[test]
fn an_unknown_frequency_is_not_invented() {
    let mut facts = facts(1, 1, 1, 0);
    facts.tsc_khz = None;
    let entries = configured(intel(), &facts);
    assert_eq!(get(&entries, 0x15, 0), entry(0x15, 0, [2, 168, 0, 0]));
    assert_eq!(get(&entries, 0x4000_0000, 0).eax, 0x4000_0001);
    assert!(entries.iter().all(|entry| entry.function != 0x4000_0010));
}

#[test]
fn without_kvms_signature_there_is_no_frequency_leaf() {
    let mut entries = intel();
    entries.retain(|entry| entry.function != 0x4000_0000);
    let entries = configured(entries, &facts(1, 1, 1, 0));
    assert!(entries.iter().all(|entry| entry.function != 0x4000_0010));
}

#[test]
fn performance_counters_pass_unchanged() {
    let host = intel();
    let entries = configured(host.clone(), &facts(1, 1, 1, 0));
    assert_eq!(get(&entries, 0xa, 0), get(&host, 0xa, 0));
}

#[test]
fn another_cpu_is_the_first_with_other_identifiers() {
    for host in [intel(), amd()] {
        let mut patched = configured(host.clone(), &facts(12, 3, 2, 0));
        for index in 0..12 {
            set_cpu(&mut patched, &facts(12, 3, 2, 0).topology, index).unwrap();
            assert_eq!(patched, configured(host.clone(), &facts(12, 3, 2, index)));
        }
    }
}

#[test]
fn configuring_twice_changes_nothing() {
    for host in [intel(), amd()] {
        let facts = facts(12, 3, 2, 7);
        let once = configured(host, &facts);
        assert_eq!(configured(once.clone(), &facts), once);
    }
}

#[test]
fn a_cpu_that_is_not_there_is_refused() {
    let error = configure(&mut intel(), &facts(4, 4, 1, 4)).unwrap_err();
    assert_eq!(error, CpuidError::NoSuchCpu { index: 4, cpus: 4 });
}

#[test]
fn a_host_without_basic_leaves_is_refused() {
    for missing in [0, 1] {
        let mut entries = intel();
        entries.retain(|entry| entry.function != missing);
        let error = configure(&mut entries, &facts(1, 1, 1, 0)).unwrap_err();
        assert_eq!(error, CpuidError::Missing { function: missing });
    }
    assert!(configure(&mut Vec::new(), &facts(1, 1, 1, 0)).is_err());
}
