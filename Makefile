# Root is needed where hosts are played: test, race, lab, demo, bench-failover.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GOLANGCI = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: build test race lint seeds guards scale beats demo lab lab-faults lab-stories lab-arbiter lab-two bench-failover rest lab-rabbitmq lab-rabbitmq-losses lab-galera lab-galera-upgrade lab-garbd lab-openstack lab-contract lab-evacuate lab-stages lab-migrate lab-cut-computes lab-neighbours lab-guests lab-snapshots lab-incidents lab-masakari lab-masakari-clients lab-watchdog lab-kdump lab-ocf lab-drbd lab-drbd-site clean

# One static, stripped, versioned binary.
build:
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X mainstay/cli.Version=$(VERSION)' -o bin/mainstay ./cmd/mainstay

# One package after another: several boot hosts, and all of them watch silence. Then
# every guard is taken away, and its stories must notice.
test: build
	go vet ./...
	go test -p 1 -timeout 50m ./...
	go test -tags=mutate ./sim -count=1 -run Guards

# The race detector, without what takes minutes.
race:
	go test -race -short -timeout 50m ./...

lint:
	test -z "$$(gofmt -l .)"
	go vet ./...
	go run $(GOLANGCI) run ./...

# N virtual sites, each drawn from a seed (FROM, FROM+1 ...) with twenty faults and more over ten
# minutes, all audits watching. A failing seed says how to see it again and is shrunk to a story.
# From 2000 on (sim's "enough") a fault or a guard that never came up is a failure too.
N ?= 2000
FROM ?= 1
seeds:
	go test ./sim -count=1 -timeout 0 -v -run Seeds -seeds $(N) -seed $(FROM)

# Every guard of docs/DESIGN.md section 3 taken away, one at a time: its story must fail, and a seed
# among HUNT should.
HUNT ?= 50
guards:
	GOGC=400 go test -tags=mutate ./sim -count=1 -timeout 0 -v -run Guards -hunt $(HUNT)

# Three faults on a real Keystone, seen by a client. KEEP=1 leaves the lab running,
# SUITE=trixie plays it on Debian 13.
SUITE ?= bookworm
demo: build
	bin/mainstay demo --suite $(SUITE) $(if $(KEEP),--keep)

# The time an address is silent when its holder loses power, beside keepalived and Pacemaker.
ROUNDS ?= 10
bench-failover: build
	bin/mainstay lab bench --cloud --rounds $(ROUNDS)

# What Mainstay itself takes at rest, over ten minutes: three voters, a controller that does not
# vote, and a compute. The two last are booted anew first, as real hosts are: of a program that was
# just copied the kernel (6.18 maps whole folios) has every page resident, used or not.
FOR ?= 10m
REST = bin/mainstay lab --name rest
rest: build
	$(REST) up --hosts 4 --computes 1 --timing room && \
	for h in c4 n1; do $(REST) poweroff $$h && $(REST) start $$h || exit 1; done && \
	$(REST) load --for $(FOR); code=$$?; $(REST) down; exit $$code

# The same lab without the story.
lab: build
	bin/mainstay lab up --cloud --suite $(SUITE)

# Every fault in turn, on a lab of five hosts and on one with a cloud. FAULT=name plays some.
FAULT ?=
lab-faults: build
	go test ./lab -count=1 -timeout 0 -v -run 'TestFaults$(if $(FAULT),/$(FAULT))' -faults

# The stories of scenarios/ on real hosts, but for those that need a virtual world (lab's TestVirtual
# names them, with the reason). STORY=regexp plays some, DISARM=guard with a program that has not that
# guard: its stories must fail.
STORY ?=
DISARM ?=
lab-stories: build
	go test ./lab -count=1 -timeout 0 -v -run 'TestStories$$' -faults $(if $(STORY),-story '$(STORY)') $(if $(DISARM),-disarm $(DISARM))

# Two servers and an arbiter: each lost in every way, the arbiter, and both the arbiter and a server.
lab-arbiter: build
	go test ./lab -count=1 -timeout 0 -v -run TestArbiter -faults

# Two servers and no third, ROUNDS times: cut off, hung, without power, or out of sight of each
# other, or with networks silent; exactly one serves at the end of each. SEED=n throws the same
# dice again, TIMING=preset plays rack or room, FAULT=name one fault alone.
TIMING ?= wide
lab-two: build
	go test ./lab -count=1 -timeout 0 -v -run TestTwo -two $(ROUNDS) -two-timing $(TIMING) $(if $(FAULT),-two-fault $(FAULT)) $(if $(SEED),-two-seed $(SEED))

# A RabbitMQ cluster on three hosts: formed, and then every fault in turn, while clients publish.
lab-rabbitmq: build
	go test ./lab -count=1 -timeout 0 -v -run 'TestRabbitMQ$$' -rabbitmq -rabbitmq-suite $(SUITE)

# The node that leads the queue lost in four ways, ROUNDS times each, with the advised time-outs.
lab-rabbitmq-losses: build
	go test ./lab -count=1 -timeout 0 -v -run 'TestRabbitLosses$$' -rabbitmq-losses $(ROUNDS) -rabbitmq-suite $(SUITE)

# A rack of 40 of 1,000 computes with 20,000 servers dies, and 2,000 of 3,000 vanish, over the
# played OpenStack; minutes. CI plays a tenth of it.
SCALE ?= 1000
scale:
	go test ./node -count=1 -timeout 0 -v -run 'TestRackDies|TestManyVanish' -scale $(SCALE)

# The CPU that three voters together take for the beats and reports of so many computes on four networks,
# played on loopback by other processes. On a machine that cannot play as many PACE=n plays them n times more slowly.
AGENTS ?= 1000
PACE ?= 1
beats:
	go test ./node -count=1 -timeout 0 -v -run TestCrowd -beats $(AGENTS) -beats-pace $(PACE) -beats-for 20s

# What neighbours say of each other on a network without a voter: seven hosts, five minutes.
lab-neighbours: build
	go test ./lab -count=1 -timeout 0 -v -run TestNeighbours -faults

# The host's side of a watchdog's contract, on machines of QEMU (apt-get install qemu-system-x86)
# with Debian's cloud kernel and its softdog: two minutes.
KERNEL = /var/cache/mainstay-lab/kernel
lab-watchdog: $(KERNEL)/softdog.ko
	CGO_ENABLED=0 go test ./agent -count=1 -timeout 20m -v -run TestRealWatchdog -kernel $(KERNEL)

# A kernel that crashes, on a machine of QEMU, and the word of its crash kernel: a minute (apt-get install qemu-system-x86 cpio).
CARD = virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover virtio_net
lab-kdump: $(KERNEL)/virtio_net.ko
	CGO_ENABLED=0 go test ./probe/kdump -count=1 -timeout 20m -v -run TestRealCrash -crash $(KERNEL)

# All come with the kernel that they belong to; what the lab's tiny guests have of an agent, and what it speaks through, lies apart.
$(KERNEL)/softdog.ko $(KERNEL)/virtio_net.ko $(KERNEL)/guest/qemu-ga &:
	rm -rf $(KERNEL)/package && mkdir -p $(KERNEL)/package $(KERNEL)/guest
	cd $(KERNEL)/package && apt-get download $$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p') qemu-guest-agent
	cd $(KERNEL)/package && for p in *.deb; do dpkg-deb -x $$p . || exit; done
	mv $(KERNEL)/package/boot/vmlinuz-* $(KERNEL)/vmlinuz
	cd $(KERNEL)/package/lib/modules/*/kernel/drivers && cp virtio/virtio*.ko char/virtio_console.ko $(KERNEL)/guest && mv watchdog/watchdog.ko watchdog/softdog.ko $(KERNEL)
	for m in $(CARD); do find $(KERNEL)/package -name $$m.ko -exec mv {} $(KERNEL) ';' || exit; done
	mv $(KERNEL)/package/usr/sbin/qemu-ga $(KERNEL)/guest
	rm -rf $(KERNEL)/package

# Debian's resource agents under Mainstay on three light hosts, one of them promoted on one.
lab-ocf: build
	go test ./lab -count=1 -timeout 0 -v -run 'TestOCF$$' -faults

# A real DRBD (8.4, of Debian's cloud kernel) driven by its own resource agent, on two machines of
# QEMU without KVM (apt-get install qemu-system-x86). Ten minutes; the packages are fetched once.
DRBD ?= $(HOME)/.cache/mainstay-drbd
lab-drbd: $(DRBD)/linux $(DRBD)/drbd
	CGO_ENABLED=0 go test ./service -count=1 -timeout 40m -v -run 'TestDRBD$$' -drbd $(DRBD)

# The same under three whole Mainstays, with a file system and a database on it. The site is set up
# once and kept; PART=fs/behind (or "fs/takes over", "fs/nobody leads", database) plays one part.
PART ?=
lab-drbd-site: $(DRBD)/linux $(DRBD)/drbd
	CGO_ENABLED=0 go test ./lab -count=1 -timeout 90m -v -run 'TestDRBD$$$(if $(PART),/$(PART))' -drbd $(DRBD)

$(DRBD)/linux $(DRBD)/drbd:
	mkdir -p $(DRBD)
	cd $(DRBD) && apt-get download -q $$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/{print $$2}') drbd-utils
	dpkg -x $(DRBD)/linux-image-*.deb $(DRBD)/linux
	dpkg -x $(DRBD)/drbd-utils_*.deb $(DRBD)/drbd

# A power cut of a whole Galera cluster under load, ROUNDS times, and what else happened to other
# people's: not one acknowledged commit may be missing. SEED=n throws the same dice again,
# STEP=name plays one step.
STEP ?=
lab-galera: build
	go test ./lab -count=1 -timeout 0 -v -run 'TestGalera$$$(if $(STEP),/$(STEP))' -galera $(ROUNDS) $(if $(SEED),-galera-seed $(SEED))

# The rolling upgrade alone: Debian's own mariadb-server under a higher version, and one whose
# preinst fails.
NEWER ?= $(HOME)/.cache/mainstay-galera-newer
lab-galera-upgrade: build $(NEWER)/broken/Packages
	go test ./lab -count=1 -timeout 0 -v -run 'TestGalera$$/upgrade' -galera 1 -galera-newer $(NEWER)

$(NEWER)/broken/Packages:
	mkdir -p $(NEWER)/good $(NEWER)/broken
	cd $(NEWER) && apt-get download -q mariadb-server && dpkg-deb -R mariadb-server_*.deb tree
	cd $(NEWER) && sed -i 's/^Version:.*/&+lab1/' tree/DEBIAN/control && dpkg-deb -Zgzip -b tree good/newer.deb
	cd $(NEWER) && sed -i 's/^Version:.*/&.2/' tree/DEBIAN/control && printf '#!/bin/sh\necho this package cannot be put in >&2\nexit 1\n' >tree/DEBIAN/preinst && dpkg-deb -Zgzip -b tree broken/newer.deb
	cd $(NEWER)/good && dpkg-scanpackages . >Packages
	cd $(NEWER)/broken && dpkg-scanpackages . >Packages

# A Galera of two members with its arbitrator (galera-arbitrator-4, fetched once) on the arbiter.
GARBD = /var/cache/mainstay-lab/garbd
lab-garbd: build $(GARBD)/usr/bin/garbd
	go test ./lab -count=1 -timeout 0 -v -run TestGarbd -garbd $(GARBD)

$(GARBD)/usr/bin/garbd:
	rm -rf $(GARBD) && mkdir -p $(GARBD)
	cd $(GARBD) && apt-get download -q galera-arbitrator-4 libboost-program-options1.74.0
	cd $(GARBD) && for p in *.deb; do dpkg-deb -x $$p . || exit; done && mv lib/systemd usr/lib && rm -r lib *.deb

# Three controllers with the services of Debian's OpenStack, two fake computes and two that run
# guests without KVM, a fake one more in reserve, all under Mainstay: 9 GB of memory, 3 GB of disk, a quarter of an hour.
# KEEP=1 leaves the lab running, STEP=regexp plays some of the steps; so do the targets below.
OPENSTACK = -openstack $(if $(KEEP),-openstack-lab openstack)
lab-openstack: build $(KERNEL)/guest/qemu-ga
	go test ./lab -count=1 -timeout 0 -v -run 'TestOpenStack$$$(if $(STEP),/$(STEP))' $(OPENSTACK)

# The same, and computes lose their power: Mainstay evacuates their servers.
lab-evacuate: build $(KERNEL)/guest/qemu-ga
	go test ./lab -count=1 -timeout 0 -v -run 'TestEvacuation$$$(if $(STEP),/$(STEP))' $(OPENSTACK)

# And the leader falls away in each stage of a compute's recovery: half an hour.
lab-stages: build $(KERNEL)/guest/qemu-ga
	go test ./lab -count=1 -timeout 0 -v -run 'TestStages$$$(if $(STEP),/$(STEP))' $(OPENSTACK)

# Masakari's API: OpenStack's own clients on it, and then Debian's Masakari on the same fault.
MASAKARI ?= $(HOME)/.cache/mainstay-masakari
lab-masakari: build $(KERNEL)/guest/qemu-ga $(MASAKARI)/root
	go test ./lab -count=1 -timeout 0 -v -run 'TestMasakari$$' -openstack -masakari $(MASAKARI)/root

# The clients and masakari-monitors alone, on this machine and with a played Keystone; minutes.
lab-masakari-clients: $(MASAKARI)/root
	apt-get install -y -q --no-install-recommends python3-openstackclient python3-libvirt python3-eventlet python3-lxml $$(cat $(MASAKARI)/needs)
	PATH=/usr/bin:$(PATH) go test ./api/masakari -count=1 -timeout 0 -v -run RealClients -clients $(MASAKARI)/root/usr/lib/python3/dist-packages:/usr/lib/python3/dist-packages

$(MASAKARI)/root:
	rm -rf $(MASAKARI) && mkdir -p $(MASAKARI)
	cd $(MASAKARI) && apt-get download -q python3-masakariclient python3-masakari-monitors python3-masakari masakari-common masakari-api masakari-engine python3-sqlalchemy-utils
	cd $(MASAKARI) && for f in *.deb; do dpkg-deb -x $$f unpacked; done
	dpkg-deb -f $(MASAKARI)/python3-masakari-monitors_*.deb Depends | tr ',' '\n' | sed 's/^ *//; s/[ (|].*//' | grep '^python3-' | grep -v masakari > $(MASAKARI)/needs
	mv $(MASAKARI)/unpacked $@

# And computes are drained for maintenance: their guests go on, elsewhere.
lab-migrate: build $(KERNEL)/guest/qemu-ga
	go test ./lab -count=1 -timeout 0 -v -run 'TestMigrate$$$(if $(STEP),/$(STEP))' $(OPENSTACK)

# And computes lose one network, two, and all of them at once, both ways and one way: 45 minutes.
lab-cut-computes: build $(KERNEL)/guest/qemu-ga
	go test ./lab -count=1 -timeout 0 -v -run 'TestCutComputes$$$(if $(STEP),/$(STEP))' $(OPENSTACK)

# And a compute is paused and comes back, one is switched off on purpose, and what was stopped or
# is to be left stays so: half an hour.
lab-incidents: build $(KERNEL)/guest/qemu-ga
	go test ./lab -count=1 -timeout 0 -v -run 'TestIncidents$$' -openstack

# And guests crash and hang, and libvirt, nova-compute and the disks with them; a compute returns with stale guests: 45 minutes.
lab-guests: build $(KERNEL)/guest/qemu-ga
	go test ./lab -count=1 -timeout 0 -v -run 'TestGuests$$$(if $(STEP),/$(STEP))' $(OPENSTACK)

# And a compute has its guests' disks on its own: snapshots, a loss that it comes back from and one
# that it does not; computes that are silent and write to storage; and the way back: an hour.
lab-snapshots: build $(KERNEL)/guest/qemu-ga
	go test ./lab -count=1 -timeout 0 -v -run 'TestSnapshots$$$(if $(STEP),/$(STEP))' $(OPENSTACK)

# What Mainstay rests on, asked of a real Nova: the contract of ./openstack on Debian 12's Zed, or with
# SUITE=trixie on Debian 13's 2025.1 (one controller, two fake computes: 3 GB).
lab-contract: build $(KERNEL)/guest/qemu-ga
	go test ./lab -count=1 -timeout 0 -v -run 'TestContract$$$(if $(STEP),/$(STEP))' -openstack -openstack-suite $(SUITE) $(if $(KEEP),-openstack-lab contract-$(SUITE))

clean:
	rm -rf bin dist
