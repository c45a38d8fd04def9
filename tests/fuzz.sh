#!/usr/bin/env bash
# Searches for input that makes something panic, hang, or eat memory: libFuzzer on the targets of tests/fuzz.
#
# usage: fuzz.sh [--seconds N | --runs N] [--keep] [TARGET...]     without targets, all of them; 30 seconds each
#
# --keep puts what was found into tests/fuzz/corpus, as little as shows the same, and the run into tests/fuzz/LEDGER.md.
# A finding stays in target/fuzz/work/TARGET and is named; VMM_FUZZ_TARGET=TARGET and the fuzzer with that file run it again.
set -euo pipefail
# shellcheck source=../resources/lib.sh
. "$(dirname "$0")/../resources/lib.sh"

cd "$resources/.."
triple=x86_64-unknown-linux-gnu
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
fuzzer=$target/$triple/fuzz/fuzz
corpus=$target/debug/corpus
work=$target/fuzz/work
ledger=tests/fuzz/LEDGER.md

# Whatever takes longer, or more memory, is a finding.
limits=(-timeout=10 -rss_limit_mb=512 -malloc_limit_mb=128)

build() {
    type -P g++ >/dev/null || need_packages g++
    RUSTC_WRAPPER=$PWD/tests/fuzz/coverage.sh \
        cargo build --quiet --profile fuzz --target "$triple" -p fuzz --features libfuzzer --bin fuzz
    cargo build --quiet -p fuzz --bin corpus
}

targets() { sed -nE 's/^ +Target \{ name: "([a-z-]+)",.*/\1/p' tests/fuzz/src/lib.rs; }

# fuzz TARGET ARGUMENT...: one process, at the lowest priority: it has time.
fuzz() {
    local name=$1
    shift
    # Large buffers, too, come from memory that is there already.
    VMM_FUZZ_TARGET=$name MALLOC_MMAP_THRESHOLD_=16777216 MALLOC_TRIM_THRESHOLD_=67108864 nice -n 19 ionice -c 3 "$fuzzer" "${limits[@]}" "$@"
}

# search TARGET: from the kept corpus on, and from what earlier searches have left.
search() {
    local name=$1 place=$work/$1 options=() log
    mkdir -p "$place/corpus"
    log=$place/log
    "$corpus" unpack "tests/fuzz/corpus/$name" "$place/corpus"
    options+=("$bound" -max_len="$(length "$name")" -artifact_prefix="$place/" -print_final_stats=1)
    if ! fuzz "$name" "${options[@]}" "$place/corpus" >"$log" 2>&1; then
        grep -vE '^#[0-9]+' "$log" | tail -n 40
        printf '%-10s FOUND something; %s\n' "$name" "$log"
        return 1
    fi
    printf '%-10s %s runs in %s s, coverage %s\n' "$name" "$(stat_of "$log" number_of_executed_units)" \
        "$(seconds_of "$log")" "$(sed -nE 's/.*DONE +cov: ([0-9]+) ft: ([0-9]+).*/\1 of \2/p' "$log")"
    [[ ! $keep ]] || keep_found "$name"
}

# length TARGET: the longest input that is of use.
length() {
    case $1 in
    kernel) echo 2000 ;;
    config | api-body | http) echo 1000 ;;
    *) echo 160 ;;
    esac
}

stat_of() { sed -nE "s/^stat::$2: +([0-9]+)/\1/p" "$1"; }

seconds_of() { sed -nE 's/^Done [0-9]+ runs in ([0-9]+) second.*/\1/p' "$1"; }

# keep_found TARGET: the inputs that together reach all that was reached, and a line in the ledger.
keep_found() {
    local name=$1 place=$work/$1 runs commit
    rm -rf "$place/minimal"
    mkdir "$place/minimal"
    fuzz "$name" -merge=1 "$place/minimal" "$place/corpus" >"$place/merge.log" 2>&1
    "$corpus" pack "$place/minimal" "tests/fuzz/corpus/$name"
    runs=$(stat_of "$place/log" number_of_executed_units)
    commit=$(git rev-parse --short=10 HEAD)
    # What searches before this one have kept changes nothing of what is searched.
    git diff --quiet HEAD -- . ':!tests/fuzz/corpus' ':!tests/fuzz/LEDGER.md' || commit+=-dirty
    printf '| %s | %s | %s s | %s | %s |\n' "$name" "$runs" "$(seconds_of "$place/log")" "$commit" \
        "$(date -u +%F)" >>"$ledger"
}

main() {
    local bound=-max_total_time=30 keep='' failures=0 name names=()
    while (($#)); do
        case $1 in
        -h | --help) usage && return ;;
        --seconds) bound=-max_total_time=$2 && shift ;;
        --runs) bound=-runs=$2 && shift ;;
        --keep) keep=1 ;;
        *) names+=("$1") ;;
        esac
        shift
    done
    ((${#names[@]})) || mapfile -t names < <(targets)
    tests/tools.sh
    build
    for name in "${names[@]}"; do search "$name" || failures=$((failures + 1)); done
    printf '%s passed, %s failed\n' $((${#names[@]} - failures)) "$failures"
    ((failures == 0))
}

main "$@"
