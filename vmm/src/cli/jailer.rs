//! The jailer's command line, which is Firecracker's.
//!
//! Read by hand: its dozen flags in the parser's definition would cost every program 20 KiB.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::UsageError;
use crate::api::FIRECRACKER_VERSION;
use crate::jailer::JailerConfig;

/// What `vmm jailer` takes.
pub(super) const HELP: &str = "\
Starts a program in a jail of its own, as Firecracker's jailer does. Needs root.

Usage: vmm jailer --id ID --exec-file PATH --uid N --gid N [OPTIONS] [-- ARGUMENTS]

  --id ID                  name of the machine: 1 to 64 of A-Z a-z 0-9 and -
  --exec-file PATH         the program, a static one
  --uid N, --gid N         user and group that it runs as
  --chroot-base-dir PATH   directory of all jails [default: /srv/jailer]
  --netns PATH             network namespace to join, such as /run/netns/NAME
  --daemonize              lead a session, with /dev/null for input, output and error
  --new-pid-ns             be the first process of a PID namespace
  --cgroup FILE=VALUE      a value of its cgroup, such as cpu.weight=50 [repeatable]
  --cgroup-version 1|2     [default: 2 where it has the controllers]
  --parent-cgroup PATH     where its cgroup is made [default: the program's name]
  --resource-limit LIMIT   fsize=BYTES or no-file=N [repeatable] [default: no-file=2048]
  --version                print the version
";

/// What a command line asks for.
pub(super) enum Asked {
    /// Something else than a jailer.
    Nothing,
    /// This text.
    Text(String),
    /// A jail.
    Jail(Box<JailerConfig>),
}

/// Reads `args` if they are the jailer's: `vmm jailer ...`, or anything under the name `jailer`.
pub(super) fn read(args: &[OsString]) -> Result<Asked, UsageError> {
    let is_word = |at: usize| args.get(at).is_some_and(|word| word == "jailer");
    let program = args.first().and_then(|program| Path::new(program).file_name());
    let own = match program {
        Some(name) if name == "jailer" => args.get(if is_word(1) { 2 } else { 1 }..),
        _ if is_word(1) => args.get(2..),
        _ => return Ok(Asked::Nothing),
    };
    let own = own.unwrap_or_default();
    let end = own.iter().position(|word| word == "--");
    let (flags, rest) = own.split_at(end.unwrap_or(own.len()));
    if flags.iter().any(|word| word == "--version") {
        let version = env!("CARGO_PKG_VERSION");
        return Ok(Asked::Text(format!(
            "Jailer v{FIRECRACKER_VERSION}\n\nvmm {version}, which takes that version's arguments\n"
        )));
    }
    if flags.iter().any(|word| word == "--help" || word == "-h") {
        return Ok(Asked::Text(HELP.to_owned()));
    }
    let mut config = JailerConfig { base: "/srv/jailer".into(), ..JailerConfig::default() };
    config.args = rest.get(1..).unwrap_or_default().to_vec();
    let (mut uid, mut gid) = (None, None);
    let mut words = flags.iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        let (flag, inline) = match text.split_once('=') {
            Some((flag, value)) => (flag, Some(OsString::from(value))),
            None => (&*text, None),
        };
        match flag {
            "--daemonize" => config.daemonize = true,
            "--new-pid-ns" => config.new_pid_ns = true,
            _ => {
                let value = inline.or_else(|| words.next().cloned());
                let missing =
                    || says(&format!("jailer: {flag} is unknown, or its value is missing"));
                let value = value.ok_or_else(missing)?;
                match flag {
                    "--id" => config.id = value.to_string_lossy().into_owned(),
                    "--exec-file" => config.program = value.into(),
                    "--uid" => uid = Some(parse(flag, &value)?),
                    "--gid" => gid = Some(parse(flag, &value)?),
                    "--chroot-base-dir" => config.base = value.into(),
                    "--netns" => config.netns = Some(value.into()),
                    "--cgroup" => config.cgroup.push(parse(flag, &value)?),
                    "--cgroup-version" => match parse(flag, &value)? {
                        version @ 1..=2 => config.cgroup_version = Some(version),
                        _ => return Err(says("jailer: --cgroup-version is 1 or 2")),
                    },
                    "--parent-cgroup" => config.parent_cgroup = Some(value.into()),
                    "--resource-limit" => config.limits.push(parse(flag, &value)?),
                    _ => return Err(says(&format!("jailer: unexpected argument {flag:?}"))),
                }
            }
        }
    }
    let needed = |flag: &str| says(&format!("jailer: {flag} is missing"));
    config.uid = uid.ok_or_else(|| needed("--uid"))?;
    config.gid = gid.ok_or_else(|| needed("--gid"))?;
    for (flag, is_missing) in
        [("--id", config.id.is_empty()), ("--exec-file", config.program == PathBuf::new())]
    {
        if is_missing {
            return Err(needed(flag));
        }
    }
    Ok(Asked::Jail(Box::new(config)))
}

fn parse<T: FromStr<Err: std::fmt::Display>>(
    flag: &str,
    value: &OsString,
) -> Result<T, UsageError> {
    let text = value.to_string_lossy();
    text.parse().map_err(|error| says(&format!("jailer: {flag} {text:?}: {error}")))
}

fn says(what: &str) -> UsageError {
    UsageError::says(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_words(words: &str) -> Result<Asked, String> {
        let words: Vec<_> = words.split(' ').map(OsString::from).collect();
        read(&words).map_err(|error| error.to_string())
    }

    #[test]
    fn both_names_take_the_same_flags() {
        let flags = "--id a --exec-file=/bin/x --uid 7 --gid 8 --daemonize --new-pid-ns --cgroup cpu.shares=5 \
                     --cgroup-version 1 --parent-cgroup p --resource-limit no-file=9 --netns /n \
                     --chroot-base-dir /b -- --api-sock /s --id b";
        for program in ["vmm jailer", "/usr/bin/jailer"] {
            let Ok(Asked::Jail(config)) = read_words(&format!("{program} {flags}")) else {
                panic!("{program}")
            };
            assert_eq!((config.id.as_str(), config.uid, config.gid), ("a", 7, 8));
            assert_eq!((config.cgroup.len(), config.limits.len()), (1, 1));
            assert_eq!(config.args, ["--api-sock", "/s", "--id", "b"]);
            assert!(config.daemonize && config.new_pid_ns);
            assert_eq!((config.cgroup_version, config.base), (Some(1), PathBuf::from("/b")));
        }
        assert!(matches!(read_words("vmm --kernel jailer"), Ok(Asked::Nothing)));
        assert!(
            matches!(read_words("jailer --version"), Ok(Asked::Text(text)) if text.starts_with("Jailer v"))
        );
        assert!(matches!(read_words("vmm jailer --help"), Ok(Asked::Text(text)) if text == HELP));
    }

    #[test]
    fn every_mistake_names_its_flag() {
        let usual = "vmm jailer --id a --exec-file x --uid 1 --gid 1";
        for (words, part) in [
            ("vmm jailer --id a --uid 1 --gid 1", "--exec-file is missing"),
            ("vmm jailer --id a", "--uid is missing"),
            ("vmm jailer --id", "--id is unknown, or its value is missing"),
            (&format!("{usual} --uid x"), "--uid \"x\": invalid digit"),
            (&format!("{usual} --cgroup x"), "CONTROLLER.FILE=VALUE"),
            (&format!("{usual} --cgroup-version 3"), "is 1 or 2"),
            (&format!("{usual} --resource-limit x=1"), "no-file=N"),
            (&format!("{usual} --node 1"), "unexpected argument \"--node\""),
        ] {
            let Err(message) = read_words(words) else { panic!("{words}") };
            assert!(message.contains(part), "{message}");
        }
    }
}
