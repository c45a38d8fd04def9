#!/usr/bin/env bash
# Measures vmm, the floor and QEMU's microvm in turns, and prints one table; BENCHMARKS.md says how to read it.
#
# usage: bench.sh      ROUNDS=N       rounds of the start, a fifth of it for devices (50; 5 takes two minutes)
#                      ONLY=WORD,…    groups (start, snapshot, idle, block, net, counts), or parts of the names of rows of block and net
#                      VMM_PEERS="NAME=COMMAND; …"   other programs to start, see BENCHMARKS.md
#                      VMM=PATH       the vmm to measure instead of a fresh release build
set -euo pipefail
# shellcheck source=../resources/lib.sh
. "$(dirname "$0")/../resources/lib.sh"

main() {
    only_help "$@"
    cd "$resources/.."
    tests/tools.sh
    # Who is missing has no numbers, and the table says so.
    (need_packages qemu-system-x86 strace valgrind) || true
    [[ ${VMM-} ]] || make --no-print-directory --quiet build >/dev/null
    cargo build --quiet -p tests --bin bench
    "${CARGO_TARGET_DIR:-target}/debug/bench"
}

main "$@"
