use super::*;

const NAMED: [ExitCode; 19] = [
    ExitCode::PowerOff,
    ExitCode::Reboot,
    ExitCode::Panic,
    ExitCode::TripleFault,
    ExitCode::Stuck,
    ExitCode::Refused,
    ExitCode::NoMachine,
    ExitCode::BrokenConnection,
    ExitCode::WaitedInVain,
    ExitCode::NotReady,
    ExitCode::Timeout,
    ExitCode::HostFailure,
    ExitCode::Quit,
    ExitCode::Bug,
    ExitCode::Terminated,
    ExitCode::Violation,
    ExitCode::MemoryLost,
    ExitCode::BadConfiguration,
    ExitCode::BadCommandLine,
];

#[test]
fn the_numbers_are_a_contract() {
    let codes = NAMED.map(ExitCode::code);
    assert_eq!(
        codes,
        [
            0, 110, 111, 112, 113, 115, 116, 117, 118, 123, 124, 125, 130, 134, 143, 148, 149, 152,
            153
        ]
    );
}

#[test]
fn the_guest_chooses_up_to_99() {
    for value in 0..=u8::MAX {
        assert_eq!(ExitCode::guest(value).code(), value.min(99));
    }
    assert_eq!(ExitCode::guest(0), ExitCode::PowerOff);
    assert_eq!(ExitCode::Guest(200).code(), 99);
}

#[test]
fn the_table_has_each_code_once_and_ascends() {
    let rows: Vec<(u8, u8)> = TABLE.iter().map(|row| (row.first, row.last)).collect();
    assert!(rows.iter().all(|(first, last)| first <= last));
    assert!(rows.windows(2).all(|pair| pair[0].1 < pair[1].0));
    for code in NAMED.map(ExitCode::code).into_iter().chain([1, 99]) {
        assert!(rows.iter().any(|(first, last)| (*first..=*last).contains(&code)), "{code}");
    }
    assert_eq!(rows.len(), NAMED.len() + 1);
}

#[test]
fn the_help_names_each_row() {
    let help = help_table();
    assert_eq!(help.lines().count(), TABLE.len());
    for (line, row) in help.lines().zip(TABLE) {
        assert_eq!(line.trim(), format!("{}  {}", row.range(), row.meaning));
    }
}

#[test]
fn the_readme_has_the_same_table() {
    let readme = include_str!("../../../README.md");
    for row in TABLE {
        let line = format!("| {} | {} |", row.range(), row.meaning);
        assert!(readme.contains(&line), "README.md lacks: {line}");
    }
}
