//! Clients that want to be at a console of a running machine.

use std::io;

use super::{Session, check};
use crate::life_cycle::{Phase, When};
use crate::requests::{Answer, Code, Outcome, Refusal, Visit};

impl Session {
    /// Lets a client in at a console.
    pub(super) fn let_in(&self, visit: Visit) -> Outcome {
        let phase = if self.ending.reason().is_some() { Phase::Ended } else { self.phase };
        phase.permits(When::AfterStart)?;
        let consoles = self.life.as_ref().map(|life| &life.surroundings.consoles);
        let console = consoles.and_then(|them| them.find(visit.device));
        let console = console.ok_or_else(check::no_console)?;
        console.attach(visit.client, visit.words.as_bytes()).map_err(|error| {
            if error.kind() == io::ErrorKind::QuotaExceeded {
                let message = "The console has as many clients as it may have.";
                return Refusal::new(Code::TooManyConnections, message);
            }
            Refusal::new(Code::HostFailure, error.to_string())
        })?;
        Ok(Answer::Done)
    }
}
