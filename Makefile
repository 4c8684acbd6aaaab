# `make` alone prints what can be made. Everything here runs from a clean clone.

GO       ?= go
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FLAGS    := -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)'
FUZZTIME ?= 20s
COUNT    ?= 3
# The go command does not look into folders that begin with a dot.
TOOLS    := $(patsubst %/,./%,$(sort $(dir $(wildcard .ci/*/*.go))))

.DEFAULT_GOAL := help
.PHONY: help build run demo test race fuzz lint cross bench setup clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' Makefile

build: ## bin/hub and bin/spoke
	@.ci/setup build
	@echo "Building bin/hub and bin/spoke $(VERSION) (the first time takes a minute or two: SQLCipher is C) ..."
	@$(GO) build $(FLAGS) -o bin/ ./cmd/hub ./cmd/spoke
	@du -h bin/hub bin/spoke

run: build ## a hub on this machine, this machine as its first spoke, a QR code for a phone
	@.ci/local

demo: build ## a guided tour with measured figures; ends by itself, green only if all of it held
	@.ci/setup test
	@$(GO) run ./.ci/demo

test: ## everything: vet and all tests under the race detector; the last line counts them
	@.ci/setup test
	@echo "Testing (the first time takes some minutes longer: SQLCipher is C) ..."
	@$(GO) run ./.ci/testsum -vet=all -race -timeout 15m ./... $(TOOLS)

race: ## the concurrent parts again, COUNT=3 times in random order, under the race detector
	@$(GO) run ./.ci/testsum -race -shuffle=on -count=$(COUNT) -timeout 30m ./acl/... ./netstack/... ./hub/... ./spoke/...

fuzz: ## every fuzz target for FUZZTIME=20s (make test runs them on their seeds)
	@.ci/fuzz $(FUZZTIME)

lint: ## gofmt, vet, staticcheck, govulncheck
	@.ci/lint

cross: ## the spoke for linux amd64, arm64, ARMv6 (Pi Zero), Windows and macOS, into dist/
	@.ci/setup cross
	@VERSION=$(VERSION) .ci/cross

bench: ## throughput and round trips next to wireguard-go's netstack and tsnet
	@cd bench && $(GO) run -trimpath -buildvcs=false . $(BENCH)

setup: ## installs what build, test and cross need and this machine lacks, saying so first
	@.ci/setup build test cross

clean: ## removes what was built; the state of `make run` in .run/ stays
	rm -rf bin dist .cache
