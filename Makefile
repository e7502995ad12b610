# Root is needed where hosts are played: test, race, lab, demo, bench-failover.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GOLANGCI = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: build test race lint demo lab clean

# One static, stripped, versioned binary.
build:
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X mainstay/cli.Version=$(VERSION)' -o bin/mainstay ./cmd/mainstay

# One package after another: several boot hosts, and all of them watch silence.
test: build
	go vet ./...
	go test -p 1 -timeout 50m ./...

# The race detector, without what takes minutes.
race:
	go test -race -short -timeout 50m ./...

lint:
	test -z "$$(gofmt -l .)"
	go vet ./...
	go run $(GOLANGCI) run ./...

# Three faults on a real Keystone, seen by a client. KEEP=1 leaves the lab running.
demo: build
	bin/mainstay demo $(if $(KEEP),--keep)

# The same lab without the story.
lab: build
	bin/mainstay lab up --cloud

clean:
	rm -rf bin dist
