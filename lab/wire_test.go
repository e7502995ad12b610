package lab

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestOverlaps: a move is no overlap, two who answer the same questions are one.
func TestOverlaps(t *testing.T) {
	addr := netip.MustParseAddr("10.77.0.100")
	zero := time.Unix(0, 0)
	at := func(ms int) time.Time { return zero.Add(time.Duration(ms) * time.Millisecond) }
	speak := func(host string, from, till int) []Claim {
		var out []Claim
		for ms := from; ms <= till; ms += 20 {
			out = append(out, Claim{At: at(ms), Address: addr, Host: host})
		}
		return out
	}
	join := func(parts ...[]Claim) []Claim {
		var out []Claim
		for ms := range 2000 {
			for _, p := range parts {
				for _, c := range p {
					if c.At.Equal(at(ms)) {
						out = append(out, c)
					}
				}
			}
		}
		return out
	}
	for _, x := range []struct {
		name   string
		claims []Claim
		want   []Overlap
	}{
		{"one host", speak("c1", 0, 1000), nil},
		{"a move", join(speak("c1", 0, 400), speak("c2", 410, 1000)), nil},
		{"a move and back", join(speak("c1", 0, 400), speak("c2", 420, 800), speak("c1", 810, 1000)), nil},
		{"two at once", join(speak("c1", 0, 600), speak("c2", 410, 1000)), []Overlap{{addr, [2]string{"c1", "c2"}, at(410), 190 * time.Millisecond}}},
		{"one frame too much", join(speak("c1", 0, 1000), speak("c2", 410, 410)), []Overlap{{addr, [2]string{"c1", "c2"}, at(410), 0}}},
		{"an old holder awakes", join(speak("c1", 0, 400), speak("c2", 700, 1400), speak("c1", 1000, 1020)), []Overlap{{addr, [2]string{"c2", "c1"}, at(1000), 20 * time.Millisecond}}},
	} {
		if diff := cmp.Diff(x.want, Overlaps(x.claims), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s: %s", x.name, diff)
		}
	}
}
