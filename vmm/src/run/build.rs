//! How a machine comes to run: its surroundings first, then its threads, their filters last.

use std::rc::Rc;
use std::sync::Arc;

use devices::backend::console;
use devices::backend::vsock::{self, UnixEndpoint};
use devices::fatal;
use devices::memory::GuestMemory;

use super::{RunError, Session, Surroundings, host};
use crate::builder::{self, Begun, Persistent};
use crate::config::{MetadataPlan, OnReboot, Plan, VsockPlan};
use crate::end::EndReason;
use crate::events::{self, Event};
use crate::iothread::IoThreads;
use crate::memory::mapped;
use crate::metrics::host::Files;
use crate::readiness::Notify;
use crate::seccomp::Thread;
use crate::snapshot::Source;
use crate::supervisor;
use crate::threads::Threads;
use crate::vm::{Microvm, RunningVm};

/// What a machine is made of besides its plan.
#[derive(Default)]
pub(super) struct From<'a> {
    /// The memory of the machine before.
    pub(super) memory: Option<GuestMemory>,
    /// A snapshot.
    pub(super) source: Option<&'a Source>,
    /// What there is of it already.
    pub(super) begun: Option<Begun>,
}

impl Session {
    /// The first machine in these surroundings.
    pub(super) fn build_in(
        &mut self,
        plan: &mut Plan,
        around: &mut Surroundings,
        source: Option<&Source>,
    ) -> Result<RunningVm, RunError> {
        // Programs of the host may come before there is a guest, and wait for it.
        let listen = |it: &VsockPlan| {
            let notify = |port| (port, Arc::new(Notify) as Arc<dyn vsock::Service>);
            UnixEndpoint::bind(&it.socket, it.ready_port.map(notify).into_iter().collect())
        };
        around.vsock = plan.vsock.as_ref().map(listen).transpose()?;
        let serve = |it: &MetadataPlan| crate::metadata::serve(it, self.metadata.clone());
        around.metadata = plan.metadata.as_ref().map(serve).transpose()?;
        let begun = self.enter_jail(plan, around, source)?;
        // Threads that are confined cannot ask.
        fatal::remember_process(console::has_terminal());
        let io = self.prepare_loops(plan)?;
        let machine = self.build(plan, around, &io, From { memory: None, source, begun })?;
        let threads = Threads::start(plan, io, &self.ending, &self.filters)
            .map_err(host("start a thread"))?;
        if plan.track_dirty {
            mapped::handle_bus_errors();
        }
        // Every other thread confines itself before it does anything; this one has done what takes more rights.
        let may_rebuild = self.server.is_some() || plan.on_reboot == OnReboot::Restart;
        if !may_rebuild {
            around.provisions.use_up();
        }
        self.filters.wait_for_others();
        if self.server.is_some() {
            let accounts = std::mem::take(&mut self.watched.accounts);
            self.watched.host = Some(Arc::new(Files::open(&self.filters.threads(), accounts)));
        }
        let own = self.filters.with(plan.vsock.is_some(), may_rebuild);
        own.and_forks(self.may_fork()).confine(Thread::Main)?;
        let threads = self.threads.insert(Rc::new(threads)).clone();
        let machine =
            machine.start(&mut self.event_loop, threads).map_err(host("watch the machine"))?;
        if source.is_some_and(|source| !source.order.paused) {
            machine.resume(&mut self.event_loop).map_err(host("resume the machine"))?;
        }
        if let Some(limit) = plan.timeout {
            let reason = EndReason::Timeout(limit);
            supervisor::end_after(&mut self.event_loop, limit, reason, &self.ending)
                .map_err(host("make a timer"))?;
        }
        Ok(machine)
    }

    /// The loops of the threads to come.
    fn prepare_loops(&self, plan: &Plan) -> Result<IoThreads, RunError> {
        builder::check_pins(plan)?;
        IoThreads::prepare(&plan.iothreads).map_err(host("make an event loop"))
    }

    pub(super) fn build(
        &mut self,
        plan: &Plan,
        around: &Surroundings,
        iothreads: &IoThreads,
        from: From<'_>,
    ) -> Result<Microvm, RunError> {
        let provisions = &around.provisions;
        let begun = match from.begun {
            Some(begun) => begun,
            None => builder::begin(plan, provisions, from.source, from.memory)?,
        };
        let around = Persistent {
            provisions,
            on: self.event_loop.handle(),
            consoles: &around.consoles,
            vsock: around.vsock.as_ref(),
            metadata: around.metadata.as_ref(),
            iothreads,
            source: from.source,
            power_button: self.power.line(),
            ending: &self.ending,
            is_measured: self.watched.is_asked_for(),
        };
        let machine = builder::build(plan, &around, begun)?;
        events::emit(if from.source.is_some() { Event::Restored } else { Event::Started });
        if let Some(past) = self.patience.take() {
            self.event_loop.remove(past);
        }
        if let Some(limit) = plan.ready.within {
            let patience = supervisor::end_unless_ready(&mut self.event_loop, limit, &self.ending);
            self.patience = Some(patience.map_err(host("make a timer"))?);
        }
        Ok(machine)
    }
}
