#!/usr/bin/env bash
# Prints `direct` when this host's /dev/kvm can run a Linux guest, otherwise `machine`, and the reason on standard
# error: the guest then needs the AMD-V machine (run.sh).
#
# usage: can-run-linux.sh
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "$0")/../lib.sh"

obstacle() {
    if [[ ! -e /dev/kvm ]]; then
        echo 'there is no /dev/kvm'
    elif ! { : <>/dev/kvm; } 2>/dev/null; then
        echo '/dev/kvm cannot be opened for reading and writing; is this user in the group kvm?'
    elif [[ -e /sys/module/kvm_pvm ]]; then
        echo 'kvm_pvm emulates kernel code and does not know all the instructions Linux uses'
    elif [[ ! -e /sys/module/kvm_intel && ! -e /sys/module/kvm_amd ]]; then
        echo 'neither kvm_intel nor kvm_amd is loaded'
    fi
}

main() {
    local reason
    only_help "$@"
    reason=$(obstacle)
    if [[ $reason ]]; then
        say "$script: $reason"
        echo machine
    else
        echo direct
    fi
}

main "$@"
