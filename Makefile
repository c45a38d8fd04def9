# Everything that is done with this project, by name. What a target needs, it installs or makes.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

static_target := x86_64-unknown-linux-gnu
target_dir := $(or $(CARGO_TARGET_DIR),target)
vmm := $(target_dir)/$(static_target)/release/vmm

cargo_static := resources/cargo-static.sh

.DEFAULT_GOAL := help
.PHONY: help build guests demo test fuzz-smoke bench bench-devices lint clean

help: ## show this list
	@printf 'Targets:\n'
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

build: ## build vmm: one static binary
	@tests/tools.sh
	$(cargo_static) build --release -p vmm
	@printf '%s\n' '$(vmm)'

guests: kernel rootfs debian fio ## make all guests that the tests use

demo: ## boot a guest and look around in it
	@tests/tools.sh
	@$(cargo_static) run --quiet -p tests --bin demo

test: ## run all tests that this host can run
	@tests/run.sh

fuzz-smoke: ## let arbitrary input loose on everything that reads any (SECONDS_EACH=30, ONLY=TARGETS)
	@tests/fuzz.sh --seconds '$(or $(SECONDS_EACH),30)' $(ONLY)

bench-devices: ## measure what the queue handlers cost: time, allocations, system calls
	@cargo bench --quiet -p devices --features test-util --bench datapath -- $(ONLY)

bench: ## compare with QEMU and the least there is, in one table (ONLY=start,snapshot,idle,block,net,counts ROUNDS=50)
	@tests/bench.sh

lint: ## check style, structure and documentation links
	@.ci/lint.sh

clean: ## remove what was built; the cache of guests stays (VMM_CACHE, ~/.cache/vmm)
	rm -rf -- '$(target_dir)'

-include resources/guests.mk
