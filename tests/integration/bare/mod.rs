//! Tests with a bare-metal guest, which runs on any KVM: how a machine starts and ends, what a guest finds on
//! the buses, and what a hostile driver can do to a device.

mod api;
mod balloon;
mod boot;
mod budgets;
mod ctl;
mod devices;
mod ends;
mod faults;
mod hostile;
mod io;
mod jail;
mod jailer;
mod kernel_file;
mod leaks;
mod memory;
mod orchestrator;
mod ports;
mod ready;
mod seccomp;
mod snapshot;
mod snapshot_kept;
mod snapshot_kills;
mod snapshot_working_set;
mod storage;
mod subject;
mod terminal;
mod vmclock;
mod vsock;

use libtest_mimic::Trial;

/// All of them.
pub fn tests() -> Vec<Trial> {
    let lists = [
        api::tests(),
        balloon::tests(),
        boot::tests(),
        budgets::tests(),
        ctl::tests(),
        ends::tests(),
        kernel_file::tests(),
        leaks::tests(),
        memory::tests(),
        orchestrator::tests(),
        ports::tests(),
        ready::tests(),
        seccomp::tests(),
        snapshot::tests(),
        snapshot::network_tests(),
        snapshot_kept::tests(),
        snapshot_kills::tests(),
        snapshot_working_set::tests(),
        vmclock::tests(),
        terminal::tests(),
        devices::tests(),
        devices::network_tests(),
        io::tests(),
        jail::tests(),
        jailer::tests(),
        io::network_tests(),
        hostile::tests(),
        faults::tests(),
        vsock::tests(),
        storage::tests(),
    ];
    lists.into_iter().flatten().collect()
}
