#!/usr/bin/env bash
# Runs cargo so that what it builds is static: such a program runs in any container, jail or test machine, whatever
# libraries those have.
#
# usage: cargo-static.sh COMMAND [ARGUMENT...]
#
# Functions that are called in several places are less often repeated in each of them than the optimizer would by itself:
# the program is 110 KB smaller, which every machine would map, and its start takes 2 % more instructions. What is
# marked #[inline] is repeated all the same.
set -euo pipefail
export RUSTFLAGS='-C target-feature=+crt-static -C llvm-args=-inline-threshold=90'
exec cargo "$1" --target x86_64-unknown-linux-gnu "${@:2}"
