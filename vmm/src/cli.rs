//! The command line: flags in, a request out.
//!
//! Reads no file and prints nothing. One definition gives the parser, the help, the manual page and the shell
//! completions. The grammars of values are in `config`; this file only names them.

mod commands;
mod ctl;
mod firecracker;
mod flags;
mod help;
mod jailer;
mod run;
mod usage;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use commands::Command;
use flags::{Wanted, flags};
use log::LevelFilter;

pub use commands::SnapshotCommand;
pub use firecracker::Firecracker;
pub use run::{Resolved, Run};
pub use usage::UsageError;

use crate::api::{Api, ApiSocket, BODY_LIMIT};

use crate::config::{
    BalloonConfig, BootProtocol, CgroupLimits, CmdlineConfig, ConsoleTarget, CpuTemplateConfig,
    CpusConfig, DiskConfig, EventSink, IoLimit, IoThread, JailConfig, MemoryConfig, MetadataConfig,
    MetricsConfig, NetConfig, OnReboot, Ready, RestoreConfig, VmConfig, VsockConfig,
    parse_duration, parse_level, parse_processors, parse_size,
};
use crate::seccomp::{Choice, Mode};

use crate::jailer::JailerConfig;

/// What the user wants of this process.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process, and it is moved once")]
pub enum Request {
    /// Run a machine, or show what would be run.
    Run(Run),
    /// Examine the host.
    Doctor {
        /// As JSON.
        json: bool,
    },
    /// Look at a snapshot, or change it.
    Snapshot(SnapshotCommand),
    /// Say something to a machine that runs.
    Ctl(crate::ctl::Request),
    /// Start a program in a jail.
    Jailer(Box<JailerConfig>),
    /// Print this on standard output: help, version, completions or the manual page.
    Print(String),
}

/// Reads the command line; `args` begins with the program's name.
///
/// # Errors
/// [`UsageError`]: one line, with the nearest valid spelling where there is one.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request, UsageError> {
    let args: Vec<OsString> = args.into_iter().collect();
    match jailer::read(&args)? {
        jailer::Asked::Nothing => {}
        jailer::Asked::Text(text) => return Ok(Request::Print(text)),
        jailer::Asked::Jail(config) => return Ok(Request::Jailer(config)),
    }
    let (args, firecracker) = firecracker::extract(args)?;
    if firecracker.version {
        return Ok(Request::Print(firecracker::version()));
    }
    match read(&args) {
        Ok(args) => args.into_request(firecracker),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Ok(Request::Print(error.to_string()))
            }
            _ => Err(UsageError::new(&error)),
        },
    }
}

/// Flags that no word can name are left out, which changes nothing but what it costs: a parser spends most of its
/// time on its definition. What is wrong is told by the whole definition, which knows the right spellings.
fn read(args: &[OsString]) -> Result<Args, clap::Error> {
    let wanted = Wanted::by(args);
    match Args::read(Args::define(&wanted), &wanted, args) {
        Ok(args) => Ok(args),
        Err(_) => Args::read(help::complete(Args::command()), &Wanted::All, args),
    }
}

/// Runs a Linux kernel in a virtual machine: vmm --kernel bzImage --disk rootfs.img
#[derive(Debug, Parser)]
#[group(skip)]
#[command(
    name = "vmm",
    version,
    args_conflicts_with_subcommands = true,
    override_usage = "vmm --kernel PATH [OPTIONS]\n       vmm --config-file PATH [OPTIONS]\n       vmm --api-sock PATH [OPTIONS]\n       vmm ctl SOCKET VERB | snapshot | jailer | doctor | completions | man",
    subcommand_help_heading = "Other commands"
)]
struct Top {}

/// What a command line says.
#[derive(Debug)]
struct Args {
    command: Option<Command>,
    /// What stands behind `ctl`.
    ctl: Option<ArgMatches>,
    boot: BootArgs,
    machine: MachineArgs,
    devices: DeviceArgs,
    run: RunArgs,
    control: ControlArgs,
    jail: JailArgs,
}

flags! {
    "Boot" struct BootArgs {
        /// Kernel: a bzImage, or an ELF vmlinux or PVH image
        #[arg("PATH")]
        kernel: Option<PathBuf>,
        /// Initial RAM file system for the kernel
        #[arg("PATH")]
        initrd: Option<PathBuf>,
        /// Kernel command line in place of the default one; nothing is added to it
        ///
        /// Without it, the line has words for a fast boot, console= for the consoles, and root= for the disk
        /// with the root file system. --dry-run shows it.
        #[arg("TEXT")]
        cmdline: Option<String>,
        /// Words to add to the kernel command line [repeatable]
        ///
        /// The default line is quiet: --append loglevel=7 shows all kernel messages. Write --append=TEXT when
        /// TEXT begins with a dash, as in --append='-- arguments for init'.
        #[arg("TEXT")]
        append: Vec<String>,
        /// How the kernel is entered
        #[arg("PROTOCOL")]
        boot: Option<BootProtocol>,
    }
}

flags! {
    "Machine" struct MachineArgs {
        /// Number of vCPUs [default: 1]; also N,cores=N,threads=N,sockets=N,pin=CPUS
        ///
        /// cores counts per socket and threads per core; what is left out is worked out from the rest. pin names
        /// the host's CPU for each vCPU, as in 2,pin=0:1 or 4,pin=4-7.
        #[arg("N")]
        cpus: Option<CpusConfig>,
        /// Changes to what the vCPUs tell about themselves, as JSON (Firecracker's cpu-config)
        #[arg("PATH")]
        cpu_template: Option<PathBuf>,
        /// Guest memory: SIZE[,hugepages=2M|1G|thp|off][,prefault][,shared] [default: 512M]
        ///
        /// K, M, G and T are powers of 1024; a plain number is MiB. At least 32M. 2M and 1G are pages that the host has
        /// reserved, thp asks for transparent ones. prefault takes all of it at the start; shared makes it a file
        /// without a name, for a process that serves a device.
        #[arg("SIZE")]
        memory: Option<MemoryConfig>,
        /// Name of the machine in log lines; also goes into generated MAC addresses [default: vm]
        #[arg("ID")]
        id: Option<String>,
    }
}

flags! {
    "Devices" struct DeviceArgs {
        /// Disk: PATH[,readonly][,root][,id=ID][,serial=TEXT][,format=raw][,engine=sync|uring][,direct]
        /// [,snapshot=overlay][,overlay=FILE][,queues=N][,bw=RATE][,iops=RATE][,burst=TIME][,iothread=ID] [repeatable]
        ///
        /// An image or a block device. The first one holds the root file system unless another one says root; it
        /// is /dev/vda in the guest. A comma in a path is doubled; a path that looks like an option is written
        /// path=PATH. uring has many transfers under way at once; direct bypasses the host's page cache. With
        /// snapshot=overlay the image stays as it is, and any number of machines can have it: what is written goes to a
        /// file beside it that is gone with the process, or with overlay=FILE is kept there. bw limits bytes per second
        /// (100M) and iops requests per second (5k); burst is how long a quiet disk saves them up (100ms).
        #[arg("DISK")]
        disk: Vec<DiskConfig>,
        /// Network card: tap=NAME|fd=N[:N...][,mac=MAC][,mtu=N][,id=ID][,queues=N][,bw=RATE][,pps=RATE][,burst=TIME]
        /// [,iothread=ID][,metadata] [repeatable]
        ///
        /// tap names an existing interface or one to create; fd is a tap that the parent process has opened.
        /// Without mac, an address is made from the names, the same in each run. queues is the number of queue
        /// pairs; with fd, each has its descriptor. bw and pps limit bytes and frames per second in each direction,
        /// as those of --disk do. By a card with metadata the guest reaches the metadata service.
        #[arg("NET")]
        net: Vec<NetConfig>,
        /// Thread that serves the disks and nets with iothread=ID: ID[,pin=CPUS] [repeatable]
        ///
        /// Without one, the main thread does. pin is where it may run, as in io0,pin=2-3.
        #[arg("IOTHREAD")]
        iothread: Vec<IoThread>,
        /// Sockets between guest and host: socket=PATH[,cid=N][,ready=PORT]
        ///
        /// A program of the host connects to the Unix socket PATH, writes "CONNECT PORT" and a line feed, and reads
        /// "OK PORT" when the guest accepts. The guest's connections to port PORT of the host (CID 2) go to the
        /// Unix socket PATH_PORT. cid is the guest's own address [default: 3]. With ready, vmm itself listens at that
        /// port of the host: a guest is ready that says READY=1 there, as systemd does with
        /// --append systemd.set_credential=vmm.notify_socket:vsock-stream:2:PORT.
        #[arg("VSOCK")]
        vsock: Option<VsockConfig>,
        /// Virtio console (hvc0): stdio, pty, off, file=PATH or socket=PATH
        ///
        /// With neither --console nor --serial, both are on the terminal; with one of them, the other is off.
        /// Ctrl-A x ends the run from the terminal.
        #[arg("TARGET")]
        console: Option<ConsoleTarget>,
        /// Serial port (ttyS0): stdio, pty, off, file=PATH or socket=PATH
        #[arg("TARGET")]
        serial: Option<ConsoleTarget>,
        /// Entropy device [default: on]
        #[arg(
            "ON|OFF" by PossibleValuesParser::new(["on", "off"]).map(|word| word == "on"),
            num_args = 0..=1,
            default_missing_value = "on",
            hide_possible_values = true,
        )]
        rng: Option<bool>,
        /// Memory balloon: SIZE[,deflate-on-oom][,stats=TIME][,reporting][,hinting]
        ///
        /// SIZE is taken from the guest and goes back to the host; with deflate-on-oom the guest may have it back
        /// before it kills processes. With reporting, pages go back whenever they become free in the guest. stats
        /// asks the guest for numbers at intervals; with hinting it can be asked for all its free pages.
        /// Of hugepages=2M and 1G only whole pages go back, which takes reporting or hinting.
        #[arg("BALLOON")]
        balloon: Option<BalloonConfig>,
        /// JSON file of metadata for the guest: FILE[,v1|v2][,address=IP][,imds-compat]
        ///
        /// By each --net with metadata the guest gets it at http://169.254.169.254/ or at address, as from
        /// Firecracker's MMDS; v2 asks for a session token. With imds-compat all values are plain text.
        #[arg("FILE")]
        metadata: Option<MetadataConfig>,
        /// Most bytes of metadata [default: 51200]
        #[arg("BYTES")]
        mmds_size_limit: Option<usize>,
    }
}

flags! {
    "Control" struct ControlArgs {
        /// Serve the HTTP API at this Unix socket: PATH or fd=N
        ///
        /// Without a kernel, the API says what to start and when. fd is a listening socket that the parent process has
        /// left open.
        #[arg("SOCKET")]
        api_sock: Option<ApiSocket>,
        /// Write what happens to the machine as lines of JSON: PATH or fd=N
        #[arg("SINK")]
        events: Option<EventSink>,
        /// Append what is counted to this file or FIFO every minute, as Firecracker's lines of JSON
        #[arg("PATH")]
        metrics_path: Option<PathBuf>,
    }
}

flags! {
    "Jail" struct JailArgs {
        /// Give up every right before the guest runs: --jail or --jail=[uid=N][,gid=N][,netns=PATH][,cgroup=PATH]
        ///
        /// Files are opened first; then there are an empty root, no network, no capability, no other process. Needs no
        /// root where the host allows user namespaces. Root becomes user and group uid and gid [default: 65534]; taps
        /// are looked for in the network namespace netns.
        #[arg(
            "JAIL",
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = ""
        )]
        jail: Option<JailConfig>,
        /// Most processor time of a jail, in CPUs, such as 1.5
        ///
        /// As the other limits it is kept by a cgroup, which is made below this process's own or cgroup of --jail and
        /// removed at the end.
        #[arg("CPUS" by parse_processors)]
        cpu_limit: Option<u32>,
        /// Most memory of a jail: what the guest has touched and what vmm needs, such as 600M
        #[arg("SIZE" by parse_size)]
        memory_limit: Option<u64>,
        /// Most that a jail reads and writes, each, on the devices of its disks: [bw=RATE][,iops=RATE]
        #[arg("LIMIT")]
        io_limit: Option<IoLimit>,
        /// Most threads of a jail
        #[arg("N")]
        pids_limit: Option<u32>,
    }
}

flags! {
    "Run" struct RunArgs {
        /// Go on where a machine was saved: DIR[,force][,paused][,real-time][,record][,prefetch=off][,uffd=SOCKET]
        ///
        /// DIR is what vmm ctl SOCKET snapshot made, or a file of state. Other flags say what is other on the host's side:
        /// --disk, --net and --vsock of the same id, --console, --serial, --api-sock, --id. force goes on although this
        /// host is another, where that is safe; paused waits for vmm ctl SOCKET resume; with real-time the guest's clock
        /// goes on as if it had never stood still; with uffd the process at SOCKET provides the memory's pages as they are touched.
        /// record writes down which pages the machine touches until it rests or ends, in DIR/state.working-set, from which they are
        /// read ahead later on unless prefetch=off.
        #[arg("DIR")]
        restore: Option<RestoreConfig>,
        /// Know what changes after a snapshot, so that the next one can be a diff
        #[arg()]
        track_dirty: bool,
        /// End the run after this time, such as 500ms, 30s, 5m or 1h
        ///
        /// A plain number is seconds.
        #[arg("TIME" by parse_duration)]
        timeout: Option<Duration>,
        /// End the run when the guest is not ready this long after its start
        ///
        /// The first of these signs counts: its first program writes the byte 123 to address 0xc0000000; it says
        /// READY=1 to the port of --vsock socket=PATH,ready=PORT; or the text of --ready-pattern appears. --events
        /// and the API tell of it as well.
        #[arg("TIME" by parse_duration)]
        wait_ready: Option<Duration>,
        /// The guest is ready when this text appears on a console
        #[arg("TEXT")]
        ready_pattern: Option<String>,
        /// On SIGTERM, how long the guest may take to power off [default: 10s]
        #[arg("TIME" by parse_duration)]
        grace: Option<Duration>,
        /// What a reboot of the guest does
        #[arg("ACTION")]
        on_reboot: Option<OnReboot>,
        /// File to append log lines to [default: standard error]
        #[arg("PATH")]
        log_path: Option<PathBuf>,
        /// Least severe level that is logged: off, error, warn, info, debug or trace [default: warn]
        #[arg(
            "LEVEL" by PossibleValuesParser::new([
                PossibleValue::new("off"),
                PossibleValue::new("error"),
                PossibleValue::new("warn").alias("warning"),
                PossibleValue::new("info"),
                PossibleValue::new("debug"),
                PossibleValue::new("trace"),
            ])
            .try_map(|word| parse_level(&word)),
            hide_possible_values = true,
            ignore_case = true,
        )]
        level: Option<LevelFilter>,
        /// What a system call does that is not on the list of its thread
        #[arg("MODE")]
        seccomp: Option<Mode>,
        /// Filters of system calls in place of the built-in ones, as Firecracker's seccompiler-bin writes them
        #[arg("PATH")]
        seccomp_filter: Option<PathBuf>,
        /// Read the machine from a JSON file (Firecracker's layout)
        ///
        /// Flags beside it replace what the file says; disks, nets and appended words are added to the file's.
        #[arg("PATH")]
        config_file: Option<PathBuf>,
        /// Print on standard error when each stage of the start was reached
        ///
        /// The last stage is the guest's: its first program writes the byte 123 to address 0xc0000000.
        #[arg()]
        trace_boot: bool,
        /// Print what would be run, as JSON, and exit; no file but --config-file is opened
        #[arg()]
        dry_run: bool,
    }
}

impl Args {
    /// The whole definition.
    fn command() -> clap::Command {
        Self::define(&Wanted::All)
    }

    fn define(wanted: &Wanted<'_>) -> clap::Command {
        let mut command = Top::command();
        if wanted.has_subcommand(Command::has_subcommand) {
            command = Command::augment_subcommands(command);
        }
        if wanted.has_subcommand(|word| word == ctl::NAME) {
            command = command.subcommand(ctl::command());
        }
        command = BootArgs::define(command, wanted);
        command = MachineArgs::define(command, wanted);
        command = DeviceArgs::define(command, wanted);
        command = RunArgs::define(command, wanted);
        command = ControlArgs::define(command, wanted);
        JailArgs::define(command, wanted)
    }

    /// Parses `args` by `definition`, which has the flags that are `wanted`.
    fn read(
        mut definition: clap::Command,
        wanted: &Wanted<'_>,
        args: &[OsString],
    ) -> Result<Self, clap::Error> {
        let mut matches = definition.try_get_matches_from_mut(args)?;
        let command = match matches.subcommand_name() {
            Some(ctl::NAME) | None => None,
            Some(_) => Some(Command::from_arg_matches_mut(&mut matches)?),
        };
        let ctl = matches.remove_subcommand().map(|(_, words)| words);
        let matches = &mut matches;
        Ok(Self {
            command,
            ctl,
            boot: BootArgs::take(matches, wanted),
            machine: MachineArgs::take(matches, wanted),
            devices: DeviceArgs::take(matches, wanted),
            run: RunArgs::take(matches, wanted),
            control: ControlArgs::take(matches, wanted),
            jail: JailArgs::take(matches, wanted),
        })
    }

    fn into_request(self, firecracker: Firecracker) -> Result<Request, UsageError> {
        if let Some(words) = self.ctl {
            return ctl::read(words).map(Request::Ctl);
        }
        match self.command {
            Some(Command::Doctor { json }) => return Ok(Request::Doctor { json }),
            Some(Command::Snapshot { what }) => return Ok(Request::Snapshot(what)),
            // It has been read before; here it is only named.
            Some(Command::Jailer) => return Ok(Request::Print(jailer::HELP.to_owned())),
            Some(Command::Completions { shell }) => {
                return Ok(Request::Print(help::completions(shell)));
            }
            Some(Command::Man) => return Ok(Request::Print(help::manual())),
            None => {}
        }
        let Self { boot, machine, devices, run, control, jail, .. } = self;
        let api = firecracker.socket(control.api_sock).map(|socket| {
            let body_limit = firecracker.body_limit.unwrap_or(BODY_LIMIT);
            Api { socket, body_limit }
        });
        let mode = if firecracker.no_seccomp { Some(Mode::Off) } else { run.seccomp };
        let seccomp = Choice { mode: mode.unwrap_or_default(), file: run.seccomp_filter };
        Ok(Request::Run(Run {
            flags: VmConfig {
                kernel: boot.kernel,
                initrd: boot.initrd,
                boot: boot.boot,
                cmdline: boot.cmdline.map(CmdlineConfig::Exact),
                append: boot.append,
                cpus: machine.cpus,
                cpu_template: machine.cpu_template.map(CpuTemplateConfig::File),
                memory_bytes: machine.memory.map(|memory| memory.bytes),
                backing: machine.memory.and_then(|memory| memory.backing),
                disks: devices.disk,
                nets: devices.net,
                iothreads: devices.iothread,
                vsock: devices.vsock,
                console: devices.console,
                serial: devices.serial,
                rng: devices.rng,
                balloon: devices.balloon,
                metadata: MetadataConfig {
                    size_limit: devices.mmds_size_limit,
                    ..devices.metadata.unwrap_or_default()
                },
                ready: Ready { pattern: run.ready_pattern, within: run.wait_ready },
                id: machine.id,
                timeout: run.timeout,
                grace: run.grace,
                on_reboot: run.on_reboot,
                log_path: run.log_path,
                level: run.level,
                log_origin: firecracker.show_log_origin.then_some(true),
                log_module: firecracker.module.clone(),
                metrics: control.metrics_path.map(MetricsConfig::to),
                track_dirty: run.track_dirty.then_some(true),
            },
            config_file: run.config_file,
            restore: run.restore,
            api,
            events: control.events,
            jail: jail.jail,
            limits: CgroupLimits {
                cpu_millis: jail.cpu_limit,
                memory_bytes: jail.memory_limit,
                io: jail.io_limit,
                pids: jail.pids_limit,
            },
            seccomp,
            firecracker,
            trace_boot: run.trace_boot,
            dry_run: run.dry_run,
        }))
    }
}

#[cfg(test)]
mod tests;
