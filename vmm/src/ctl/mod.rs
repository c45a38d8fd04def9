//! `vmm ctl SOCKET VERB`: the API of a running machine, for people and scripts.
//!
//! A process of its own that says a few requests and shows the answers; it knows nothing of KVM or devices. What the
//! verbs are is in `crate::cli`, what the requests mean in `resources/openapi.yaml`.

mod client;
mod clone;
mod console;
mod error;
mod metrics;
mod show;
mod wait;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::RateLimiter;
use crate::requests::ConsoleDevice;
use client::Client;

pub use clone::Clones;
pub use error::CtlError;
pub(crate) use show::printable;

/// A verb, and to whom it is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The API's socket.
    pub socket: PathBuf,
    /// Whether answers are shown as JSON.
    pub json: bool,
    /// What is wanted.
    pub verb: Verb,
}

/// What is wanted of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Show it.
    Info,
    /// Bring it to rest.
    Pause,
    /// Let it go on.
    Resume,
    /// End it, and wait for that.
    Stop {
        /// How long the guest may take.
        grace: Option<Duration>,
    },
    /// Build it again.
    Reset,
    /// Save it.
    Snapshot {
        /// In which directory.
        directory: PathBuf,
        /// Only what has changed.
        is_diff: bool,
    },
    /// Make more of it.
    Clone(Clones),
    /// Press its power button.
    PowerButton,
    /// Change a disk.
    SetDisk {
        /// Which.
        id: String,
        /// Another image.
        path: Option<String>,
        /// Other limits.
        limits: RateLimiter,
    },
    /// Change a network card.
    SetNet {
        /// Which.
        id: String,
        /// Other limits, in both directions.
        limits: RateLimiter,
    },
    /// Show the balloon, or make it as large as this, in MiB.
    Balloon(Option<u32>),
    /// Show what happens until the end.
    Events,
    /// Wait for something.
    Wait {
        /// For what.
        what: Awaited,
        /// How long at most.
        timeout: Option<Duration>,
    },
    /// Show the numbers.
    Metrics {
        /// As they come.
        raw: bool,
    },
    /// Be at a console.
    Console(Option<ConsoleDevice>),
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// The guest is ready.
    Ready,
    /// The machine has ended; the exit status is its own.
    Exit,
}

/// Does what `request` says; gives the exit status.
///
/// # Errors
/// [`CtlError`], whose status is documented with the others.
pub fn run(request: Request) -> Result<u8, CtlError> {
    let Request { socket, json, verb } = request;
    if let Verb::Wait { what, timeout } = verb {
        return wait::wait(&socket, what, timeout, json);
    }
    let mut client = Client::connect(&socket)?;
    let (method, path, body) = match verb {
        Verb::Pause => ("PATCH", "/vm".to_owned(), r#"{"state":"Paused"}"#.to_owned()),
        Verb::Resume => ("PATCH", "/vm".to_owned(), r#"{"state":"Resumed"}"#.to_owned()),
        Verb::Reset => action("Reset", None),
        Verb::Snapshot { directory, is_diff } => snapshot(&directory, is_diff)?,
        Verb::PowerButton => action("PowerButton", None),
        Verb::SetDisk { id, path, limits } => {
            let path = path.map(|path| format!(r#","path_on_host":{}"#, Value::String(path)));
            let (path, limits) = (path.unwrap_or_default(), shown(limits));
            let body = format!(r#"{{"drive_id":"{id}","rate_limiter":{limits}{path}}}"#);
            ("PATCH", path_of("drives", &id)?, body)
        }
        Verb::SetNet { id, limits } => {
            let limits = shown(limits);
            let both = format!(r#""rx_rate_limiter":{limits},"tx_rate_limiter":{limits}"#);
            let body = format!(r#"{{"iface_id":"{id}",{both}}}"#);
            ("PATCH", path_of("network-interfaces", &id)?, body)
        }
        Verb::Balloon(Some(mib)) => {
            ("PATCH", "/balloon".to_owned(), format!(r#"{{"amount_mib":{mib}}}"#))
        }
        Verb::Clone(clones) => return clone::run(client, &clones, json),
        Verb::Stop { grace } => return wait::stop(&socket, client, grace, json),
        Verb::Console(device) => return console::attach(client, device),
        question => return show(client, &question, json),
    };
    client.order(method, &path, &body)?;
    Ok(0)
}

/// Asks for what is to be shown, and shows it.
fn show(mut client: Client, question: &Verb, json: bool) -> Result<u8, CtlError> {
    let text = match question {
        Verb::Events => return events(client, json),
        Verb::Metrics { raw } => {
            let text = client.get_text("/metrics/openmetrics")?;
            match (raw, json) {
                (true, _) => text,
                (false, true) => metrics::json(&text),
                (false, false) => metrics::table(&text),
            }
        }
        Verb::Balloon(_) => {
            let balloon = client.get("/balloon")?;
            let has_statistics = *show::at(&balloon, "stats_polling_interval_s") != 0;
            let said =
                if has_statistics { client.get("/balloon/statistics")? } else { Value::Null };
            if json { show::merged(balloon, said) } else { show::balloon(&balloon, &said) }
        }
        _ => {
            let machine = client.get("/vm")?;
            let whole = show::whole(machine, client.get("/vm/config")?);
            if json { whole.to_string() + "\n" } else { show::info(&whole) }
        }
    };
    print(text)?;
    Ok(0)
}

/// A snapshot in `directory`, which is made if it is not there.
fn snapshot(directory: &Path, is_diff: bool) -> Result<(&'static str, String, String), CtlError> {
    let failed = |what| move |source| CtlError::Host { what, source };
    std::fs::create_dir_all(directory).map_err(failed("make the directory"))?;
    // The machine may have another one to start from.
    let directory = std::path::absolute(directory).map_err(failed("find the directory"))?;
    let kind = if is_diff { "Diff" } else { "Full" };
    let body = json!({ "directory": directory.to_string_lossy(), "snapshot_type": kind });
    Ok(("PUT", "/snapshot/create".to_owned(), body.to_string()))
}

/// An action, and what belongs to it.
fn action(name: &str, grace: Option<Duration>) -> (&'static str, String, String) {
    let grace = grace.map(|time| format!(r#","grace":"{}ms""#, time.as_millis()));
    let body = format!(r#"{{"action_type":"{name}"{}}}"#, grace.unwrap_or_default());
    ("PUT", "/actions".to_owned(), body)
}

fn shown(limits: RateLimiter) -> String {
    // Numbers under fixed keys: the serializer has nothing to refuse.
    serde_json::to_string(&limits).unwrap_or_default()
}

/// The place of a device. A name that is not one would be another place.
fn path_of(kind: &str, id: &str) -> Result<String, CtlError> {
    let is_name =
        !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if is_name { Ok(format!("/{kind}/{id}")) } else { Err(CtlError::Name { name: id.to_owned() }) }
}

fn events(mut client: Client, json: bool) -> Result<u8, CtlError> {
    client.start_stream("/events")?;
    let mut first = None;
    while let Some(line) = client.line()? {
        print(if json { line + "\n" } else { show::event(&line, &mut first) })?;
    }
    Ok(0)
}

/// Shows `text` at once.
fn print(text: impl AsRef<[u8]>) -> Result<(), CtlError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(CtlError::NoReader),
        other => other.map_err(CtlError::Output),
    }
}
