package plan

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

// TestMoves: a wish to move stands while its host is away, and keeps nothing else from being
// done; it is given up when it cannot come true any more, or a person swore that host off.
func TestMoves(t *testing.T) {
	wish := func(w *fleet.World, thing, to string) {
		w.State.Wishes["m"] = fleet.Wish{ID: "m", Verb: "move", Thing: thing, To: to, By: "ann", At: w.Wall}
	}
	gone := func(w *fleet.World, kind string) {
		silent(*w, "c3", time.Hour)
		w.State.Proofs["c3"] = fleet.Proof{Host: "c3", Boot: "b", Kind: kind, By: "eve", Evidence: "eve swore that c3 is off: it burnt"}
	}
	for _, c := range []struct {
		name   string
		change func(w *fleet.World)
		want   []string
		says   string // in a record's text, or a wait
	}{
		{"an address waits for a host that is silent, and says how to take it back", func(w *fleet.World) {
			hush(*w, "c3")
			wish(w, "address/internal", "c3")
		}, []string{"address/internal waits"}, "mainstay move internal --cancel"},
		{"so does a service", func(w *fleet.World) {
			hush(*w, "c3")
			wish(w, "service/s", "c3")
		}, []string{"service/s waits"}, "mainstay move s --cancel"},
		{"and for one that was fenced, which is turned on again", func(w *fleet.World) {
			gone(w, "fence")
			wish(w, "address/internal", "c3")
		}, []string{"address/internal waits"}, ""},
		{"meanwhile it leaves a host in maintenance all the same", func(w *fleet.World) {
			hush(*w, "c3")
			wish(w, "address/internal", "c3")
			w.State.Wishes["maintenance-c1"] = fleet.Wish{ID: "maintenance-c1", Verb: "maintenance", Host: "c1"}
		}, []string{"c1: release address/internal", "address/internal waits"}, ""},
		{"a service too", func(w *fleet.World) {
			hush(*w, "c3")
			wish(w, "service/s", "c3")
			w.State.Wishes["maintenance-c2"] = fleet.Wish{ID: "maintenance-c2", Verb: "maintenance", Host: "c2"}
		}, []string{"c2: stop service/s", "service/s waits"}, ""},
		{"a host that a person swore off is not waited for", func(w *fleet.World) {
			gone(w, "oath")
			wish(w, "address/internal", "c3")
		}, []string{"-wish/m"}, "address/internal cannot be moved to c3: eve swore that c3 is off: it burnt. When it is back, wish it again"},
		{"nor by a service", func(w *fleet.World) {
			gone(w, "oath")
			wish(w, "service/s", "c3")
		}, []string{"-wish/m"}, "service/s cannot be moved to c3: eve swore"},
		{"when it is back it is waited for until it is admitted", func(w *fleet.World) {
			gone(w, "oath")
			w.State.Members["c3"] = fleet.Member{Host: "c3", Admitted: "b", Barred: "sworn off"}
			silent(*w, "c3", 0)
			reboot(*w, "c3", "x")
			wish(w, "address/internal", "c3")
		}, []string{"member/c3", "proof/c3", "address/internal waits"}, ""},
		{"a host that is not in the site's file any more", func(w *fleet.World) { wish(w, "address/internal", "c4") }, []string{"-wish/m"}, "the site has no host c4 any more"},
		{"an address that is not", func(w *fleet.World) { wish(w, "address/old", "c3") }, []string{"-wish/m"}, "the site has no address/old any more"},
		{"a service that is not", func(w *fleet.World) { wish(w, "service/old", "c3") }, []string{"-wish/m"}, "the site has no service/old any more"},
		{"a host that may not carry it any more", func(w *fleet.World) {
			w.Spec.Hosts[2].Roles = []string{"arbiter"}
			wish(w, "address/internal", "c3")
		}, []string{"-wish/m"}, "c3 may not carry it any more"},
		{"a host on which it may not live any more", func(w *fleet.World) {
			w.Spec.Hosts[2].Roles = []string{"arbiter"}
			wish(w, "service/s", "c3")
		}, []string{"-wish/m"}, "it may not live on c3 any more"},
		{"a service of which each host has its own now", func(w *fleet.World) {
			w.Spec.Services[0].Mode = fleet.ActiveActive
			delete(w.State.Holdings, "service/s")
			for _, host := range []string{"c1", "c2", "c3"} {
				w.Reports[host].Services["s"] = fleet.ServiceState{Phase: fleet.Running, Ready: true}
			}
			wish(w, "service/s", "c3")
		}, []string{"-wish/m"}, "runs on every one of its hosts"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := small()
			c.change(&w)
			_, p := Turn(w)
			if diff := cmp.Diff(c.want, brief(p)); diff != "" {
				t.Errorf("%s\n%+v", diff, p)
			}
			if text := fmt.Sprint(p.Waits); !strings.Contains(text, c.says) {
				for _, r := range p.Records {
					text += "\n" + r.Text
				}
				if !strings.Contains(text, c.says) {
					t.Errorf("nothing says %q:\n%s", c.says, text)
				}
			}
		})
	}
}
