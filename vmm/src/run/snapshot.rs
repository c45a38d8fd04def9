//! Requests about snapshots: a machine is saved, or goes on from what was saved.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use devices::event::chain;
use devices::virtio::block::BlockControl;
use serde_json::json;

use super::{Life, RunError, Session, host};
use crate::config::{DiskOverlay, Plan};
use crate::life_cycle::{Phase, PhaseError};
use crate::memory::file::writer::Writer;
use crate::memory::file::{self, Layer, Which};
use crate::requests::{Answer, Code, Outcome, Refusal, RestoreOrder, Saved, SnapshotOrder};
use crate::snapshot::clones::{self, CloneOrder};
use crate::snapshot::host::Host;
use crate::snapshot::record::{LayerRecord, MemoryRecord, OverlayRecord, Record};
use crate::snapshot::{Draft, SnapshotError, Source};

/// The files that a machine's memory is mapped from: what a diff differs from.
pub(super) struct Base {
    /// With absolute paths.
    records: Vec<LayerRecord>,
    layers: Vec<Layer>,
    /// The last of them, whose files have to become what they are to be.
    draft: Option<Arc<Draft>>,
}

impl Base {
    /// Those of `source`, if its memory was mapped and not copied.
    pub(super) fn of(source: Source, plan: &Plan) -> Option<Self> {
        let is_mapped = file::is_mapped(plan.backing)
            && plan.balloon.is_none()
            && source.order.provider.is_none();
        let (records, layers) = (source.record.memory.layers, source.layers);
        is_mapped.then_some(Self { records, layers, draft: None })
    }

    fn is_there(&self) -> bool {
        self.draft.as_ref().is_none_or(|draft| draft.is_done())
    }
}

impl Session {
    /// Saves the machine; whoever gets the answer finishes the files.
    pub(super) fn take_snapshot(&mut self, order: SnapshotOrder) -> Result<Outcome, RunError> {
        let runs = self.phase == Phase::Running;
        if runs && !order.may_run {
            let message = "A snapshot needs a machine that is paused: PATCH /vm with state Paused.";
            return Ok(Err(Refusal::new(Code::NotPaused, message)));
        }
        let plan = |order: &CloneOrder| {
            let plan = self.life.as_ref().map(|life| clones::plan(order, &life.plan));
            plan.unwrap_or_else(|| Ok(Vec::new()))
        };
        let clones = match order.clones.as_ref().map(plan).transpose() {
            Ok(clones) => clones,
            Err(error) => {
                return Ok(Err(Refusal::new(Code::BadConfiguration, error.to_string())));
            }
        };
        let Some(draft) = order.draft.clone() else {
            let disks = self.life.iter().flat_map(|life| &life.plan.disks);
            let disks = disks.filter(|disk| disk.overlay.is_some()).map(|disk| disk.id.clone());
            return Ok(Ok(Answer::NeedsFiles(order, disks.collect())));
        };
        // What can be asked before is.
        let facts = match self.life.as_ref().map(|life| life.surroundings.provisions.kvm()) {
            Some(kvm) => kvm.map_err(SnapshotError::Kvm).and_then(|kvm| Host::of(&kvm)),
            None => return Ok(Err(PhaseError::BeforeStart.into())),
        };
        let facts = match facts {
            Ok(facts) => facts,
            Err(error) => return Ok(Err(Refusal::from(&error))),
        };
        // To save a page is to touch it.
        self.finish_recording();
        let asked = Instant::now();
        if let (true, Some(life)) = (runs, &self.life) {
            life.machine.pause(&mut self.event_loop).map_err(host("pause the machine"))?;
        }
        let saved = match self.ending.reason() {
            Some(_) => Err(PhaseError::Ended.into()),
            None => {
                self.save(&draft, order.which, &facts, runs).map_err(|error| Refusal::from(&error))
            }
        };
        if let (true, Some(life)) = (runs, &self.life) {
            life.machine.resume(&mut self.event_loop).map_err(host("resume the machine"))?;
        }
        let pause = if runs { asked.elapsed() } else { Duration::ZERO };
        Ok(saved
            .map(|(state, writer)| Answer::Saved(Saved { draft, state, pause, clones, writer })))
    }

    /// Writes the memory of the machine, which is at rest, or has it written if the machine `goes_on` afterwards. Gives
    /// the contents of the file of state, and who writes.
    fn save(
        &mut self,
        draft: &Arc<Draft>,
        which: Which,
        facts: &Host,
        goes_on: bool,
    ) -> Result<(Vec<u8>, Option<Writer>), SnapshotError> {
        let may_fork = goes_on && self.may_fork();
        let Some(Life { plan, machine, base, .. }) = &mut self.life else {
            return Err(SnapshotError::NoBase);
        };
        let state = machine.save(facts)?;
        let under = base.as_ref().map_or(&[][..], |base| &base.layers);
        if which == Which::Changed && !base.as_ref().is_some_and(Base::is_there) {
            return Err(SnapshotError::NoBase);
        }
        let id = draft.id();
        for (disk, to) in draft.overlays() {
            let disk_of = machine.controls().disk(disk).map(BlockControl::disk);
            let saved = disk_of.map_or(Ok(()), |disk| disk.save_overlay(to, id.0));
            saved.map_err(|source| {
                let path = draft.overlay_path(disk);
                SnapshotError::Write { path, source }
            })?;
        }
        // Of what a diff can differ from later, the machine's memory must become the file's.
        let is_alone = which == Which::All && !plan.track_dirty;
        let writer = (may_fork && is_alone && file::is_copied_by_fork(plan.backing))
            .then(|| Writer::start(machine.memory(), under, draft.memory(), id.0))
            .transpose()
            .inspect_err(|error| log::warn!("the guest waits until it is saved: {error}"))
            .unwrap_or_default();
        let runs = match writer {
            Some(_) => Ok(Vec::new()),
            None => file::write(machine.memory(), which, under, draft.memory(), id.0),
        };
        let runs = runs.map_err(|source| {
            let path = draft.memory_path();
            SnapshotError::Write { path, source }
        })?;
        let mut layers = match (which, &*base) {
            (Which::Changed, Some(base)) => base.records.clone(),
            _ => Vec::new(),
        };
        let pages = (which == Which::Changed).then_some(runs);
        let written = Layer { file: draft.memory().clone(), pages: pages.clone() };
        layers.push(LayerRecord { file: draft.memory_path(), id: id.to_string(), pages });
        if plan.track_dirty && file::is_mapped(plan.backing) && plan.balloon.is_none() {
            let all = base.as_ref().filter(|_| which == Which::Changed);
            let mut all = all.map(|base| base.layers.clone()).unwrap_or_default();
            match file::settle_on(machine.memory(), &written) {
                Ok(()) => {
                    all.push(written);
                    let draft = Some(draft.clone());
                    let mut records = layers.clone();
                    records.iter_mut().for_each(|layer| make_absolute(&mut layer.file));
                    *base = Some(Base { records, layers: all, draft });
                }
                Err(error) => log::warn!("the next diff will be larger: {error}"),
            }
        }
        let directory = draft.place().state().parent().map(Path::to_owned).unwrap_or_default();
        for layer in &mut layers {
            if let Ok(name) = layer.file.strip_prefix(&directory) {
                layer.file = name.to_owned();
            } else {
                make_absolute(&mut layer.file);
            }
        }
        let mut config = self.config.clone();
        // An address that was made from names stays although they may change.
        for (said, net) in config.nets.iter_mut().zip(&plan.nets) {
            said.mac = Some(net.mac);
        }
        // Where one goes on, each disk begins with what is saved of it, and writes elsewhere.
        for said in config.disks.iter_mut().filter(|said| said.overlay.is_some()) {
            said.overlay = Some(DiskOverlay::ThrownAway);
        }
        let name = |disk: &String| OverlayRecord {
            disk: disk.clone(),
            file: draft.overlay_path(disk).file_name().unwrap_or_default().into(),
        };
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let bytes = machine.memory_bytes();
        let record = Record {
            id,
            config: config.to_json(),
            meta: json!({
                "vmm": env!("CARGO_PKG_VERSION"),
                "created": created,
                "kind": if which == Which::All { "full" } else { "diff" },
                "host": facts.record(),
            }),
            memory: MemoryRecord { bytes, layers },
            vm: state.vm,
            vcpus: state.vcpus,
            devices: state.devices,
            overlays: draft.overlays().iter().map(|(disk, _)| name(disk)).collect(),
        };
        Ok((record.encode(), writer))
    }

    /// Whether this process may start one that writes: nothing else is made in a jail, and who brings filters of their
    /// own need not know of it.
    pub(super) fn may_fork(&self) -> bool {
        !self.has_jail && self.server.is_some() && self.filters.are_ours()
    }

    /// Starts the machine where another one was saved.
    pub(super) fn go_on_from(&mut self, order: RestoreOrder) -> Outcome {
        let RestoreOrder { from, over } = order;
        let kept = self.config.clone();
        let own = ConfigKept::of(&kept);
        if let Some(what) = own.something_else(&kept) {
            let message = format!(
                "a snapshot is loaded instead of a configuration, and there is {what} already"
            );
            return Err(Refusal::new(Code::BadConfiguration, message));
        }
        let track = from.track_dirty;
        let source = Source::read(from).map_err(|error| Refusal::from(&error))?;
        let mut config = source.config(over).map_err(|error| Refusal::from(&error))?;
        own.put_into(&mut config);
        if track {
            config.track_dirty = Some(true);
        }
        let bad = |error| Refusal::new(Code::BadConfiguration, chain(&error));
        let plan = Plan::resolve(config.clone()).map_err(bad)?;
        let before = std::mem::replace(&mut self.config, config);
        self.start_or_tell(plan, Some(Box::new(source))).inspect_err(|_| self.config = before)
    }
}

/// What is said of this process and not of a machine.
struct ConfigKept(crate::config::VmConfig);

impl ConfigKept {
    fn of(config: &crate::config::VmConfig) -> Self {
        Self(crate::config::VmConfig {
            id: config.id.clone(),
            log_path: config.log_path.clone(),
            level: config.level,
            log_origin: config.log_origin,
            log_module: config.log_module.clone(),
            metrics: config.metrics.clone(),
            // A default of the API's.
            memory_bytes: config.memory_bytes,
            metadata: config.metadata.clone(),
            ..Default::default()
        })
    }

    /// Something that only a machine has.
    fn something_else(&self, config: &crate::config::VmConfig) -> Option<&'static str> {
        let named = [
            ("a kernel", config.kernel.is_some()),
            ("a disk", !config.disks.is_empty()),
            ("a network card", !config.nets.is_empty()),
            ("a vsock", config.vsock.is_some()),
        ];
        let named = named.into_iter().find(|(_, is_there)| *is_there).map(|(name, _)| name);
        named.or_else(|| (self.0 != *config).then_some("something else"))
    }

    fn put_into(self, config: &mut crate::config::VmConfig) {
        let own = crate::config::VmConfig { memory_bytes: None, ..self.0 };
        *config = std::mem::take(config).overridden_by(own);
    }
}

fn make_absolute(path: &mut PathBuf) {
    if let Ok(whole) = std::path::absolute(&path) {
        *path = whole;
    }
}
