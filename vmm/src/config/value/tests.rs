use super::*;

#[test]
fn sizes() {
    for (text, bytes) in [
        ("0", 0),
        ("512", 512 << 20),
        ("512M", 512 << 20),
        ("512m", 512 << 20),
        ("512MiB", 512 << 20),
        ("4K", 4096),
        ("4kib", 4096),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
        ("16777215T", 16_777_215 << 40),
    ] {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
}

#[test]
fn what_is_not_a_size() {
    for text in ["", "M", "-1M", "+1M", "1.5G", "1 G", " 1G", "1G ", "1MB", "1X", "0x10", "١M"] {
        assert!(matches!(parse_size(text), Err(ValueError::Size { .. })), "{text}");
    }
    for text in ["16777216T", "18446744073709551616", "99999999999999999999999K"] {
        assert!(matches!(parse_size(text), Err(ValueError::TooLarge { .. })), "{text}");
    }
}

#[test]
fn durations() {
    for (text, millis) in [
        ("0", 0),
        ("30", 30_000),
        ("30s", 30_000),
        ("500ms", 500),
        ("5m", 300_000),
        ("1h", 3_600_000),
    ] {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
    }
}

#[test]
fn what_is_not_a_duration() {
    for text in ["", "s", "-1s", "1.5s", "1 s", "1d", "1S", "1sec", "1m30s"] {
        assert!(matches!(parse_duration(text), Err(ValueError::Duration { .. })), "{text}");
    }
    for text in ["18446744073709551615h", "18446744073709551616ms"] {
        assert!(matches!(parse_duration(text), Err(ValueError::TooLarge { .. })), "{text}");
    }
}

#[test]
fn mac_addresses() {
    let mac = [0x02, 0, 0, 0xab, 0xCD, 0x0f];
    assert_eq!(parse_mac("02:00:00:ab:cd:0f"), Ok(mac));
    assert_eq!(parse_mac("02-00-00-AB-CD-0F"), Ok(mac));
    for text in [
        "",
        "02",
        "02:00:00:ab:cd",
        "02:00:00:ab:cd:0f:",
        "02:00:00:ab:cd:0f:11",
        "2:0:0:ab:cd:f",
        "02:00:00:ab:cd:+f",
        "02:00:00:ab:cd:0g",
        "02:00-00:ab:cd:0f",
        "020000abcd0f",
    ] {
        assert!(matches!(parse_mac(text), Err(ValueError::Mac { .. })), "{text}");
    }
    for text in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
        assert!(matches!(parse_mac(text), Err(ValueError::NotUnicast { .. })), "{text}");
    }
}

#[test]
fn numbers_of_16_bits() {
    assert_eq!(parse_u16("mtu", "65535"), Ok(65535));
    for text in ["", "65536", "99999999999999999999", "-1", "+1", "1k"] {
        let message = parse_u16("mtu", text).unwrap_err().to_string();
        assert_eq!(message, format!("mtu: {text:?} is not a whole number from 0 to 65535"));
    }
}

#[test]
fn lists() {
    let part = |key: &str, value: Option<&str>| Part {
        key: key.to_owned(),
        value: value.map(str::to_owned),
    };
    assert_eq!(split_list("a").unwrap(), [part("a", None)]);
    assert_eq!(
        split_list("a.img,id=x=y,ro").unwrap(),
        [part("a.img", None), part("id", Some("x=y")), part("ro", None)]
    );
    assert_eq!(split_list("a,,b,c=,,").unwrap(), [part("a,b", None), part("c", Some(","))]);
    assert_eq!(split_list(",,,,").unwrap(), [part(",,", None)]);
    assert_eq!(split_list("=x").unwrap(), [part("", Some("x"))]);
}

#[test]
fn broken_lists() {
    for text in ["", ",", "a,", ",a", "a,,,"] {
        assert!(matches!(split_list(text), Err(ValueError::EmptyPart { .. })), "{text}");
    }
    assert_eq!(split_list("a,id=1,id=2"), Err(ValueError::Twice { key: "id".to_owned() }));
}
