use super::*;
use ConsoleTarget::{Off, Pty, Stdio};

const FAST: &str = "quiet panic=-1 reboot=k pci=off i8042.noaux i8042.nokbd tsc=reliable \
                    no_timer_check random.trust_cpu=on swiotlb=noforce cryptomgr.notests";

fn line(base: Option<CmdlineConfig>, append: &[&str], root: Option<&Root>) -> String {
    let append: Vec<String> = append.iter().map(|&text| text.to_owned()).collect();
    resolve(base, &append, (&Off, &Off), root).unwrap()
}

fn exact(text: &str) -> Option<CmdlineConfig> {
    Some(CmdlineConfig::Exact(text.to_owned()))
}

fn boot_args(text: &str) -> Option<CmdlineConfig> {
    Some(CmdlineConfig::BootArgs(text.to_owned()))
}

const ROOT: Root = Root { partuuid: None, read_only: false };

#[test]
fn the_default_follows_the_consoles() {
    for (console, serial, rest) in [
        (Stdio, Stdio, "8250.nr_uarts=1 console=ttyS0 console=hvc0"),
        (Pty, Off, "8250.nr_uarts=0 console=hvc0"),
        (Off, Pty, "8250.nr_uarts=1 console=ttyS0"),
        (Off, Off, "8250.nr_uarts=0"),
    ] {
        let line = resolve(None, &[], (&console, &serial), None).unwrap();
        assert_eq!(line, format!("{FAST} {rest}"));
    }
}

#[test]
fn the_default_names_the_root() {
    let partuuid = Root { partuuid: Some("1-2".to_owned()), read_only: true };
    assert!(line(None, &[], Some(&ROOT)).ends_with(" root=/dev/vda rw"));
    assert!(line(None, &[], Some(&partuuid)).ends_with(" root=PARTUUID=1-2 ro"));
    assert!(!line(None, &[], None).contains("root="));
}

#[test]
fn an_exact_line_stays_as_it_is() {
    for text in ["", " a  b ", "a --", "a -- b"] {
        assert_eq!(line(exact(text), &[], Some(&ROOT)), text);
    }
    assert_eq!(line(exact("a"), &["b", "c=1"], Some(&ROOT)), "a b c=1");
}

#[test]
fn boot_args_get_the_root() {
    assert_eq!(line(boot_args("a"), &[], Some(&ROOT)), "a root=/dev/vda rw");
    assert_eq!(line(boot_args("a"), &["b"], Some(&ROOT)), "a root=/dev/vda rw b");
    assert_eq!(line(boot_args(""), &[], None), "");
}

#[test]
fn words_for_init_stay_last() {
    let with = |text, append: &[&str]| line(boot_args(text), append, Some(&ROOT));
    assert_eq!(with("a -- x y", &[]), "a root=/dev/vda rw -- x y");
    assert_eq!(with("a -- x", &["b -- y", "c"]), "a root=/dev/vda rw b c -- x y");
    assert_eq!(with("-- x", &[]), "root=/dev/vda rw -- x");
    assert_eq!(with("a --", &[]), "a root=/dev/vda rw");
    // Only a word of its own, outside of quotes, and only the first one.
    assert_eq!(with("a--b --c d-- ", &[]), "a--b --c d--  root=/dev/vda rw");
    assert_eq!(with("a=\"x -- y\" -- z", &[]), "a=\"x -- y\" root=/dev/vda rw -- z");
    assert_eq!(with("a -- b -- c", &[]), "a root=/dev/vda rw -- b -- c");
    assert_eq!(line(None, &["--"], None), line(None, &[], None));
}

#[test]
fn lines_that_a_kernel_cannot_take() {
    let refusal = |base, append: &[String]| resolve(base, append, (&Off, &Off), None).unwrap_err();
    let longest = "x".repeat(CMDLINE_MAX);
    assert_eq!(line(exact(&longest), &[], None), longest);
    let too_long = refusal(exact(&longest), &["y".to_owned()]);
    assert_eq!(
        too_long.to_string(),
        "the kernel command line has 2049 bytes, 2047 fit: shorten it"
    );
    for bad in ["a\nb", "a\0b", "a\tb", "a\u{85}b"] {
        assert!(matches!(refusal(exact(bad), &[]), ConfigError::CmdlineCharacter { .. }));
    }
}
