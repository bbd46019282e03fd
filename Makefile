# Vireo: what one types. Long steps say what they do and how long it took.

TARGET := target/x86_64-unknown-linux-gnu
TOOLS := $(TARGET)/debug
# What users get. The newest build of each program is packed: make has to see to it that this is not the tools' debug build.
RELEASE := $(addprefix $(TARGET)/release/,vireo-controller vireo-agent containerd-shim-vireo-v2 vireo-vmm vireo)
NODE := -p vireo-vmm -p vireo-shim -p vireo-node-setup
LAYER ?= all
ONLY ?=
RUNS ?=
PART ?=
MACHINES ?=
FIPS ?=
EVERY ?=

.PHONY: help setup build tools demo test bench images node-images check clean

help:
	@echo 'make build           the release binaries; FIPS=1 the controller with a TLS in FIPS mode'
	@echo 'make demo            run a VM pod in a virtual node (KEEP=1 leaves the node up), then a VirtualMachine in a cluster'
	@echo 'make test            every test layer; LAYER=unit|machine|node|cluster runs one, ONLY=text the scenarios so named;'
	@echo '                     EVERY=1 runs every scenario under each containerd (else all under 1.7, a selection under 1.6 and 2.1)'
	@echo 'make images          the container images that a cluster runs, into target/images'
	@echo 'make node-images     every image of virtual nodes now, with the full Debian guest'
	@echo 'make check           format and lints'
	@echo 'make bench           side by side with QEMU in one node; RUNS=n instead of 10 runs each; PART=load ONLY=text the loads so named'
	@echo 'make clean           what was built here; built images stay in ~/.cache/vireo'

# What building and virtual nodes need on a Debian 12.
setup:
	@FIPS=$(FIPS) tests/setup.sh

build: setup
	@echo '==> building Vireo (release)'
	@cargo build --release $(NODE) -p vireo-agent -p vireo-controller $(if $(FIPS),--features vireo-controller/fips)

# All in one, with examples: cargo then takes the same features of every crate as for the unit tests, and builds each once.
tools: setup
	@echo '==> building the test tools'
	@cargo build --workspace --bins --examples

demo: tools build
	@touch $(RELEASE)
	@$(TOOLS)/vireo-demo $(if $(KEEP),--keep)

# Nodes get the release build of what runs on them (the newest of it, hence the order); the controller is the tools' one.
test: tools
ifeq ($(filter unit machine,$(LAYER)),)
	@echo '==> building what runs on nodes (release)'
	@cargo build --release $(NODE)
endif
	@$(TOOLS)/vireo-test $(LAYER) $(if $(EVERY),--every) $(if $(ONLY),--only '$(ONLY)')

# RUNS=n measures each machine n times instead of 10; PART=boot|load|pods|bios|efi|here|micro|cluster|size measures one part;
# MACHINES=n is how many the cluster has instead of 1000.
bench: build tools
	@cargo build --release -p vireo-load
	@$(TOOLS)/vireo-bench $(if $(RUNS),--runs $(RUNS)) $(if $(MACHINES),--machines $(MACHINES)) $(PART) $(if $(ONLY),--only '$(ONLY)')

# OCI archives of the static release programs: ctr -n k8s.io images import takes target/images/*.tar
images: tools build
	@touch $(RELEASE)
	@$(TOOLS)/vireo-images target/images

# Every image of nodes and guests, with the full Debian guest and QEMU for benches, which are else built when first needed.
node-images: tools
	@$(TOOLS)/vireo-node build --qemu --debian

check: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	@if cargo deny --version > /dev/null 2>&1; then cargo deny check; else echo 'cargo deny is not installed: licences and advisories were not checked'; fi

clean:
	cargo clean
