//! The programs that are compared, and the command lines that give each the same machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::artifacts;

/// Guest memory of every machine, in MiB.
pub const MEMORY_MIB: u32 = 128;

/// Who runs the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contender {
    /// The `vmm` under test.
    Vmm,
    /// The least that runs a guest: no devices.
    Floor,
    /// QEMU's microvm machine.
    Qemu,
    /// Any other: its name, and words of its command with holes.
    Peer(String, Vec<String>),
}

/// The machine that a contender is to make: 1 vCPU, [`MEMORY_MIB`], the serial line on standard input and output.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// PVH kernel.
    pub kernel: PathBuf,
    /// Its command line.
    pub words: String,
    /// A raw image: in the page cache, transfers by `io_uring`, in QEMU in a thread of its own.
    pub disk: Option<PathBuf>,
    /// An interface that exists already.
    pub tap: Option<String>,
    /// Where an API is served, of those that have one.
    pub api: Option<PathBuf>,
    /// In `vmm`'s jail.
    pub is_jailed: bool,
}

impl Contender {
    /// What it is called in messages.
    pub fn name(&self) -> &str {
        match self {
            Self::Vmm => "vmm",
            Self::Floor => "floor",
            Self::Qemu => "QEMU",
            Self::Peer(name, _) => name,
        }
    }

    /// Reads `VMM_PEERS`: `name=command` with `{kernel}`, `{words}` and `{memory}` (MiB) as holes, several of them
    /// separated by semicolons. The command is not given to a shell.
    pub fn peers(text: &str) -> Result<Vec<Self>, String> {
        let peer = |part: &str| {
            let (name, command) = part
                .split_once('=')
                .ok_or_else(|| format!("VMM_PEERS: '{part}' is not NAME=COMMAND"))?;
            let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
            if name.is_empty() || words.is_empty() {
                return Err(format!("VMM_PEERS: '{part}' is not NAME=COMMAND"));
            }
            Ok(Self::Peer(name.to_owned(), words))
        };
        text.split(';').map(str::trim).filter(|part| !part.is_empty()).map(peer).collect()
    }

    /// The command that runs `machine`.
    pub fn command(&self, machine: &Machine) -> Command {
        match self {
            Self::Vmm => vmm(machine),
            Self::Floor => {
                let mut command = Command::new(artifacts::floor());
                command.arg(&machine.kernel);
                command
            }
            Self::Qemu => qemu(machine),
            Self::Peer(_, words) => {
                let kernel = machine.kernel.to_string_lossy();
                let mut words = words.iter().map(|word| {
                    word.replace("{kernel}", &kernel)
                        .replace("{words}", &machine.words)
                        .replace("{memory}", &MEMORY_MIB.to_string())
                });
                let mut command = Command::new(words.next().unwrap_or_default());
                command.args(words);
                command
            }
        }
    }
}

fn vmm(machine: &Machine) -> Command {
    let mut command = Command::new(artifacts::vmm());
    command.arg("--kernel").arg(&machine.kernel).args(["--serial", "stdio", "--rng", "off"]);
    command.arg("--memory").arg(format!("{MEMORY_MIB}M"));
    if !machine.words.is_empty() {
        command.arg("--cmdline").arg(&machine.words);
    }
    if let Some(disk) = &machine.disk {
        command.arg("--disk").arg(format!("{},engine=uring", escaped(disk)));
    }
    if let Some(tap) = &machine.tap {
        command.arg("--net").arg(format!("tap={tap}"));
    }
    if let Some(api) = &machine.api {
        command.arg("--api-sock").arg(api);
    }
    if machine.is_jailed {
        command.arg("--jail");
    }
    command
}

fn qemu(machine: &Machine) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-M", "microvm,pit=off,pic=off,rtc=off,auto-kernel-cmdline=off"]);
    // KVM takes back an MSR that it offers for this feature on some hosts, which ends QEMU.
    command.args(["-accel", "kvm", "-cpu", "host,arch-capabilities=off"]);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    command.args(["-global", "virtio-mmio.force-legacy=false", "-serial", "stdio"]);
    command.arg("-m").arg(MEMORY_MIB.to_string()).arg("-kernel").arg(&machine.kernel);
    if !machine.words.is_empty() {
        command.arg("-append").arg(&machine.words);
    }
    if let Some(disk) = &machine.disk {
        let file = escaped(disk);
        command.args(["-object", "iothread,id=thread", "-drive"]);
        let options = "format=raw,aio=io_uring,cache=writeback,file.locking=off";
        command.arg(format!("if=none,id=disk,file={file},{options}"));
        command.args(["-device", "virtio-blk-device,drive=disk,iothread=thread"]);
    }
    if let Some(tap) = &machine.tap {
        command.arg("-netdev");
        command.arg(format!("tap,id=net,ifname={tap},script=no,downscript=no,vhost=off"));
        command.args(["-device", "virtio-net-device,netdev=net"]);
    }
    command
}

/// Commas in a path are doubled, by `vmm` as by QEMU.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_names_and_commands() {
        let peers = Contender::peers("a=/bin/a --kernel {kernel}; b=b {words}").unwrap();
        let machine = Machine { kernel: "/k".into(), words: "x y".into(), ..Machine::default() };
        let lines: Vec<String> =
            peers.iter().map(|peer| format!("{:?}", peer.command(&machine))).collect();
        assert_eq!(lines, [r#""/bin/a" "--kernel" "/k""#, r#""b" "x y""#]);
        assert_eq!(peers.iter().map(Contender::name).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(Contender::peers(""), Ok(vec![]));
    }

    #[test]
    fn a_peer_without_a_command_is_named() {
        for text in ["name", "name=", "=command"] {
            let error = format!("VMM_PEERS: '{text}' is not NAME=COMMAND");
            assert_eq!(Contender::peers(text), Err(error));
        }
    }
}
