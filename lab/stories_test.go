package lab

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mainstay/fence/falsebmc"
	"mainstay/fleet"
	"mainstay/service"
	"mainstay/sim"
)

var (
	oneStory = flag.String("story", "", "a regular expression: play only those stories: make lab-stories STORY=h02")
	disarmed = flag.String("disarm", "", "a guard that the program has not: the story must fail: make lab-stories STORY=h18-lapsed DISARM=handover")
)

// virtual are the stories that real hosts cannot be given, each with the reason. A
// story that is not here is played by TestStories; one whose words the lab does not know
// fails TestVirtual until it is classed.
var virtual = map[string]string{
	"e-compute-hangs":                         noNova,
	"e-guest-crashed":                         noNova,
	"e-guest-crashes-again":                   noNova,
	"e-guest-hangs":                           noNova,
	"e-guests-hang-together":                  noNova,
	"e-group-waits-for-an-agent":              noNova,
	"h112-quiesced-for-a-snapshot":            noNova,
	"h113-leader-dies-as-a-guest-is-rebooted": noNova,
	"h117-lifted-when-begun-once-more":        noNova,
	"h90-crash-before-its-host-dies":          noNova,
	"h91-crash-nobody-could-ask":              noNova,
	"h92-crash-in-the-midst-of-a-move":        noNova,
	"e-silent-and-writes":                     noStorage,
	"e-many-silent-and-write":                 noStorage,
	"h114-the-heartbeat-ends":                 noStorage,
	"h115-nobody-can-read":                    noStorage,
	"e-snapshots":                             noNova,
	"e-restore":                               noNova,
	"h104-host-brings-disks-back":             noNova,
	"h105-restored-once":                      noNova,
	"h106-target-dies-while-it-restores":      noNova,
	"h107-glance-away":                        noNova,
	"f6-watchdog":                             noWatchdog,
	"h18-watchdog":                            noWatchdog,
	"h35-cut-off-with-a-watchdog":             noWatchdog,
	"h35-frozen-kick":                         noWatchdog,
	"h35-short-cut":                           noWatchdog,
	"g1-all-lose-power":                       noGalera,
	"g2-empty-member":                         noGalera,
	"g2b-position-is-asked":                   noGalera,
	"g3-dead-member":                          noGalera,
	"g3-hung-member":                          noGalera,
	"g3-leader-dies":                          noGalera,
	"g3-silent-member":                        noGalera,
	"g-two-histories":                         noGalera,
	"g-waived-member-returns":                 noGalera,
	"mirror-behind":                           noDRBD,
	"mirror-no-leader":                        noDRBD,
	"mirror-third":                            noDRBD,
	"mirror-word":                             noDRBD,
	"r1-outside-for-ever":                     noBrokers,
	"r2-cut-again-on-its-way-back":            noBrokers,
	"r5-all-come-back":                        noBrokers,
	"r5-one-does-not-come-back":               noBrokers,
	"r5-the-one-that-knows-less":              noBrokers,
	"s4-rabbitmq-host-reboots":                noBrokers,
	"h76-late-kill":                           noGalera,
	"h03-two-silences":                        "two silences within one lease, to the hundredth of a second",
	"h04-rebooted-ear":                        "a host that boots within its lease",
	"h55-later-boot-heard-by-another":         "a host that boots within its lease",
	"h13-answer-in-a-stalled-store":           "an answer that comes in the seconds in which the store stands still",
	"h13-frozen-executor":                     "an agent that stops between two requests to a BMC",
	"h13-late-answers":                        "a BMC that obeys and whose every answer is late; ours speak Redfish, where who gets no answer to his login orders nothing",
	"h16-plug-of-another":                     "a plug that knows no machine; the lab's BMCs speak Redfish, and state a UUID",
	"h19-crossed-admissions":                  "drawn from a seed: hosts that boot at the same tenth of a second, after minutes of other faults",
	"h21-coarse-guard":                        "a kernel without nftables; all hosts of the lab have this machine's",
	"h22-frozen-renewal":                      "an agent that stops between two calls of the kernel",
	"h22-told-again":                          "an agent that stops between two calls of the kernel",
	"h24-suspended-host":                      "a kernel whose timers stand still; all hosts of the lab have this machine's",
	"h25-clone":                               "a clone of a running machine",
	"h28-failed-claim":                        "an address that a kernel refuses, and voters that are added",
	"h28-jammed-addresses":                    "one loop of a program that hangs while another goes on",
	"h28-switch-behind-addresses":             "one loop of a program that hangs while another goes on",
	"h42-two-voters":                          "voters that are added: only a dead one is replaced today",
	"h59-pair-cut":                            noPair,
	"h60-pair-first-dies":                     noPair,
	"h61-pair-shoots-not-back":                noPair,
	"h62-pair-loses-power":                    noPair,
	"h63-pair-blind":                          noPair,
	"h64-pair-alone-boots":                    noPair,
	"h65-pair-no-switch-answers":              noPair,
	"h67-pair-orderly":                        noPair,
	"h73-pair-mute":                           noPair,
	"h75-pair-one-network":                    noPair,
	"h89-pair-no-commit":                      noPair,
	"promoted-given-back":                     "drawn from a seed: seven computes, and a fence in the same instant as a maintenance",
	"promoted-late-start":                     "a suspended machine with an order in its hands",
	"h72-second-level":                        "a second power switch; the hosts of the lab have one",
	"promoted-inventory":                      noScore,
	"promoted-moves":                          noScore,
	"h96-source-dies-after-its-guest-left":    noMoment,
	"h97-source-reboots-after-its-guest-left": noMoment,
	"h98-target-dies-with-the-guest":          noMoment,
	"e-kdump":                                 noKernel,
	"h111-no-crash-kernel-speaks":             noKernel,
	"h110-its-guest-is-gone-where-it-went":    noMoment,
	"h93-aggregate-then-leader":               noOwners,
	"h94-gate-never-ready":                    noOwners,
	"e-rebalance":                             noOwners,
	"e-reserved":                              noOwners,
}

const (
	noDRBD     = "DRBD, which this kernel has not; make lab-drbd-site is for three machines of QEMU"
	noWatchdog = "a watchdog; containers have none, make lab-watchdog plays the host's side on a machine of QEMU"
	noGalera   = "a database; make lab-galera plays it on a real one, with clients that write"
	noKernel   = "a kernel of its own: lab hosts share this machine's"
	noNova     = "a Nova and a libvirt; make lab-guests plays a crash, a libvirt and a nova-compute that hang on real ones, and no guest agent"
	noStorage  = "a Nova, and storage with a way of its own that can hang for one host"
	noBrokers  = "a RabbitMQ; make lab-rabbitmq plays R2 and R5 on a real one, with clients that publish"
	noOwners   = "the servers of these hosts have no Nova, and so no owner, no lock and no aggregate"
	noPair     = "two voters and no third; make lab-two plays their faults on a site of its own"
	noMoment   = "the half second between a guest's going on at its target and Nova's word; make lab-migrate moves real guests"
	noScore    = "a score that is set from outside: Debian's Stateful has its own"
)

// storyTiming is the lab's: its hosts share two cores, and are late now and then.
const storyTiming = "wide"

// storyLeases is after how many leases what follows from arithmetic has followed. What
// a story has in shorter pauses is counted in leases, not in seconds.
const storyLeases = 5

// staged is a story as the lab plays it: with its own timing, and each pause at least
// as long as in the file, and as many leases long up to storyLeases.
func staged(st sim.Story) sim.Story {
	is, longer := fleet.Presets()[storyTiming].Lease, int64(1)
	if was := fleet.Presets()[st.Shape.Timing].Lease; was > 0 { // else no real site has that timing
		longer = int64(is / was)
	}
	out := st
	out.Shape.Timing, out.Shape.Hosts, out.Golden = storyTiming, min(st.Shape.Hosts, 2), nil
	long := func(d time.Duration) time.Duration { return time.Duration(int64(d) * longer) }
	out.From = long(st.From)
	out.Commands = slices.Clone(st.Commands)
	before, now := st.From, out.From
	for i, c := range st.Commands {
		if c.At < st.From { // only their order counts
			out.Commands[i].At = long(c.At)
			continue
		}
		pause := c.At - before
		now += max(pause, min(long(pause), storyLeases*is))
		before, out.Commands[i].At = c.At, now
	}
	return out
}

// told is what a run's log says by a moment of where things are, who leads, and whom a
// BMC has switched off.
func told(log []string, by time.Duration) map[string]string {
	where, out := map[string][]string{}, map[string]string{}
	for _, line := range log {
		stamp, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if at, err := strconv.ParseFloat(stamp, 64); err != nil || at >= by.Seconds() {
			continue
		}
		w := strings.Fields(text)
		begins, ends := func(thing, host string) { where[thing] = append(where[thing], host) }, func(thing, host string) {
			where[thing] = slices.DeleteFunc(where[thing], func(h string) bool { return h == host })
		}
		switch said := strings.Join(w[1:], " "); {
		case strings.HasPrefix(said, "speaks for "):
			begins(w[3], w[0])
		case strings.HasPrefix(said, "falls silent for "):
			ends(w[4], w[0])
		case strings.HasPrefix(said, "runs on "), strings.HasPrefix(said, "is promoted on "):
			begins(w[0], w[len(w)-1])
		case strings.HasPrefix(said, "runs no more on "), strings.HasPrefix(said, "is promoted no more on "):
			ends(w[0], w[len(w)-1])
		case strings.HasPrefix(said, "leads in epoch "):
			out["leader"] = w[0]
		case said == "is switched off by its BMC":
			out["fenced/"+w[0]] = "yes"
		}
	}
	for thing, hosts := range where {
		if slices.Sort(hosts); len(hosts) == 0 {
			hosts = []string{"nowhere"}
		}
		out[thing] = strings.Join(hosts, " ")
	}
	return out
}

// storyDice is with how many other dice a story is played to learn what of its end does
// not depend on them.
const storyDice = 2

// ending is what of a story's end depends on no dice: what its golden log, and runs of
// it as staged with other dice, all say.
func ending(st sim.Story) map[string]string {
	logs := [][]string{sim.Play(st).Log}
	stage := staged(st)
	stage.Commands = slices.DeleteFunc(stage.Commands, func(c sim.Command) bool { return c.Verb == "expect" })
	for i := range storyDice {
		stage.Seed = st.Seed + uint64(i)
		if r := sim.Play(stage); r.Violation == nil {
			logs = append(logs, r.Log)
		}
	}
	var out map[string]string
	for _, log := range logs {
		now := told(log, time.Hour)
		for _, h := range storyHosts(st) {
			if now["fenced/"+h] == "" {
				now["fenced/"+h] = "no"
			}
		}
		if delete(now, "leader"); out == nil {
			out = now
		}
		maps.DeleteFunc(out, func(fact, what string) bool { return now[fact] != what })
	}
	named := map[string]bool{}
	for _, c := range st.Commands {
		if c.Verb != "expect" {
			continue
		}
		if named[c.Args[0]] = true; len(c.Args) > 1 && c.Args[1] == "not" { // which of the others it is, the story leaves open
			delete(out, c.Args[0])
		}
	}
	if len(st.Shape.Found) > 0 || slices.ContainsFunc(st.Commands, foreign) { // where the rest begins is not played
		for _, f := range st.Shape.Found {
			name, _, _ := strings.Cut(f, "@")
			named["service/"+name] = true
		}
		maps.DeleteFunc(out, func(fact, _ string) bool { return !named[fact] && !strings.HasPrefix(fact, "fenced/") })
	}
	return out
}

// storyHosts are the hosts of a story's site: five at most.
func storyHosts(st sim.Story) (out []string) {
	for i := range st.Shape.Voters {
		out = append(out, fmt.Sprintf("c%d", i+1))
	}
	for i := range min(st.Shape.Hosts, 2) {
		if len(out) < 5 {
			out = append(out, fmt.Sprintf("n%d", i+1))
		}
	}
	return out
}

// scenarios reads scenarios/*.txt, by name.
func scenarios(t *testing.T) map[string]sim.Story {
	t.Helper()
	paths, err := filepath.Glob("../scenarios/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	out := map[string]sim.Story{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		st, err := sim.Parse(string(text))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out[strings.TrimSuffix(filepath.Base(path), ".txt")] = st
	}
	return out
}

// TestVirtual: every story either is played on real hosts, and then something of its end
// depends on no dice, or it stands in virtual with the reason.
func TestVirtual(t *testing.T) {
	all := scenarios(t)
	for name := range virtual {
		if _, ok := all[name]; !ok {
			t.Errorf("virtual names %s, and there is no such story", name)
		}
	}
	paper := &stage{site: &site{lab: paperLab("c1", "c2", "c3", "c4", "c5", "n1", "n2")}}
	played := 0
	for name, st := range all {
		if virtual[name] != "" {
			continue
		}
		played++
		t.Run(name, func(t *testing.T) {
			for _, c := range st.Commands {
				if err := speakable(c); err != nil {
					t.Fatalf("%s: %v; teach the lab that word, or say in virtual why no real host can suffer it", c, err)
				}
			}
			if end := ending(st); len(end) == 0 {
				t.Error("nothing of its end can be judged")
			}
			text := paper.lab.SiteFile(paper.siteFor(st))
			if _, faults := fleet.Read("site.yaml", []byte(text), service.Catalogue()); len(faults.Errors()) > 0 {
				t.Errorf("%v in\n%s", faults.Errors(), text)
			}
		})
	}
	t.Logf("%d of %d stories are played on real hosts", played, len(all))
}

// paperLab has hosts with names and addresses, and nothing of it exists.
func paperLab(hosts ...string) *Lab {
	l := &Lab{Name: "paper", Block: 80}
	for i, name := range []string{"management", "storage", "tenant", oob} {
		a := l.address(i, 1)
		l.Networks = append(l.Networks, Network{Name: name, V4: a.V4, V6: a.V6})
	}
	for i, name := range hosts {
		m := Machine{Name: name, Addresses: map[string]Address{}, BMC: BMC{Address: l.address(3, 111+i).V4.Addr(), User: "mainstay"}}
		for j, n := range l.Networks {
			m.Addresses[n.Name] = l.address(j, 11+i)
		}
		l.Hosts = append(l.Hosts, m)
	}
	return l
}

// TestStories plays the stories of scenarios/ on real hosts: the deeds of the very
// files in their order. A story's times are lower bounds; what it expects is waited
// for. Meanwhile no two hosts may speak for one address, no exclusive service may be on
// two hosts and no generation may fall, and at its end things are where its golden log
// leaves them.
func TestStories(t *testing.T) {
	if !*faults {
		t.Log("not played: it takes an hour; make lab-stories. Three of them are in TestMembership")
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Hour)
	defer cancel()
	only, err := regexp.Compile(*oneStory)
	if err != nil {
		t.Fatal(err)
	}
	byHosts := map[string][]string{}
	all := scenarios(t)
	for name, st := range all {
		if virtual[name] == "" && only.MatchString(name) {
			hosts := []string{"c1", "c2", "c3", "n1", "n2"}
			if st.Shape.Voters > 3 {
				hosts = storyHosts(st)
			}
			key := strings.Join(hosts, " ")
			byHosts[key] = append(byHosts[key], name)
		}
	}
	for _, hosts := range fleet.Sorted(byHosts) {
		names := byHosts[hosts]
		// Those with one site file after each other.
		slices.SortFunc(names, func(a, b string) int {
			return cmp.Or(cmp.Compare(siteOf(all[a]), siteOf(all[b])), cmp.Compare(a, b))
		})
		t.Run("on "+strings.ReplaceAll(hosts, " ", ","), func(t *testing.T) {
			s := newStage(ctx, t, strings.Fields(hosts))
			for _, name := range names {
				t.Run(name, func(t *testing.T) { s.play(t, all[name]) })
			}
		})
	}
}

// siteOf tells the sites of stories apart.
func siteOf(st sim.Story) string {
	sh := st.Shape
	return fmt.Sprint(storyHosts(st), sh.Arbiter, sh.Promoted, sh.OnFailure, sh.Restarts, sh.Found, slices.ContainsFunc(st.Commands, foreign))
}

// foreign says whether another program has an address from the beginning.
func foreign(c sim.Command) bool { return c.Verb == "foreign" && c.At == 0 }

// The units that stories name, on every host.
const (
	cinderUnit = "cinder.service"
	manilaUnit = "manila.service"
)

// storyUnit runs once, leaves a mark while it runs, and fails to start as often as a
// story wants.
const storyUnit = `[Service]
RuntimeDirectory=%[1]s
ExecStartPre=/bin/sh -c 'n=$$(cat /run/%[1]s.fails || echo 0); test "$$n" -le 0 || { echo $$((n-1)) >/run/%[1]s.fails; exit 1; }'
ExecStart=/bin/sh -c 'echo runs >/run/%[1]s/copy; exec sleep infinity'
`

// stage is a lab on which stories are played one after another, with one site for as
// many of them as it is good for.
type stage struct {
	*site
	t      *testing.T // the lab's
	config Config
	copies *copies
	on     string         // siteOf the present site; empty: there is none
	fenced map[string]int // how often, by host, on the present site
	used   bool           // the machines are not as Up made them
}

func newStage(ctx context.Context, t *testing.T, hosts []string) *stage {
	t.Helper()
	s := &stage{t: t, config: Config{
		Name: "stories", Disk: 2 << 30,
		Files: map[string]File{
			"/etc/systemd/system/" + benchUnit:  {Data: []byte(benchWebUnit)},
			benchConfig:                         {Data: []byte(benchWeb)},
			"/etc/systemd/system/" + cinderUnit: {Data: fmt.Appendf(nil, storyUnit, "cinder")},
			"/etc/systemd/system/" + manilaUnit: {Data: fmt.Appendf(nil, storyUnit, "manila")},
			// Otherwise systemd would end an agent that is stopped for ten seconds.
			"/etc/systemd/system/mainstay.service.d/story.conf": {Data: []byte("[Service]\nWatchdogSec=0\n")},
			// As long as an agent waits at most, and more than logind's own 5 s.
			"/etc/systemd/logind.conf.d/story.conf": {Data: []byte("[Login]\nInhibitDelayMaxSec=30\n")},
		},
	}}
	maps.Copy(s.config.Files, ocfFiles(t))
	for _, h := range hosts {
		s.config.Hosts = append(s.config.Hosts, Host{Name: h})
	}
	var without []fleet.Guard
	if g := fleet.Guard(*disarmed); g != "" {
		if !slices.Contains(fleet.Guards(), g) {
			t.Fatalf("there is no guard %q, but %v", g, fleet.Guards())
		}
		without = append(without, g)
	}
	s.site = &site{ctx: ctx, binary: build(ctx, t, "one", without...), lab: up(t, s.config)}
	s.copies = &copies{lab: s.lab, marks: map[string]mark{
		"service/cinder": {file: "/run/cinder/copy"},
		"service/manila": {file: "/run/manila/copy"},
		"service/drbd":   {file: "/run/Stateful-drbd.state", says: "Promoted"},
	}}
	s.copies.watch(ctx, t)
	var err error
	if s.wire, err = s.lab.Wire(s.lab.Virtual()["internal"], s.lab.Virtual()["public"]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.wire.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// siteFor is sim's site of that shape, on the lab's hosts. Without leaves out what the
// site does not know yet.
func (s *stage) siteFor(st sim.Story, without ...string) SiteConfig {
	sh := st.Shape
	c := SiteConfig{Binary: s.binary, Timing: storyTiming, Hosts: storyHosts(st), Brakes: "{share: 40, count: 3}"}
	for _, h := range c.Hosts {
		switch {
		case h[0] == 'n':
			c.Computes = append(c.Computes, h)
		case sh.Arbiter && h == fmt.Sprintf("c%d", sh.Voters):
			c.Arbiters = append(c.Arbiters, h)
		}
	}
	address := func(name, more string) string {
		if slices.Contains(without, "address/"+name) {
			return ""
		}
		return fmt.Sprintf("  %s: {address: %s%s}\n", name, s.lab.Virtual()[name], more)
	}
	c.Addresses = address("internal", ", prefer: [c1]") + address("public", ", with: [keystone]")
	listen := "internal, public"
	if slices.Contains(without, "address/internal") {
		listen = "public"
	}
	restarts, onFailure := cmp.Or(sh.Restarts, 3), cmp.Or(string(sh.OnFailure), string(fleet.FailMove))
	exclusive := func(name, mode, more string) string {
		if slices.Contains(without, "service/"+name) {
			return ""
		}
		return fmt.Sprintf("  %s:\n    mode: %s\n    why: there may be only one\n    restarts: {count: %d, within: 1m}\n    on_failure: %s\n%s", name, mode, restarts, onFailure, more)
	}
	cinder := "    kind: systemd\n    units: [" + cinderUnit + "]\n    roles: [controller]\n    prefer: [c2]\n"
	if sh.Promoted {
		cinder += "    with: [service/drbd]\n"
	}
	c.Services = "  haproxy: {}\n  keystone:\n    kind: systemd\n    mode: active/active\n    why: each copy answers by itself\n    units: [" + benchUnit + "]\n    after: []\n" +
		"    roles: [controller]\n    restarts: {count: 60, within: 1m}\n    check: {kind: http, port: 5001, path: /}\n" +
		"    listen: {port: 5000, backend: 5001, protocol: http, addresses: [" + listen + "]}\n" +
		exclusive("cinder", "active/passive", cinder)
	if sh.Promoted {
		c.Services += exclusive("drbd", "promoted", "    kind: ocf\n    roles: [controller]\n    params: {agent: \"ocf:pacemaker:Stateful\"}\n")
	}
	if len(c.Computes) == 2 {
		c.Services += exclusive("manila", "active/passive", "    kind: systemd\n    units: ["+manilaUnit+"]\n    hosts: [n1, n2]\n")
	}
	return c
}

// fences is how often a story's golden log says that each host will be fenced.
func fences(st sim.Story) map[string]int {
	out := map[string]int{}
	for _, line := range st.Golden {
		if host, _, yes := strings.Cut(line, " will be fenced"); yes {
			out[host[strings.LastIndex(host, " ")+1:]]++
		}
	}
	return out
}

// fencesKept is how often a host is fenced within an hour and turned on again: after
// three times it stays off until a person has looked.
const fencesKept = 2

// found gives a story a site, a new one if the present one does not suit it.
func (s *stage) found(t *testing.T, st sim.Story, begins func()) {
	t.Helper()
	fresh := s.on != siteOf(st) || len(st.Shape.Found) > 0 || slices.ContainsFunc(st.Commands, foreign)
	for host, n := range fences(st) {
		fresh = fresh || s.fenced[host]+n > fencesKept
	}
	if !fresh {
		return
	}
	s.on, s.fenced = "", map[string]int{}
	if s.used {
		for _, m := range s.lab.Hosts { // or one of the old site would fence a new one
			if _, err := s.lab.Kill(s.ctx, m.Name); err != nil {
				t.Fatal(err)
			}
		}
		var renewed sync.WaitGroup
		for _, m := range s.lab.Hosts {
			renewed.Go(func() {
				_, healed := s.lab.Heal(s.ctx, m.Name, All)
				_, honest := s.lab.BMCFault(s.ctx, m.Name, falsebmc.Fault{})
				_, err := s.lab.Renew(s.ctx, m.Name, s.config.Files)
				for _, err := range []error{healed, honest, err} {
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		renewed.Wait()
	}
	s.used = true
	var unknown []string
	for _, f := range st.Shape.Found {
		name, _, _ := strings.Cut(f, "@")
		unknown = append(unknown, "service/"+name)
		if name == "drbd" {
			unknown = append(unknown, "service/cinder") // it stands on it
		}
	}
	for _, c := range st.Commands {
		if foreign(c) {
			unknown = append(unknown, "address/"+c.Args[1])
		}
	}
	whole := s.siteFor(st)
	if err := s.lab.Deploy(s.ctx, s.siteFor(st, unknown...), func(text string) { t.Log(text) }); err != nil {
		t.Fatal(err)
	}
	s.await(t, "the site in service", s.settled)
	if len(unknown) > 0 {
		for _, f := range st.Shape.Found {
			name, host, _ := strings.Cut(f, "@")
			if name == "drbd" {
				if err := s.lab.CopyIn(host, s.copies.marks["service/drbd"].file, []byte("Promoted\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			} else {
				s.run(t, host, "systemctl", "start", name)
			}
		}
		begins()
		by := "c1"
		if err := s.lab.CopyIn(by, "/root/site.yaml", []byte(s.lab.SiteFile(whole)), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Log(s.run(t, by, "mainstay", "apply", "/root/site.yaml", "--yes"))
	}
	s.on = siteOf(st)
}

// play plays one story, and leaves a site for the next one if all is well.
func (s *stage) play(t *testing.T, st sim.Story) {
	stage := staged(st)
	p := &teller{site: s.site, copies: s.copies, units: map[string]string{"keystone": benchUnit, "cinder": cinderUnit, "manila": manilaUnit}}
	ok := false
	defer func() {
		p.leave(t)
		for host, n := range p.fences() {
			s.fenced[host] += n
		}
		if !ok || t.Failed() {
			s.on = ""
		}
	}()
	s.found(t, st, func() {
		p.begin()
		for len(stage.Commands) > 0 && stage.Commands[0].At == 0 {
			p.deed(t, stage.Commands[0])
			stage.Commands = stage.Commands[1:]
		}
	})
	s.generations(t)
	p.tell(t, stage, told(sim.Play(st).Log, st.From), ending(st))
	ok = true
}
