use std::io::Write;

use vmm_sys_util::tempfile::TempFile;

use super::*;

const TEMPLATE: &str = r#"{
    "kvm_capabilities": ["171", "!172"],
    "cpuid_modifiers": [
        {
            "leaf": "0x80000001", "subleaf": "0x0", "flags": 0,
            "modifiers": [
                {"register": "ecx", "bitmap": "0b1xxxx_0000"},
                {"register": "edx", "bitmap": "0b0"}
            ]
        }
    ],
    "msr_modifiers": [{"addr": "0x10a", "bitmap": "0bx1"}]
}"#;

fn parse(text: &str) -> Result<CpuTemplateConfig, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn template() -> CpuTemplate {
    let registers = vec![
        (CpuidRegister::Ecx, "0b1xxxx0000".parse().unwrap()),
        (CpuidRegister::Edx, "0b0".parse().unwrap()),
    ];
    CpuTemplate {
        capabilities: vec![171],
        cpuid: vec![CpuidModifier { leaf: 0x8000_0001, subleaf: 0, registers }],
        msrs: vec![MsrModifier { index: 0x10a, bits: "0b1".parse().unwrap() }],
    }
}

#[test]
fn a_template_is_read_in_place_and_written_as_it_is_read() {
    let read = parse(TEMPLATE).unwrap();
    assert_eq!(read, CpuTemplateConfig::Inline(template()));
    let written = serde_json::to_string(&read).unwrap();
    assert!(written.contains("0b1xxxx0000"), "{written}");
    assert_eq!(parse(&written).unwrap(), read);
    assert_eq!(parse("{}").unwrap(), CpuTemplateConfig::Inline(CpuTemplate::default()));
}

#[test]
fn a_string_is_the_path_of_a_file_that_is_read_later() {
    let file = TempFile::new().unwrap();
    file.as_file().write_all(TEMPLATE.as_bytes()).unwrap();
    let path = file.as_path().to_owned();
    let read = parse(&serde_json::to_string(&path).unwrap()).unwrap();
    assert_eq!(read, CpuTemplateConfig::File(path));
    assert_eq!(read.load().unwrap(), template());
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (text, word) in [
        (r#"{"kvm_capabilities": ["1x"]}"#, "\"1x\""),
        (r#"{"kvm_capabilities": ["!"]}"#, "\"!\""),
        (r#"{"msr_modifiers": [{"addr": "0x1_0", "bitmap": "0b1"}]}"#, "\"0x1_0\""),
        (r#"{"msr_modifiers": [{"addr": "0x+1", "bitmap": "0b1"}]}"#, "\"0x+1\""),
        (r#"{"msr_modifiers": [{"addr": "0x123456789", "bitmap": "0b1"}]}"#, "0x123456789"),
        (r#"{"msr_modifiers": [{"addr": "0x1", "bitmap": "0b2"}]}"#, "'2'"),
        (r#"{"msr_modifiers": [{"addr": "0x1"}]}"#, "bitmap"),
        (r#"{"reg_modifiers": []}"#, "reg_modifiers"),
        ("7", "CPU template"),
    ] {
        let refused = parse(text).unwrap_err();
        assert!(refused.contains(word), "{text}: {refused}");
    }
    let file = TempFile::new().unwrap();
    let text = r#"{"msr_modifiers": [{"addr": "0x1", "bitmap": "0b2"}]}"#;
    file.as_file().write_all(text.as_bytes()).unwrap();
    let error = CpuTemplateConfig::File(file.as_path().to_owned()).load().unwrap_err();
    let error = devices::event::chain(&error);
    assert!(error.contains("msr_modifiers[0].bitmap"), "{error}");
    let missing = CpuTemplateConfig::File("/no/such/file".into()).load().unwrap_err();
    assert!(devices::event::chain(&missing).contains("/no/such/file"));
}
