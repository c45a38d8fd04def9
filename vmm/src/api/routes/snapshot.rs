//! The bodies of requests about snapshots.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{malformed, object, read};
use crate::config::{RestoreConfig, VmConfig, VsockConfig};
use crate::memory::file::Which;
use crate::requests::{Code, Refusal, RestoreOrder, SnapshotOrder};
use crate::snapshot::Place;
use crate::snapshot::clones::{COUNT_MAX, CloneOrder};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    snapshot_path: Option<PathBuf>,
    mem_file_path: Option<PathBuf>,
    snapshot_type: Option<Kind>,
    /// Our own, in the place of the two paths: the machine may run.
    directory: Option<PathBuf>,
}

#[derive(Deserialize, PartialEq, Eq)]
enum Kind {
    Full,
    Diff,
}

pub(super) fn create(body: &[u8]) -> Result<SnapshotOrder, Refusal> {
    let CreateBody { snapshot_path, mem_file_path, snapshot_type, directory } = read(body)?;
    let place = match (snapshot_path, mem_file_path, directory) {
        (Some(state), Some(memory), None) => Place::Files { state, memory },
        (None, None, Some(directory)) => Place::Directory(directory),
        (None, _, None) => return Err(malformed("missing field `snapshot_path`")),
        (_, None, None) => return Err(malformed("missing field `mem_file_path`")),
        _ => return Err(malformed("directory takes the place of the paths of two files")),
    };
    let which = if snapshot_type == Some(Kind::Diff) { Which::Changed } else { Which::All };
    let may_run = matches!(place, Place::Directory(_));
    Ok(SnapshotOrder { place, which, may_run, clones: None, draft: None })
}

pub(super) fn clone(body: &[u8]) -> Result<SnapshotOrder, Refusal> {
    let (mut count, mut directory, mut tap, mut args) = (1, None, None, Vec::new());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    for (key, value) in &object(body)? {
        let is_right = match key.as_str() {
            _ if value.is_null() => true,
            "count" => value.as_u64().map(|number| count = number).is_some(),
            "dir" => text(value).map(|path| directory = Some(PathBuf::from(path))).is_some(),
            "tap" => text(value).map(|name| tap = Some(name)).is_some(),
            "args" => {
                let words = value.as_array().map(|words| words.iter().map(text).collect());
                words.flatten().map(|words: Vec<_>| args = words).is_some()
            }
            _ => return Err(malformed(&format!("unknown field `{key}`"))),
        };
        if !is_right {
            return Err(malformed(&format!("`{key}` has a value of another type")));
        }
    }
    let directory = directory.ok_or_else(|| malformed("missing field `dir`"))?;
    let count = u16::try_from(count).ok().filter(|count| (1..=COUNT_MAX).contains(count));
    let count = count.ok_or_else(|| {
        Refusal::new(Code::BadValue, format!("count must be from 1 to {COUNT_MAX}"))
    })?;
    let place = Place::Directory(directory.clone());
    let clones = Some(CloneOrder { count, directory, tap, args });
    Ok(SnapshotOrder { place, which: Which::All, may_run: true, clones, draft: None })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadBody {
    snapshot_path: PathBuf,
    mem_backend: Option<Backend>,
    mem_file_path: Option<PathBuf>,
    #[serde(default)]
    track_dirty_pages: bool,
    #[serde(default)]
    enable_diff_snapshots: bool,
    #[serde(default)]
    resume_vm: bool,
    #[serde(default)]
    network_overrides: Vec<NetworkOverride>,
    vsock_override: Option<VsockOverride>,
    #[serde(default)]
    clock_realtime: bool,
    // Our own.
    #[serde(default)]
    force: bool,
    /// What a configuration file may say of the host's side of devices.
    overrides: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Backend {
    backend_type: BackendType,
    backend_path: PathBuf,
}

#[derive(Deserialize)]
enum BackendType {
    File,
    Uffd,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkOverride {
    iface_id: String,
    host_dev_name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VsockOverride {
    uds_path: PathBuf,
}

pub(super) fn load(body: &[u8]) -> Result<RestoreOrder, Refusal> {
    let body: LoadBody = read(body)?;
    let (memory, provider) = match (body.mem_backend, body.mem_file_path) {
        (Some(_), Some(_)) => {
            return Err(malformed("mem_backend and mem_file_path exclude each other: keep one"));
        }
        (Some(Backend { backend_type: BackendType::Uffd, backend_path }), None) => {
            (None, Some(backend_path))
        }
        (backend, path) => (backend.map(|backend| backend.backend_path).or(path), None),
    };
    let mut over = match body.overrides {
        Some(said) => of_file(&said)?,
        None => VmConfig::default(),
    };
    let nets = body.network_overrides.iter();
    let nets = nets.map(|it| json!({"iface_id": it.iface_id, "host_dev_name": it.host_dev_name}));
    let nets: Vec<Value> = nets.collect();
    over.nets.extend(of_file(&json!({ "network-interfaces": nets }))?.nets);
    if let Some(VsockOverride { uds_path: socket }) = body.vsock_override {
        over.vsock = Some(VsockConfig { guest_cid: None, socket, ready_port: None });
    }
    let from = RestoreConfig {
        path: body.snapshot_path,
        memory,
        provider,
        force: body.force,
        is_real_time: body.clock_realtime,
        paused: !body.resume_vm,
        track_dirty: body.track_dirty_pages || body.enable_diff_snapshots,
        record: false,
        no_prefetch: false,
    };
    Ok(RestoreOrder { from, over })
}

fn of_file(said: &Value) -> Result<VmConfig, Refusal> {
    VmConfig::from_json(said.to_string().as_bytes()).map_err(|error| Refusal::from(&error))
}
