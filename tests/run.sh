#!/usr/bin/env bash
# Runs all tests and counts them: unit tests, the command line, bare-metal guests on this host's /dev/kvm, Linux guests on
# it or, when it cannot run Linux, in the AMD-V machine. The last line is "N passed, N failed, N skipped".
#
# usage: run.sh [FILTER]      with a filter, only the integration tests whose names contain it
#
# VMM_TEST_JAIL=1 runs every machine of the integration tests in a jail (vmm --jail), wherever its test allows that.
# Without it a part of them runs in a jail as well, once more.
# VMM_TEST_SNAPSHOTS=N has a busy Linux guest saved N times, at moments of the seed VMM_TEST_SEED=N.
# VMM_TEST_RECORD=1 also records the system calls of bare-metal guests, to see whether each rule of the filters is needed.
set -euo pipefail
# shellcheck source=../resources/lib.sh
. "$(dirname "$0")/../resources/lib.sh"

cd "$resources/.."
static_target=x86_64-unknown-linux-gnu
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
vmm=$target/$static_target/release/vmm
drill=$target/$static_target/debug/vmm
# Seconds that a test in the machine waits for something, and that the machine waits for the tests.
machine_patience=120
machine_timeout=480

# section TITLE COMMAND...: runs the command, shows its output and keeps it for the count. One that fails without a
# failed test to show for it counts as a failure of its own.
section() {
    local title=$1 status=0 log
    log=$logs/$((++sections))
    shift
    printf '\n== %s\n' "$title"
    "$@" 2>&1 | tee "$log" || status=$?
    if ((status != 0)) && ! grep -q '^test result: FAILED' "$log"; then
        printf 'test result: FAILED. 0 passed; 1 failed; 0 ignored; (%s: exit code %s)\n' "$title" "$status" |
            tee -a "$log"
    fi
}

# What counts instructions and system calls; without it the tests that need it are skipped and say so.
counting_tools() {
    type -P valgrind strace >/dev/null || (need_packages valgrind strace) || true
}

build_vmm() { resources/cargo-static.sh build --release -p vmm; }

# A program that attacks itself, for the tests of what that gains it.
build_drill() { resources/cargo-static.sh build -p vmm --features drill; }

build_integration() {
    local messages=$logs/messages
    resources/cargo-static.sh test -p tests --test integration --no-run --message-format json-render-diagnostics >"$messages"
    integration=$(sed -n 's/.*"name":"integration".*"executable":"\([^"]*\)".*/\1/p' "$messages")
    [[ $integration ]] || die 'cargo names no integration program'
}

run_integration() {
    VMM=$(realpath "$vmm") VMM_DRILL_PROGRAM=$(realpath "$drill") VMM_GUEST_DIR=$(guest_dir) "$integration" "$@"
}

# Whether each rule of the filters of system calls is needed by some bare-metal guest: every call of every machine is
# recorded, and compared with the rules.
run_recorded() {
    local aside=(linux:: cli:: budgets faults jail hostile leaks a_console_of_its_own_choice seccomp net_over_pauses) word skip=()
    for word in "${aside[@]}"; do skip+=(--skip "$word"); done
    mkdir "$logs/recorded"
    # What a recorder delays may fail; it was tried without one.
    VMM_TEST_TRACE=$logs/recorded run_integration "${skip[@]}" >/dev/null || true
    VMM_TEST_TRACE=$logs/recorded cargo test -p vmm --lib seccomp::tests::used
}

# Machines of every kind in a jail, and no root: what differs there is how files, sockets, signals and ends come to a
# machine, not what drivers can do to a device. Where root may not become nobody, it runs them itself.
run_in_jail() {
    local aside=(linux:: cli:: budgets chains registers rings hostile bare::jail) word skip=() own=$logs/nobody
    for word in "${aside[@]}"; do skip+=(--skip "$word"); done
    if ((EUID == 0)) && prepare_for_nobody "$own"; then
        # Devices are as on hosts whose users may run machines, for this shell and what it starts.
        # shellcheck disable=SC2016 # words of the inner shell
        (cd "$own" && unshare --mount bash -euc 'mount --bind dev/kvm /dev/kvm
            if [[ -e /dev/net/tun ]]; then mount --bind dev/tun /dev/net/tun; fi
            exec setpriv --reuid=65534 --regid=65534 --clear-groups env VMM="$PWD/vmm" VMM_TEST_JAIL=1 \
                TMPDIR="$PWD/tmp" HOME="$PWD/tmp" ./integration "$@"' - "${skip[@]}")
    else
        VMM_TEST_JAIL=1 run_integration "${skip[@]}"
    fi
}

# prepare_for_nobody DIRECTORY: the programs and devices for user 65534 there; fails where root may not make them.
prepare_for_nobody() {
    mkdir -p "$1/dev" "$1/tmp" && unshare --mount true &&
        mknod "$1/dev/kvm" c 10 232 && mknod "$1/dev/tun" c 10 200 || return
    cp "$vmm" "$1/vmm" && cp "$integration" "$1/integration" && chown -R 65534:65534 "$1" && chmod 711 "$logs"
}

# run_in_machine ARGUMENT...: the integration tests in an AMD-V machine.
run_in_machine() {
    local file files=()
    for file in "$(guest_dir)"/*; do files+=(--file "$file:/guest/${file##*/}"); done
    # A guest that runs in an emulated processor takes its time, and the memory of its disk's copies.
    resources/machine/run.sh --memory 6000 --timeout "$machine_timeout" "${files[@]}" \
        --file "$vmm:/bin/vmm" --file "$integration:/bin/integration" \
        --env VMM=/bin/vmm --env VMM_GUEST_DIR=/guest --env VMM_TEST_PATIENCE="$machine_patience" \
        --env VMM_TEST_SCALE=small --env VMM_TEST_JAIL="${VMM_TEST_JAIL-}" \
        --env VMM_TEST_SNAPSHOTS="${VMM_TEST_SNAPSHOTS-}" --env VMM_TEST_SEED="${VMM_TEST_SEED-}" -- integration "$@"
}

# in_a_machine ARGUMENT...: the same; QEMU's emulation of SVM can lose the whole machine, by a crash or a halt that no
# timer ends. That says nothing about the tests, whose own waits all have limits, so they run in a new one, and the
# summary says so. A test that failed is never run again.
in_a_machine() {
    local attempt status
    for attempt in 1 2 3; do
        status=0
        run_in_machine "$@" || status=$?
        ((status == 124 || status == 125)) || return "$status"
        printf 'machine lost: the emulator ended or hung, attempt %s\n' "$attempt"
    done
    return "$status"
}

# linux_row GROUP...: runs the groups one after the other, each in a machine of its own.
linux_row() {
    local group
    for group in "$@"; do section "$group in the AMD-V machine" in_a_machine "$group"; done
}

# count WORD: the sum of the numbers before WORD in all results.
count() { sed -nE "s/^test result:.* ([0-9]+) $1.*/\1/p" "$logs"/[0-9]* | paste -sd + | bc; }

# unit_skips: the unit tests that could not do their work here; their runner counts them as passed.
unit_skips() { sed -n 's/^SKIPPED /skipped: /p' "$logs"/[0-9]*; }

summary() {
    local failed lost unable
    printf '\nran on: %s\n' "$machines"
    # The reasons of the tests that were ignored, each once, with how many had it.
    sed -nE 's/^test .* \.\.\. ignored(, (.*))?$/skipped: \2/p' "$logs"/[0-9]* | sort | uniq -c | sed -E 's/^ *([0-9]+) skipped: /skipped \1: /'
    unit_skips
    unable=$(unit_skips | wc -l)
    lost=$(cat "$logs"/[0-9]* | grep -c '^machine lost') || true
    ((lost == 0)) || printf '%s machines were lost by the emulator; their tests ran again in new ones\n' "$lost"
    failed=$(count failed)
    printf '%s passed, %s failed, %s skipped\n' \
        $(($(count passed) - unable)) "$failed" $(($(count ignored) + unable))
    ((failed == 0))
}

main() {
    local linux filter=${1-} machines integration='' sections=0 second status=0
    case $filter in -h | --help) usage && return ;; esac
    logs=$(mktemp -d)
    # What runs in the background ends with this script, however it ends.
    trap 'rm -rf "$logs"; kill $(jobs -p) 2>/dev/null || true' EXIT
    type -P bc >/dev/null || need_packages bc
    tests/tools.sh
    counting_tools
    build_vmm
    build_drill
    build_integration
    linux=$(resources/machine/can-run-linux.sh 2>"$logs/reason")
    make --no-print-directory kernel rootfs debian fio >/dev/null
    machines="this host, $(uname -srm)"
    if [[ $linux = machine ]]; then
        machines+="; Linux guests in the AMD-V machine ($(sed 's/^[^:]*: //' "$logs/reason"))"
    fi

    if [[ ! $filter ]]; then
        # The program itself has an entry of its own and cannot be a test.
        section 'unit tests' cargo test --workspace --lib --bin bench --bin demo
        section 'inputs that were found once' cargo test --quiet -p fuzz --test replay
        section 'budgets of the queue handlers' cargo test --quiet -p devices --features test-util --bench datapath
    fi
    if [[ $linux = direct ]]; then
        section 'integration tests' run_integration "$filter"
    else
        section 'integration tests on this host' run_integration --skip linux:: "$filter"
    fi
    if [[ ! $filter && ${VMM_TEST_JAIL-} != 1 ]]; then
        section 'bare-metal guests in a jail, by an ordinary user' run_in_jail
    fi
    if [[ ${VMM_TEST_RECORD-} = 1 ]]; then
        section 'system calls that bare-metal guests need' run_recorded
    fi
    if [[ $linux = machine && $filter ]]; then
        section 'Linux guests in the AMD-V machine' in_a_machine --skip bare:: --skip cli:: "$filter"
    elif [[ $linux = machine ]]; then
        # Two rows side by side; the second one's words come when the first one is done.
        (sections=100 && linux_row linux::block linux::net linux::console linux::lifecycle linux::balloon linux::fio) >"$logs/second" 2>&1 &
        second=$!
        linux_row linux::boot linux::vsock linux::snapshot
        wait "$second" || status=$?
        cat "$logs/second"
        ((status == 0)) || section 'second row' false
    fi
    summary
}

main "$@"
