package sim

import (
	"fmt"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
	"mainstay/plan"
)

// host is one machine: its clock, its kernel, its services, its power switch,
// and the processes of Mainstay on it.
type host struct {
	site  *Site
	name  string
	index int
	voter bool
	role  string
	uuid  string

	on        bool
	suspended bool
	boot      string
	boots     int
	booted    at           // when its clock showed start
	began     fleet.Moment // what it showed then
	drift     int64        // parts in a million
	links     []bool
	healed    at            // when its newest cut or hang ended
	every     time.Duration // between its beats

	agentProcess, quorumProcess process
	agent                       *agent
	member                      *member
	run                         run
	apart                       *apart // nil: it is not alone by what its disk says
	kernel                      kernel
	copies                      []*unit
	bmc                         bmc
	second                      bmc // the power switch of its second level
	watchdog                    watchdog
	disk                        disk
	dumping                     bool // its crash kernel writes a dump, and says so
	posting                     bool // it has power, was reset and is on its way to a boot
	// quickBoot makes it come back within a lease.
	quickBoot bool
	// freezeFor freezes the agent in the middle of its next renewal.
	freezeFor at
}

// run is /run/mainstay: it outlives a process, not a boot.
type run struct {
	memory plan.Memory
	end    fleet.Moment
	stint  uint64
	rows   []lease.Row // nil: no table
	ear    *lease.Ear  // the mapped table of the process that lives
	pairRun
}

func (h *host) init() {
	h.kernel = newKernel(h)
	for i := range h.site.spec.Services {
		v := &h.site.spec.Services[i]
		for _, home := range h.site.spec.Homes(*v) {
			if home == h.name {
				h.copies = append(h.copies, &unit{host: h, service: v, phase: fleet.Stopped, score: 10})
			}
		}
	}
	me, _ := h.site.spec.Host(h.name)
	h.every, _ = h.site.spec.Beats(me)
	if h.voter {
		h.member = newMember(h)
	}
}

func (h *host) copy(service string) *unit {
	for _, u := range h.copies {
		if u.service.Name == service {
			return u
		}
	}
	return nil
}

// clock is what the host's CLOCK_BOOTTIME shows.
func (h *host) clock() fleet.Moment { return h.began + h.shown(h.site.now-h.booted) }

// shown is how far the clock goes in a span of true time.
func (h *host) shown(d at) fleet.Moment {
	return fleet.Moment(int64(d) + int64(d)/1000*h.drift/1000)
}

// when is the first moment of true time at which the clock shows m or later.
func (h *host) when(m fleet.Moment) at {
	if m <= h.clock() {
		return h.site.now
	}
	t := at(int64(m-h.began)/1000*1e6/(1e6+h.drift)*1000) - microsecond
	for h.began+h.shown(t) < m {
		t += microsecond
	}
	return h.booted + t
}

// span is how long a span of the host's clock is by true time.
func (h *host) span(d time.Duration) at { return at(int64(d) * 1e6 / (1e6 + h.drift)) }

// wall is the time that its people see; no rule depends on it.
func (h *host) wall() time.Time {
	return time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(h.site.elapsed()))
}

// powerOn boots the host.
func (h *host) powerOn() {
	if h.on {
		return
	}
	s := h.site
	h.on, h.suspended, h.posting, h.dumping = true, false, false, false
	h.boots++
	h.boot = fmt.Sprintf("%s-%d", h.name, h.boots)
	h.booted, h.began = s.now, fleet.Moment(s.between(second, 100*second))
	h.run = run{}
	h.bmc.power, h.second.power = true, true
	s.watch.power(h, true)
	for _, u := range h.copies {
		u.boot()
	}
	h.quorumProcess.start()
	if h.member != nil {
		h.member.start()
	}
	h.startAgent()
	s.stir(5*time.Second + s.timing.Promise()) // its ear is mute for so long
}

// bootTime is how long a machine takes from power to agent.
func (h *host) bootTime() at {
	if h.quickBoot {
		return h.site.between(20*millisecond, at(h.site.timing.Lease)/8)
	}
	return h.site.between(3*second, 8*second)
}

// powerOff ends everything on it at once.
func (h *host) powerOff() {
	h.posting, h.dumping = false, false
	if !h.on {
		return
	}
	h.on, h.suspended = false, false
	h.bmc.power, h.second.power = false, false
	h.bmc.lost++
	h.second.lost++
	h.agentProcess.end()
	h.agent = nil
	h.quorumProcess.end()
	if h.member != nil {
		h.member.powerCut()
	}
	h.kernel.off()
	h.watchdog.armed = false
	for _, u := range h.copies {
		u.off()
	}
	if h.site.nova != nil {
		h.site.nova.lost(h)
	}
	h.site.watch.power(h, false)
	h.site.stir(5 * time.Second)
}

// suspend stops the whole machine, its kernel's timers included.
func (h *host) suspend() {
	if !h.on || h.suspended {
		return
	}
	h.suspended = true
	h.watchdog.stood = h.site.now
	h.kernel.suspend()
}

// wake lets it go on.
func (h *host) wake() {
	if !h.suspended {
		return
	}
	h.suspended = false
	h.kernel.wake()
	h.watchdog.wake(h.site.now - h.watchdog.stood)
	h.agentProcess.release()
	h.quorumProcess.release()
}

// startAgent starts the agent's process.
func (h *host) startAgent() {
	if !h.on || h.agentProcess.alive {
		return
	}
	h.agentProcess.start()
	h.agent = newAgent(h)
}

// killAgent ends the agent's process; the ear's table stays in /run.
func (h *host) killAgent() {
	if !h.agentProcess.alive {
		return
	}
	h.agentProcess.end()
	for _, u := range h.copies { // what waited for its turn died with the process; systemd goes on
		u.pending, u.working = nil, false
	}
	if h.run.ear != nil {
		h.run.rows, h.run.ear = h.run.ear.Rows(), nil
	}
	h.agent = nil
}

// stopAgent is "systemctl stop mainstay": the agent says farewell and ends, and the
// host stays up.
func (h *host) stopAgent() {
	if h.agent == nil || h.agentProcess.stopped() {
		return
	}
	h.agent.farewell()
	if h.agent.hand.Bound(&h.agent.spec, h.agent.services) == "" {
		h.watchdog.armed = false
	}
	h.agent.leavePair(h.killAgent)
}

// shutDown is "systemctl poweroff".
func (h *host) shutDown() {
	if h.agent == nil || h.agentProcess.stopped() {
		return
	}
	h.site.stir(departBound + letGoBound)
	h.agent.shutDown(h.powerOff)
}

// clone lets a copy of the machine speak beside it for a while: a snapshot that was
// started once more, with a boot of its own and the same keys. It runs nothing, and
// says so.
func (h *host) clone(lasts string) error {
	d, err := time.ParseDuration(lasts)
	if err != nil {
		return err
	}
	s := h.site
	end := s.now + at(d)
	stint := fleet.Stint{Host: h.name, Boot: h.boot + "-clone", N: 1}
	seq := uint64(0)
	var speak func()
	speak = func() {
		if s.now > end || h.agent == nil {
			return
		}
		seq++
		b := &beat{stint: stint, sent: fleet.Moment(s.now), late: fleet.GuardLate, leased: true}
		r := h.agent.said
		r.Boot, r.Stint, r.Leased, r.Seq, r.Addresses, r.GivenUp = stint.Boot, 1, true, seq, nil, nil
		r.Services = map[string]fleet.ServiceState{}
		for name := range h.agent.said.Services {
			r.Services[name] = fleet.ServiceState{Phase: fleet.Stopped}
		}
		for _, v := range s.quorum.voters {
			if a := v.agent; a != nil && v != h && s.open(h, v, 0) {
				v.agentProcess.in(s.between(s.nets[0].low, s.nets[0].top), func() {
					a.heardBeat(h, b, 0, v.clock())
					a.earBeat(b, v.clock())
					a.desk.put(&told{r, 1}, a)
				})
			}
		}
		s.after(at(h.every), speak)
	}
	speak()
	return nil
}
