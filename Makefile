# layerctl: one static binary. `make quickstart` shows the main job, `make test` runs every test.
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
# The commit's own date, so that the same commit gives the same binary.
DATE    ?= $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
LDFLAGS  = -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)

.PHONY: all build share quickstart test unit race e2e torture tutorial lint bench fuzz clean install deb

all: build

build: bin/layerctl

bin/layerctl: FORCE
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/layerctl

FORCE:

# What is installed beside the binary: man pages and completions, made by the program itself (the man pages by a build of it that has
# cobra's generator).
share: build
	rm -rf bin/share
	mkdir -p bin/share/man/man1 bin/share/bash-completion/completions bin/share/zsh/site-functions bin/share/fish/vendor_completions.d
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 0) $(GO) run -trimpath -tags man -ldflags '$(LDFLAGS)' ./cmd/layerctl man bin/share/man/man1
	bin/layerctl completion bash >bin/share/bash-completion/completions/layerctl
	bin/layerctl completion zsh >bin/share/zsh/site-functions/_layerctl
	bin/layerctl completion fish >bin/share/fish/vendor_completions.d/layerctl.fish

PREFIX ?= /usr/local

install: share
	install -D -m 755 bin/layerctl $(DESTDIR)$(PREFIX)/bin/layerctl
	cd bin/share && find . -type f -exec install -D -m 644 {} $(DESTDIR)$(PREFIX)/share/{} \;

OUT ?= bin

deb:
	./hack/deb.sh '$(VERSION)' '$(OUT)'

quickstart: build
	./hack/quickstart.sh

# Everything: the units under the race detector, then the built binary against real registries, trees and peers.
test: unit e2e tutorial

unit:
	./hack/deps.sh test
	$(GO) test -race -count=1 ./cmd/... ./image/... ./snapshot/... ./runtime/...

e2e: build
	./hack/deps.sh test
	$(GO) test -count=1 -timeout 30m ./tests/...

# The power is cut 20 times under work on a disk, and of a machine where ../shared/vm has one (LAYERCTL_VM: another place); and 200 containers
# live and end at random for two minutes.
torture: build
	./hack/deps.sh test
	@set -e; export LAYERCTL_TEST_CUTS=20; vm=$${LAYERCTL_VM:-../shared/vm/run-in-vm.sh}; \
	if [ -x "$$vm" ]; then ./hack/deps.sh vm; export LAYERCTL_VM=$$(realpath "$$vm"); fi; \
	$(GO) test -v -count=1 -timeout 60m -run '^TestPowerCut' ./tests/
	LAYERCTL_TEST_SECONDS=120 $(GO) test -v -count=1 -timeout 10m -run '^TestChurn$$' ./tests/

tutorial: build
	./hack/deps.sh test
	./hack/page.sh docs/tutorial.md

lint:
	./hack/deps.sh lint
	$(GO) mod tidy -diff
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'not gofmt'"'"'d'; exit 1; }
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...
	$(GO) vet -tags man ./cmd/layerctl
	$(GO) tool staticcheck ./...
	./hack/lint.sh

bench: build
	./hack/deps.sh bench
	./hack/bench.sh

fuzz:
	./hack/fuzz.sh

clean:
	rm -rf bin .cache
