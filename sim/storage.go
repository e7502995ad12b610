package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
)

// heartbeat is what stands in one host's file on storage.
type heartbeat struct {
	boot  string
	count uint64
}

// disk is a host's way to the storage that the computes share.
type disk struct {
	hangs bool
	own   map[string]heartbeat // nil, or a directory of its own in place of the shared one: nothing is mounted
	since at                   // when that changed
}

// storageSan: the storage has a way of its own; any other word of Shape.Heartbeat is a network.
const storageSan = "san"

// reachesStorage says whether what a host asks of the storage is answered.
func (h *host) reachesStorage() bool {
	s := h.site
	if h.disk.hangs || !h.on {
		return false
	}
	net := slices.IndexFunc(s.nets, func(n *network) bool { return n.name == s.shape.Heartbeat })
	if net < 0 {
		return true
	}
	return h.links[net] && slices.ContainsFunc(s.hosts, func(o *host) bool {
		return o != h && (s.cut[h.index][o.index]|s.cut[o.index][h.index])&(1<<net) == 0
	})
}

func (h *host) files() map[string]heartbeat {
	if h.disk.own != nil {
		return h.disk.own
	}
	return h.site.shared
}

// storageOf is what agent.storageBeat is.
type storageOf struct {
	readings *lease.Readings
	count    uint64
	began    fleet.Moment
	writing  bool
	reading  map[string]bool
	said     fleet.StorageWord
}

// storageWithin is the agent's.
const storageWithin = 10 * time.Second

func (a *agent) startStorage() {
	h := a.host
	a.storage = storageOf{readings: lease.NewReadings(&a.spec, h.name, h.clock()), reading: map[string]bool{}}
	if h.site.shape.Heartbeat != "" && h.role == "compute" {
		h.agentProcess.in(at(a.spec.Timing.SlowBeat)/4, a.beatToStorage)
	}
}

// beatToStorage is the agent's loop.
func (a *agent) beatToStorage() {
	a.stepStorage()
	a.host.agentProcess.in(at(a.spec.Timing.SlowBeat)/4, a.beatToStorage)
}

func (a *agent) stepStorage() {
	h, w := a.host, &a.storage
	now := h.clock()
	if every := lease.StorageEvery(now.Sub(a.hand.End().Add(-a.length)), a.spec.Timing.SlowBeat); !w.writing && (w.began == 0 || now.Sub(w.began) >= every) {
		w.began, w.writing = now, true
		w.count = max(w.count+1, uint64(now))
		x, boot := heartbeat{h.boot, w.count}, h.boot
		a.ofStorage(boot, func() { h.files()[h.name] = x }, func() { w.writing = false })
	}
	for _, name := range w.readings.Due(now) {
		if w.reading[name] {
			continue
		}
		w.reading[name] = true
		var x heartbeat
		a.ofStorage(h.boot, func() { x = h.files()[name] }, func() {
			delete(w.reading, name)
			if x.boot != "" {
				w.readings.Saw(name, x.boot, x.count, now)
			}
			a.sayStorage()
		})
	}
	a.sayStorage()
}

func (a *agent) sayStorage() {
	w, now := &a.storage, a.host.clock()
	said := fleet.StorageWord{Writes: w.readings.Writes(now)}
	if w.writing && now.Sub(w.began) >= storageWithin {
		said.Failed = "no answer"
		w.readings.Return(now)
	}
	said.Unseen = w.readings.Unseen(now)
	if !said.Equal(w.said) {
		w.said = said
		a.poke()
	}
}

// ofStorage asks the kernel for something of the storage, which is done as soon as that answers, also
// when the process that asked is gone, but not in a later boot.
func (a *agent) ofStorage(boot string, do, done func()) {
	h := a.host
	s := h.site
	var try func()
	try = func() {
		switch {
		case !h.on || h.boot != boot:
		case !h.reachesStorage():
			s.after(200*millisecond, try)
		default:
			do()
			h.agentProcess.in(0, func() {
				if h.agent == a {
					done()
				}
			})
		}
	}
	s.after(s.between(millisecond, 60*millisecond), try)
}

// setStorage is what befalls a host's storage: hang, other (its directory is not the shared one), ok.
func setStorage(s *Site, h *host, rest []string) error {
	if s.shape.Heartbeat == "" {
		return errors.New("the computes share no storage: heartbeat=san, or a network, in the site line")
	}
	h.disk = disk{since: s.now}
	switch rest[0] {
	case "hang":
		h.disk.hangs = true
	case "other":
		h.disk.own = map[string]heartbeat{}
	case "ok":
	default:
		return fmt.Errorf("no storage is %s", rest[0])
	}
	return nil
}

// heldToLive: nobody is fenced for its servers, within the minute that openstack/lost/all gives it, who writes to
// storage that another compute reads, while both have done so for long enough.
func (w *watch) heldToLive(h *host, boot, why string) {
	s := w.site
	const long = 15 * second
	fine := func(x *host) bool {
		return x.on && x.agent != nil && !x.agentProcess.stopped() && x.reachesStorage() && x.disk.own == nil && s.now-x.disk.since > long && s.now-x.booted > long && s.now-x.healed > long && x.clock().Sub(x.agent.first) > time.Duration(long)
	}
	since, silent := w.silentAt[h]
	if s.shape.Heartbeat == "" || s.spec.Mode == "shadow" || why != "compute/"+h.name || h.boot != boot || !fine(h) || !silent || s.now-w.stormed < long && w.stormed > 0 || s.elapsed()-since > 50*second {
		return
	}
	if s.shape.Heartbeat != storageSan && slices.ContainsFunc(s.hosts, func(x *host) bool { return s.now-x.healed <= long }) {
		return // it may reach the storage by way of that one, and for no longer than that
	}
	for _, o := range s.hosts {
		at, steady := w.steady[o]
		if o != h && o.role == "compute" && fine(o) && steady && s.now-at > long && s.now-o.healed > long && w.reaches(o) && slices.ContainsFunc(s.nets, func(n *network) bool { return w.linked(o, n.name) }) {
			w.fail("no needless kill", "%s is to be fenced %v after it fell silent, and writes to storage, which %s reads", h.name, time.Duration(s.elapsed()-since), o.name)
		}
	}
}

// hearing notes since when no majority of ears hears a compute.
func (w *watch) hearing(h *host) {
	if w.site.shape.Heartbeat == "" || h.role != "compute" {
		return
	}
	if _, silent := w.silentAt[h]; w.reaches(h) {
		delete(w.silentAt, h)
	} else if !silent {
		w.silentAt[h] = w.site.elapsed()
	}
}
