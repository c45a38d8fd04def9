//! Bringing the machine to rest, and letting it go on.

use std::time::Instant;

use super::{RunError, Session, host};
use crate::events::{self, Event};
use crate::life_cycle::Phase;
use crate::memory::mapped;
use crate::requests::{Answer, Outcome};

impl Session {
    /// Somebody wants to write to the kernel's file: the machine rests until its memory holds copies.
    pub(super) fn keep_kernel(&mut self) -> Result<(), RunError> {
        let failed = host("pause the machine");
        match (&self.life, self.phase) {
            (Some(life), Phase::Running) => {
                life.machine.keep_kernel(&mut self.event_loop).map_err(failed)?;
            }
            _ => mapped::let_writers_in(),
        }
        Ok(())
    }

    pub(super) fn pause(&mut self) -> Result<Outcome, RunError> {
        if let (Some(life), Phase::Running) = (&self.life, self.phase) {
            let asked = Instant::now();
            life.machine.pause(&mut self.event_loop).map_err(host("pause the machine"))?;
            self.pause_took = Some(asked.elapsed());
            self.phase = Phase::Paused;
            events::emit(Event::Paused);
        }
        Ok(Ok(Answer::Done))
    }

    pub(super) fn resume(&mut self) -> Result<Outcome, RunError> {
        if let (Some(life), Phase::Paused) = (&self.life, self.phase) {
            let asked = Instant::now();
            life.machine.resume(&mut self.event_loop).map_err(host("resume the machine"))?;
            self.resume_took = Some(asked.elapsed());
            self.phase = Phase::Running;
            events::emit(Event::Resumed);
        }
        Ok(Ok(Answer::Done))
    }
}
