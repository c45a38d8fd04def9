//! Definitions of single flags, so that a command line costs only those that it has.
//!
//! What a flag is, and what it says in the help, stands where it always stands with `clap`: on the field of a
//! structure. [`flags!`] derives each field's definition by itself, and puts together those that are [`Wanted`].

use std::ffi::OsString;

use clap::Subcommand;

/// Which flags are to be defined.
pub(super) enum Wanted<'a> {
    /// Every one.
    All,
    /// Those that one of these words can name.
    In(&'a [OsString]),
}

impl<'a> Wanted<'a> {
    /// Those of the command line `args`, which begins with the program's name. A word is taken for a flag even where
    /// the parser will see that it is a value: too many do no harm.
    pub(super) fn by(args: &'a [OsString]) -> Self {
        Self::In(args.get(1..).unwrap_or_default())
    }

    /// Whether the flag of a field is among them. The parser knows no shorter forms of a flag.
    pub(super) fn has(&self, field: &str) -> bool {
        let Self::In(words) = self else { return true };
        let names = |word: &&OsString| {
            let word = word.as_encoded_bytes().strip_prefix(b"--")?;
            let name = word.get(..field.len())?;
            let is_same = |(a, b): (&u8, u8)| *a == b || *a == b'-' && b == b'_';
            name.iter().zip(field.bytes()).all(is_same).then_some(())
        };
        words.iter().any(|word| names(&word).is_some())
    }

    /// Whether a subcommand is among them.
    pub(super) fn has_subcommand<C: Subcommand>(&self) -> bool {
        match self {
            Self::All => true,
            Self::In(words) => {
                words.iter().any(|word| word.to_str().is_some_and(C::has_subcommand))
            }
        }
    }
}

/// Defines a structure of flags that are all absent by default, as `derive(clap::Args)` would. `define` adds the
/// wanted ones to a command, `take` reads them from what it matched.
macro_rules! flags {
    ($heading:literal struct $group:ident { $($(#[$meta:meta])* $flag:ident: $kind:ty,)+ }) => {
        #[derive(Debug)]
        struct $group {
            $($flag: $kind,)+
        }

        const _: () = {
            $(
                #[derive(clap::Args)]
                #[group(skip)]
                #[command(next_help_heading = $heading)]
                #[expect(non_camel_case_types, reason = "it is named like its only field")]
                struct $flag {
                    $(#[$meta])*
                    $flag: $kind,
                }
            )+

            impl $group {
                fn define(mut command: clap::Command, wanted: &Wanted<'_>) -> clap::Command {
                    $(if wanted.has(stringify!($flag)) {
                        command = <$flag as clap::Args>::augment_args(command);
                    })+
                    command
                }

                fn take(
                    matches: &mut clap::ArgMatches,
                    wanted: &Wanted<'_>,
                ) -> Result<Self, clap::Error> {
                    Ok(Self {
                        $($flag: if wanted.has(stringify!($flag)) {
                            <$flag as clap::FromArgMatches>::from_arg_matches_mut(matches)?.$flag
                        } else {
                            Default::default()
                        },)+
                    })
                }
            }
        };
    };
}
pub(super) use flags;
