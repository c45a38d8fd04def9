//! What a machine needs of the host's files: opened when it is built, or before.
//!
//! A process in a jail can open nothing; what it took along is enough to build its machine, again and again. Every
//! other one opens the files that are there when it builds.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU16;
use std::sync::Arc;

use devices::backend::disk::io::Rings;
use devices::backend::disk::{Disk, DiskOptions, SavedOverlay};
use devices::backend::net::NetBackend;
use devices::backend::net::tap::Tap;
use devices::virtio::rng::OpenSource;

use crate::boot;
use crate::builder::{BuildError, check_pins};
use crate::config::{CpuTemplateConfig, DiskPlan, NetPlan, NetSource, Plan};
use crate::inherited::duplicate;
use crate::kvm::{Kvm, KvmError};

/// See the module.
#[derive(Default)]
pub struct Provisions {
    provided: Provided,
    /// With the number of the disk in the plan. Machines that follow one another use the same.
    rings: RefCell<Vec<(usize, Rings)>>,
    /// Disks with overlays, by id. What was written is there after a reboot, kept or not.
    overlaid: RefCell<Vec<(String, Disk)>>,
    /// What such disks begin with, by id.
    saved: Vec<(String, SavedOverlay)>,
    /// The same of nets.
    taps: RefCell<Vec<(usize, Arc<Tap>)>>,
}

#[derive(Default)]
enum Provided {
    /// Everything is opened when it is needed.
    #[default]
    Nothing,
    /// Everything is open.
    Kept(Box<Kept>),
    /// Everything was, and the machine has what it needs.
    UsedUp,
}

struct Kept {
    kvm: Arc<Kvm>,
    kernel: Option<File>,
    initrd: Option<File>,
    /// In the order of the plan, as the taps.
    disks: Vec<Arc<Disk>>,
    taps: Vec<Arc<Tap>>,
    random: Arc<File>,
}

impl Provisions {
    /// Of a machine whose disks begin with what a snapshot has of them.
    #[must_use]
    pub fn beginning_with(saved: Vec<(String, SavedOverlay)>) -> Self {
        Self { saved, ..Self::default() }
    }

    /// Opens all that `plan` names, but what only a machine that boots needs, if it cannot; what is only read is read and
    /// becomes part of it.
    ///
    /// # Errors
    /// [`BuildError`], as building the machine would say.
    pub fn open_all(&mut self, plan: &mut Plan, is_restored: bool) -> Result<(), BuildError> {
        check_pins(plan)?;
        let kvm = Arc::new(Kvm::open()?);
        if let Some(template) = &plan.cpu_template {
            plan.cpu_template = Some(CpuTemplateConfig::Inline(template.load()?));
        }
        let taps = plan.nets.iter().map(|net| {
            let tap = open_tap(net)?;
            if let Some(mtu) = net.mtu
                && let Err(error) = tap.set_mtu(mtu)
            {
                log::warn!("{}: mtu {mtu} cannot be set: {error}", net.id);
            }
            Ok(Arc::new(tap))
        });
        let initrd = plan.initrd.as_deref().map(|path| boot::open("initrd", path));
        let kernel = boot::open("kernel", &plan.kernel);
        // A machine that goes on from a snapshot needs them when it boots again, and if they are there.
        let (kernel, initrd) = match is_restored {
            true => (kernel.ok(), initrd.and_then(Result::ok)),
            false => (Some(kernel?), initrd.transpose()?),
        };
        self.provided = Provided::Kept(Box::new(Kept {
            kvm,
            kernel,
            initrd,
            taps: taps.collect::<Result<_, BuildError>>()?,
            disks: plan
                .disks
                .iter()
                .map(|disk| self.open_disk(disk).map(Arc::new))
                .collect::<Result<_, _>>()?,
            random: Arc::new(open_random().map_err(BuildError::Random)?),
        }));
        Ok(())
    }

    /// Whether nothing else can be opened any more.
    #[must_use]
    pub fn are_all(&self) -> bool {
        !matches!(self.provided, Provided::Nothing)
    }

    /// Closes what only another start of the machine would need. Nothing can be opened any more all the same.
    pub fn use_up(&mut self) {
        if let Provided::Kept(_) = self.provided {
            self.provided = Provided::UsedUp;
        }
    }

    fn kept(&self) -> Option<&Kept> {
        match &self.provided {
            Provided::Kept(kept) => Some(kept),
            Provided::Nothing | Provided::UsedUp => None,
        }
    }

    /// /dev/kvm.
    pub(crate) fn kvm(&self) -> Result<Arc<Kvm>, KvmError> {
        match self.kept() {
            Some(kept) => Ok(kept.kvm.clone()),
            None => Kvm::open().map(Arc::new),
        }
    }

    /// The kernel's file, if it was opened before.
    pub(crate) fn kernel(&self) -> Option<&File> {
        self.kept()?.kernel.as_ref()
    }

    /// The same of the initrd.
    pub(crate) fn initrd(&self) -> Option<&File> {
        self.kept()?.initrd.as_ref()
    }

    /// The disk of `plan`, which is the plan's number `index`.
    pub(crate) fn disk(&self, index: usize, plan: &DiskPlan) -> Result<Disk, BuildError> {
        match self.kept().and_then(|kept| kept.disks.get(index)) {
            Some(disk) => Ok(disk.look_again()?),
            None if plan.overlay.is_some() => self.overlaid_disk(plan),
            None => self.open_disk(plan),
        }
    }

    fn open_disk(&self, plan: &DiskPlan) -> Result<Disk, BuildError> {
        if let Some(overlay) = &plan.overlay {
            let saved = self.saved.iter().find(|(id, _)| *id == plan.id).map(|(_, saved)| saved);
            return Ok(Disk::open_overlaid(&plan.path, overlay.path(), saved)?);
        }
        let options = DiskOptions { read_only: plan.read_only, direct: plan.direct };
        Ok(Disk::open(&plan.path, options)?)
    }

    fn overlaid_disk(&self, plan: &DiskPlan) -> Result<Disk, BuildError> {
        let mut all = self.overlaid.borrow_mut();
        if let Some((_, disk)) =
            all.iter().find(|(id, disk)| *id == plan.id && disk.path() == plan.path)
        {
            return Ok(disk.look_again()?);
        }
        let disk = self.open_disk(plan)?;
        all.push((plan.id.clone(), disk.look_again()?));
        Ok(disk)
    }

    /// The tap of `plan`, which is the plan's number `index`.
    pub(crate) fn tap(&self, index: usize, plan: &NetPlan) -> Result<Arc<Tap>, BuildError> {
        if let Some(tap) = self.kept().and_then(|kept| kept.taps.get(index)) {
            return Ok(tap.clone());
        }
        let mut taps = self.taps.borrow_mut();
        if let Some((_, tap)) = taps.iter().find(|(net, _)| *net == index) {
            return Ok(tap.clone());
        }
        let tap = open_tap(plan).map(Arc::new)?;
        taps.push((index, tap.clone()));
        Ok(tap)
    }

    /// What feeds the entropy device: open from here on, because a thread that serves devices opens nothing.
    pub(crate) fn random(&self) -> Result<OpenSource, BuildError> {
        let random = match self.kept() {
            Some(kept) => kept.random.clone(),
            None => Arc::new(open_random().map_err(BuildError::Random)?),
        };
        Ok(Box::new(move || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(random.clone())) }))
    }

    /// The rings for disk number `index` with that many queues, made when they are asked for first.
    pub(crate) fn rings(&self, index: usize, queues: NonZeroU16) -> Rings {
        let mut all = self.rings.borrow_mut();
        if let Some((_, rings)) = all.iter().find(|(disk, _)| *disk == index) {
            return rings.clone();
        }
        let rings = Rings::for_queues(queues);
        all.push((index, rings.clone()));
        rings
    }
}

fn open_tap(plan: &NetPlan) -> Result<Tap, BuildError> {
    let refused = |source| BuildError::InheritedTap { id: plan.id.clone(), source };
    Ok(match &plan.source {
        NetSource::Tap(name) => Tap::open(name, plan.queues)?,
        NetSource::Fds(numbers) => {
            let copies = numbers.iter().map(|number| duplicate(*number));
            Tap::from_fds(copies.collect::<Result<_, _>>().map_err(refused)?)?
        }
    })
}

fn open_random() -> io::Result<File> {
    File::open("/dev/urandom")
}
