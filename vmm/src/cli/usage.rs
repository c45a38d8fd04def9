//! Usage errors in one line: the parser's complaint and its tips, without the page around them.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Args;

/// The command line cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; try 'vmm --help'")]
pub struct UsageError {
    what: String,
}

impl UsageError {
    /// An error in words of our own.
    pub(super) fn says(what: &str) -> Self {
        // The words quote what was typed; a terminal must not obey it.
        Self { what: what.chars().map(|c| if c.is_control() { '?' } else { c }).collect() }
    }

    pub(super) fn new(error: &clap::Error) -> Self {
        Self { what: stray_file(error).unwrap_or_else(|| one_line(&error.to_string())) }
    }
}

/// A file's name without a flag is the likeliest mistake of a newcomer: `vmm bzImage`. The parser takes the
/// word for a subcommand.
fn stray_file(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else {
        return None;
    };
    let stray = match error.kind() {
        ErrorKind::InvalidSubcommand => error.get(ContextKind::SuggestedSubcommand).is_none(),
        ErrorKind::ArgumentConflict => {
            !Args::command().get_subcommands().any(|it| it.get_name() == word)
        }
        _ => false,
    };
    stray.then(|| {
        format!(
            "unexpected word {word:?}: a kernel is given as --kernel PATH, a disk as --disk PATH"
        )
    })
}

/// The parser's text has the complaint first, then tips and lists, then the usage and where to find help.
fn one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let mut line = String::new();
    for part in text.lines().map(str::trim).filter(|part| !part.is_empty()) {
        if part.starts_with("Usage:") || part.starts_with("For more information") {
            break;
        }
        if !line.is_empty() {
            line.push_str(if line.ends_with(':') { " " } else { "; " });
        }
        let part = part.strip_prefix("tip: ").unwrap_or(part);
        // The complaint quotes what was typed; a terminal must not obey it.
        line.extend(part.chars().map(|c| if c.is_control() { '?' } else { c }));
    }
    line
}
