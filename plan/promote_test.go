package plan

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

// duo is a site at rest whose service has a copy on every host and is promoted on c2.
func duo() fleet.World {
	w := small()
	w.Spec.Services[0].Mode = fleet.Promoted
	for host, score := range map[string]int{"c1": 5, "c2": 10, "c3": 7} {
		w.Reports[host].Services["s"] = fleet.ServiceState{Phase: fleet.Running, Ready: true, Role: fleet.RoleUnpromoted, Score: score}
	}
	be(w, "c2", func(s *fleet.ServiceState) { s.Role, s.Generation = fleet.RolePromoted, 4 })
	return w
}

// be changes what a host says of its copy.
func be(w fleet.World, host string, change func(*fleet.ServiceState)) {
	s := w.Reports[host].Services["s"]
	change(&s)
	w.Reports[host].Services["s"] = s
}

// free leaves the role to nobody.
func free(w fleet.World) {
	delete(w.State.Holdings, "service/s")
	be(w, "c2", func(s *fleet.ServiceState) { s.Role, s.Generation = fleet.RoleUnpromoted, 0 })
}

func TestPromoted(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(w fleet.World)
		want   []string
	}{
		"at rest":                       {func(fleet.World) {}, nil},
		"nobody has it: the best score": {func(w fleet.World) { free(w); be(w, "c3", func(s *fleet.ServiceState) { s.Score = 11 }) }, []string{"holding/service/s=c3#1"}},
		"the best copy is still being filled": {func(w fleet.World) {
			free(w)
			be(w, "c2", func(s *fleet.ServiceState) { s.Mirror.Filling = true })
		}, []string{"holding/service/s=c3#1"}},
		"it is filled where it is promoted": {func(w fleet.World) {
			be(w, "c2", func(s *fleet.ServiceState) { s.Mirror.Filling = true })
		}, nil},
		"one copy has still to start": {func(w fleet.World) {
			free(w)
			be(w, "c3", func(s *fleet.ServiceState) { s.Phase, s.Ready = fleet.Starting, false })
		}, []string{"service/s waits"}},
		"one copy has still to be begun": {func(w fleet.World) {
			free(w)
			be(w, "c3", func(s *fleet.ServiceState) { *s = fleet.ServiceState{Phase: fleet.Stopped} })
		}, []string{"c3: start service/s", "service/s waits"}},
		"one copy failed": {func(w fleet.World) {
			free(w)
			be(w, "c3", func(s *fleet.ServiceState) { *s = fleet.ServiceState{Phase: fleet.Failed} })
		}, []string{"holding/service/s=c2#1", "c3: start service/s"}},
		"one copy cannot be asked": {func(w fleet.World) { free(w); be(w, "c3", func(s *fleet.ServiceState) { s.Phase = fleet.Unknown }) }, []string{"service/s waits", "s@c3 waits"}},
		"no copy wants it": {func(w fleet.World) {
			free(w)
			for _, h := range []string{"c1", "c2", "c3"} {
				be(w, h, func(s *fleet.ServiceState) { s.Score = 0 })
			}
		}, []string{"service/s waits"}},
		"found promoted": {func(w fleet.World) { free(w); be(w, "c1", func(s *fleet.ServiceState) { s.Role = fleet.RolePromoted }) }, []string{"holding/service/s=c1#1"}},
		"found on two": {func(w fleet.World) {
			free(w)
			for _, h := range []string{"c1", "c3"} {
				be(w, h, func(s *fleet.ServiceState) { s.Role = fleet.RolePromoted })
			}
		}, []string{"service/s waits"}},
		"a role that nobody knows may be": {func(w fleet.World) {
			free(w)
			for _, h := range []string{"c1", "c3"} {
				be(w, h, func(s *fleet.ServiceState) { s.Role = "" })
			}
		}, []string{"service/s waits"}},
		"promoted without the record":    {func(w fleet.World) { be(w, "c1", func(s *fleet.ServiceState) { s.Role = fleet.RolePromoted }) }, []string{"c1: demote service/s", "service/s waits"}},
		"its holder is not promoted yet": {func(w fleet.World) { be(w, "c2", func(s *fleet.ServiceState) { s.Role = fleet.RoleUnpromoted }) }, []string{"c2: promote service/s"}},
		"it is being promoted":           {func(w fleet.World) { be(w, "c2", func(s *fleet.ServiceState) { s.Phase = fleet.Starting }) }, nil},
		"its holder's copy failed": {func(w fleet.World) {
			be(w, "c2", func(s *fleet.ServiceState) { *s = fleet.ServiceState{Phase: fleet.Failed, Generation: 4} })
		}, []string{"c2: start service/s", "service/s waits"}},
		"its holder's copy failed too often": {func(w fleet.World) {
			be(w, "c2", func(s *fleet.ServiceState) { *s = fleet.ServiceState{Phase: fleet.Failed, Generation: 4, Restarts: 3} })
		}, []string{"c2: demote service/s", "s@c2 waits"}},
		"its holder's copy is broken": {func(w fleet.World) { be(w, "c2", func(s *fleet.ServiceState) { s.Stuck, s.Ready = true, false }) }, []string{"c2: restart service/s"}},
		"another copy is broken":      {func(w fleet.World) { be(w, "c1", func(s *fleet.ServiceState) { s.Stuck, s.Ready = true, false }) }, []string{"c1: restart service/s"}},
		"its holder gave it up": {func(w fleet.World) {
			be(w, "c2", func(s *fleet.ServiceState) { s.Role = fleet.RoleUnpromoted })
			r := w.Reports["c2"]
			r.GivenUp = map[string]uint64{"service/s": 4}
			w.Reports["c2"] = r
			be(w, "c2", func(s *fleet.ServiceState) { s.Score = 0 })
		}, []string{"holding/service/s=c3#5"}},
		"its holder's copy runs again, and failed too often": {func(w fleet.World) {
			be(w, "c2", func(s *fleet.ServiceState) { s.Role, s.Restarts = fleet.RoleUnpromoted, 3 })
		}, []string{"c2: demote service/s"}},
		"a copy that failed too often is given nothing": {func(w fleet.World) {
			free(w)
			be(w, "c2", func(s *fleet.ServiceState) { s.Restarts = 3 })
		}, []string{"holding/service/s=c3#1"}},
		"its holder is silent": {func(w fleet.World) { lapse(w, "c2") }, []string{"ask c2 any", "service/s waits"}},
		"its holder is dead": {func(w fleet.World) {
			hush(w, "c2")
			w.State.Proofs["c2"] = fleet.Proof{Host: "c2", Boot: "b", Kind: "oath"}
		}, []string{"holding/service/s=c3#5"}},
		"a person wants it moved": {func(w fleet.World) {
			w.State.Wishes["m"] = fleet.Wish{Verb: "move", Thing: "service/s", To: "c1", By: "ann"}
		}, []string{"c2: demote service/s"}},
		"a person wants it where it cannot be": {func(w fleet.World) {
			w.State.Wishes["m"] = fleet.Wish{Verb: "move", Thing: "service/s", To: "c1", By: "ann"}
			be(w, "c1", func(s *fleet.ServiceState) { s.Score = -1 })
		}, []string{"service/s waits"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := duo()
			tc.change(w)
			_, p := Turn(w)
			if diff := cmp.Diff(tc.want, brief(p)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestBrokenAndNotStopped: a copy that is broken and whose restarts are used up, because it
// cannot even be stopped, frees its service by a fence where the service's rule says so.
func TestBrokenAndNotStopped(t *testing.T) {
	for _, mode := range []fleet.Mode{fleet.ActivePassive, fleet.Promoted} {
		w := duo()
		w.Spec.Services[0].Mode, w.Spec.Services[0].OnFailure = mode, fleet.FailFence
		be(w, "c2", func(s *fleet.ServiceState) { s.Stuck, s.Ready, s.Restarts = true, false, 3 })
		if mode == fleet.ActivePassive {
			for _, host := range []string{"c1", "c3"} {
				w.Reports[host].Services["s"] = fleet.ServiceState{Phase: fleet.Stopped}
			}
		}
		_, p := Turn(w)
		if got := brief(p); !slices.Contains(got, "intent/c2") {
			t.Errorf("%s: %q", mode, got)
		}
	}
}

// group is duo with a service that stands on the promoted copy.
func group() fleet.World {
	w := duo()
	w.Spec.Services = append(w.Spec.Services, fleet.Service{Name: "top", Mode: fleet.ActivePassive, Roles: []string{"controller"}, With: []string{"service/s"}, OnFailure: fleet.FailMove})
	w.State.Holdings["service/top"] = fleet.Holding{Thing: "service/top", Host: "c2", Boot: "b", Stint: 1, Generation: 2, Why: "as ever"}
	for _, host := range []string{"c1", "c2", "c3"} {
		w.Reports[host].Services["top"] = fleet.ServiceState{Phase: fleet.Stopped}
	}
	w.Reports["c2"].Services["top"] = fleet.ServiceState{Phase: fleet.Running, Ready: true, Generation: 2}
	return w
}

func TestWhatStandsOnAnother(t *testing.T) {
	move := func(w fleet.World) {
		w.State.Wishes["m"] = fleet.Wish{Verb: "move", Thing: "service/s", To: "c1", By: "ann"}
	}
	stopped := func(w fleet.World) {
		w.Reports["c2"].Services["top"] = fleet.ServiceState{Phase: fleet.Stopped, Generation: 2}
		r := w.Reports["c2"]
		r.GivenUp = map[string]uint64{"service/top": 2}
		w.Reports["c2"] = r
	}
	for name, tc := range map[string]struct {
		change func(w fleet.World)
		want   []string
	}{
		"at rest":             {func(fleet.World) {}, nil},
		"its base shall move": {move, []string{"c2: stop service/top", "service/s waits"}},
		"it has stopped":      {func(w fleet.World) { move(w); stopped(w) }, []string{"c2: demote service/s", "service/top waits"}},
		"its state is not known": {func(w fleet.World) {
			move(w)
			w.Reports["c2"].Services["top"] = fleet.ServiceState{Phase: fleet.Unknown}
		}, []string{"service/s waits", "service/top waits"}},
		"its base is demoted": {func(w fleet.World) {
			stopped(w)
			be(w, "c2", func(s *fleet.ServiceState) { s.Role = fleet.RoleUnpromoted })
		}, []string{"c2: promote service/s", "service/top waits"}},
		"its base is being promoted": {func(w fleet.World) { stopped(w); be(w, "c2", func(s *fleet.ServiceState) { s.Phase = fleet.Starting }) }, []string{"service/top waits"}},
		"its base works":             {stopped, []string{"holding/service/top=c2#3"}},
		"its base broke":             {func(w fleet.World) { be(w, "c2", func(s *fleet.ServiceState) { s.Stuck, s.Ready = true, false }) }, []string{"c2: stop service/top", "service/s waits"}},
		"its base failed": {func(w fleet.World) {
			be(w, "c2", func(s *fleet.ServiceState) { *s = fleet.ServiceState{Phase: fleet.Failed, Generation: 4} })
		}, []string{"c2: start service/s", "c2: stop service/top", "service/s waits"}},
		"a person wants it off its base": {func(w fleet.World) {
			w.State.Wishes["m"] = fleet.Wish{Verb: "move", Thing: "service/top", To: "c1", By: "ann"}
		}, []string{"-wish/m"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := group()
			tc.change(w)
			_, p := Turn(w)
			if diff := cmp.Diff(tc.want, brief(p)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestBoundByARole: a watchdog is not stopped while its host's copy is, or may be, promoted.
func TestBoundByARole(t *testing.T) {
	spec := fleet.Spec{Services: []fleet.Service{{Name: "s", Mode: fleet.Promoted}}}
	h := leased(t)
	for _, c := range []struct {
		phase, role string
		bound       bool
	}{
		{fleet.Running, fleet.RolePromoted, true}, {fleet.Stopping, fleet.RolePromoted, true}, {fleet.Running, "", true},
		{fleet.Running, fleet.RoleUnpromoted, false}, {fleet.Failed, fleet.RoleUnpromoted, false},
	} {
		why := h.Bound(&spec, map[string]fleet.ServiceState{"s": {Phase: c.phase, Role: c.role}})
		if (why != "") != c.bound {
			t.Errorf("%s, %q: %q", c.phase, c.role, why)
		}
	}
}
