GOLANGCI_LINT = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 30s

.PHONY: help build test test-reflink test-btrfs test-zfs race faults lint generate check-generated fuzz bench bench-dir profile microbench ci

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the program as ./dualrepl
	go build -o dualrepl ./cmd/dualrepl

test: ## Run all tests (kill, disk-full and hostile-peer tests included)
	go test ./...

test-reflink: ## Test the dir endpoint on loop-mounted XFS and btrfs (root)
	./scripts/test-reflink

test-btrfs: ## Test the btrfs endpoint on a loop-mounted btrfs (root)
	./scripts/test-btrfs

test-zfs: ## Test against the real ZFS in a virtual machine (root to build it, once)
	./scripts/zfs-vm test

race: ## Run all tests under the race detector
	go test -race ./...

faults: ## Run every kind of call over bad networks (toxiproxy) under the race detector
	cd faults && go test -race ./...

lint: ## Vet, format and layer rules
	go run $(GOLANGCI_LINT) run ./...
	cd bench && go run $(GOLANGCI_LINT) run ./...
	cd faults && go run $(GOLANGCI_LINT) run ./...

generate: ## Regenerate pdu/*.pb.go with pinned tools
	go generate ./pdu

check-generated: generate ## Fail if the generated code is stale
	git diff --exit-code -- pdu

fuzz: ## Run every fuzz target for FUZZTIME (default 30s) each
	./scripts/fuzz $(FUZZTIME)

bench: ## Measure everything but directories beside its peers, both ends on this machine
	cd bench && go run . stream
	cd bench && go run . stream --source pipe --sink pipe --contender "tcp 1 MiB,dualrepl,dualrepl tls"
	cd bench && go run . small
	cd bench && go run . control
	cd bench && go run . scale
	cd bench && go run . bursty

bench-dir: ## Measure the dir endpoint beside rsync and restic, on this file system and XFS (root)
	./scripts/bench-dir

profile: ## Write CPU profiles of both ends of a stream into ./profiles
	./scripts/bench-profile profiles

microbench: ## Micro-benchmarks of the data channel and of read-ahead
	go test -run '^$$' -bench . -benchmem ./dataconn ./endpoint/flow

ci: ## What CI runs
	bash .ci/run
