//! The kernel command line: the words that `vmm` writes, why each is there, and how the user's join them.
//!
//! Devices are not on it: ACPI describes them. A command line is two lists: words for the kernel and, after a
//! lone "--", words for init. What is added for the kernel goes before that "--".

use super::console::ConsoleTarget;
use super::disk::Root;
use super::error::ConfigError;

/// Longest command line in bytes (Linux x86, `COMMAND_LINE_SIZE` 2048 with the NUL).
pub const CMDLINE_MAX: usize = 2047;

/// A command line in place of the default one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CmdlineConfig {
    /// `--cmdline`: this and no other word, but for those of `--append`.
    Exact(String),
    /// `boot_args` of a configuration file: the root file system is added, as Firecracker does.
    BootArgs(String),
}

/// Words of the default command line that do not depend on the machine. Valid on distribution kernels and on
/// tiny ones alike: a kernel without the feature ignores the word.
const FAST_BOOT: &[&str] = &[
    // Only warnings and worse on the console. A serial console costs two exits to the host for each
    // character, which for the usual messages takes about as long as the rest of the boot; a kernel that
    // fails still says why, and what init prints is not held back. Undone by `--append loglevel=7`.
    "quiet",
    // After a panic reset at once instead of hanging, so that the run ends. pvpanic has reported by then.
    "panic=-1",
    // Reset through the keyboard controller, which works with or without ACPI in the kernel.
    "reboot=k",
    // There is no PCI bus to scan by port accesses. ACPI device discovery does not need it.
    "pci=off",
    // The keyboard controller only resets: without these, kernels that do not believe ACPI wait up to half a
    // second for answers of a keyboard and a mouse. (Not `nopnp`: it would turn off the believing.)
    "i8042.noaux",
    "i8042.nokbd",
    // The TSC is as good as KVM says. Saves the check of each processor against the others, and a timer
    // twice a second that mistakes a busy host for a broken clock.
    "tsc=reliable",
    // Kernels built without KVM guest support would test the timer interrupt of a PIT that is not there.
    "no_timer_check",
    // Seeds the random generator from RDRAND, so that nothing waits for entropy. The guest has to trust this
    // processor anyway.
    "random.trust_cpu=on",
    // No 64 MiB bounce buffer with more than 3 GiB of memory: virtio needs none.
    "swiotlb=noforce",
    // No self-tests of ciphers. (A guest with fips=1 insists on them: give it a line of its own.)
    "cryptomgr.notests",
];

/// The command line of the machine.
pub(super) fn resolve(
    base: Option<CmdlineConfig>,
    append: &[String],
    (console, serial): (&ConsoleTarget, &ConsoleTarget),
    root: Option<&Root>,
) -> Result<String, ConfigError> {
    let mut line = Line::default();
    match base {
        Some(CmdlineConfig::Exact(text)) if append.is_empty() => return check(text),
        Some(CmdlineConfig::Exact(text)) => line.add(&text),
        Some(CmdlineConfig::BootArgs(text)) => {
            line.add(&text);
            line.add_root(root);
        }
        None => {
            line.add_defaults(*console != ConsoleTarget::Off, *serial != ConsoleTarget::Off);
            line.add_root(root);
        }
    }
    for text in append {
        line.add(text);
    }
    check(line.join())
}

/// Words for the kernel and words for init.
#[derive(Default)]
struct Line {
    kernel: String,
    init: String,
}

impl Line {
    fn add(&mut self, text: &str) {
        let (kernel, init) = split_at_dashes(text);
        push(&mut self.kernel, kernel);
        push(&mut self.init, init);
    }

    fn add_defaults(&mut self, console: bool, serial: bool) {
        for word in FAST_BOOT {
            push(&mut self.kernel, word);
        }
        // One port to look for, or none, instead of the four that the kernel would probe.
        push(&mut self.kernel, if serial { "8250.nr_uarts=1" } else { "8250.nr_uarts=0" });
        // Messages go to both; the last one becomes /dev/console, where init reads and writes.
        if serial {
            push(&mut self.kernel, "console=ttyS0");
        }
        if console {
            push(&mut self.kernel, "console=hvc0");
        }
    }

    /// The root file system. Also with an initrd: those of distributions look for it there.
    fn add_root(&mut self, root: Option<&Root>) {
        let Some(root) = root else { return };
        match &root.partuuid {
            Some(partuuid) => push(&mut self.kernel, &format!("root=PARTUUID={partuuid}")),
            None => push(&mut self.kernel, "root=/dev/vda"),
        }
        push(&mut self.kernel, if root.read_only { "ro" } else { "rw" });
    }

    fn join(self) -> String {
        if self.init.is_empty() {
            return self.kernel;
        }
        let space = if self.kernel.is_empty() { "" } else { " " };
        format!("{}{space}-- {}", self.kernel, self.init)
    }
}

fn push(words: &mut String, text: &str) {
    if !words.is_empty() && !text.is_empty() {
        words.push(' ');
    }
    words.push_str(text);
}

/// Splits at the first word "--" outside of double quotes, as Linux does (kernel/params.c).
fn split_at_dashes(text: &str) -> (&str, &str) {
    let mut quoted = false;
    let mut word_start = true;
    for (index, c) in text.char_indices() {
        let rest = text.get(index..).unwrap_or_default();
        let init = rest.strip_prefix("--").filter(|init| init.is_empty() || init.starts_with(' '));
        if let Some(init) = init.filter(|_| word_start && !quoted) {
            let kernel = text.get(..index).unwrap_or_default();
            return (kernel.trim_end_matches(' '), init.trim_matches(' '));
        }
        quoted ^= c == '"';
        word_start = c == ' ';
    }
    (text, "")
}

/// A line that the kernel can take: no control characters, which would end it or forge log lines, and not
/// too long.
fn check(line: String) -> Result<String, ConfigError> {
    if let Some(character) = line.chars().find(|c| c.is_control()) {
        return Err(ConfigError::CmdlineCharacter { character });
    }
    if line.len() > CMDLINE_MAX {
        return Err(ConfigError::CmdlineLength { len: line.len() });
    }
    Ok(line)
}

#[cfg(test)]
mod tests;
