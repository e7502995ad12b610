package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
)

// failing is a host on which a claim fails although the address is there.
type failing struct {
	Addresses
	word     func() uint64 // the generation given up
	release  error
	foreign  map[netip.Addr]string
	released int
	early    bool
}

func (f *failing) Foreign(context.Context) (map[netip.Addr]string, error) { return f.foreign, nil }

func (f *failing) Others(context.Context, netip.Addr) ([]net.HardwareAddr, error) { return nil, nil }

func (f *failing) Claim(context.Context, netip.Addr, fleet.Moment) (time.Duration, error) {
	return 0, errors.New("netlink: no buffer space")
}

func (f *failing) Release(context.Context, netip.Addr) error {
	f.released++
	f.early = f.early || f.word() != 0
	return f.release
}

// TestForget: a claim that is ordered once more, and fails, of an address that the host
// speaks for. The word that it is given up comes when it is surely silent, or never.
func TestForget(t *testing.T) {
	const thing, generation = "address/internal", 3
	addr := netip.MustParseAddr("10.0.0.200")
	spec := fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Hosts: []fleet.Host{{Name: "c1", Voter: true}}, Addresses: []fleet.Address{{Name: "internal", Addr: addr}}}
	for _, c := range []struct {
		name           string
		speaks         bool
		release        error
		foreign        map[netip.Addr]string
		released, word int
	}{
		{"it speaks", true, nil, nil, 1, generation},
		{"it speaks and cannot be silenced", true, errors.New("netlink: busy"), nil, 1, 0},
		{"another program has it there, and the guard is shut", true, errors.New("foreign"), map[netip.Addr]string{addr: "permanent"}, 1, generation},
		{"it never spoke", false, nil, nil, 0, generation},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &failing{release: c.release, foreign: c.foreign}
			now := fleet.Moment(time.Hour)
			a, err := New(Config{
				Host: "c1", Boot: "b", Spec: spec, Run: t.TempDir(), Addresses: f, Log: slog.New(slog.DiscardHandler),
				Now: func() fleet.Moment { return now }, Wall: time.Now,
			})
			if err != nil {
				t.Fatal(err)
			}
			f.word = func() uint64 { return a.hand.Memory().GivenUp[thing] }
			a.hand.Ack("c1", a.hand.Stint(), now-1, now)
			if c.speaks {
				a.speaking["internal"] = generation
			}
			if _, refused := a.hand.Order(fleet.Order{Verb: fleet.VerbClaim, Thing: thing, Generation: generation, Boot: "b", Stint: a.hand.Stint().N}, now); refused != nil {
				t.Fatal(refused.Why)
			}
			a.do(t.Context(), deed{Deed: plan.Deed{Do: plan.DoClaim, Thing: thing, Generation: generation}})
			if f.early || f.released != c.released || f.word() != uint64(c.word) {
				t.Errorf("released %d times, want %d; given up %d, want %d; too early: %v", f.released, c.released, f.word(), c.word, f.early)
			}
		})
	}
}
