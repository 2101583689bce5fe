# SPDX-License-Identifier: BSD-3-Clause
# The front door. Each target installs what it needs (scripts/setup, quiet when nothing is missing).
# Variables: SANITIZE=1 (address and undefined-behaviour sanitizers), DPDK=1, BUILD=directory, PREFIX=/usr/local

SANITIZE ?=
DPDK ?=
PREFIX ?= /usr/local
BUILD ?= $(if $(SANITIZE),build-sanitize,build)
export BUILD SANITIZE

MESON_FLAGS = --prefix=$(PREFIX) \
	$(if $(SANITIZE),-Db_sanitize=address$(comma)undefined -Db_lundef=false --optimization=1) \
	$(if $(DPDK),-Ddpdk=enabled)
comma := ,

.PHONY: all build test fuzz soak lint demo bench docs install clean help
.DEFAULT_GOAL := build

all: build

build:
	@scripts/setup build $(if $(DPDK),dpdk)
	@[ -f $(BUILD)/build.ninja ] || meson setup $(MESON_FLAGS) $(BUILD) >$(BUILD).log 2>&1 || \
		{ cat $(BUILD).log; rm -rf $(BUILD); exit 1; }
	@rm -f $(BUILD).log
	@ninja -C $(BUILD) --quiet

test: build
	@scripts/setup test
	@scripts/test

# Seconds of each fuzz target under libFuzzer: make fuzz FUZZ_SECONDS=600
FUZZ_SECONDS ?= 60
fuzz:
	@scripts/setup build fuzz
	@scripts/fuzz $(FUZZ_SECONDS)

# Whole engines over a bad wire in virtual time, as many different runs: make soak SEEDS=10000 SEED=4001
SEEDS ?= 1000
SEED ?= 1
soak: build
	@SEEDS=$(SEEDS) SEED=$(SEED) SOAK_PROGRESS=1 $(BUILD)/tests/segment/soak_test

lint: build
	@scripts/setup lint
	@scripts/lint

demo: build
	@scripts/setup bench
	@scripts/demo

bench: build
	@scripts/setup bench
	@scripts/bench

docs:
	@scripts/counters-doc >docs/counters.md

install: build
	@meson install -C $(BUILD) --no-rebuild

clean:
	@rm -rf build build-*

help:
	@echo "make build | test | fuzz | soak | lint | demo | bench | docs | install | clean    (SANITIZE=1, DPDK=1, BUILD=dir)"
