//! Definitions of single flags, so that a command line costs only those that it has.
//!
//! What a flag is, and what it says in the help, stands where `clap`'s derive would have it: on the field of a
//! structure. [`flags!`] makes each field's definition by itself, of one piece of code for all, and puts together those
//! that are [`Wanted`].

use std::ffi::OsString;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches};

/// Which flags are to be defined.
pub(super) enum Wanted<'a> {
    /// Every one.
    All,
    /// Those that a word can name.
    Some {
        /// The words that begin with two dashes, without these.
        flags: Vec<&'a [u8]>,
        /// The first word.
        first: Option<&'a OsString>,
    },
}

impl<'a> Wanted<'a> {
    /// Those of the command line `args`, which begins with the program's name. A word is taken for a flag even where
    /// the parser will see that it is a value: too many do no harm.
    pub(super) fn by(args: &'a [OsString]) -> Self {
        let words = args.get(1..).unwrap_or_default();
        let flags = words.iter().filter_map(|word| word.as_encoded_bytes().strip_prefix(b"--"));
        Self::Some { flags: flags.collect(), first: words.first() }
    }

    /// Whether the flag of a field is among them. The parser knows no shorter forms of a flag.
    pub(super) fn has(&self, field: &str) -> bool {
        let Self::Some { flags, .. } = self else { return true };
        let field = field.as_bytes();
        flags.iter().any(|flag| flag.first() == field.first() && begins_with(flag, field))
    }

    /// Whether one of the commands is wanted that `is_one` tells. A command with a flag before it is a mistake, which
    /// the whole definition is asked about.
    pub(super) fn has_subcommand(&self, is_one: fn(&str) -> bool) -> bool {
        match self {
            Self::All => true,
            Self::Some { first, .. } => first.and_then(|word| word.to_str()).is_some_and(is_one),
        }
    }
}

/// Whether `flag` begins with the name of `field`, which has underscores for dashes.
fn begins_with(flag: &[u8], field: &[u8]) -> bool {
    let is_same = |(a, b): (&u8, &u8)| *a == *b || *a == b'-' && *b == b'_';
    flag.get(..field.len()).is_some_and(|name| name.iter().zip(field).all(is_same))
}

/// What a flag's field can be.
pub(super) trait Field: Sized {
    /// Of what kind a value is.
    type Value;

    /// What the flag does.
    fn action() -> ArgAction;

    /// Takes what was matched.
    fn take(matches: &mut ArgMatches, field: &str) -> Self;
}

/// A flag that is given once or not at all.
impl<T: Clone + Send + Sync + 'static> Field for Option<T> {
    type Value = T;

    fn action() -> ArgAction {
        ArgAction::Set
    }

    fn take(matches: &mut ArgMatches, field: &str) -> Self {
        matches.remove_one(field)
    }
}

/// A flag that is given any number of times.
impl<T: Clone + Send + Sync + 'static> Field for Vec<T> {
    type Value = T;

    fn action() -> ArgAction {
        ArgAction::Append
    }

    fn take(matches: &mut ArgMatches, field: &str) -> Self {
        matches.remove_many(field).map(Iterator::collect).unwrap_or_default()
    }
}

/// A flag without a value.
impl Field for bool {
    type Value = Self;

    fn action() -> ArgAction {
        ArgAction::SetTrue
    }

    fn take(matches: &mut ArgMatches, field: &str) -> Self {
        matches.remove_one(field).unwrap_or_default()
    }
}

/// What a flag says of itself.
pub(super) struct Text {
    /// The field, which the flag is named after.
    pub(super) field: &'static str,
    /// The part of the help that it is in.
    pub(super) heading: &'static str,
    /// What stands for its value in the help.
    pub(super) value: Option<&'static str>,
    /// The lines of its documentation.
    pub(super) lines: &'static [&'static str],
}

impl Text {
    /// The flag as far as all flags are alike. What only the help shows is left out unless the definition is whole.
    #[inline(never)]
    pub(super) fn flag(&self, action: ArgAction, parser: ValueParser, wanted: &Wanted<'_>) -> Arg {
        let arg = Arg::new(self.field).long(self.field.replace('_', "-"));
        let mut arg = arg.action(action).value_parser(parser);
        if let Some(name) = self.value {
            arg = arg.value_name(name);
        }
        if !matches!(wanted, Wanted::All) {
            return arg;
        }
        let lines: Vec<&str> = self.lines.iter().map(|line| line.trim()).collect();
        let paragraphs: Vec<String> =
            lines.split(|line| line.is_empty()).map(|lines| lines.join(" ")).collect();
        if let [short, _, ..] = paragraphs.as_slice() {
            arg = arg.help(short.clone()).long_help(paragraphs.join("\n\n"));
        } else {
            arg = arg.help(paragraphs.concat());
        }
        arg.help_heading(self.heading)
    }
}

/// Defines a structure of flags that are all absent by default. `define` adds the wanted ones to a command, `take`
/// reads them from what it matched. An attribute has what stands for the
/// value in the help, how it is read if not by its type, and calls of the parser's builder.
macro_rules! flags {
    ($heading:literal struct $group:ident {
        $(
            $(#[doc = $line:literal])+
            #[arg($($value:literal)? $(by $parser:expr)? $(, $call:ident = $with:expr)* $(,)?)]
            $flag:ident: $kind:ty,
        )+
    }) => {
        #[derive(Debug)]
        struct $group {
            $($flag: $kind,)+
        }

        impl $group {
            fn define(mut command: clap::Command, wanted: &Wanted<'_>) -> clap::Command {
                $(if wanted.has(stringify!($flag)) {
                    const TEXT: flags::Text = flags::Text {
                        field: stringify!($flag),
                        heading: $heading,
                        value: flags!(@value $($value)?),
                        lines: &[$($line),+],
                    };
                    let parser = flags!(@parser $kind $(, $parser)?);
                    let arg = TEXT.flag(<$kind as flags::Field>::action(), parser, wanted);
                    command = command.arg(arg$(.$call($with))*);
                })+
                command
            }

            fn take(matches: &mut clap::ArgMatches, wanted: &Wanted<'_>) -> Self {
                Self {
                    $($flag: if wanted.has(stringify!($flag)) {
                        <$kind as flags::Field>::take(matches, stringify!($flag))
                    } else {
                        Default::default()
                    },)+
                }
            }
        }
    };
    (@parser $kind:ty) => { clap::value_parser!(<$kind as flags::Field>::Value).into() };
    (@parser $kind:ty, $parser:expr) => { clap::builder::ValueParser::new($parser) };
    (@value) => { None };
    (@value $value:literal) => { Some($value) };
}
pub(super) use flags;
