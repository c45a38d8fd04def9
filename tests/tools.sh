#!/usr/bin/env bash
# Makes sure that the tools to build with are there.
#
# usage: tools.sh
set -euo pipefail
# shellcheck source=../resources/lib.sh
. "$(dirname "$0")/../resources/lib.sh"

main() {
    only_help "$@"
    type -P cargo >/dev/null || die 'no cargo: install Rust from https://rustup.rs'
    type -P gcc >/dev/null || need_packages gcc libc6-dev
}

main "$@"
