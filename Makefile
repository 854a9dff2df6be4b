# Everything a contributor does, by name. `make help` lists it.

SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS     += --no-print-directory

MODULE  := github.com/meridian-mesh/meridian
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# The commit's own time, so that the same commit gives the same binaries.
DATE    ?= $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
TAG     ?= $(shell git describe --tags --abbrev=0 2>/dev/null || echo unknown)
LDFLAGS := -s -w \
	-X $(MODULE)/pkg/version.version=$(VERSION) \
	-X $(MODULE)/pkg/version.gitTag=$(TAG) \
	-X $(MODULE)/pkg/version.gitCommit=$(COMMIT) \
	-X $(MODULE)/pkg/version.buildDate=$(DATE)
STATIC  := CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)'

BUF           := go tool -modfile=tools/go.mod buf
GOLANGCI_LINT := go tool -modfile=tools/go.mod golangci-lint

# The race detector needs a C compiler.
CC_FOUND := $(shell command -v $${CC:-gcc} || command -v clang || command -v cc)
RACE     := $(if $(CC_FOUND),-race)
# Without it each program with the race detector, those of the tests and those that they start, takes a second to end.
GORACE   := atexit_sleep_ms=0

# Everything but the end-to-end scenarios.
UNIT = $$(go list ./... | grep -v -e '^$(MODULE)/e2e$$' -e '^$(MODULE)/e2e/containers$$')

.PHONY: help
help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: build
build: ## Builds bin/global-cp, bin/zone-cp, bin/zone-dp and bin/meridianctl, static
	@mkdir -p bin
	@echo "building $(VERSION) into bin/"
	@$(STATIC) -o bin/ ./cmd/...

.PHONY: gen
gen: ## Generates Go from the protos and the OpenAPI document from the table of kinds
	$(BUF) generate
	go generate ./...

.PHONY: gen-check
gen-check: gen ## Fails where committed generated files are not up to date
	@changed="$$(git status --porcelain -- '*.pb.go' '*.pb.gw.go' '*openapi*')"; \
	if [[ -n "$$changed" ]]; then echo "not up to date, run 'make gen' and commit:"; echo "$$changed"; exit 1; fi

.PHONY: lint
lint: ## Checks protos (lint, format, breaking changes), formatting, vet and golangci-lint
	$(BUF) lint
	$(BUF) format -d --exit-code
	$(BUF) breaking --against proto/released.binpb
	$(GOLANGCI_LINT) fmt --diff
	go vet ./...
	$(GOLANGCI_LINT) run

.PHONY: fmt
fmt: ## Formats protos and Go
	$(BUF) format -w
	$(GOLANGCI_LINT) fmt

.PHONY: images
images: build envoy ## Builds the container images global-cp, zone-cp and zone-dp (with Envoy), from scratch
	ENVOY="$$(tools/envoy.sh)" docker/build.sh bin .cache/images '$(VERSION)'

.PHONY: release-protos
release-protos: ## Takes the present protos as those that later ones are compared with
	$(BUF) build -o proto/released.binpb

.PHONY: test
test: unit e2e ## Runs everything: unit tests, then end-to-end tests with real Envoys

.PHONY: unit
unit: envoy ## Runs the unit tests, with the race detector where there is a C compiler
	@$(if $(RACE),true,echo "no C compiler found: running without the race detector (install gcc for it)")
	ENVOY="$$(tools/envoy.sh || true)" GORACE=$(GORACE) go test $(RACE) -shuffle=on -timeout 10m $(UNIT)

.PHONY: e2e
e2e: build envoy ## Runs the end-to-end scenarios, in one process and with real binaries and Envoys
	MERIDIAN_E2E_BIN=$(CURDIR)/bin ENVOY="$$(tools/envoy.sh || true)" go test -count=1 -timeout 40m ./e2e $(E2E_ARGS)

.PHONY: e2e-docker
e2e-docker: build envoy ## Runs the mesh in containers; tools/with-docker.sh make e2e-docker starts a daemon for it
	MERIDIAN_E2E_BIN=$(CURDIR)/bin ENVOY="$$(tools/envoy.sh)" go test -count=1 -timeout 15m ./e2e/containers $(E2E_ARGS)

# How many seeds of faults each line is tried with, and how many of them in real time.
N        ?= 2000
N_REAL   ?= 20
FAULTS   := ^(TestSyncFaults|TestSlowSnapshot|TestBothDirectionsFull|TestProxyFaults|TestChainNeverFalselyLive)$$

.PHONY: faults
faults: build envoy ## Tries the lines under N seeds of faults (N=2000), and processes under N_REAL in real time
	MERIDIAN_FAULT_SEEDS=$(N) go test -count=1 -timeout 60m ./pkg/kds ./pkg/xds ./pkg/zonecp -run '$(FAULTS)'
	MERIDIAN_E2E_BIN=$(CURDIR)/bin MERIDIAN_E2E_SEEDS=$(N_REAL) MERIDIAN_E2E_ROUNDS=10 ENVOY="$$(tools/envoy.sh || true)" \
		go test -count=1 -timeout 60m ./e2e -run 'Faults|Kills|Damaged|Restored|DiskFull|Stopped|OneName|Silent|Cuts'

.PHONY: bench
bench: build ## Measures how long a write takes to N proxies, what a proxy costs, and the REST API
	@mkdir -p .cache/bin
	go build -o .cache/bin/bench ./e2e/bench
	.cache/bin/bench -bin bin $(BENCH_ARGS)

.PHONY: demo
demo: build envoy ## Runs a global, two zones, services and Envoys; prints what to try; Ctrl-C ends it
	@mkdir -p .cache/bin
	@go build -o .cache/bin/demo ./e2e/demo
	@ENVOY="$$(tools/envoy.sh)" exec .cache/bin/demo -bin bin

.PHONY: envoy
envoy: ## Finds Envoy 1.40, or fetches it into .cache without root
	@tools/envoy.sh >/dev/null || true

.PHONY: clean
clean: ## Removes what was built and fetched
	rm -rf bin dist .cache
