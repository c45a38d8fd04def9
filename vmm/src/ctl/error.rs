//! What can go wrong between `vmm ctl` and a machine.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::exit_code::ExitCode;

/// Why a verb was not obeyed, or its answer not shown.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// There is no such socket, or nobody behind it.
    #[error("no machine at {socket:?}")]
    NoMachine {
        /// The socket.
        socket: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// The machine does not do that, or not now.
    #[error("refused: {message}")]
    Refused {
        /// The status of the reply.
        status: u16,
        /// Why, in the machine's words.
        message: String,
    },
    /// The machine, or whoever listens there, has gone in the midst of it.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// Whoever listens there does not speak as a machine does.
    #[error("the answer is not one of a machine: {0}")]
    Nonsense(&'static str),
    /// What was waited for has not happened.
    #[error("{what} within {limit:?}")]
    WaitedInVain {
        /// What did not happen.
        what: &'static str,
        /// In which time.
        limit: Duration,
    },
    /// No device has such a name.
    #[error("{name:?} cannot be a device's name: 'vmm ctl SOCKET info' shows those that there are")]
    Name {
        /// The name.
        name: String,
    },
    /// A copy does not run.
    #[error("copy {id}: {said}")]
    Clone {
        /// Its name.
        id: String,
        /// Its last words.
        said: String,
    },
    /// The answer cannot be shown.
    #[error("standard output")]
    Output(#[source] io::Error),
    /// Nobody reads the rest of the answer.
    #[error("nobody reads the answer")]
    NoReader,
    /// The terminal, or something else of this process, cannot be used.
    #[error("cannot {what}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
}

impl CtlError {
    /// The status of the process.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Refused { .. } => ExitCode::Refused,
            Self::NoMachine { .. } => ExitCode::NoMachine,
            Self::Broken(_) | Self::Nonsense(_) => ExitCode::BrokenConnection,
            Self::WaitedInVain { .. } => ExitCode::WaitedInVain,
            Self::Name { .. } => ExitCode::BadCommandLine,
            Self::Clone { .. } => ExitCode::Refused,
            Self::Output(_) | Self::Host { .. } => ExitCode::HostFailure,
            // As with `head`: whoever stopped reading has what it wanted.
            Self::NoReader => ExitCode::PowerOff,
        }
    }
}
