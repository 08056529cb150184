# make demo    the whole story in a minute: deploy, call, kill -9, and back again
# make test    every test; installs nothing, needs Go, git, make and gcc
# make build   bin/solod and bin/solo
# make race    every test under the race detector
# make lint    gofmt, go vet, staticcheck
# make fmt     gofmt, in place
# make proto   the generated code of proto/, which is committed
# make bench   the table of docs/performance.md, written there (10 minutes)
# make fuzz    each fuzz target for a minute (FUZZTIME says another time)
# make crash   50 kills of solod under load, and one at each named step (2 minutes)

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# One binary without libc: it is also the shim that runs before a service's own
# first instruction.
BUILD   := CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags="-s -w -X github.com/solo-run/solo/pkg/daemon.Version=$(VERSION) -X main.version=$(VERSION)"
TIMEOUT ?= 15m

.PHONY: build demo test race lint fmt proto bench fuzz crash sdk clean

build: sdk
	$(BUILD) -o bin/ ./cmd/solod ./cmd/solo

# The SDK's source travels inside solod; a stale copy is not built.
sdk:
	$(GO) run -buildvcs=false ./pkg/compiler/sdksrc/gen -check

demo: build
	sh test/demo/demo.sh

test: build
	$(GO) vet ./...
	$(GO) test -buildvcs=false -timeout $(TIMEOUT) ./...

race: build
	CGO_ENABLED=1 $(GO) test -buildvcs=false -race -timeout $(TIMEOUT) ./...

lint:
	@unformatted=$$(gofmt -l cmd pkg plugins sdk proto test); \
	if [ -n "$$unformatted" ]; then echo "not formatted: $$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

fmt:
	gofmt -w cmd pkg plugins sdk proto test

proto:
	cd proto && $(GO) tool -modfile=tools.mod buf lint && $(GO) tool -modfile=tools.mod buf generate

bench: build
	$(GO) run -buildvcs=false ./test/bench -o docs/performance.md

# Finds land in testdata/fuzz of their package, and are tests from then on. Go may
# call the end of the time itself a failure (golang.org/issue/75804): only an input
# that fails is a find.
FUZZTIME ?= 1m
fuzz:
	@for pkg in $$($(GO) list ./cmd/... ./pkg/... ./sdk/...); do \
		for target in $$($(GO) test -buildvcs=false -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "== $$pkg $$target"; \
			out=$$($(GO) test -buildvcs=false -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$pkg 2>&1) || \
				case "$$out" in *"Failing input written"*|*"build failed"*) echo "$$out"; exit 1 ;; esac; \
			echo "$$out" | grep execs: | tail -n 1; \
		done; \
	done

crash:
	SOLO_CRASH_ROUNDS=50 $(GO) test -buildvcs=false -count=1 -v -timeout 30m ./test/crash

clean:
	rm -rf bin
