//! The endpoints: from method, path and body to what is asked for.
//!
//! The one table of what exists. Bodies are read here; whether a request makes sense now, and what it does, is the
//! business of whoever owns the machine.

mod snapshot;

use std::path::PathBuf;
use std::time::Duration;

use devices::event::chain;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::FIRECRACKER_VERSION;
use super::http::{ContentType, Method, Reply, Status};
use crate::config::{Change, RateLimiter, Section, parse_duration};
use crate::events::{self, Event};
use crate::metrics::openmetrics;
use crate::requests::{
    Answer, BalloonCommand, Code, Command, ConsoleDevice, MetadataCommand, Outcome, Refusal,
};
use crate::snapshot::clones;

/// What a request asks for.
#[derive(Debug, PartialEq)]
pub enum Target {
    /// Something of the machine's owner.
    Owner(Command),
    /// Something that is known without asking.
    Now(Answer),
    /// Every event from the first one kept.
    Events,
    /// What will happen to the machine.
    Wait(For),
    /// All metrics, as OpenMetrics text.
    Metrics,
    /// A console, from now on instead of HTTP.
    Console(Option<ConsoleDevice>),
}

/// What a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Its end.
    End,
    /// That its guest is ready.
    Ready,
}

/// Endpoints of Firecracker that are not here, and why.
const NOT_HERE: &[(&str, &str)] = &[
    ("hotplug", "memory cannot be added to a running machine"),
    ("pmem", "there is no such device"),
];

/// Finds out what a request asks for.
pub fn route(method: Method, path: &str, body: &[u8]) -> Result<Target, Refusal> {
    use Method::{Delete, Get, Patch, Post, Put};
    // A query means nothing here, and an unknown one changes nothing.
    let path = path.split('?').next().unwrap_or_default();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let command = match (method, segments.as_slice()) {
        (Get, []) => Command::Describe,
        (Get, ["version"]) => {
            return Ok(Target::Now(Answer::Value(
                json!({ "firecracker_version": FIRECRACKER_VERSION }),
            )));
        }
        (Get, ["vm"]) => Command::ShowState,
        (Get, ["vm", "config"]) => Command::ShowConfig,
        (Get, ["machine-config"]) => Command::ShowMachine,
        (Get, ["events"]) => return Ok(Target::Events),
        (Get, ["vm", "wait"]) => return Ok(Target::Wait(For::End)),
        (Get, ["vm", "wait", "ready"]) => return Ok(Target::Wait(For::Ready)),
        (Get, ["metrics", "openmetrics"]) => return Ok(Target::Metrics),
        (Get, ["console"]) => return Ok(Target::Console(None)),
        (Get, ["console", "serial"]) => return Ok(Target::Console(Some(ConsoleDevice::Serial))),
        (Get, ["console", "virtio"]) => return Ok(Target::Console(Some(ConsoleDevice::Virtio))),
        (Patch, ["vm"]) => state(body)?,
        (Put, ["actions"]) => action(body)?,
        (Put, ["snapshot", "create"]) => Command::Snapshot(snapshot::create(body)?),
        (Post, ["snapshot", "clone"]) => Command::Snapshot(snapshot::clone(body)?),
        (Put, ["snapshot", "load"]) => Command::Restore(Box::new(snapshot::load(body)?)),
        (Put, ["boot-source"]) => configure(Section::BootSource, body, &["kernel_image_path"])?,
        (Put, ["machine-config"]) => {
            configure(Section::MachineConfig, body, &["vcpu_count", "mem_size_mib"])?
        }
        (Patch, ["machine-config"]) => Command::ConfigureMachine(object(body)?),
        (Put, ["cpu-config"]) => configure(Section::CpuConfig, body, &[])?,
        (Put, ["drives", id]) => device(Section::Drive, id, body, &["drive_id", "is_root_device"])?,
        (Put, ["network-interfaces", id]) => {
            device(Section::NetworkInterface, id, body, &["iface_id"])?
        }
        (Get, ["balloon"]) => Command::ShowBalloon,
        (Put, ["balloon"]) => configure(Section::Balloon, body, &["amount_mib", "deflate_on_oom"])?,
        (Patch, ["balloon"]) => {
            Command::Balloon(BalloonCommand::Resize(read::<BalloonBody>(body)?.amount_mib))
        }
        (_, ["balloon", rest @ ..]) if let Some(command) = balloon(method, rest, body) => {
            Command::Balloon(command?)
        }
        (Put, ["mmds", "config"]) => configure(Section::Metadata, body, &["network_interfaces"])?,
        (Get, ["mmds"]) => Command::Metadata(MetadataCommand::Show),
        (Put, ["mmds"]) => Command::Metadata(MetadataCommand::Put(read(body)?)),
        (Patch, ["mmds"]) => Command::Metadata(MetadataCommand::Patch(read(body)?)),
        (Put, ["vsock"]) => configure(Section::Vsock, body, &["guest_cid", "uds_path"])?,
        (Put, ["entropy"]) => configure(Section::Entropy, body, &[])?,
        (Put, ["serial"]) => configure(Section::Serial, body, &[])?,
        (Put, ["logger"]) => configure(Section::Logger, body, &[])?,
        (Put, ["metrics"]) => configure(Section::Metrics, body, &["metrics_path"])?,
        (Patch, ["drives", id]) => change_disk(id, body)?,
        (Patch, ["network-interfaces", id]) => change_net(id, body)?,
        (Delete, [kind @ ("drives" | "network-interfaces"), _]) => {
            let message = format!("{kind} cannot be removed");
            return Err(Refusal::new(Code::Unsupported, message));
        }
        (_, [first, ..]) if let Some((_, why)) = NOT_HERE.iter().find(|(it, _)| it == first) => {
            let message = format!("/{first} is not supported: {why}");
            return Err(Refusal::new(Code::Unsupported, message));
        }
        _ => {
            let method = method.name();
            let path: String = path.chars().filter(|c| !c.is_control()).take(100).collect();
            let message = format!("Invalid request method and/or path: {method} {path}.");
            return Err(Refusal::new(Code::UnknownEndpoint, message));
        }
    };
    Ok(Target::Owner(command))
}

/// Whether a request that is obeyed says something that Firecracker's next versions will not know any more.
pub fn is_deprecated(path: &str, body: &[u8]) -> bool {
    let says = |key: &str| object(body).ok().and_then(|body| body.get(key).cloned());
    match path.trim_matches('/') {
        "vsock" => says("vsock_id").is_some_and(|id| !id.is_null()),
        "machine-config" => says("cpu_template").is_some_and(|template| !template.is_null()),
        "snapshot/load" => ["mem_file_path", "enable_diff_snapshots"]
            .iter()
            .any(|key| says(key).is_some_and(|it| !it.is_null())),
        "mmds/config" => says("version").is_none_or(|version| version != "V2"),
        _ => false,
    }
}

/// An outcome as a reply.
pub fn reply(outcome: Outcome) -> Reply {
    match outcome {
        Ok(Answer::Done) => Reply::done(),
        Ok(Answer::Value(value)) => Reply::json(Status::Ok, &value),
        Ok(Answer::Metrics(mut snapshot)) => {
            // To ask the host takes a while, which is the API's own time.
            if let Some(host) = snapshot.host.take() {
                host.count_into(&mut snapshot);
            }
            let text = openmetrics::render(&snapshot);
            let body = Some((ContentType::OpenMetrics, text));
            Reply { body, status: Status::Ok, deprecated: false }
        }
        // Is asked for again with files, and not answered.
        Ok(Answer::NeedsFiles(..)) => reply(Err(Refusal::new(Code::HostFailure, "no files"))),
        Ok(Answer::Saved(saved)) => match saved.draft.finish(&saved.state) {
            Ok(()) => {
                let path = saved.draft.place().state().to_string_lossy().into_owned();
                let pause_us = u64::try_from(saved.pause.as_micros()).unwrap_or(u64::MAX);
                events::emit(Event::Snapshotted { path, pause_us });
                match saved.clones {
                    Some(plans) => Reply::json(Status::Ok, &clones::to_json(&plans)),
                    None => Reply::done(),
                }
            }
            Err(error) => reply(Err(Refusal::new(Code::HostFailure, chain(&error)))),
        },
        Err(refusal) if refusal.code == Code::MetadataTooLarge => {
            refuse(Status::TooLarge, &refusal)
        }
        Err(refusal) => refuse(Status::BadRequest, &refusal),
    }
}

/// A refusal as a reply. What is wrong with the transport rather than with a request also stands under the key
/// that Firecracker uses for that.
pub fn refuse(status: Status, refusal: &Refusal) -> Reply {
    let (message, code) = (&refusal.message, refusal.code.word());
    let mut body = json!({ "fault_message": message, "code": code });
    let is_transport = matches!(
        refusal.code,
        Code::MalformedRequest
            | Code::BodyTooLarge
            | Code::RequestTimeout
            | Code::TooManyConnections
    );
    if let (true, Some(body)) = (is_transport, body.as_object_mut()) {
        body.insert("error".to_owned(), json!(message));
    }
    Reply::json(status, &body)
}

fn configure(section: Section, body: &[u8], required: &[&str]) -> Result<Command, Refusal> {
    let given = object(body)?;
    if let Some(missing) = required.iter().find(|key| given.get(**key).is_none_or(Value::is_null)) {
        return Err(malformed(&format!("missing field `{missing}`")));
    }
    let change = Change::parse(section, body).map_err(|error| Refusal::from(&error))?;
    Ok(Command::Configure(Box::new(change)))
}

/// A device, whose name stands in path and body.
fn device(section: Section, id: &str, body: &[u8], required: &[&str]) -> Result<Command, Refusal> {
    let command = configure(section, body, required)?;
    if let Command::Configure(change) = &command {
        same_id(id, change.device_id().unwrap_or_default())?;
    }
    Ok(command)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiskBody {
    drive_id: String,
    path_on_host: Option<PathBuf>,
    rate_limiter: Option<RateLimiter>,
}

fn change_disk(id: &str, body: &[u8]) -> Result<Command, Refusal> {
    let DiskBody { drive_id, path_on_host, rate_limiter } = read(body)?;
    same_id(id, &drive_id)?;
    let limiter = rate_limiter.unwrap_or_default();
    Ok(Command::ChangeDisk { id: drive_id, path: path_on_host, limiter })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetBody {
    iface_id: String,
    rx_rate_limiter: Option<RateLimiter>,
    tx_rate_limiter: Option<RateLimiter>,
}

fn change_net(id: &str, body: &[u8]) -> Result<Command, Refusal> {
    let NetBody { iface_id, rx_rate_limiter, tx_rate_limiter } = read(body)?;
    same_id(id, &iface_id)?;
    let (rx, tx) = (rx_rate_limiter.unwrap_or_default(), tx_rate_limiter.unwrap_or_default());
    Ok(Command::ChangeNet { id: iface_id, rx, tx })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BalloonBody {
    amount_mib: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PollingBody {
    /// Seconds; 0 for never.
    stats_polling_interval_s: u16,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct HintingBody {
    acknowledge_on_stop: Option<bool>,
}

/// What is below `/balloon`.
fn balloon(method: Method, path: &[&str], body: &[u8]) -> Option<Result<BalloonCommand, Refusal>> {
    use Method::{Get, Patch};
    Some(Ok(match (method, path) {
        (Get, ["statistics"]) => BalloonCommand::ShowStatistics,
        (Patch, ["statistics"]) => {
            let seconds = read(body).map(|it: PollingBody| it.stats_polling_interval_s.into());
            return Some(seconds.map(|it| BalloonCommand::Poll(Duration::from_secs(it))));
        }
        (Patch, ["hinting", "start"]) => {
            // A body is not needed.
            let given = if body.is_empty() { Ok(HintingBody::default()) } else { read(body) };
            return Some(given.map(|it| BalloonCommand::StartHinting {
                acknowledge: it.acknowledge_on_stop.unwrap_or(true),
            }));
        }
        (Patch, ["hinting", "stop"]) => BalloonCommand::StopHinting,
        (Get, ["hinting", "status"]) => BalloonCommand::ShowHinting,
        _ => return None,
    }))
}

fn same_id(path: &str, body: &str) -> Result<(), Refusal> {
    if path == body {
        return Ok(());
    }
    let message =
        format!("The id from the path [{path}] does not match the id from the body [{body}]!");
    Err(Refusal::new(Code::IdMismatch, message))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateBody {
    state: State,
}

#[derive(Deserialize)]
enum State {
    Paused,
    Resumed,
}

fn state(body: &[u8]) -> Result<Command, Refusal> {
    Ok(match read::<StateBody>(body)?.state {
        State::Paused => Command::Pause,
        State::Resumed => Command::Resume,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ActionBody {
    action_type: Action,
    /// For `Stop`: how long the guest may take, such as "5s".
    grace: Option<String>,
}

#[derive(Deserialize, PartialEq, Eq)]
enum Action {
    InstanceStart,
    FlushMetrics,
    /// The guest has no keyboard; what is wanted is that it ends in good order, and for that it has a button.
    SendCtrlAltDel,
    // Our own.
    PowerButton,
    Stop,
    Reset,
}

fn action(body: &[u8]) -> Result<Command, Refusal> {
    let ActionBody { action_type, grace } = read(body)?;
    if grace.is_some() && action_type != Action::Stop {
        return Err(malformed("grace belongs to the action Stop"));
    }
    let grace: Option<Duration> = grace
        .map(|text| parse_duration(&text))
        .transpose()
        .map_err(|error| Refusal::new(Code::BadValue, format!("grace: {error}")))?;
    Ok(match action_type {
        Action::InstanceStart => Command::Start,
        Action::FlushMetrics => Command::FlushMetrics,
        Action::SendCtrlAltDel | Action::PowerButton => Command::PowerButton,
        Action::Stop => Command::Stop { grace },
        Action::Reset => Command::Reset,
    })
}

fn object(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    match read(body)? {
        Value::Object(map) => Ok(map),
        _ => Err(malformed("the body is not an object")),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| malformed(&error.to_string()))
}

fn malformed(what: &str) -> Refusal {
    let message =
        format!("An error occurred when deserializing the json body of a request: {what}.");
    Refusal::new(Code::MalformedBody, message)
}

#[cfg(test)]
mod tests;
