//! A machine's way into the jail: between everything that is opened and everything that is built.

use std::path::Path;

use crate::api::Server;
use crate::builder::{self, Begun};
use crate::config::Plan;
use crate::event_loop::SourceId;
use crate::jail::{Inside, Jail, Left};
use crate::kvm::Flavour;
use crate::requests::{Code, Outbox, Refusal};
use crate::signals::Signals;
use crate::snapshot::Source;
use crate::supervisor;

use super::{RunError, Session, Surroundings, host};

/// A session that has not gone in yet.
pub(super) struct AtTheDoor {
    pub(super) jail: Jail,
    /// The watcher of signals, which belongs to the process outside.
    pub(super) signals: SourceId,
    pub(super) outbox: Outbox,
}

impl Session {
    /// Whether this is the process inside a jail.
    pub(super) fn is_inside(&self) -> bool {
        self.has_jail && self.jail.is_none()
    }

    /// Goes to where the taps are.
    pub(super) fn join_network(&self) -> Result<(), RunError> {
        let door = self.jail.as_ref();
        Ok(door.map_or(Ok(()), |door| door.jail.join_network())?)
    }

    /// Enters the jail, if there is one, with everything that `plan` needs. The process that calls this does not come
    /// back from it: its child does, and brings the beginning of the machine.
    pub(super) fn enter_jail(
        &mut self,
        plan: &mut Plan,
        around: &mut Surroundings,
        source: Option<&Source>,
    ) -> Result<Option<Begun>, RunError> {
        let Some(door) = &self.jail else { return Ok(None) };
        around.provisions.open_all(plan, source.is_some())?;
        // What is asked of the host later must be known before.
        let _ = Flavour::detect();
        // A fork takes only one thread along.
        self.server.as_mut().map_or(Ok(()), Server::rest)?;
        let files = [
            self.server.as_ref().and_then(|server| server.file().cloned()),
            around.vsock.as_ref().map(|endpoint| endpoint.file().clone()),
        ];
        let left = Left {
            files: files.into_iter().flatten().chain(around.consoles.socket_files()).collect(),
            disks: plan.disks.iter().map(|disk| disk.path.clone()).collect(),
            vsock: plan.vsock.as_ref().map(|vsock| vsock.socket.clone()),
        };
        let begin = || builder::begin(plan, &around.provisions, source, None);
        let Inside { channel, accounts, done } = match door.jail.enter(left, begin) {
            Ok(inside) => inside,
            Err(error) => {
                self.serve_api()?;
                return Err(error.into());
            }
        };
        if let Some(endpoint) = &mut around.vsock {
            endpoint.connect_by(Box::new(channel));
        }
        // A queue of signals tells whoever waits for it of the signals of the process that made it.
        if let Some(door) = self.jail.take() {
            let signals = Signals::watch_inside().map_err(host("watch signals"))?;
            self.event_loop.remove(door.signals);
            supervisor::watch_signals(&mut self.event_loop, signals, door.outbox)
                .map_err(host("watch signals"))?;
        }
        if self.watched.has_api {
            self.watched.accounts = accounts;
        }
        self.serve_api()?;
        Ok(Some(done?))
    }
}

/// A disk is to have another file, and nothing can be opened.
pub(super) fn no_other_file(id: &str, path: &Path) -> Refusal {
    let message = format!(
        "drive {id:?} cannot change to {path:?}: in a jail only files that were open at the start can be used; \
         run without --jail, or under 'vmm jailer' and put the file into its root"
    );
    Refusal::new(Code::BadConfiguration, message)
}
