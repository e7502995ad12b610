package lab

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"mainstay/api"
)

// mirrorSite is three machines: two that mirror a disk, on which a file system and a
// database stand, and an arbiter. There is no BMC: a person swears. Machines without KVM
// answer late, so its times are long.
const mirrorSite = `site: drbd
networks:
  management: {cidr: 10.9.0.0/24}
hosts:
  d1: {roles: [controller], addresses: {management: 10.9.0.1}}
  d2: {roles: [controller], addresses: {management: 10.9.0.2}}
  d3: {roles: [arbiter], addresses: {management: 10.9.0.3}}
services:
  disk:
    kind: ocf
    mode: promoted
    why: one disk on two hosts
    hosts: [d1, d2]
    check: {every: 30s}
    restarts: {count: 20, within: 1h}
    params: {agent: "ocf:linbit:drbd", drbd_resource: r0, ignore_missing_notifications: "true", op_start: 240s, op_promote: 120s, op_demote: 120s, op_stop: 120s, op_monitor: 180s}
  fs:
    kind: ocf
    mode: active/passive
    why: it is mounted where it is written
    hosts: [d1, d2]
    with: [service/disk]
    check: {every: 2m}
    restarts: {count: 20, within: 1h}
    params: {agent: "heartbeat:Filesystem", device: /dev/drbd0, directory: /srv, fstype: ext4, op_start: 120s, op_stop: 120s, op_monitor: 180s}
%stiming: {preset: wide, beat: 250ms, lease: 6s, slow_lease: 8s, heartbeat: 500ms, election: 5s}
mode: act
`

// mirrorConf is DRBD's, as docs/OPERATING.md has it, but for a machine that answers late:
// DRBD's own control of a resync's pace makes half a megabyte a second of it there.
const mirrorConf = `global { usage-count no; disable-ip-verification; }
common {
  net { protocol C; ping-timeout 50; }
  disk { fencing resource-and-stonith; c-plan-ahead 0; resync-rate 40M; c-min-rate 0; }
  handlers { fence-peer "/usr/bin/mainstay fence-peer"; }
}
resource r0 {
  device /dev/drbd0; disk /dev/vda; meta-disk internal;
  on d1 { address 10.9.1.1:7788; }
  on d2 { address 10.9.1.2:7788; }
}
`

// mirrored is such a site.
type mirrored struct {
	d1, d2, d3 *machine
	top        string // the service that stands on all others
	data       string // what makes its data
}

// TestDRBD lives with a real DRBD under three whole Mainstays.
func TestDRBD(t *testing.T) {
	if *machineParts == "" {
		t.Log("not played: it boots three machines of QEMU; make lab-drbd")
		return
	}
	play := func(t *testing.T, steps ...mirrorStep) {
		for _, step := range steps {
			if !t.Run(step.name, step.do) {
				return // each begins where the last one ended
			}
		}
	}
	t.Run("fs", func(t *testing.T) {
		s := newMirrored(t, "", "fs", "")
		play(t, mirrorStep{"behind", func(t *testing.T) {
			play(t, mirrorStep{"its configuration is examined", s.examined},
				mirrorStep{"the primary loses its peer", s.parts},
				mirrorStep{"its power is cut, and the copy that is behind is not promoted", s.behind},
				mirrorStep{"it is back, and the other catches up", s.catchesUp})
		}}, mirrorStep{"takes over", s.takesOver}, mirrorStep{"nobody leads", s.nobodyLeads})
	})
	t.Run("database", func(t *testing.T) {
		g := database(t, newMirrored(t, mirrorDatabase, "db", mirrorDatabaseData))
		g.begin(t)
		play(t, mirrorStep{"its server is killed", g.killed}, mirrorStep{"the primary loses power", g.losesPower}, mirrorStep{"moved in good order", g.moved})
	})
	t.Run("rabbitmq", func(t *testing.T) {
		g := broker(t, newMirrored(t, mirrorRabbit, "mq", mirrorRabbitData))
		g.begin(t)
		play(t, mirrorStep{"its server is killed", g.killed}, mirrorStep{"the primary loses power", g.losesPower}, mirrorStep{"moved in good order", g.moved})
	})
}

type mirrorStep struct {
	name string
	do   func(*testing.T)
}

// newMirrored boots the machines and makes them a site. data is a command that makes what
// is on the file system at first, in /var/tmp/data.
func newMirrored(t *testing.T, services, top, data string) *mirrored {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	files := map[string]string{
		"/usr/bin/mainstay": build(t.Context(), t, "drbd"), "/etc/drbd.conf": write("drbd.conf", mirrorConf),
		"/etc/hosts": write("hosts", "127.0.0.1 localhost\n10.9.0.1 d1\n10.9.0.2 d2\n10.9.0.3 d3\n"), "/etc/mainstay/first.yaml": write("site.yaml", fmt.Sprintf(mirrorSite, services)),
		"/etc/db.cnf":                     write("db.cnf", "[mysqld]\nbind-address=0.0.0.0\ninnodb_flush_log_at_trx_commit=1\nskip-log-bin\ninnodb_buffer_pool_size=32M\ninnodb_log_file_size=16M\n"),
		"/usr/sbin/rabbitmqctl-patient":   write("rabbitmqctl", mirrorRabbitControl),
		"/etc/rabbitmq/rabbitmq.conf":     write("rabbitmq.conf", "loopback_users = none\n"),
		"/etc/rabbitmq/rabbitmq-env.conf": write("rabbitmq-env.conf", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=\"+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none\"\n"),
		"/usr/sbin/udevadm":               write("nothing", "#!/bin/sh\nexit 0\n"), "/usr/sbin/modprobe": filepath.Join(dir, "nothing"), "/usr/bin/logger": filepath.Join(dir, "nothing"),
	}
	for _, name := range []string{"sbin/drbdadm", "sbin/drbdsetup", "sbin/drbdmeta"} {
		files["/usr/"+name] = filepath.Join(*machineParts, "drbd", name)
	}
	for _, name := range []string{"drbdadm-84", "drbdsetup-84"} {
		files["/usr/lib/drbd/"+name] = filepath.Join(*machineParts, "drbd/lib/drbd", name)
	}
	for _, name := range []string{"drbd", "drbd.shellfuncs.sh"} {
		files["/usr/lib/ocf/resource.d/linbit/"+name] = filepath.Join(*machineParts, "drbd/usr/lib/ocf/resource.d/linbit", name)
	}
	shell, _ := filepath.Glob("/usr/lib/ocf/lib/heartbeat/*-*")
	for _, path := range append(shell, "/usr/lib/ocf/resource.d/heartbeat/Filesystem", "/usr/lib/ocf/resource.d/heartbeat/mysql") {
		files[path] = path
	}
	machineRoot(t, filepath.Join(dir, "root"), files)
	s := &mirrored{top: top, data: data, d1: &machine{name: "d1", dir: dir, mirrors: true}, d2: &machine{name: "d2", dir: dir, mirrors: true}, d3: &machine{name: "d3", dir: dir}}
	tree := machineTree(t)
	machineNetwork(t)
	// A site that was set up once is kept as it was at rest, and begins as after a loss of
	// power of all.
	kept := filepath.Join(*machineParts, "site-"+digest([]string{filepath.Base(tree), mirrorSite, services + data, mirrorConf}))
	_, err := os.Stat(kept)
	for _, m := range s.all() {
		if err == nil {
			m.copyDisks(t, kept, m.dir)
		} else {
			m.disks(t, tree, 512<<20)
		}
		m.boot(t)
		t.Cleanup(m.powerCut)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, m := range s.all() {
				if m.cmd.ProcessState == nil {
					t.Logf("%s: %s", m.name, m.ask(t, "tail -n 60 /var/log/run.log; drbdsetup events2 --now; dmesg | tail -n 30").Text)
				}
			}
		}
	})
	for _, m := range s.all() {
		m.up(t)
	}
	if err == nil {
		for _, m := range s.all() {
			s.start(t, m)
		}
		s.settled(t)
		return s
	}
	s.set(t)
	for _, m := range s.all() {
		m.must(t, "sync")
	}
	for _, m := range s.all() {
		m.stop(t, true)
	}
	for _, m := range s.all() {
		m.copyDisks(t, m.dir, kept+".new")
	}
	for _, m := range s.all() {
		m.stop(t, false)
	}
	if err := os.Rename(kept+".new", kept); err != nil {
		t.Fatal(err)
	}
	s.settled(t)
	return s
}

// set makes a site of new machines.
func (s *mirrored) set(t *testing.T) {
	t.Helper()
	for _, m := range s.all() {
		m.must(t, "mkdir -p /var/log /var/lib/drbd /srv /etc/mainstay /var/lib/mainstay")
	}
	s.d3.must(t, "cp /etc/mainstay/first.yaml /etc/mainstay/site.yaml && mainstay check --file /etc/mainstay/site.yaml && mainstay init --host d3")
	s.start(t, s.d3)
	for _, m := range []*machine{s.d1, s.d2} {
		m.must(t, "drbdadm create-md --force r0 2>&1")
		token := s.d3.must(t, "mainstay token 2>/dev/null")
		m.must(t, "mainstay join 10.9.0.3 "+token[strings.LastIndex(token, "\n")+1:]+" 2>&1")
		s.start(t, m)
	}
	s.await(t, "all three vote", 5*time.Minute, func(st api.Status) string {
		for _, h := range st.Hosts {
			if h.Store != "votes" {
				return fmt.Sprintf("%s: %s %s", h.Name, h.Store, h.StoreWhy)
			}
		}
		return ""
	})
	s.await(t, "both copies run", 10*time.Minute, func(st api.Status) string {
		for _, host := range []string{"d1", "d2"} {
			if c := copyIn(st, "disk", host); c.Phase != "running" {
				return fmt.Sprintf("disk is %s on %s: %s", c.Phase, host, c.Why)
			}
		}
		return ""
	})
	// What a person does once: two new disks are alike, and have a file system.
	s.d1.must(t, "for i in $(seq 100); do drbdsetup events2 --now r0 | grep -q connection:Connected && break; sleep 1; done; drbdsetup events2 --now r0; drbdadm new-current-uuid --clear-bitmap r0/0")
	s.await(t, "promoted", 10*time.Minute, func(st api.Status) string { return works(st, "disk", "") })
	on := s.on(t, "disk")
	on.must(t, "mkdir -p /var/tmp/data; "+s.data)
	on.must(t, "mkfs.ext4 -q -d /var/tmp/data /dev/drbd0")
	s.settled(t)
}

func (s *mirrored) all() []*machine { return []*machine{s.d1, s.d2, s.d3} }

// other is the machine that mirrors m's disk.
func (s *mirrored) other(m *machine) *machine {
	if m == s.d1 {
		return s.d2
	}
	return s.d1
}

// start runs Mainstay as its units would, but for systemd.
func (s *mirrored) start(t *testing.T, m *machine) {
	t.Helper()
	m.must(t, "cd /; (setsid mainstay quorum >>/var/log/quorum.log 2>&1 </dev/null &); (setsid mainstay run >>/var/log/run.log 2>&1 </dev/null &); for i in $(seq 240); do [ -S /run/mainstay/api.sock ] && exit 0; sleep 0.5; done; tail -n 40 /var/log/run.log /var/log/quorum.log; exit 1")
}

func (s *mirrored) status(t *testing.T) (st api.Status) {
	t.Helper()
	a := s.d3.ask(t, "sleep 1; curl -s --unix-socket /run/mainstay/api.sock http://mainstay/v1/status") // the command itself takes seconds to start
	_ = json.Unmarshal([]byte(a.Text), &st)                                                             // an empty one waits for more
	return st
}

// await asks until want has nothing to say.
func (s *mirrored) await(t *testing.T, what string, bound time.Duration, want func(api.Status) string) {
	t.Helper()
	begun, said := time.Now(), ""
	for {
		st := s.status(t)
		why := "nobody leads: " + st.View
		if st.View == "leader" { // a host's own view knows of no waits
			why = want(st)
		}
		if why == "" {
			t.Logf("%s: after %v", what, time.Since(begun).Round(100*time.Millisecond))
			return
		}
		if why != said {
			said = why
			t.Logf("%s: not yet: %s", what, why)
		}
		if time.Since(begun) > bound {
			t.Fatalf("%s: not after %v: %s; %+v", what, bound, why, s.status(t).Waits)
		}
	}
}

func copyIn(st api.Status, service, host string) (c struct{ Phase, Why string }) {
	for _, v := range st.Services {
		if v.Name == service {
			c.Phase, c.Why = v.Copies[host].Phase, v.Copies[host].Why
		}
	}
	return c
}

// phases tells what each copy says of itself, without what changes from one look to the next.
func phases(st api.Status) (out []string) {
	for _, v := range st.Services {
		for _, host := range slices.Sorted(maps.Keys(v.Copies)) {
			out = append(out, v.Name+"@"+host+" "+v.Copies[host].Phase)
		}
	}
	return out
}

// works says why a service does not work on a host, or anywhere.
func works(st api.Status, service, host string) string {
	for _, h := range st.Holdings {
		if h.Thing == "service/"+service {
			if h.Works && (host == "" || h.Host == host) {
				return ""
			}
			return fmt.Sprintf("%s is held by %q and works: %v; %v; %v", h.Thing, h.Host, h.Works, phases(st), st.Waits)
		}
	}
	return "nobody knows " + service
}

// waits says why no wait has the words.
func waits(st api.Status, words string) string {
	for _, x := range st.Waits {
		if strings.Contains(x.About+" waits for "+x.For+" ("+x.Help+")", words) {
			return ""
		}
	}
	return fmt.Sprintf("no wait for %q: %v", words, st.Waits)
}

// on is the machine on which a service works, once a leader says so.
func (s *mirrored) on(t *testing.T, service string) (on *machine) {
	t.Helper()
	s.await(t, service+" works", 5*time.Minute, func(st api.Status) string {
		for _, m := range s.all() {
			if works(st, service, m.name) == "" {
				on = m
				return ""
			}
		}
		return works(st, service, "")
	})
	return on
}

// settled waits until all works and both copies have all data: the start of a RabbitMQ
// alone takes ten minutes on machines without KVM beside other labs.
func (s *mirrored) settled(t *testing.T) {
	t.Helper()
	s.await(t, "all works, and nobody is behind", 30*time.Minute, func(st api.Status) string {
		if why := works(st, s.top, ""); why != "" {
			return why
		}
		if len(st.Waits) > 0 {
			return fmt.Sprint(st.Waits)
		}
		return ""
	})
}

// load writes lines that are fsynced, and notes each when that is done.
func (s *mirrored) load(t *testing.T, m *machine) {
	t.Helper()
	m.must(t, `n=$(wc -l </srv/lines 2>/dev/null || echo 0); (setsid bash -c 'n='$n'; while :; do n=$((n+1)); echo "line $n" | dd of=/srv/lines oflag=append conv=notrunc,fsync status=none && echo $n >/run/acked.new && mv /run/acked.new /run/acked; done' >/dev/null 2>&1 </dev/null & echo $! >/run/load)`)
}

func acked(t *testing.T, m *machine) int {
	t.Helper()
	n, _ := strconv.Atoi(m.must(t, "cat /run/acked 2>/dev/null || echo 0"))
	return n
}

// examined: mainstay check names what DRBD's configuration lacks.
func (s *mirrored) examined(t *testing.T) {
	if a := s.d1.ask(t, "mainstay check 2>&1"); strings.Contains(a.Text, "DRBD's") {
		t.Errorf("the configuration of the manual: %s", a.Text)
	}
	a := s.d1.ask(t, "cp /etc/drbd.conf /tmp/drbd.conf; sed -i '/fencing/d; s/disable-ip-verification;//; s/protocol C/protocol A/; /fence-peer/d' /etc/drbd.conf; mainstay check 2>&1; cp /tmp/drbd.conf /etc/drbd.conf")
	for _, want := range []string{"fencing is", "disable-ip-verification", "its handler fence-peer is", "protocol A"} {
		if !strings.Contains(a.Text, want) {
			t.Errorf("%q is not told: %s", want, a.Text)
		}
	}
}

// parts: the link between the disks ends. Nothing is acknowledged before it is recorded
// whose copy is behind; then writes go on.
func (s *mirrored) parts(t *testing.T) {
	on := s.on(t, "disk")
	off := s.other(on)
	off.must(t, "drbdadm role r0 | grep -q ^Secondary")
	s.load(t, on)
	s.goes(t, on)
	off.must(t, "ip link set eth1 down")
	s.await(t, "recorded", 5*time.Minute, func(st api.Status) string { return waits(st, "disk@"+off.name+" waits for its copy to catch up") })
	s.goes(t, on)
	log := on.must(t, "dmesg | grep -E 'fence-peer|susp' | tail -n 8; grep -h 'writes on' /var/log/run.log | tail -n 1")
	t.Logf("its kernel: %s", log)
	if !strings.Contains(log, "helper command: /sbin/drbdadm fence-peer r0 exit code 4") {
		t.Error("the kernel did not ask, or was not given leave")
	}
}

// goes waits until more lines have been written.
func (s *mirrored) goes(t *testing.T, m *machine) {
	t.Helper()
	before := acked(t, m)
	for begun := time.Now(); acked(t, m) < before+3; {
		if time.Since(begun) > 3*time.Minute {
			t.Fatalf("%s does not go on: %d lines, its kernel says %s", m.name, acked(t, m), m.must(t, "drbdsetup events2 --now r0; tail -n 20 /var/log/run.log"))
		}
	}
}

// behind: the primary is lost, and a person swears that it is off. The other copy lacks
// what was acknowledged meanwhile.
func (s *mirrored) behind(t *testing.T) {
	on := s.on(t, "disk")
	off := s.other(on)
	s.note(t, on)
	on.powerCut()
	s.swear(t, on)
	s.await(t, "a person is asked", 5*time.Minute, func(st api.Status) string { return waits(st, "mainstay recover copy disk "+off.name) })
	if a := off.ask(t, "drbdadm primary r0 2>&1"); a.Error == "" {
		t.Errorf("%s was promoted by hand, without force, though its host has no right to it", off.name)
	} else {
		t.Logf("by hand: %s", a.Text)
	}
	if role := off.must(t, "drbdadm role r0"); !strings.HasPrefix(role, "Secondary") {
		t.Fatalf("%s, which is behind, is %s", off.name, role)
	}
}

func (s *mirrored) swear(t *testing.T, m *machine) {
	t.Helper()
	for begun := time.Now(); ; {
		a := s.d3.ask(t, "mainstay recover oath "+m.name+" --i-have-seen-that-it-is-off 'its process is ended' 2>&1")
		if a.Error == "" {
			return
		}
		if time.Since(begun) > 3*time.Minute {
			t.Fatalf("swear that %s is off: %s", m.name, a.Text)
		}
	}
}

// catchesUp: the one that wrote last is back and is promoted, and the other gets all.
func (s *mirrored) catchesUp(t *testing.T) {
	lost := s.d1
	if s.d1.cmd.ProcessState == nil {
		lost = s.d2
	}
	other := s.other(lost)
	s.back(t, lost)
	s.await(t, "promoted again", 10*time.Minute, func(st api.Status) string { return works(st, "fs", lost.name) })
	s.lines(t, lost)
	if why := waits(s.status(t), "disk@"+other.name+" waits for its copy to catch up"); why != "" {
		t.Error(why)
	}
	other.must(t, "ip link set eth1 up; ip addr show eth1 | grep -q 10.9.1 || ip addr add 10.9.1."+strings.TrimPrefix(other.name, "d")+"/24 dev eth1")
	s.settled(t)
}

// lines: each line that was fsynced is there, and no other than the next.
func (s *mirrored) lines(t *testing.T, m *machine) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(m.dir, "acked"))
	last, _ := strconv.Atoi(string(text))
	if err != nil || last == 0 {
		t.Fatalf("nothing was noted: %v", err)
	}
	n, _ := strconv.Atoi(m.must(t, "wc -l </srv/lines"))
	if n < last {
		t.Errorf("%d lines were acknowledged, and %s has %d", last, m.name, n)
	}
	t.Logf("%d lines acknowledged, %d there", last, n)
	m.must(t, `awk '$0 != "line " NR { exit 1 }' /srv/lines`)
}

// takesOver: now that both have everything, the other takes over, and no line that was
// acknowledged is missing.
func (s *mirrored) takesOver(t *testing.T) {
	on := s.on(t, "fs")
	off := s.other(on)
	s.load(t, on)
	s.goes(t, on)
	s.lose(t, on)
	s.lines(t, off)
	if why := waits(s.status(t), "disk@"+on.name+" waits for its copy to catch up"); why != "" {
		t.Error(why)
	}
	s.back(t, on)
	s.settled(t)
}

// lose cuts the power of the primary, has a person swear it, and waits for the other.
func (s *mirrored) lose(t *testing.T, on *machine) {
	t.Helper()
	s.note(t, on)
	begun := time.Now()
	on.powerCut()
	s.swear(t, on)
	off := s.other(on)
	s.await(t, "the other has taken over", 10*time.Minute, func(st api.Status) string { return works(st, s.top, off.name) })
	t.Logf("the power of %s cut, the oath included, %s works on %s after %v", on.name, s.top, off.name, time.Since(begun).Round(time.Second))
}

// note remembers how many lines were acknowledged.
func (s *mirrored) note(t *testing.T, m *machine) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, "acked"), []byte(strconv.Itoa(acked(t, m))), 0o644); err != nil {
		t.Fatal(err)
	}
}

// back boots a machine that had lost its power.
func (s *mirrored) back(t *testing.T, m *machine) {
	t.Helper()
	m.boot(t)
	m.up(t)
	s.start(t, m)
}

// nobodyLeads: the primary loses its peer and there is no leader to record it. Its writes
// wait for as long as that lasts, and go on by themselves afterwards.
func (s *mirrored) nobodyLeads(t *testing.T) {
	on := s.on(t, "disk")
	off := s.other(on)
	s.load(t, on)
	s.goes(t, on)
	for begun := time.Now(); !strings.Contains(on.must(t, "drbdsetup events2 --now r0"), "peer-disk:UpToDate"); {
		if time.Since(begun) > 10*time.Minute { // the loss of a copy that is still being filled stops nothing
			t.Fatalf("the other is not filled: %s", on.must(t, "drbdsetup events2 --now r0; cat /proc/drbd"))
		}
	}
	s.d3.must(t, "pkill -STOP -x mainstay")
	off.must(t, "pkill -STOP -x mainstay; ip link set eth1 down")
	for begun := time.Now(); !strings.Contains(on.must(t, "drbdsetup events2 --now r0"), "suspended:fencing"); {
		if time.Since(begun) > 2*time.Minute {
			t.Fatalf("it is not frozen: %s", on.must(t, "drbdsetup events2 --now r0"))
		}
	}
	frozen := acked(t, on)
	for begun := time.Now(); time.Since(begun) < time.Minute; { // longer than the handler waits
		if n := acked(t, on); n > frozen+1 {
			t.Fatalf("it went on from %d to %d lines, and nobody has recorded anything", frozen, n)
		}
	}
	t.Logf("its kernel: %s", on.must(t, "dmesg | grep -E 'fence-peer' | tail -n 3"))
	s.d3.must(t, "pkill -CONT -x mainstay")
	off.must(t, "pkill -CONT -x mainstay")
	s.await(t, "recorded", 5*time.Minute, func(st api.Status) string { return waits(st, "disk@"+off.name+" waits for its copy to catch up") })
	s.goes(t, on)
	off.must(t, "ip link set eth1 up; ip addr show eth1 | grep -q 10.9.1 || ip addr add 10.9.1."+strings.TrimPrefix(off.name, "d")+"/24 dev eth1")
	s.settled(t)
}
