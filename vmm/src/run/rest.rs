//! Bringing the machine to rest, letting it go on, ending it, and building it again.

use std::time::{Duration, Instant};

use super::build::From;
use super::{Life, RunError, Session, host};
use crate::boot_timer;
use crate::clock;
use crate::end::EndReason;
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
            self.watched.pause_took = Some(asked.elapsed());
            self.phase = Phase::Paused;
            self.finish_recording();
            events::emit(Event::Paused);
        }
        Ok(Ok(Answer::Done))
    }

    pub(super) fn resume(&mut self) -> Result<Outcome, RunError> {
        if let (Some(life), Phase::Paused) = (&self.life, self.phase) {
            let asked = Instant::now();
            life.machine.resume(&mut self.event_loop).map_err(host("resume the machine"))?;
            self.watched.resume_took = Some(asked.elapsed());
            self.phase = Phase::Running;
            events::emit(Event::Resumed);
        }
        Ok(Ok(Answer::Done))
    }

    /// Ends the machine in good order. A guest that is at rest must go on to power itself off.
    pub(super) fn stop(&mut self, grace: Option<Duration>) -> Result<(), RunError> {
        let Some(life) = &self.life else {
            self.ending.report(EndReason::Terminated);
            return Ok(());
        };
        let grace = grace.unwrap_or(life.plan.grace);
        let _ = self.resume()?;
        self.power.end(grace, &mut self.event_loop, &self.ending);
        Ok(())
    }

    /// Stops the machine and builds it again from the same plan.
    pub(super) fn rebuild(&mut self, event: Event) -> Result<(), RunError> {
        self.finish_recording();
        let counted = self.watched.is_written().then(|| self.snapshot());
        let Some(Life { plan, surroundings, machine, .. }) = self.life.take() else {
            return Ok(());
        };
        let memory = machine.memory().clone();
        machine.stop(&mut self.event_loop).map_err(host("stop the machine"))?;
        self.ending.clear();
        events::emit(event);
        boot_timer::begin(Instant::now(), clock::process_time());
        let Some(threads) = self.threads.clone() else { return Ok(()) };
        let machine = self.build(
            &plan,
            &surroundings,
            &threads.io,
            From { memory: Some(memory), ..From::default() },
        )?;
        let machine =
            machine.start(&mut self.event_loop, threads).map_err(host("watch the machine"))?;
        self.life = Some(Life { plan, surroundings, machine, base: None });
        self.phase = Phase::Running;
        self.move_metrics(counted.as_ref());
        Ok(())
    }
}
