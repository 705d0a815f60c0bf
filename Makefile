# Gantry: everything a developer types. `make` alone prints this list.
#
#   make build    build bin/gantry (with the shim and the init embedded)
#   make demo     build, start Gantry and run the example shop behind the gateway
#   make test     all tests: unit, API contract, end to end with real containers
#   make bench    scale-out 1→50→0 and 1→200, CPU and memory per pod; beside Docker Swarm where docker.io is installed
#   make bench-build     the shop's images from nothing, beside docker build where docker.io is installed, and after a change (BENCH_COLD: rounds of the former, 2)
#   make bench-delivery  what registry, trust, scanning, pipelines and the Docker API add to an idle serve
#   make bench-gateway   the gateway's CPU per request, latency and memory beside nginx, HAProxy and Caddy
#   make bench-flash     a flash sale: how fast capacity follows a hundredfold load, and a first request from zero
#   make bench-alerts    healthy hours and forty kinds of fault in simulated time: which alerts were missed, which were false
#   make bench-registry  push and pull beside the CNCF distribution registry, and 1,000 pulls of one image at once
#   make differential     what the gateway forwards, beside Debian's nginx, which it fetches
#   make equal-prometheus         the monitor's answers beside Debian's Prometheus over the same samples, which it fetches, and samples sent on to it
#   make bench-monitor   what seeing costs, beside Debian's Prometheus with the same targets, and the time to the first graph
#   make contract-upstream        the API contract against a real kube-apiserver, and both servers' answers compared
#   make compose  docker's official Compose plugin, which it builds where it is not installed, against the Docker API
#   make buildx   docker's official build plugin, which it builds where it is not installed, against the Docker API
#   make testcontainers   the real Testcontainers library for Go against the Docker API
#   make restarts 100 restarts under 1,000 requests a second on each way (long)
#   make changes  1,000 rolling updates, scalings, route edits, certificate rotations and gateway upgrades under 2,000 requests a second (long)
#   make validate-runtime         the OCI validation suite, with runc and with our own launcher
#   make conformance-kubernetes   upstream's own end-to-end suite (long)
#   make conformance-gateway      Gateway API's own conformance suite
#   make conformance-cosign       signatures and attestations both ways with the real cosign, which it builds
#   make conformance-oci          the OCI distribution-spec's own conformance suite, whose program SUITE=path names
#   make conformance-amtool       alerts and silences by Debian's amtool, which it fetches
#   make storm    pushes, deletes, collects and verifies images of the registry at once, for minutes (GANTRY_STORM), and kills it meanwhile
#   make registry-s3              the registry's tests with its content in a bucket of a real S3 server, which it builds
#   make crash    kill -9 a hundred times under load, reboots, power cuts (GANTRY_KILLS, GANTRY_SEED, GANTRY_RUNTIME)
#   make vm       limits, AppArmor, reboots and power cuts in a virtual Debian machine with cgroup v2 (needs QEMU; long)
#   make generate rebuild generated code (needed only after changing its sources)
#   make console  build the console's pages with Node (needed only after changing services/console/web)
#   make bench-console   how long the console's pages take until they can be used, with 200 pods and 50 routes
#   make screenshots  tell the console's story with the shop under load, and take the pictures in docs/console
#   make fmt      format and vet
#   make install  copy bin/gantry to /usr/local/bin, with a systemd unit
#   make clean    remove what make made

GO      ?= go
VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo dev)
EMBEDDED := engine/shim/embedded/gantry-shim engine/shim/embedded/gantry-init
export CGO_ENABLED := 0
# For builds and tests alike, so that nothing is compiled twice.
export GOFLAGS += -trimpath

.PHONY: help build demo test bench contract-upstream restarts changes conformance-kubernetes validate-runtime generate fmt install clean setup
help:
	@sed -n 's/^#   //p' Makefile

setup:
	@script/setup $(SETUP)

build: setup $(EMBEDDED)
	@mkdir -p bin
	$(GO) build -ldflags '-s -w -X main.version=$(VERSION)' -o bin/gantry ./cmd/gantry

# Programs of their own, so that the parent of all containers stays tiny, and
# what becomes a container starts at once.
.PHONY: $(EMBEDDED)
$(EMBEDDED):
	@$(GO) build -ldflags '-s -w' -o $@ ./cmd/$(@F)

demo: build
	@script/demo

# Informers share their objects: the detector ends a test in which one is changed. The stories
# type kubectl; where it is not installed, it is built from upstream's module.
test: SETUP = test
test: build bin/kubectl bin/docker
	$(GO) vet ./...
	PATH="$(CURDIR)/bin:$$PATH" KUBE_CACHE_MUTATION_DETECTOR=true $(GO) test -timeout 20m ./...
	$(GO) test -C examples/shop ./...

bin/kubectl:
	@mkdir -p bin
	@if command -v kubectl >/dev/null; then ln -sf "$$(command -v kubectl)" $@; \
	else echo "kubectl is not installed; building it"; $(GO) build -ldflags '-s -w' -o $@ k8s.io/kubernetes/cmd/kubectl; fi

bin/docker:
	@script/docker

# The plugin takes minutes to build, so it is not part of make test.
.PHONY: compose
compose: build bin/docker
	@script/peers docker-compose
	@mkdir -p bin/docker-config/cli-plugins && ln -sf ../../docker-compose bin/docker-config/cli-plugins/
	PATH="$(CURDIR)/bin:$$PATH" DOCKER_CONFIG="$(CURDIR)/bin/docker-config" $(GO) test -run TestCompose -count 1 -v ./test/docker

.PHONY: buildx
buildx: build bin/docker
	@script/peers docker-buildx
	@mkdir -p bin/docker-config/cli-plugins && ln -sf ../../docker-buildx bin/docker-config/cli-plugins/
	PATH="$(CURDIR)/bin:$$PATH" DOCKER_CONFIG="$(CURDIR)/bin/docker-config" $(GO) test -run TestBuildKit -count 1 -v ./test/docker

# The library is a module of its own (test/testcontainers).
.PHONY: testcontainers
testcontainers: build
	GANTRY_TESTCONTAINERS=1 $(GO) test -run TestTestcontainers -count 1 -v -timeout 30m ./test/docker

bench: build
	$(GO) test -run '^$$' -bench 'Ready|RouteChange|ScaleOut' -benchtime 1x -timeout 30m ./test/bench

.PHONY: bench-build
bench-build: build
	$(GO) test -run '^$$' -bench ShopBuilds -benchtime 1x -timeout 60m -v ./test/bench

.PHONY: bench-delivery
bench-delivery: build
	$(GO) test -run '^$$' -bench DeliveryAtRest -benchtime 1x -timeout 30m -v ./test/bench

.PHONY: bench-gateway
bench-gateway: build
	@script/peers caddy || echo "without Caddy"
	PATH="$(CURDIR)/bin:$$PATH:/usr/sbin" $(GO) test -run '^$$' -bench BesidePeers -benchtime 1x -timeout 30m ./services/gateway/proxy
	$(GO) test -run '^$$' -bench GatewayRoutes -benchtime 1x -timeout 30m ./test/bench

.PHONY: bench-flash
bench-flash: build
	$(GO) test -run '^$$' -bench Flash -benchtime 1x -timeout 30m ./test/flash

.PHONY: bench-alerts
bench-alerts:
	$(GO) test -run '^$$' -bench Alerts -benchtime 1x -timeout 60m ./test/alerts

.PHONY: bench-registry
bench-registry:
	@script/peers registry || echo "without distribution's registry"
	PATH="$(CURDIR)/bin:$$PATH" $(GO) test -run '^$$' -bench BesideDistribution -benchtime 1x -timeout 30m -v ./services/registry

.PHONY: differential
differential:
	@PATH="$$PATH:/usr/sbin" command -v nginx >/dev/null || [ -x bin/nginx ] || script/debian nginx usr/sbin/nginx
	$(GO) test -run TestForwardingIsLikeNginx -count 1 -v ./services/gateway/proxy

.PHONY: equal-prometheus bench-monitor
equal-prometheus: build bin/kubectl
	@command -v promtool >/dev/null || [ -x bin/promtool ] || script/prometheus
	PATH="$(CURDIR)/bin:$$PATH" GANTRY_PROMETHEUS=required $(GO) test -count 1 -v -timeout 30m ./test/prometheus

bench-monitor: build bin/kubectl
	@command -v prometheus >/dev/null || [ -x bin/prometheus ] || script/prometheus
	PATH="$(CURDIR)/bin:$$PATH" GANTRY_PROMETHEUS=required $(GO) test -run '^$$' -bench . -benchtime 1x -timeout 30m ./test/prometheus

contract-upstream: build bin/kubectl
	PATH="$(CURDIR)/bin:$$PATH" GANTRY_PROGRAM="$(CURDIR)/bin/gantry" test/contract/upstream/run

restarts: build
	GANTRY_RESTARTS=100 GANTRY_RESTART_RATE=1000 $(GO) test -run TestRestartsUnderTraffic -count 1 -v -timeout 60m ./test/restart

changes: build
	GANTRY_CHANGES=$${GANTRY_CHANGES:-1000} GANTRY_CHANGE_RATE=$${GANTRY_CHANGE_RATE:-2000} $(GO) test -run TestChangesUnderTraffic -count 1 -v -timeout 180m ./test/restart

validate-runtime:
	@test/isolation/run

conformance-kubernetes: build
	@test/conformance/run

.PHONY: conformance-gateway
conformance-gateway: build
	@test/conformance-gateway/run

.PHONY: conformance-cosign
conformance-cosign: build bin/kubectl
	@script/peers cosign
	GANTRY_COSIGN=required $(GO) test -count 1 -v -run 'Cosign|InstancesKey' ./internal/attest
	PATH="$(CURDIR)/bin:$$PATH" $(GO) test -count 1 -v -run TestScripts/trust ./test/script

# The suite is a module of its own; its program is built by
# go install github.com/opencontainers/distribution-spec/conformance@v0.0.0-20260831232431-97274622c111
.PHONY: conformance-oci
conformance-oci:
	@test -x "$(SUITE)" || { echo "error: SUITE=path must name the suite's program" >&2; exit 2; }
	GANTRY_OCI_SUITE="$(abspath $(SUITE))" $(GO) test -run TestTheConformanceSuitePasses -count 1 -v ./services/registry

.PHONY: conformance-amtool
conformance-amtool: SETUP = test
conformance-amtool: build bin/kubectl
	@command -v amtool >/dev/null || [ -x bin/amtool ] || script/debian prometheus-alertmanager usr/bin/amtool
	PATH="$(CURDIR)/bin:$$PATH" $(GO) test -run TestStory/amtool -count 1 -v ./test/console

.PHONY: storm
storm:
	GANTRY_STORM=$${GANTRY_STORM:-5m} $(GO) test -run 'TestCollectionDuringAPushStorm' -count 1 -timeout 60m -v ./services/registry
	GANTRY_KILLS=$${GANTRY_KILLS:-100} $(GO) test -run TestKillsDuringCollections -count 1 -timeout 60m -v ./services/registry

.PHONY: registry-s3
registry-s3:
	@script/peers versitygw
	GANTRY_S3_SERVER="$(CURDIR)/bin/versitygw" $(GO) test -run 'WithABucket' -count 1 -v ./services/registry

.PHONY: crash
crash: build
	GANTRY_KILLS=$${GANTRY_KILLS:-100} $(GO) test -count 1 -timeout 60m -v ./test/crash
	$(GO) test -count 1 -timeout 10m -v -run Hostile ./test/node
	GANTRY_FULL_DISK=1 $(GO) test -count 1 -timeout 10m -v -run FullDisk ./test/docker
	$(GO) test -count 1 -v -run 'Power|Crash' ./engine/store

# A part of generate. Without Node the pages that are committed are used.
.PHONY: console
console:
	$(GO) generate ./services/console

# How long the console's pages take with 200 pods and 50 routes.
.PHONY: bench-console
bench-console: SETUP = test
bench-console: build bin/kubectl
	PATH="$(CURDIR)/bin:$$PATH" $(GO) test -run '^$$' -bench Pages -benchtime 1x -timeout 20m ./test/console

# The browser's story of the console with the example shop, which takes minutes to build.
.PHONY: screenshots
screenshots: SETUP = test
screenshots: build bin/kubectl
	PATH="$(CURDIR)/bin:$$PATH" GANTRY_SCREENSHOTS="$(CURDIR)/docs/console" $(GO) test -run TestShop -count 1 -timeout 20m -v ./test/console

.PHONY: vm
vm: build bin/kubectl
	PATH="$(CURDIR)/bin:$$PATH:/usr/sbin:/sbin" test/vm/run

generate:
	$(GO) generate ./...

fmt:
	gofmt -l -w $$(git ls-files '*.go')
	$(GO) vet ./...

install: build
	install -m 0755 bin/gantry /usr/local/bin/gantry
	@if [ -d /etc/systemd/system ]; then install -m 0644 script/gantry.service /etc/systemd/system/gantry.service; fi

clean:
	rm -rf bin $(EMBEDDED)
