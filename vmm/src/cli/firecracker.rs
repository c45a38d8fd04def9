//! The flags of Firecracker that have no use of their own here, so that its jailer and SDKs can start `vmm`.
//!
//! They are taken out of the command line before it is parsed: what is there already is accepted, what is not there
//! is refused by its name, and nothing else pays for them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::UsageError;
use crate::api::{ApiSocket, FIRECRACKER_VERSION};
use crate::boot_timer::LauncherTimes;

/// Where Firecracker serves its API when nothing is said.
const DEFAULT_SOCKET: &str = "/run/firecracker.socket";

/// What Firecracker's launchers say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Firecracker {
    /// The program was started under that name, or by a jailer.
    pub named: bool,
    /// `--version`, under that name.
    pub version: bool,
    /// `--no-api`
    pub no_api: bool,
    /// `--no-seccomp`
    pub no_seccomp: bool,
    /// `--show-log-origin`
    pub show_log_origin: bool,
    /// `--module`: log lines of this module only.
    pub module: Option<String>,
    /// `--http-api-max-payload-size`, in bytes.
    pub body_limit: Option<usize>,
    /// `--boot-timer`
    pub boot_timer: bool,
    /// `--start-time-us`: the clock of the host when the launcher began.
    pub start_time_us: Option<u64>,
    /// `--start-time-cpu-us`: the processor time of this process by then.
    pub start_time_cpu_us: Option<u64>,
    /// `--parent-cpu-time-us`: that of the launcher.
    pub parent_cpu_time_us: u64,
}

impl Firecracker {
    /// What a launcher says of the times before this process, if it does.
    #[must_use]
    pub fn launcher_times(&self) -> Option<LauncherTimes> {
        let time = Duration::from_micros;
        Some(LauncherTimes {
            began: time(self.start_time_us?),
            processor_began: time(self.start_time_cpu_us.unwrap_or(0)),
            own_processor: time(self.parent_cpu_time_us),
        })
    }

    /// The socket of the API: the one that was named, or under Firecracker's name its own default.
    #[must_use]
    pub fn socket(&self, named: Option<ApiSocket>) -> Option<ApiSocket> {
        let default = || self.named.then(|| ApiSocket::Path(PathBuf::from(DEFAULT_SOCKET)));
        if self.no_api { None } else { named.or_else(default) }
    }
}

/// What a flag means here.
enum Meaning {
    /// It says nothing new: log lines have levels, and so on.
    Nothing,
    /// It cannot be had.
    Refused(&'static str),
    NoApi,
    NoSeccomp,
    ShowLogOrigin,
    Module,
    BodyLimit,
    BootTimer,
    StartTime,
    StartTimeCpu,
    ParentCpuTime,
}

/// The flags, and what each means here.
fn meaning(flag: &str) -> Option<Meaning> {
    Some(match flag {
        "--no-api" => Meaning::NoApi,
        "--show-log-origin" => Meaning::ShowLogOrigin,
        "--module" => Meaning::Module,
        "--http-api-max-payload-size" => Meaning::BodyLimit,
        "--show-level" => Meaning::Nothing,
        "--no-seccomp" => Meaning::NoSeccomp,
        "--boot-timer" => Meaning::BootTimer,
        "--start-time-us" => Meaning::StartTime,
        "--start-time-cpu-us" => Meaning::StartTimeCpu,
        "--parent-cpu-time-us" => Meaning::ParentCpuTime,
        "--enable-pci" => Meaning::Refused("there is no PCI bus"),
        "--snapshot-version" | "--describe-snapshot" => Meaning::Refused("there are no snapshots"),
        _ => return None,
    })
}

/// Whether a word may be one of these flags.
fn is_ours(word: &OsString) -> bool {
    let text = word.to_str().unwrap_or_default();
    text.starts_with("--") && meaning(text.split('=').next().unwrap_or_default()).is_some()
}

/// What `--version` prints under Firecracker's name: the line that its clients read, and the truth.
pub(super) fn version() -> String {
    let own = env!("CARGO_PKG_VERSION");
    format!("Firecracker v{FIRECRACKER_VERSION}\n\nvmm {own}, which speaks that version's API\n")
}

/// Takes the flags out of `args`, which begins with the program's name.
pub(super) fn extract(args: Vec<OsString>) -> Result<(Vec<OsString>, Firecracker), UsageError> {
    let program = args.first().and_then(|program| Path::new(program).file_name());
    let named = program.is_some_and(|name| name == "firecracker");
    let mut found = Firecracker { named, ..Firecracker::default() };
    if !named && !args.iter().any(is_ours) {
        return Ok((args, found));
    }
    let mut rest = Vec::with_capacity(args.len());
    let mut args = args.into_iter();
    rest.extend(args.next());
    while let Some(arg) = args.next() {
        // A word without a dash before any flag is another command, whose words are its own.
        let is_command = rest.len() == 1 && !arg.as_encoded_bytes().starts_with(b"-");
        if is_command {
            rest.push(arg);
            rest.extend(args);
            break;
        }
        let text = arg.to_str().unwrap_or_default();
        let (flag, inline) = match text.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (text, None),
        };
        found.version |= found.named && flag == "--version";
        let Some(meaning) = meaning(flag) else {
            rest.push(arg);
            continue;
        };
        let flag = flag.to_owned();
        let mut value = || {
            inline.clone().or_else(|| args.next()?.into_string().ok()).ok_or_else(|| {
                UsageError::says(&format!(
                    "a value is required for '{flag} <VALUE>' but none was supplied"
                ))
            })
        };
        let mut number = || {
            let text = value()?;
            text.parse::<u64>().map_err(|_| {
                UsageError::says(&format!(
                    "invalid value '{text}' for '{flag} <VALUE>': not a whole number"
                ))
            })
        };
        match meaning {
            Meaning::Nothing => {}
            Meaning::BootTimer => found.boot_timer = true,
            Meaning::StartTime => {
                found.start_time_us = Some(number()?);
                found.named = true;
            }
            Meaning::StartTimeCpu => found.start_time_cpu_us = Some(number()?),
            Meaning::ParentCpuTime => found.parent_cpu_time_us = number()?,
            Meaning::NoApi => found.no_api = true,
            Meaning::NoSeccomp => found.no_seccomp = true,
            Meaning::ShowLogOrigin => found.show_log_origin = true,
            Meaning::Module => found.module = Some(value()?),
            Meaning::BodyLimit => {
                found.body_limit = Some(usize::try_from(number()?).unwrap_or(usize::MAX));
            }
            Meaning::Refused(why) => {
                return Err(UsageError::says(&format!("{flag} is not supported: {why}")));
            }
        }
    }
    Ok((rest, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &str) -> (String, Firecracker) {
        let (rest, found) = extract(words.split(' ').map(OsString::from).collect()).unwrap();
        let rest: Vec<_> = rest.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        (rest.join(" "), found)
    }

    fn refusal(words: &str) -> String {
        extract(words.split(' ').map(OsString::from).collect()).unwrap_err().to_string()
    }

    #[test]
    fn what_a_jailer_says_is_understood() {
        let (rest, found) = of("/firecracker --id=m1 --start-time-us 12 --start-time-cpu-us 3 \
                                --parent-cpu-time-us=4 --no-seccomp --boot-timer --show-level \
                                --api-sock /run/api.sock --http-api-max-payload-size 100000");
        assert_eq!(rest, "/firecracker --id=m1 --api-sock /run/api.sock");
        assert_eq!(
            found,
            Firecracker {
                named: true,
                no_seccomp: true,
                body_limit: Some(100_000),
                boot_timer: true,
                start_time_us: Some(12),
                start_time_cpu_us: Some(3),
                parent_cpu_time_us: 4,
                ..Firecracker::default()
            }
        );
    }

    #[test]
    fn what_concerns_the_log_and_the_api_is_kept() {
        let (rest, found) = of("vmm --module vmm::api --no-api --show-log-origin --level Info");
        assert_eq!(rest, "vmm --level Info");
        let module = Some("vmm::api".to_owned());
        assert_eq!(
            found,
            Firecracker { no_api: true, show_log_origin: true, module, ..Firecracker::default() }
        );
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        for flag in ["--enable-pci", "--describe-snapshot", "--snapshot-version"] {
            let message = refusal(&format!("vmm {flag} x"));
            assert!(message.starts_with(&format!("{flag} is not supported: ")), "{message}");
        }
        assert!(refusal("vmm --start-time-us x").contains("not a whole number"));
        assert!(refusal("vmm --module").contains("none was supplied"));
    }

    #[test]
    fn the_default_socket_goes_with_the_name() {
        let path = |text: &str| Some(ApiSocket::Path(text.into()));
        let (_, named) = of("/usr/bin/firecracker --id x");
        assert_eq!(named.socket(None), path(DEFAULT_SOCKET));
        assert_eq!(named.socket(path("a")), path("a"));
        assert_eq!(of("firecracker --no-api").1.socket(path("a")), None);
        assert_eq!(of("vmm --id x").1.socket(None), None);
    }

    #[test]
    fn other_commands_and_their_words_are_left_alone() {
        let words = "vmm ctl x --no-api";
        assert_eq!(of(words), (words.to_owned(), Firecracker::default()));
    }

    #[test]
    fn version_is_asked_for_under_that_name() {
        assert!(of("firecracker --version").1.version);
        assert!(!of("vmm --version").1.version);
        assert!(version().starts_with("Firecracker v"));
    }
}
