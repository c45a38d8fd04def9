//! A machine to run, as a command line says it.

use std::path::PathBuf;

use super::Firecracker;
use crate::api::Api;
use crate::config::{
    CgroupLimits, ConfigError, EventSink, JailConfig, Plan, RestoreConfig, VmConfig,
};
use crate::seccomp::Choice;
use crate::snapshot::Source;

/// A machine to run.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// What the flags say.
    pub flags: VmConfig,
    /// A file that says the rest.
    pub config_file: Option<PathBuf>,
    /// A snapshot to go on from.
    pub restore: Option<RestoreConfig>,
    /// Where the API is served.
    pub api: Option<Api>,
    /// Where events are written.
    pub events: Option<EventSink>,
    /// Where it runs, if not like any program.
    pub jail: Option<JailConfig>,
    /// What it may use there.
    pub limits: CgroupLimits,
    /// What its threads may ask of the kernel.
    pub seccomp: Choice,
    /// What only Firecracker's launchers say.
    pub firecracker: Firecracker,
    /// Print the timeline of the start.
    pub trace_boot: bool,
    /// Print the plan instead of running it.
    pub dry_run: bool,
}

/// What the API shows, what is started at once, and what that goes on from.
pub type Resolved = (VmConfig, Option<Plan>, Option<Box<Source>>);

impl Run {
    /// The plan: what the file says, overridden and extended by the flags, resolved. There need be none when the API
    /// can still say what is missing. With the API, the configuration that it shows is there too. A snapshot says what
    /// the machine is; the flags what is other on its host's side.
    ///
    /// # Errors
    /// [`ConfigError`], from the file or from the combination.
    pub fn resolve(&mut self) -> Result<Resolved, ConfigError> {
        if let (None, Some(flag)) = (&self.jail, self.limits.first_flag()) {
            return Err(ConfigError::LimitWithoutJail { flag });
        }
        let mut config = std::mem::take(&mut self.flags);
        if let Some(order) = self.restore.take() {
            if self.config_file.is_some() {
                return Err(ConfigError::RestoreAndFile);
            }
            let wrap = |error| ConfigError::Snapshot(Box::new(error));
            let source = Source::read(order).map_err(wrap)?;
            let config = source.config(config).map_err(wrap)?;
            let plan = Plan::resolve(config.clone())?;
            return Ok((config, Some(plan), Some(Box::new(source))));
        }
        if let Some(path) = &self.config_file {
            config = VmConfig::from_file(path)?.overridden_by(config);
        }
        let in_file = |error| match &self.config_file {
            Some(path) => ConfigError::WithFile { path: path.clone(), source: Box::new(error) },
            None => error,
        };
        if self.api.is_none() {
            // Nobody will ask for the configuration.
            let plan = Plan::resolve(config).map_err(in_file)?;
            return Ok((VmConfig::default(), Some(plan), None));
        }
        config.name_devices().map_err(in_file)?;
        if config.kernel.is_none() && !self.dry_run {
            return Ok((config, None, None));
        }
        let plan = Plan::resolve(config.clone()).map_err(in_file)?;
        Ok((config, Some(plan), None))
    }
}
