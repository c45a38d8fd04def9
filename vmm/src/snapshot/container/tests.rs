use super::*;

fn sample() -> Container {
    let mut optional = Section::new("hint", b"anything".to_vec());
    optional.is_optional = true;
    optional.version = 7;
    Container {
        id: Id([3; 16]),
        sections: vec![
            Section::new("meta", b"{}".to_vec()),
            Section::new("vcpu 0", (0..=255).collect()),
            Section::new("vcpu 1", Vec::new()),
            optional,
        ],
    }
}

#[test]
fn what_was_written_is_read() {
    let read = Container::decode(&sample().encode()).unwrap();
    assert_eq!(read, sample());
    assert_eq!(read.find("meta"), Some(&b"{}"[..]));
    assert_eq!(read.find("vcpu"), None);
    let vcpus: Vec<_> = read.all("vcpu").map(|(rest, bytes)| (rest, bytes.len())).collect();
    assert_eq!(vcpus, [("0", 256), ("1", 0)]);
    let none = Container { id: Id::default(), sections: Vec::new() };
    assert_eq!(Container::decode(&none.encode()), Ok(none));
}

#[test]
fn every_bit_counts() {
    let file = sample().encode();
    for index in 0..file.len() {
        for bit in 0..8 {
            let mut damaged = file.clone();
            damaged[index] ^= 1 << bit;
            assert!(Container::decode(&damaged).is_err(), "bit {bit} of byte {index}");
        }
    }
}

#[test]
fn every_length_but_the_whole_is_refused() {
    let file = sample().encode();
    for len in 0..file.len() {
        assert!(Container::decode(&file[..len]).is_err(), "{len} bytes");
    }
    for more in [vec![0], vec![0; 100], sample().encode()] {
        assert!(Container::decode(&[file.clone(), more].concat()).is_err());
    }
}

/// A file whose head says something else, with the right checksum.
fn with_head(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut file = sample().encode();
    change(&mut file);
    let sum = CRC.checksum(&file[..HEAD - SUM]);
    file[HEAD - SUM..HEAD].copy_from_slice(&sum.to_le_bytes());
    file
}

#[test]
fn the_reason_is_told() {
    let message = |file: &[u8]| Container::decode(file).unwrap_err().to_string();
    for foreign in [&b""[..], b"vmm", b"vmmstatX", &[0; 4096]] {
        assert_eq!(message(foreign), "it is not a snapshot of vmm");
    }
    let later = with_head(|file| file[8] = 2);
    assert_eq!(message(&later), "its format is 2, and this version of vmm reads 1");
    let file = sample().encode();
    let whole = file.len();
    let cut = format!("it is damaged: it has {} bytes of {whole}", whole - 1);
    assert_eq!(message(&file[..whole - 1]), cut);
    let mut bad = file;
    bad[whole - 1] ^= 1;
    assert_eq!(message(&bad), "it is damaged: section 3");
    // More sections than there are, fewer, and far more than would fit in memory.
    for count in [5, 3, 0, 255] {
        assert!(message(&with_head(|file| file[12] = count)).contains("damaged"));
    }
    assert!(message(&with_head(|file| file[12..16].fill(0xff))).contains("section 4"));
}

#[test]
fn ids_are_written_as_they_are_read() {
    let id = Id([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
    assert_eq!(id.to_string(), "000102030405060708090a0b0c0d0eff");
    assert_eq!(Id::parse(&id.to_string()), Some(id));
    for wrong in ["", "0", "+00102030405060708090a0b0c0d0eff", "x00102030405060708090a0b0c0d0eff"] {
        assert_eq!(Id::parse(wrong), None, "{wrong}");
    }
}
