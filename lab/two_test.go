package lab

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

var (
	twoRounds = flag.Int("two", 0, "how many rounds two servers alone are played: make lab-two")
	twoSeed   = flag.Uint64("two-seed", 1, "throws the dice of lab-two")
	twoFault  = flag.String("two-fault", "", "the only fault that lab-two plays")
	twoTiming = flag.String("two-timing", "wide", "the preset of lab-two: rack, room or wide")
)

// TestTwo lives with two servers and no third: one of them is cut off, hangs, loses power,
// with its BMC or without, or shuts down, at any moment, whoever is first; or they lose
// sight of each other, or power, or some of their networks. At the end of each round exactly
// one serves, and then the two are joint again. A witness outside hears of the one service,
// and the wire of who speaks for an address.
func TestTwo(t *testing.T) {
	if *twoRounds == 0 {
		t.Log("not played: a round takes a minute; make lab-two")
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
	defer cancel()
	s := newTwoSite(ctx, t)
	dice := rand.New(rand.NewPCG(*twoSeed, 2))
	var took []time.Duration
	for n := range *twoRounds {
		victim, fault := pickOne(dice, "c1", "c2"), pickOne(dice, "cut", "hang", "power", "sight", "shutdown", "all", "word", "silent")
		if *twoFault != "" {
			fault = *twoFault
		}
		t.Run(fmt.Sprintf("round %d %s %s", n+1, fault, victim), func(t *testing.T) {
			if d := s.round(t, dice, victim, fault); d > 0 {
				took = append(took, d)
			}
		})
		if t.Failed() {
			break
		}
	}
	slices.Sort(took)
	if len(took) > 0 {
		t.Logf("%d rounds; until exactly one served: median %v, worst %v", len(took), took[len(took)/2], took[len(took)-1])
	}
	s.once(t)
}

func pickOne(dice *rand.Rand, from ...string) string { return from[dice.IntN(len(from))] }

// twoSite is two servers, c1 and c2.
type twoSite struct{ *lightSite }

func newTwoSite(ctx context.Context, t *testing.T) *twoSite {
	t.Helper()
	s := &twoSite{deployServers(ctx, t, "two", SiteConfig{Timing: *twoTiming, Pair: true})}
	s.await(t, "everything in service", s.joint)
	s.generations(t)
	return s
}

// joint says whether all is in order, and the two have agreed on who is first.
func (s *twoSite) joint(st api.Status) bool {
	boots := map[string]string{}
	for _, m := range s.lab.Hosts {
		root, err := s.lab.HostPath(m.Name)
		if err != nil {
			return false
		}
		var run struct {
			Boot  string
			Alone bool
			Pair  fleet.Pair
		}
		if err := readJSON(root+"/run/mainstay/pair.json", &run); err != nil || run.Alone || run.Pair.First == "" || run.Pair.Boots[m.Name] != run.Boot {
			return false
		}
		boots[m.Name] = run.Boot
	}
	return len(boots) == 2 && s.settled(st)
}

// round is one fault and what follows from it. It returns how long it took until exactly
// one served; 0: both stayed.
func (s *twoSite) round(t *testing.T, dice *rand.Rand, victim, fault string) time.Duration {
	holder := pickOne(dice, "c1", "c2")
	if h := s.holding(t, "service/solo"); h.Host != holder {
		s.run(t, s.other(""), "mainstay", "move", "solo", holder, "--wait", "2m")
	}
	s.lasts(time.Duration(dice.IntN(4000)) * time.Millisecond)
	partner := map[string]string{"c1": "c2", "c2": "c1"}[victim]
	offs, stood := s.offs(t, "c1")+s.offs(t, "c2"), s.holding(t, "address/internal").Why
	from := time.Now()
	begun := from
	switch fault {
	case "shutdown": // in good order: nobody is fenced
		s.run(t, victim, "systemctl", "--no-block", "poweroff")
	case "all": // and one comes back before the other: it cannot know whose store is the newer
		s.deed(t)(s.lab.PowerOff(s.ctx, victim))
		s.deed(t)(s.lab.PowerOff(s.ctx, partner))
		s.deed(t)(s.lab.Start(s.ctx, partner))
		s.waitsForWord(t, partner, "")
		begun = time.Now()
		s.deed(t)(s.lab.Start(s.ctx, victim))
		s.awaitFrom(t, partner, "the two joint again", s.joint)
		took := time.Since(begun).Round(100 * time.Millisecond)
		t.Logf("all lost power; joint %v after %s had it again", took, victim)
		return took
	case "word": // its BMC dies with it: only a person knows that it is off
		s.deed(t)(s.lab.Kill(s.ctx, victim))
		s.waitsForWord(t, partner, holder)
		s.run(t, partner, "systemctl", "stop", "mainstay-quorum")
		s.run(t, partner, "mainstay", "recover", "quorum", "--the-others-are-gone", "its cord is in my hand")
		s.run(t, partner, "systemctl", "start", "mainstay-quorum")
		s.run(t, partner, "systemctl", "reload", "mainstay")
		begun = time.Now()
	case "cut":
		s.deed(t)(s.lab.Cut(s.ctx, Cut{Host: victim, Network: All, Direction: pickDirection(dice)}))
	case "hang":
		s.deed(t)(s.lab.Hang(s.ctx, victim, All))
	case "power":
		s.deed(t)(s.lab.PowerOff(s.ctx, victim))
	case "silent": // the BMCs are reached
		if !s.silent(t, dice, victim) {
			s.again(t, partner, begun)
			return 0
		}
		begun = time.Now()
	case "sight": // both live, and each hears the rest of the world
		s.deed(t)(s.lab.Cut(s.ctx, Cut{Host: "c1", Network: All, Direction: Both, Peer: "c2"}))
	}
	var serves string
	err := until(s.ctx, siteBound, func() error {
		all := s.serving(t)
		if len(all) != 1 || fault != "sight" && all[0] == victim { // one that shuts down serves for a moment yet
			return fmt.Errorf("serving: %v", all)
		}
		serves = all[0]
		if fault != "shutdown" && !s.without(t, serves) {
			return fmt.Errorf("%s has not noticed yet", serves)
		}
		return nil
	})
	if err != nil {
		s.tell(t)
		t.Fatal(err)
	}
	took := time.Since(begun).Round(100 * time.Millisecond)
	t.Logf("%s %s while %s held the service: %s serves after %v", fault, victim, holder, serves, took)
	if fault == "shutdown" {
		s.shut(t, victim, offs)
		// It was off by then.
		if h := s.holding(t, "address/internal"); h.Why != stood && strings.Contains(h.Why, "was ordered off") {
			t.Errorf("a shutdown in good order, and %s was to be fenced: %s", victim, h.Why)
		}
	}
	s.again(t, serves, from)
	return took
}

// shut waits until a host that shuts down in good order is off, and sees that no BMC was
// told to switch anything off since there were so many offs.
func (s *twoSite) shut(t *testing.T, host string, offs int) {
	t.Helper()
	err := until(s.ctx, siteBound, func() error {
		on, err := s.lab.Powered(host)
		if err == nil && on {
			err = fmt.Errorf("%s is on", host)
		}
		return err
	})
	if err != nil {
		s.tell(t)
		t.Fatal(err)
	}
	if now := s.offs(t, "c1") + s.offs(t, "c2"); now != offs {
		s.tell(t)
		t.Errorf("a shutdown in good order, and a BMC switched off %d times", now-offs)
	}
}

// again mends all, and waits until the two are joint again, as one of them says. Since
// then no two may have spoken for one address.
func (s *twoSite) again(t *testing.T, by string, begun time.Time) {
	t.Helper()
	s.deed(t)(s.lab.Heal(s.ctx, "c1", All))
	s.deed(t)(s.lab.Heal(s.ctx, "c2", All))
	for _, m := range s.lab.Hosts { // after three fences within an hour one stays off for a person
		s.deed(t)(s.lab.Start(s.ctx, m.Name))
	}
	s.awaitFrom(t, by, "the two joint again", s.joint)
	for _, o := range Overlaps(s.wire.Claims(begun)) {
		if o.Lasted > wireBound {
			t.Errorf("%s and %s both spoke for %s for %v", o.Hosts[0], o.Hosts[1], o.Address, o.Lasted)
		}
	}
}

// waitsForWord sees that a host alone serves nothing and starts nothing, and says which
// command a person may give. What was running there runs on.
func (s *twoSite) waitsForWord(t *testing.T, host, holder string) {
	t.Helper()
	var out string
	err := until(s.ctx, siteBound, func() error {
		// Its exit code says that all is not well; and what it says besides.
		if out, _ = s.lab.Run(s.ctx, host, "mainstay", "status"); !strings.Contains(out, "mainstay recover quorum") {
			return fmt.Errorf("it does not say what a person may do:\n%s", out)
		}
		return nil
	})
	if err != nil {
		s.tell(t)
		t.Fatal(err)
	}
	from := time.Now()
	s.lasts(10 * time.Second)
	for _, c := range s.wire.Claims(from) {
		t.Errorf("%s spoke for %s, and knows nothing of the other", c.Host, c.Address)
		break
	}
	if out, err := s.lab.Run(s.ctx, host, "systemctl", "is-active", "solo.service"); err == nil && holder != host {
		t.Errorf("%s started the service, and knows nothing of the other: %s", host, out)
	}
}

func pickDirection(dice *rand.Rand) Direction {
	return []Direction{Both, Both, Link}[dice.IntN(3)]
}

// serving lists the hosts that have power and say of themselves that they lead alone and
// that everything works there.
func (s *twoSite) serving(t *testing.T) (out []string) {
	t.Helper()
	for _, m := range s.lab.Hosts {
		if on, err := s.lab.Powered(m.Name); err != nil || !on {
			continue
		}
		st, err := s.lab.SiteStatus(s.ctx, m.Name)
		if err != nil || st.By != m.Name || st.View != "leader" || len(st.Holdings) == 0 {
			continue
		}
		if !slices.ContainsFunc(st.Holdings, func(h api.HoldingStatus) bool { return h.Host != m.Name || !h.Works }) {
			out = append(out, m.Name)
		}
	}
	return out
}

// without says whether a host knows that its partner is lost.
func (s *twoSite) without(t *testing.T, host string) bool {
	t.Helper()
	st, err := s.lab.SiteStatus(s.ctx, host)
	return err == nil && slices.ContainsFunc(st.Hosts, func(h api.HostStatus) bool {
		return h.Name != host && (h.Condition == fleet.Dead || h.Condition == fleet.Offline || h.Barred != "")
	})
}

// tell logs what the two said last, one that has no power too.
func (s *twoSite) tell(t *testing.T) {
	for _, m := range s.lab.Hosts {
		text, err := s.lab.Console(m.Name, 150)
		t.Logf("%s (%v):\n%s", m.Name, err, text)
	}
}
