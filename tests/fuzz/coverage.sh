#!/bin/sh
# A compiler for cargo (RUSTC_WRAPPER) that has the product's crates, and those that read what a guest or a client
# sends, count where a run has been and what it compared. What drives them is left as it is: it would only be slow.
#
# usage: coverage.sh RUSTC ARGUMENT...
set -eu
case " $* " in
*" --crate-name devices "* | *" --crate-name vmm "* | *" --crate-name arch "* | *" --crate-name httparse "* | \
    *" --crate-name smoltcp "* | *" --crate-name linux_loader "* | *" --crate-name serde_json "*)
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$@" ;;
esac
