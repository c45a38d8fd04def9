//! Runs a plan from start to end: build, start, watch, and build again when the guest reboots and should.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use devices::backend::console::ConsoleError;
use devices::backend::socket::SocketError;
use devices::backend::vsock::UnixEndpoint;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::builder::{self, BuildError, Persistent};
use crate::config::{OnReboot, Plan, VsockPlan};
use crate::consoles::Consoles;
use crate::end::{EndReason, Ending};
use crate::event_loop::EventLoop;
use crate::exit_code::ExitCode;
use crate::memory::mapped;
use crate::metadata::{self, MetadataError};
use crate::signals::Signals;
use crate::supervisor::{self, Orders};
use crate::vcpu::install_kick_handler;
use crate::vm::RunningVm;

/// Why a plan could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The machine could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A console could not be opened.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The socket device's socket could not be made.
    #[error("vsock: socket")]
    Vsock(#[from] SocketError),
    /// The metadata of the guest.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The host is out of something.
    #[error("cannot {what}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
}

impl RunError {
    /// The status of the process.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Build(error) => error.exit_code(),
            Self::Console(_) | Self::Vsock(_) | Self::Metadata(_) => ExitCode::BadConfiguration,
            Self::Host { .. } => ExitCode::HostFailure,
        }
    }
}

/// A machine that has come to its end. Its vCPUs were told to stop; closing it takes the kernel
/// milliseconds, so its owner reports the reason first.
pub struct Ended {
    /// Why it ended.
    pub reason: EndReason,
    /// The rest of it.
    pub machine: RunningVm,
}

/// Runs `plan` until the machine ends.
///
/// # Errors
/// [`RunError`] when it cannot be started (or started again).
pub fn run(plan: &Plan) -> Result<Ended, RunError> {
    let signals = Signals::watch().map_err(host("watch signals"))?;
    install_kick_handler().map_err(host("install the vCPU signal"))?;
    let ending = Ending::new().map_err(host("make an event descriptor"))?;
    let power_button = EventFd::new(EFD_NONBLOCK).map_err(host("make an event descriptor"))?;
    let power_button = Arc::new(power_button);
    let mut event_loop = EventLoop::new().map_err(host("make an event loop"))?;
    let consoles = Consoles::open(plan, &mut event_loop, &ending)?;
    // Programs of the host may come before there is a guest, and wait for it.
    let listen = |it: &VsockPlan| UnixEndpoint::bind(&it.socket, BTreeMap::new());
    let vsock = plan.vsock.as_ref().map(listen).transpose()?;
    let metadata = plan.metadata.as_ref().map(metadata::open).transpose()?;
    let orders = Orders {
        grace: plan.grace,
        timeout: plan.timeout,
        power_button: power_button.clone(),
        on_terminal_change: consoles.on_terminal_change(),
    };
    supervisor::watch(&mut event_loop, signals, orders, &ending).map_err(host("make a timer"))?;

    let around = Persistent {
        on: event_loop.handle(),
        consoles: &consoles,
        vsock: vsock.as_ref(),
        metadata: metadata.as_ref(),
        power_button: &power_button,
        ending: &ending,
    };
    loop {
        let machine = builder::build(plan, &around)?;
        let machine = machine.start(&mut event_loop).map_err(host("start a vCPU thread"))?;
        let reason = wait(&machine, &mut event_loop, &ending).map_err(host("wait for events"))?;
        if reason != EndReason::Reboot || plan.on_reboot != OnReboot::Restart {
            machine.tell_to_stop();
            return Ok(Ended { reason, machine });
        }
        log::info!("guest reboots");
        machine.stop(&mut event_loop).map_err(host("stop the machine"))?;
        ending.clear();
    }
}

fn wait(machine: &RunningVm, event_loop: &mut EventLoop, ending: &Ending) -> io::Result<EndReason> {
    loop {
        if let Some(reason) = ending.reason() {
            return Ok(reason);
        }
        if mapped::is_asked() {
            machine.keep_kernel(event_loop)?;
        }
        event_loop.run_once()?;
    }
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Host { what, source }
}
