//! What is read rather than parsed: examples, exit statuses, the manual page, shell completions.

use std::io;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use super::Args;
use crate::exit_code;

/// Command lines to start from; each is valid.
pub(super) const EXAMPLES: &str = "  vmm --kernel bzImage --disk rootfs.img
      Boot a disk image; the terminal is the guest's console.
  vmm --kernel vmlinux --initrd initrd.cpio --memory 1G --cpus 4
      Boot from memory only.
  vmm --kernel bzImage --disk rootfs.img,readonly --disk data.img,id=data --net tap=tap0
      A read-only root, a second disk and a network card.
  vmm --kernel bzImage --initrd test.cpio --serial file=log.txt --timeout 60s
      Run a test: the exit status tells how it ended.
  vmm --config-file vm.json --dry-run
      Show what a configuration file amounts to.
";

/// The command with everything that `--help` shows.
pub(super) fn complete(command: Command) -> Command {
    let statuses = exit_code::help_table();
    let more = format!("Examples:\n{EXAMPLES}\nExit status:\n{statuses}");
    command.after_long_help(more.trim_end().to_owned())
}

/// The manual page in roff.
pub(super) fn manual() -> String {
    let mut page = Vec::new();
    // Writing to a Vec cannot fail.
    let _ = write_manual(&mut page);
    String::from_utf8_lossy(&page).into_owned()
}

/// One page for everything, where the generator would refer to a page for each subcommand.
fn write_manual(to: &mut dyn io::Write) -> io::Result<()> {
    let command = Args::command();
    let page = Man::new(command.clone());
    page.render_title(to)?;
    page.render_name_section(to)?;
    page.render_synopsis_section(to)?;
    page.render_options_section(to)?;
    writeln!(to, ".SH \"OTHER COMMANDS\"")?;
    for other in command.get_subcommands() {
        let about = other.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(to, ".TP\n.B vmm {}\n{}", other.get_name(), roff(&about))?;
        for verb in other.get_subcommands() {
            let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
            let name = format!("{} SOCKET {}", other.get_name(), verb.get_name());
            writeln!(to, ".TP\n.B vmm {}\n{}", roff(&name), roff(&about))?;
        }
    }
    writeln!(to, ".SH \"EXIT STATUS\"\n.nf\n{}.fi", roff(&exit_code::help_table()))?;
    writeln!(to, ".SH EXAMPLES\n.nf\n{}.fi", roff(EXAMPLES))?;
    page.render_version_section(to)
}

/// Text in which roff has nothing to interpret. No line of ours begins with a dot or a quote.
fn roff(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

/// A completion script.
pub(super) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "vmm", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
