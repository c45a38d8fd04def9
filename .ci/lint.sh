#!/usr/bin/env bash
# Checks everything about the sources that needs no guest: format, lints, where unsafe code may be, which crate may know
# which, one version of each shared crate, paths named in the documentation, shell scripts.
#
# usage: lint.sh
set -euo pipefail
# shellcheck source=../resources/lib.sh
. "$(dirname "$0")/../resources/lib.sh"

cd "$resources/.."
failures=0

# check TITLE COMMAND...
check() {
    local title=$1
    shift
    if "$@"; then printf 'ok    %s\n' "$title"; else
        printf 'FAIL  %s\n' "$title"
        failures=$((failures + 1))
    fi
}

# Files where unsafe code may be, each with what it is for, besides tests and the harness.
unsafe_allowed() {
    cat <<'END'
devices/benches/datapath/count.rs          a counting allocator, tracing a child
devices/benches/datapath/net.rs            a network namespace, packet sockets
devices/src/backend/console/sys.rs         termios, poll, pseudo-terminals
devices/src/backend/console/terminal.rs    restoring the terminal from a signal handler
devices/src/backend/disk/io/uring.rs       io_uring
devices/src/backend/disk/sys.rs            fallocate, locks, block device ioctls
devices/src/backend/net/ring.rs             io_uring
devices/src/backend/net/tap/sys.rs         tap ioctls
devices/src/backend/reclaim.rs             giving guest memory back to the host
devices/src/backend/socket/sys.rs          listening and connecting sockets
devices/src/fatal.rs                       signal handlers
devices/src/guest_io.rs                    vectored I/O on guest memory
devices/src/metadata/sys.rs                one descriptor for several
vmm/src/affinity.rs                        CPU masks of threads
vmm/src/clock.rs                           clocks that the standard library does not show
vmm/src/drill.rs                           what a compromised process would do, for tests
vmm/src/jail/sys.rs                        namespaces, mounts, capabilities
vmm/src/jail/sys/landlock.rs               Landlock
vmm/src/jail/sys/message.rs                messages with descriptors
vmm/src/jail/sys/tree.rs                   files and mounts by descriptors
vmm/src/inherited.rs                       descriptors of the parent process
vmm/src/kvm/cpuid.rs                       lists of variable length that KVM fills and reads
vmm/src/kvm/state.rs                       KVM ioctls that take addresses, of state
vmm/src/kvm/vm.rs                          KVM ioctls that take addresses
vmm/src/logger.rs                          system calls of the log
vmm/src/memory.rs                          mapping guest memory
vmm/src/main.rs                            the entry that the C library calls
vmm/src/memory/ahead.rs                    advice about guest memory
vmm/src/memory/file.rs                     guest memory written and mapped by address
vmm/src/memory/file/contents.rs            guest memory read by address
vmm/src/memory/file/writer.rs              a fork, and its end
vmm/src/memory/mapped.rs                   mappings of files, leases, a handler of bus errors
vmm/src/memory/uffd.rs                     userfaultfd
vmm/src/process/c_library.rs               answers in place of the C library's
vmm/src/process.rs                         the C library's arguments, poll, signals, the heap's parameters
vmm/src/seccomp/sys.rs                     seccomp(2), the handler of its signal
vmm/src/signals.rs                         signal masks, signalfd
vmm/src/vcpu/exit.rs                       the run mapping of a vCPU
vmm/src/vcpu/thread.rs                     kicks: a signal and its handler
END
}

unsafe_is_where_it_may_be() {
    local allowed file bad=0
    allowed=$(unsafe_allowed | cut -d ' ' -f 1)
    while read -r file; do
        if ! grep -qxF "$file" <<<"$allowed"; then
            printf '%s has unsafe code and is not on the list in %s\n' "$file" "$script"
            bad=1
        fi
    done < <(grep -rlE --include='*.rs' '\bunsafe (\{|fn|impl|extern)' arch devices vmm |
        grep -vE '/tests(\.rs$|/)')
    # A list that names what is not there tells nothing.
    while read -r file; do
        [[ -e $file ]] || { printf '%s is on the list and does not exist\n' "$file" && bad=1; }
    done <<<"$allowed"
    return "$bad"
}

# The crates of this workspace that each may know.
edges_are_as_drawn() {
    local have want
    want='devices -> 
arch -> 
fuzz -> devices vmm
tests -> 
vmm -> arch devices'
    have=$(cargo metadata --format-version 1 --no-deps --locked | python3 -c '
import json, sys
packages = json.load(sys.stdin)["packages"]
ours = {p["name"] for p in packages}
for p in packages:
    print(p["name"], "->", *sorted({d["name"] for d in p["dependencies"] if d["name"] in ours}))')
    diff <(sort <<<"$want" | sed 's/ *$//') <(sort <<<"$have" | sed 's/ *$//')
}

# Types of these crates go from one crate to another, which two versions of them would make impossible.
one_version_of_shared_crates() {
    local name bad=0
    for name in vm-memory virtio-queue vmm-sys-util kvm-bindings kvm-ioctls event-manager; do
        if (($(grep -cx "name = \"$name\"" Cargo.lock) > 1)); then
            printf '%s is there in several versions\n' "$name"
            bad=1
        fi
    done
    return "$bad"
}

# named_paths DOCUMENT: what stands in backquotes, has a slash, and ends in a slash or a file name's ending. "x" is
# anybody's name.
named_paths() {
    # shellcheck disable=SC2016 # backquotes that are meant
    { grep -oE '`[A-Za-z0-9_./-]+/[A-Za-z0-9_.-]*`' "$1" || true; } | tr -d '`' |
        { grep -E '(\.[a-z0-9]+|/)$' || true; } | { grep -vE '^(/|target/|x/|x\.)' || true; } | sort -u
}

# A path in the documentation that leads nowhere is worse than none.
documented_paths_exist() {
    local document path bad=0
    for document in *.md; do
        while read -r path; do
            [[ -e $path ]] || { printf '%s names %s, which does not exist\n' "$document" "$path" && bad=1; }
        done < <(named_paths "$document")
    done
    return "$bad"
}

files_are_short() {
    local limit=500 found
    found=$(git ls-files -- '*.rs' | grep -vE '(^|/)tests(/|\.rs$)' | xargs wc -l | awk -v limit="$limit" '$2 != "total" && $1 > limit { print $2 " has " $1 " lines" }')
    [[ ! $found ]] || { printf '%s\n' "$found" && return 1; }
}

scripts_are_clean() {
    local files
    type -P shellcheck >/dev/null || need_packages shellcheck
    mapfile -t files < <(git ls-files --cached --others --exclude-standard | xargs grep -lE '^#!(/usr/bin/env bash|/bin/sh)' --)
    shellcheck -x -P SCRIPTDIR "${files[@]}"
}

main() {
    only_help "$@"
    tests/tools.sh
    check 'format' cargo fmt --all --check
    check 'clippy' cargo clippy --quiet --workspace --all-targets --features devices/test-util --locked -- -D warnings
    check 'unsafe code is where it may be' unsafe_is_where_it_may_be
    check 'crates know those they may' edges_are_as_drawn
    check 'one version of each shared crate' one_version_of_shared_crates
    check 'paths in the documentation exist' documented_paths_exist
    check 'files are short' files_are_short
    check 'shell scripts' scripts_are_clean
    ((failures == 0)) || die "$failures of the checks failed"
}

main "$@"
