use super::*;

fn bits(text: &str) -> Bits<u32> {
    text.parse().unwrap()
}

#[test]
fn bits_are_replaced_and_the_rest_is_kept() {
    assert_eq!(bits("0b1").apply(0), 1);
    assert_eq!(bits("0b0").apply(u32::MAX), 0xffff_fffe);
    assert_eq!(bits("0b1xx0").apply(0b0111), 0b1110);
    assert_eq!(bits("0bx").apply(0x1234_5678), 0x1234_5678);
    assert_eq!(bits("0b1111_0000").apply(0xffff_ff0f), 0xffff_fff0);
    let whole = "0b".to_owned() + &"10".repeat(16);
    assert_eq!(bits(&whole).apply(0), 0xaaaa_aaaa);
    let wide: Bits<u64> = format!("0b1{}", "x".repeat(63)).parse().unwrap();
    assert_eq!(wide.apply(1), 1 << 63 | 1);
}

#[test]
fn a_text_that_is_no_bitmap_is_refused_by_what_is_wrong_with_it() {
    let refused = |text: &str| text.parse::<Bits<u32>>().unwrap_err().to_string();
    assert!(refused("0b12").contains("'2'"), "{}", refused("0b12"));
    assert!(refused("0xff").contains("one of 0, 1 and x"), "{}", refused("0xff"));
    assert!(refused("0b").contains("no bits"), "{}", refused("0b"));
    assert!(refused("").contains("no bits"), "{}", refused(""));
    let long = "0b".to_owned() + &"x".repeat(33);
    assert!(refused(&long).contains("33 bits, and the register has 32"), "{}", refused(&long));
    assert!(long.parse::<Bits<u64>>().is_ok());
    let longer = "1".repeat(1000);
    assert!(matches!(longer.parse::<Bits<u64>>(), Err(BitsError::TooLong { bits: 1000, .. })));
}

#[test]
fn bits_are_written_as_they_are_read() {
    for text in ["0b1", "0b0", "0b10x", "0b1xxxxxxx0", "0bx"] {
        assert_eq!(bits(text).to_string(), text);
    }
    assert_eq!(bits("0bxx1").to_string(), "0b1");
}

fn entry(function: u32, index: u32) -> CpuidEntry {
    CpuidEntry { function, index, eax: 0xf0, ebx: 1, ecx: 2, edx: 3, ..Default::default() }
}

#[test]
fn a_template_changes_the_answers_that_it_names() {
    let mut entries = [entry(7, 0), entry(7, 1), entry(1, 0)];
    let registers = vec![(CpuidRegister::Eax, bits("0b1")), (CpuidRegister::Edx, bits("0b00"))];
    let cpuid = vec![CpuidModifier { leaf: 7, subleaf: 1, registers }];
    CpuTemplate { cpuid, ..Default::default() }.apply(&mut entries).unwrap();
    assert_eq!(
        entries,
        [entry(7, 0), CpuidEntry { eax: 0xf1, edx: 0, ..entry(7, 1) }, entry(1, 0)]
    );
}

#[test]
fn an_answer_that_the_host_does_not_give_cannot_be_changed() {
    let cpuid = vec![CpuidModifier { leaf: 0x8000_0001, subleaf: 0, registers: Vec::new() }];
    let refused = CpuTemplate { cpuid, ..Default::default() }.apply(&mut [entry(1, 0)]);
    assert!(refused.unwrap_err().to_string().contains("0x80000001"));
}
