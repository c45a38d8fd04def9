//! Every way in which a machine ends has its exit code and its last line.

use harness::{Need, Puppet, Vmm};

crate::suite::tests! { "bare::ends" needs &[Need::Kvm];
    status_of_the_guest,
    status_written_wide,
    power_off,
    reboot_by_keyboard_controller,
    reboot_by_acpi_register,
    reboot_restarts_if_told_so,
    kernel_panic,
    triple_fault,
    other_values_end_nothing,
    timeout,
    sigterm_after_the_grace_period,
    second_sigterm,
    sighup_is_like_sigterm,
    sigint,
    halted_guest_can_be_ended,
}

const DEBUG_EXIT: u16 = 0xf4;
const I8042_COMMAND: u16 = 0x64;
const PVPANIC: u16 = 0x505;
const SLEEP_CONTROL: u16 = 0x600;
const RESET: u16 = 0x602;

fn status_of_the_guest() {
    for (status, code) in [(0, 0), (1, 1), (42, 42), (99, 99), (100, 99), (255, 99)] {
        let end = Vmm::puppet(&format!("mute exit={status:x}")).run().expect_code(code);
        let named = status == 0 || end.last_line().contains(&status.to_string());
        assert!(named, "the status is not in the last line\n{}", end.story());
    }
}

fn status_written_wide() {
    let puppet = Puppet::alone();
    puppet.port_out(4, DEBUG_EXIT, 0x0101_0107);
    puppet.release().expect_exit(7);
}

fn power_off() {
    let puppet = Puppet::alone();
    puppet.port_out(1, SLEEP_CONTROL, 0x34);
    puppet.release().expect_exit(0);
}

fn reboot_by_keyboard_controller() {
    let puppet = Puppet::alone();
    puppet.port_out(1, I8042_COMMAND, 0xfe);
    let end = puppet.release().expect_exit(110);
    assert!(end.last_line().contains("reboot"), "{}", end.story());
}

fn reboot_by_acpi_register() {
    let puppet = Puppet::alone();
    puppet.port_out(1, RESET, 1);
    puppet.release().expect_exit(110);
}

fn reboot_restarts_if_told_so() {
    let puppet = Puppet::start(Vmm::puppet("again").args(["--on-reboot", "restart"]));
    puppet.store(0x20_0000, b"left over");
    puppet.port_out(1, I8042_COMMAND, 0xfe);
    let mut machine = puppet.release();
    machine.wait_for("puppet: again\n");
    machine.send("d 200000 9\n");
    assert_eq!(machine.wait_for("\n").trim(), "00".repeat(9), "memory of the life before");
    machine.send("o 1 f4 5\n");
    machine.expect_exit(5);
}

fn kernel_panic() {
    let puppet = Puppet::alone();
    assert_eq!(puppet.port_in(1, PVPANIC), 3, "the events that the device knows");
    puppet.port_out(1, PVPANIC, 1);
    let end = puppet.release().expect_exit(111);
    assert!(end.last_line().contains("panic"), "{}", end.story());
}

fn triple_fault() {
    let puppet = Puppet::alone();
    puppet.tell("t");
    let end = puppet.release().expect_exit(112);
    assert!(end.last_line().contains("triple"), "{}", end.story());
}

fn other_values_end_nothing() {
    let puppet = Puppet::alone();
    puppet.port_out(1, SLEEP_CONTROL, 0x14);
    puppet.port_out(1, SLEEP_CONTROL, 0x20);
    puppet.port_out(2, SLEEP_CONTROL, 0x3434);
    puppet.port_out(1, RESET, 0);
    puppet.port_out(1, PVPANIC, 0);
    puppet.port_out(1, PVPANIC, 2);
    puppet.port_out(1, I8042_COMMAND, 0xd1);
    puppet.port_out(1, DEBUG_EXIT + 1, 3);
    puppet.sync();
    puppet.finish();
}

fn timeout() {
    let puppet = Puppet::start(Vmm::puppet("").args(["--timeout", "300ms"]));
    puppet.tell("s");
    let end = puppet.release().expect_exit(124);
    assert!(end.last_line().contains("300ms"), "{}", end.story());
}

fn sigterm_after_the_grace_period() {
    let puppet = Puppet::start(Vmm::puppet("").args(["--grace", "100ms"]));
    puppet.tell("s");
    let machine = puppet.release();
    machine.signal(libc::SIGTERM);
    machine.expect_exit(143);
}

fn second_sigterm() {
    let puppet = Puppet::start(Vmm::puppet("").args(["--grace", "1h"]));
    puppet.with_machine(|machine| machine.signal(libc::SIGTERM));
    // Two signals of a kind that are pending at once are one, so the first must have been taken.
    puppet.with_machine(|machine| {
        while harness::leaks::is_signal_pending(machine.outer_pid(), libc::SIGTERM) {
            std::thread::yield_now();
        }
        assert!(machine.is_running(), "one SIGTERM must leave the guest its time");
        machine.signal(libc::SIGTERM);
    });
    puppet.release().expect_exit(143);
}

fn sighup_is_like_sigterm() {
    let puppet = Puppet::start(Vmm::puppet("").args(["--grace", "0s"]));
    let machine = puppet.release();
    machine.signal(libc::SIGHUP);
    machine.expect_exit(143);
}

fn sigint() {
    let puppet = Puppet::alone();
    let machine = puppet.release();
    machine.signal(libc::SIGINT);
    machine.expect_exit(130);
}

fn halted_guest_can_be_ended() {
    let puppet = Puppet::start(Vmm::puppet("").args(["--cpus", "4"]));
    puppet.tell("h");
    let machine = puppet.release();
    machine.signal(libc::SIGINT);
    machine.expect_exit(130);
}
