package agent

import (
	"context"
	"fmt"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
	"mainstay/probe"
	"mainstay/service"
)

// standsAfter is how long a member that begins its cluster may use no CPU before it is
// called stuck. Nothing can be asked of it then, but it waits for nobody, and its storage
// engine has just come up once, to say where its data stand.
const standsAfter = 30 * time.Second

// standstill says of a member that begins its cluster whether it has come to a standstill.
func (w *watcher) standstill(ctx context.Context, a *Agent, s *fleet.ServiceState) {
	a.mu.Lock()
	begins := w.begins && s.Phase == fleet.Starting
	a.mu.Unlock()
	pids, err := []int(nil), error(nil)
	if begins {
		pids, err = w.copy.PIDs(ctx)
	}
	if !begins || err != nil || len(pids) == 0 {
		w.still = nil
		return
	}
	now := probe.Sample{At: a.cfg.Now()}
	if now.CPU, err = probe.ProcessUsage(pids); err != nil {
		w.still = nil
		return
	}
	if w.still == nil {
		w.still = &now
		return
	}
	stands := now.At.Sub(w.still.At)
	if stands < probe.Still {
		return
	}
	since := *w.still
	now.Overdue = since.At // from then on a question would have been put in vain
	switch hung, _ := probe.Hung(since, now); {
	case !hung:
		now.Overdue, w.still = 0, &now
	case stands >= standsAfter:
		// The same words each time: a report changes only when something does.
		s.Hung, s.Stuck, s.Why = true, true, fmt.Sprintf("it begins its cluster and has used no CPU for more than %v", standsAfter)
	}
}

// kill ends a member that hangs. It stands in no line: what is under way may be the very
// start that hangs, and ends by this.
func (a *Agent) kill(ctx context.Context, o fleet.Order) error {
	a.mu.Lock()
	w := a.watchers[nameOf(o.Thing)]
	why := ""
	if w != nil {
		// The order may be late, and the copy serve again.
		if why = a.hand.Refuses(o, a.cfg.Now()); why == "" {
			why = plan.Obstructed(&a.spec, o, a.copies())
		}
	}
	a.mu.Unlock()
	switch m, ok := w.member(); {
	case w == nil:
		return fmt.Errorf("%s is not a service of this host", o.Thing)
	case why != "":
		return fmt.Errorf("%s %s: %s", o.Verb, w.service.Name, why)
	case !ok:
		return fmt.Errorf("%s %s: its kind %s knows nothing of that", o.Verb, w.service.Name, w.service.Kind)
	default:
		defer a.poke(w.look)
		return m.Kill(ctx)
	}
}

func (w *watcher) member() (service.Member, bool) {
	if w == nil {
		return nil, false
	}
	m, ok := w.copy.(service.Member)
	return m, ok
}
