use super::*;

#[test]
fn an_address_reads_back_as_written() {
    let mac: MacAddress = "52:54:00:12:34:Ff".parse().unwrap();
    assert_eq!(mac.bytes(), [0x52, 0x54, 0, 0x12, 0x34, 0xff]);
    assert_eq!(mac.to_string(), "52:54:00:12:34:ff");
}

#[test]
fn text_that_is_no_address_is_refused() {
    for text in [
        "",
        "52:54:00:12:34",
        "52:54:00:12:34:56:78",
        "52:54:00:12:34:5",
        "52:54:00:12:34:567",
        "52-54-00-12-34-56",
        "52:54:00:12:34:5g",
        "52:54:00:12:34:+6",
        "52:54:00:12:34:56 ",
        "525400123456",
        "52:54:00:12:34:é",
    ] {
        let error = text.parse::<MacAddress>().unwrap_err();
        assert!(matches!(error, NetError::MacForm { .. }), "{text}");
    }
}

#[test]
fn addresses_that_no_card_has_are_refused() {
    for text in ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"] {
        let error = text.parse::<MacAddress>().unwrap_err();
        assert!(error.to_string().starts_with(text), "{error}");
    }
}

#[test]
fn the_mtu_has_limits() {
    for mtu in [0, 67, 65522, u16::MAX] {
        assert_eq!(Mtu::new(mtu), Err(NetError::Mtu { mtu }));
    }
    for mtu in [68, 1500, 9000, 65521] {
        assert_eq!(Mtu::new(mtu).unwrap().get(), mtu);
    }
    let message = NetError::Mtu { mtu: 1 }.to_string();
    assert_eq!(message, "mtu 1 is out of range: 68 to 65521");
}
