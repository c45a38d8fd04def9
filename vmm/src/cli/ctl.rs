//! The words of `vmm ctl`: one table, of which the parser, the help, the manual and the completions are made.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::UsageError;
use crate::config::{ValueError, parse_duration, parse_limit_change, parse_size, parse_u16};
use crate::ctl::{Awaited, Clones, Request, Verb};
use crate::requests::ConsoleDevice;

/// The name of the command.
pub(super) const NAME: &str = "ctl";

/// A verb.
struct Entry {
    name: &'static str,
    about: &'static str,
    words: &'static [Word],
}

/// What may stand behind a verb.
struct Word {
    id: &'static str,
    shape: Shape,
    /// The words that there are; any when there are none.
    among: &'static [&'static str],
    help: &'static str,
}

#[derive(PartialEq, Eq)]
enum Shape {
    /// `--id`
    Flag,
    /// `--id TIME`
    Time,
    /// `--id` and something else.
    Value(&'static str),
    /// All that comes after `--`.
    Last,
    /// A word that may be left out.
    One,
    /// A word that may not.
    Needed,
    /// One word or more.
    Many,
}

const fn verb(name: &'static str, about: &'static str, words: &'static [Word]) -> Entry {
    Entry { name, about, words }
}

const fn word(id: &'static str, shape: Shape, help: &'static str) -> Word {
    Word { id, shape, among: &[], help }
}

const fn one_of(id: &'static str, shape: Shape, among: &'static [&'static str]) -> Word {
    Word { id, shape, among, help: "" }
}

const VERBS: &[Entry] = &[
    verb("info", "Show the machine and what it consists of", &[]),
    verb("pause", "Bring the guest to rest", &[]),
    verb("resume", "Let it go on", &[]),
    verb(
        "stop",
        "Press the power button, end the machine if that has no effect in time, and wait for its end",
        &[word(
            "grace",
            Shape::Time,
            "How long the guest may take [default: the machine's --grace]",
        )],
    ),
    verb("reset", "Build the machine again and start it, as after a reboot", &[]),
    verb(
        "snapshot",
        "Save the machine in a directory, from which vmm --restore DIR goes on; the guest stands still meanwhile",
        &[
            word(
                "directory",
                Shape::Needed,
                "The directory, made if it is not there; what it has is replaced",
            ),
            word("diff", Shape::Flag, "Only what has changed since the snapshot that is before it"),
        ],
    ),
    verb(
        "clone",
        "Save the machine, and start copies that go on from there, each with a name and sockets of its own",
        &[
            word("count", Shape::Value("N"), "How many [default: 1]"),
            word(
                "dir",
                Shape::Value("DIR"),
                "Where the snapshot is made, and a directory for each copy [default: clones]",
            ),
            word(
                "tap",
                Shape::Value("NAME"),
                "Name of the copies' taps, to which the number is added",
            ),
            word("words", Shape::Last, "More flags for each copy, such as --jail"),
        ],
    ),
    verb("power-button", "Press the power button, and leave it to the guest", &[]),
    verb(
        "set",
        "Change a device: disk ID [path=PATH] [bw=RATE|off] [iops=RATE|off] [burst=TIME], or \
         net ID [bw=RATE|off] [pps=RATE|off] [burst=TIME]",
        &[
            one_of("kind", Shape::Needed, &["disk", "net"]),
            word("id", Shape::Needed, "Its name, as info shows it"),
            word(
                "change",
                Shape::Many,
                "What changes; the rest stays. The same path again makes a new size known",
            ),
        ],
    ),
    verb(
        "balloon",
        "Show the balloon, or change its size",
        &[word("size", Shape::One, "What it takes from the guest, such as 512M")],
    ),
    verb("events", "Show what has happened and what happens, until the machine ends", &[]),
    verb(
        "wait",
        "Wait until the guest is ready, or until the machine has ended and with its exit status [default: exit]",
        &[
            one_of("what", Shape::One, &["ready", "exit"]),
            word(
                "timeout",
                Shape::Time,
                "Give up after this time; until then the machine need not be there yet",
            ),
        ],
    ),
    verb(
        "metrics",
        "Show the machine's numbers",
        &[word("raw", Shape::Flag, "As the machine tells them (OpenMetrics)")],
    ),
    verb(
        "console",
        "Be at the guest's console, by default the virtio console if there is one; Ctrl-] leaves it",
        &[one_of("device", Shape::One, &["serial", "virtio"])],
    ),
];

/// The definition.
pub(super) fn command() -> Command {
    let socket = Arg::new("socket").value_name("SOCKET").required(true);
    let socket = socket.value_parser(value_parser!(PathBuf));
    let json = Arg::new("json").long("json").global(true).action(ArgAction::SetTrue);
    let verbs = VERBS.iter().map(|verb| {
        Command::new(verb.name).about(verb.about).args(verb.words.iter().map(argument))
    });
    Command::new(NAME)
        .about("Watch and control a running machine: vmm ctl SOCKET VERB")
        .subcommand_required(true)
        .subcommand_value_name("VERB")
        .subcommand_help_heading("Verbs")
        .arg(socket.help("The API socket of the machine (its --api-sock)"))
        .arg(json.help("Show answers as JSON"))
        .subcommands(verbs)
}

fn argument(word: &Word) -> Arg {
    let mut arg = Arg::new(word.id).help(word.help);
    arg = match word.shape {
        Shape::Flag => return arg.long(word.id).action(ArgAction::SetTrue),
        Shape::Time => arg.long(word.id).value_name("TIME"),
        Shape::Value(name) => arg.long(word.id).value_name(name),
        Shape::Last => arg.last(true).num_args(1..),
        Shape::One | Shape::Needed => arg.required(word.shape == Shape::Needed),
        Shape::Many => arg.required(true).value_name("KEY=VALUE").num_args(1..),
    };
    if !word.among.is_empty() {
        arg = arg.value_parser(PossibleValuesParser::new(word.among));
    }
    arg
}

/// What was matched by [`command`].
pub(super) fn read(mut matches: ArgMatches) -> Result<Request, UsageError> {
    // Both are required.
    let socket = matches.remove_one::<PathBuf>("socket").unwrap_or_default();
    let (name, matches) = matches.remove_subcommand().unwrap_or_default();
    let words = Words(matches);
    let verb =
        words.verb(&name).map_err(|(word, error)| UsageError::says(&format!("{word}: {error}")));
    Ok(Request { socket, json: words.flag("json"), verb: verb? })
}

/// What stands behind a verb.
struct Words(ArgMatches);

/// A word, and what is wrong with it.
type Wrong = (&'static str, ValueError);

impl Words {
    fn verb(&self, name: &str) -> Result<Verb, Wrong> {
        Ok(match name {
            "pause" => Verb::Pause,
            "resume" => Verb::Resume,
            "stop" => Verb::Stop { grace: self.time("grace")? },
            "reset" => Verb::Reset,
            "snapshot" => {
                let directory = self.text("directory").unwrap_or_default().into();
                Verb::Snapshot { directory, is_diff: self.flag("diff") }
            }
            "clone" => {
                let count = self.text("count").map_or(Ok(1), |text| parse_u16("count", text));
                let words = self.0.get_many::<String>("words").into_iter().flatten();
                Verb::Clone(Clones {
                    count: count.map_err(|error| ("count", error))?,
                    directory: self.text("dir").unwrap_or("clones").into(),
                    tap: self.text("tap").map(str::to_owned),
                    words: words.cloned().collect(),
                })
            }
            "power-button" => Verb::PowerButton,
            "set" => self.set().map_err(|error| ("set", error))?,
            "balloon" => {
                let size = self.text("size").map(parse_mib).transpose();
                Verb::Balloon(size.map_err(|error| ("balloon", error))?)
            }
            "events" => Verb::Events,
            "wait" => {
                let is_ready = self.text("what") == Some("ready");
                let what = if is_ready { Awaited::Ready } else { Awaited::Exit };
                Verb::Wait { what, timeout: self.time("timeout")? }
            }
            "metrics" => Verb::Metrics { raw: self.flag("raw") },
            "console" => Verb::Console(self.text("device").map(|device| match device {
                "serial" => ConsoleDevice::Serial,
                _ => ConsoleDevice::Virtio,
            })),
            // The parser knows no other.
            _ => Verb::Info,
        })
    }

    fn set(&self) -> Result<Verb, ValueError> {
        let id = self.text("id").unwrap_or_default().to_owned();
        let words = self.0.get_many::<String>("change").into_iter().flatten();
        let (mut path, mut limits) = (None, Vec::new());
        let is_disk = self.text("kind") == Some("disk");
        for word in words {
            // A path is the rest of its word, whatever is in it.
            match word.strip_prefix("path=") {
                Some(rest) if is_disk => path = Some(rest.to_owned()),
                _ => limits.push(word.as_str()),
            }
        }
        let limits = parse_limit_change(if is_disk { "iops" } else { "pps" }, &limits)?;
        Ok(if is_disk { Verb::SetDisk { id, path, limits } } else { Verb::SetNet { id, limits } })
    }

    fn text(&self, id: &str) -> Option<&str> {
        self.0.try_get_one::<String>(id).ok().flatten().map(String::as_str)
    }

    fn flag(&self, id: &str) -> bool {
        self.0.try_get_one::<bool>(id).ok().flatten() == Some(&true)
    }

    fn time(&self, id: &'static str) -> Result<Option<Duration>, Wrong> {
        self.text(id).map(parse_duration).transpose().map_err(|error| (id, error))
    }
}

fn parse_mib(text: &str) -> Result<u32, ValueError> {
    let mib = parse_size(text)?.div_ceil(1 << 20);
    u32::try_from(mib).map_err(|_| ValueError::TooLarge { text: text.to_owned() })
}
