# Vireo: what one types. Long steps say what they do and how long it took.

TARGET := target/x86_64-unknown-linux-gnu
TOOLS := $(TARGET)/debug
PRODUCT := -p vireo-vmm -p vireo-shim -p vireo-node-setup
LAYER ?= all
ONLY ?=
RUNS ?=
PART ?=

.PHONY: help setup build tools demo test bench images check clean

help:
	@echo 'make build           the release binaries'
	@echo 'make demo            boot a virtual node and run a VM pod in it (KEEP=1 leaves the node up)'
	@echo 'make test            every test layer; LAYER=unit|machine|node|cluster runs one, ONLY=text the scenarios so named'
	@echo 'make images          every image now, with the full Debian guest'
	@echo 'make check           format and lints'
	@echo 'make bench           side by side with QEMU in one node; RUNS=n instead of 10 runs each; PART=load ONLY=text the loads so named'
	@echo 'make clean           what was built here; built images stay in ~/.cache/vireo'

# What building and virtual nodes need on a Debian 12.
setup:
	@tests/setup.sh

build: setup
	@echo '==> building Vireo (release)'
	@cargo build --release $(PRODUCT)

tools: setup
	@echo '==> building the test tools'
	@cargo build -p vireo-tests
	@cargo build -p vireo-vmm --example jail_probe

demo: build tools
	@$(TOOLS)/vireo-demo $(if $(KEEP),--keep)

# The layers that boot nodes use the release build.
test: $(if $(filter unit machine cluster,$(LAYER)),setup,build) tools
	@$(TOOLS)/vireo-test $(LAYER) $(if $(ONLY),--only '$(ONLY)')

# RUNS=n measures each machine n times instead of 10; PART=boot|load|bios|efi|here|micro|size measures one part.
bench: build tools
	@cargo build --release -p vireo-load
	@$(TOOLS)/vireo-bench $(if $(RUNS),--runs $(RUNS)) $(PART) $(if $(ONLY),--only '$(ONLY)')

# Every image of nodes and guests, with the full Debian guest and QEMU for benches, which are else built when first needed.
images: tools
	@$(TOOLS)/vireo-node build --qemu --debian

check: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	@if cargo deny --version > /dev/null 2>&1; then cargo deny check; else echo 'cargo deny is not installed: licences and advisories were not checked'; fi

clean:
	cargo clean
