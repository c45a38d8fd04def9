//! Requests that change disks and network cards of a running machine.

use std::path::Path;

use devices::event::chain;
use devices::virtio::net::NetLimits;

use super::{Session, check};
use crate::config::RateLimiter;
use crate::requests::{Answer, Code, Outcome, Refusal};

impl Session {
    /// Changes a disk. What is asked about the configuration later, and a machine that is built again, have it too.
    pub(super) fn change_disk(
        &mut self,
        id: &str,
        path: Option<&Path>,
        limiter: RateLimiter,
    ) -> Outcome {
        let Some(life) = &mut self.life else { return Ok(Answer::Done) };
        let Some(control) = life.machine.controls().disk(id) else {
            return Err(check::unknown("drive", id));
        };
        if let Some(path) = path {
            let failed = |error| Refusal::new(Code::BadConfiguration, chain(&error));
            let is_same = control.disk().path() == path;
            match life.surroundings.provisions.are_all() {
                false => control.set_disk(path).map_err(failed)?,
                true if is_same => control.look_again().map_err(failed)?,
                true => return Err(super::jail::no_other_file(id, path)),
            }
        }
        let limits = limiter.changed(control.limits());
        control.set_limits(limits);
        let plans = life.plan.disks.iter_mut().filter(|disk| disk.id == id);
        let plans = plans.map(|disk| (&mut disk.path, &mut disk.limits));
        let own = self.config.disks.iter_mut().filter(|disk| disk.id.as_deref() == Some(id));
        let own = own.map(|disk| (&mut disk.path, &mut disk.limits));
        for (old_path, old_limits) in plans.chain(own) {
            *old_limits = limits;
            if let Some(path) = path {
                path.clone_into(old_path);
            }
        }
        Ok(Answer::Done)
    }

    /// The same for the limits of a network card.
    pub(super) fn change_net(&mut self, id: &str, rx: RateLimiter, tx: RateLimiter) -> Outcome {
        let Some(life) = &mut self.life else { return Ok(Answer::Done) };
        let Some(control) = life.machine.controls().net(id) else {
            return Err(check::unknown("network interface", id));
        };
        let old = control.limits();
        let limits = NetLimits { rx: rx.changed(old.rx), tx: tx.changed(old.tx) };
        control.set_limits(limits);
        let plans = life.plan.nets.iter_mut().filter(|net| net.id == id);
        let plans = plans.map(|net| (&mut net.rx_limits, &mut net.tx_limits));
        let own = self.config.nets.iter_mut().filter(|net| net.id.as_deref() == Some(id));
        let own = own.map(|net| (&mut net.rx_limits, &mut net.tx_limits));
        for (rx, tx) in plans.chain(own) {
            (*rx, *tx) = (limits.rx, limits.tx);
        }
        Ok(Answer::Done)
    }
}
