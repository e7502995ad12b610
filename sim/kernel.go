package sim

import (
	"time"

	"mainstay/fleet"
)

// kernel is what the host's kernel does about virtual addresses by itself,
// whatever becomes of the agent.
type kernel struct {
	host *host
	// coarse: nftables does not work on this host.
	coarse bool
	// flushed: a firewall reload has taken the rules away since the last renewal.
	flushed bool
	has     []held
	stood   at // when it was suspended
}

// held is one address on an interface.
type held struct {
	present bool
	spoken  bool
	element at // when its element in the set times out; by true time, standing still with the kernel
	life    at // when its valid_lft ends
	check   at
}

func newKernel(h *host) kernel {
	return kernel{host: h, has: make([]held, len(h.site.spec.Addresses))}
}

// put adds an address or renews it: its element lives for span from now, its
// lifetime for that in whole seconds. It returns the lateness that the guard has now.
func (k *kernel) put(i int, span time.Duration) (late time.Duration) {
	s, a := k.host.site, &k.has[i]
	k.flushed = false
	a.present = true
	a.element = s.now + k.host.span(max(span, 0)) + s.between(0, 9*millisecond)
	// valid_lft counts whole seconds, and the kernel looks when it pleases.
	whole := (max(span, 1) + time.Second - 1).Truncate(time.Second)
	a.life = s.now + k.host.span(whole) + s.between(30*millisecond, 980*millisecond)
	k.look(i)
	if k.coarse {
		return fleet.CoarseLate
	}
	return fleet.GuardLate
}

// remove takes an address away.
func (k *kernel) remove(i int) {
	k.has[i].present = false
	k.look(i)
}

// end is when the address falls silent if nobody does anything.
func (k *kernel) end(i int) at {
	a := k.has[i]
	if !fleet.Armed(fleet.GuardKernel) {
		return 1 << 62
	}
	if k.coarse || k.flushed {
		return a.life
	}
	return min(a.element, a.life)
}

// look compares who speaks with what was known, and looks again when the kernel
// may end an address by itself.
func (k *kernel) look(i int) {
	s, a := k.host.site, &k.has[i]
	if a.present && !k.host.suspended && s.now >= k.end(i) {
		a.present = false
		if k.host.agentProcess.stopped() || !k.host.agentProcess.alive {
			s.guard(fleet.GuardKernel)
		}
	}
	speaks := a.present && k.host.on && !k.host.suspended
	if speaks != a.spoken {
		a.spoken = speaks
		s.watch.speaks(k.host, i, speaks)
	}
	// A renewal that came late is told again with less: the end may have come nearer.
	if !a.present || k.host.suspended || a.check != 0 && a.check <= k.end(i) {
		return
	}
	k.await(i)
}

// await has a look on its way no later than the end.
func (k *kernel) await(i int) {
	a := &k.has[i]
	end := k.end(i)
	if end >= 1<<62 {
		return
	}
	a.check = end
	k.host.site.after(end-k.host.site.now, func() {
		if a.check == end {
			a.check = 0
		}
		k.look(i)
	})
}

func (k *kernel) off() {
	for i := range k.has {
		k.has[i].present = false
		k.look(i)
	}
	k.flushed = false
}

func (k *kernel) flush() {
	k.flushed = true
	for i := range k.has {
		k.look(i)
	}
}

func (k *kernel) suspend() {
	k.stood = k.host.site.now
	for i := range k.has {
		k.look(i)
	}
}

// wake lets the timers go on where they stood.
func (k *kernel) wake() {
	away := k.host.site.now - k.stood
	for i := range k.has {
		k.has[i].element += away
		k.has[i].life += away
		k.look(i)
	}
}
