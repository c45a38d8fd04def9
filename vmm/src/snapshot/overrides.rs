//! What may be other when a machine goes on from a snapshot: the host's side of each device, and nothing that the guest
//! has seen.

use super::SnapshotError;
use crate::config::{ConsoleTarget, DiskConfig, NetConfig, VmConfig};

/// `saved` with what `over` says.
///
/// # Errors
/// [`SnapshotError::Override`] with what cannot be said.
pub(super) fn apply(mut saved: VmConfig, mut over: VmConfig) -> Result<VmConfig, SnapshotError> {
    let fixed = [
        ("--kernel", over.kernel.is_some()),
        ("--initrd", over.initrd.is_some()),
        ("--boot", over.boot.is_some()),
        ("--cmdline", over.cmdline.is_some() || !over.append.is_empty()),
        ("--cpus", over.cpus.is_some()),
        ("--cpu-template", over.cpu_template.is_some()),
        ("--memory", over.memory_bytes.is_some()),
        ("--rng", over.rng.is_some()),
        ("--balloon", over.balloon.is_some()),
    ];
    if let Some((flag, _)) = fixed.iter().find(|(_, is_said)| *is_said) {
        return Err(wrong(format!("{flag} cannot be other than the guest has seen it")));
    }
    for disk in over.disks.drain(..) {
        let place = find("disk", &disk.id, &mut saved.disks, |it| &it.id)?;
        change_disk(place, disk)?;
    }
    for net in over.nets.drain(..) {
        let place = find("net", &net.id, &mut saved.nets, |it| &it.id)?;
        change_net(place, net)?;
    }
    match (&mut saved.vsock, over.vsock.take()) {
        (_, None) => {}
        (None, Some(_)) => return Err(wrong("the guest has no vsock".to_owned())),
        (Some(place), Some(new)) => {
            place.socket = new.socket;
            place.guest_cid = new.guest_cid.or(place.guest_cid);
            place.ready_port = new.ready_port.or(place.ready_port);
        }
    }
    // With neither said, both were on the terminal; with one, the other one was off.
    let unsaid = match (&saved.console, &saved.serial) {
        (None, None) => ConsoleTarget::Stdio,
        _ => ConsoleTarget::Off,
    };
    for (name, place, new) in [
        ("virtio console", &mut saved.console, over.console.take()),
        ("serial port", &mut saved.serial, over.serial.take()),
    ] {
        let old = place.take().unwrap_or_else(|| unsaid.clone());
        let new = new.unwrap_or_else(|| old.clone());
        let (had, has) = (old != ConsoleTarget::Off, new != ConsoleTarget::Off);
        if had != has {
            let what = if had { "a" } else { "no" };
            return Err(wrong(format!("the guest has {what} {name}")));
        }
        *place = Some(new);
    }
    Ok(saved.overridden_by(over))
}

fn change_disk(place: &mut DiskConfig, new: DiskConfig) -> Result<(), SnapshotError> {
    let is_other = new.serial.is_some() && new.serial != place.serial
        || new.read_only.unwrap_or(false) && place.read_only != Some(true)
        || new.queues.is_some() && new.queues != place.queues
        || new.partuuid.is_some() && new.partuuid != place.partuuid
        || new.root == Some(true) && place.root == Some(false);
    if is_other {
        let id = place.id.as_deref().unwrap_or_default();
        return Err(wrong(format!(
            "disk {id:?} cannot be other than the guest has seen it: path, overlay, engine, direct, limits and iothread can"
        )));
    }
    // An overlay belongs to its image.
    (place.path, place.overlay) = (new.path, new.overlay);
    place.engine = new.engine.or(place.engine);
    place.direct = new.direct.or(place.direct);
    place.iothread = new.iothread.or_else(|| place.iothread.take());
    if new.limits != devices::rate_limiter::Limits::NONE {
        place.limits = new.limits;
    }
    Ok(())
}

fn change_net(place: &mut NetConfig, new: NetConfig) -> Result<(), SnapshotError> {
    let is_other = new.mtu.is_some() && new.mtu != place.mtu
        || new.queues.is_some() && new.queues != place.queues
        || new.metadata && !place.metadata;
    if is_other {
        let id = place.id.as_deref().unwrap_or_default();
        return Err(wrong(format!(
            "net {id:?} cannot be other than the guest has seen it: tap, fd, mac, limits and iothread can"
        )));
    }
    place.source = new.source;
    place.mac = new.mac.or_else(|| place.mac.take());
    place.iothread = new.iothread.or_else(|| place.iothread.take());
    for (limits, new) in
        [(&mut place.rx_limits, new.rx_limits), (&mut place.tx_limits, new.tx_limits)]
    {
        if new != devices::rate_limiter::Limits::NONE {
            *limits = new;
        }
    }
    Ok(())
}

/// The saved device that is meant: the one of that name, or the only one.
fn find<'a, T>(
    kind: &str,
    id: &Option<String>,
    saved: &'a mut [T],
    id_of: fn(&T) -> &Option<String>,
) -> Result<&'a mut T, SnapshotError> {
    let names: Vec<String> = saved.iter().filter_map(|it| id_of(it).clone()).collect();
    let is_only = saved.len() == 1 && id.is_none();
    let found = saved.iter_mut().find(|it| is_only || id.is_some() && id_of(it) == id);
    found.ok_or_else(|| match id {
        Some(id) => wrong(format!("the guest has no {kind} {id:?}; it has {names:?}")),
        None => wrong(format!("say which {kind} is meant with id=ID: {names:?}")),
    })
}

fn wrong(what: String) -> SnapshotError {
    SnapshotError::Override { what }
}

#[cfg(test)]
mod tests;
