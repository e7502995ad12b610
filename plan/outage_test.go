package plan

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

const (
	one, two = "5d0e1111", "5d0e2222" // histories
	viewABC  = "3 a 7"
)

// lost is a site of which all three members of a database have just crashed; each
// case changes one thing. It knows where each stands, and none can go on by itself.
func lost() fleet.World {
	w := small()
	w.Spec.Services = append(w.Spec.Services, fleet.Service{Name: "db", Kind: "galera", Mode: fleet.ActiveActive, Units: []string{"mariadb.service"},
		Roles: []string{"controller"}, Restarts: fleet.Restarts{Count: 60, Within: time.Minute}})
	w.State.Bootstraps, w.Told = map[string]fleet.Bootstrap{}, map[string]fleet.Moment{}
	for i, host := range []string{"c1", "c2", "c3"} {
		w.Told[host] = w.Now
		says(w, host, func(s *fleet.ServiceState) {
			*s = fleet.ServiceState{Phase: fleet.Stopped, Replica: fleet.Replica{UUID: one, Seqno: int64(100 + i), Known: true}}
		})
	}
	return w
}

// says changes what a host says of its member.
func says(w fleet.World, host string, f func(s *fleet.ServiceState)) {
	s := w.Reports[host].Services["db"]
	f(&s)
	w.Reports[host].Services["db"] = s
}

// viewed lets members have last seen exactly each other, and know no position.
func viewed(w fleet.World, hosts ...string) {
	for _, host := range hosts {
		says(w, host, func(s *fleet.ServiceState) {
			s.Replica = fleet.Replica{UUID: one, View: viewABC, Seen: strings.Join(hosts, ","), Me: host}
		})
	}
}

func begun(w fleet.World, host string, generation uint64) {
	w.State.Bootstraps["db"] = fleet.Bootstrap{Service: "db", Host: host, Boot: "b", Generation: generation, At: w.Wall}
}

func dead(w fleet.World, host string) {
	hush(w, host)
	w.State.Proofs[host] = fleet.Proof{Host: host, Boot: "b", Kind: "fence", Evidence: "its BMC said off twice"}
}

func waive(w fleet.World, host string) {
	w.State.Wishes["without-db-"+host] = fleet.Wish{ID: "without-db-" + host, Verb: "without", Thing: "service/db", Host: host, By: "ann"}
}

// TestOutage says for each state of three members what is ordered, recorded and waited
// for: at most one begins, never one that lacks what another has, and none at all while
// somebody may be primary or a person has to decide.
func TestOutage(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(w fleet.World)
		want string // orders "VERB HOST", a record as "=HOST/GENERATION", in their order
		wait string
		help string
	}{
		{"the newest begins", func(fleet.World) {}, "=c3/1", "", ""},
		{"equal ones: the first", func(w fleet.World) {
			says(w, "c1", func(s *fleet.ServiceState) { s.Replica.Seqno = 102 })
		}, "=c1/1", "", ""},
		{"recorded, so ordered", func(w fleet.World) { begun(w, "c3", 4) }, "bootstrap c3", "c3 to begin", ""},
		{"its try is on", func(w fleet.World) {
			begun(w, "c3", 4)
			says(w, "c3", func(s *fleet.ServiceState) { *s = fleet.ServiceState{Phase: fleet.Starting} })
		}, "", "c3 to have begun", ""},
		{"its try failed", func(w fleet.World) {
			begun(w, "c3", 4)
			given(w, "c3", 4)
		}, "=c3/5", "", ""},
		{"its right is used up, and it is on its way", func(w fleet.World) {
			begun(w, "c3", 4)
			given(w, "c3", 4)
			says(w, "c3", func(s *fleet.ServiceState) { *s = fleet.ServiceState{Phase: fleet.Starting} })
		}, "", "c3 to have begun", ""},
		{"its boot is gone", func(w fleet.World) {
			begun(w, "c2", 4)
			s := w.State.Bootstraps["db"]
			s.Boot = "earlier"
			w.State.Bootstraps["db"] = s
		}, "=c3/5", "", ""},
		{"the recorded one is silent", func(w fleet.World) {
			begun(w, "c3", 4)
			silent(w, "c3", time.Second)
		}, "join-like", "word from c3", "recover oath c3"},
		{"a record of a restored store that others have overtaken", func(w fleet.World) { begun(w, "c1", 4) }, "position c1", "give its right to begin back", ""},
		{"a generation above what any host gave up", func(w fleet.World) { given(w, "c1", 9) }, "=c3/10", "", ""},
		{"begun, the others join one by one", func(w fleet.World) {
			begun(w, "c3", 4)
			says(w, "c3", func(s *fleet.ServiceState) {
				*s = fleet.ServiceState{Phase: fleet.Running, Ready: true, Replica: fleet.Replica{UUID: one, Part: fleet.PartSynced}}
			})
			given(w, "c3", 4)
		}, "=/4 join c1", "", ""},
		{"others have begun, and the one with the right has not used it", func(w fleet.World) {
			begun(w, "c2", 4)
			says(w, "c3", func(s *fleet.ServiceState) {
				*s = fleet.ServiceState{Phase: fleet.Running, Replica: fleet.Replica{UUID: one, Part: fleet.PartSynced}}
			})
		}, "position c2 join c1", "", ""},
		{"it was primary when it last spoke, long ago", func(w fleet.World) {
			says(w, "c3", func(s *fleet.ServiceState) {
				*s = fleet.ServiceState{Phase: fleet.Running, Replica: fleet.Replica{UUID: one, Part: fleet.PartSynced}}
			})
			w.Told["c3"] = w.Now.Add(-toldFor - time.Second)
		}, "join-like", "word from c3", ""},
		{"G5 the next one waits for the first", func(w fleet.World) {
			says(w, "c3", func(s *fleet.ServiceState) {
				*s = fleet.ServiceState{Phase: fleet.Running, Replica: fleet.Replica{UUID: one, Part: fleet.PartDonor}}
			})
			says(w, "c1", func(s *fleet.ServiceState) { s.Phase = fleet.Starting })
		}, "", "c1 to have joined", ""},
		{"G5 the first one has been ordered, and has not said so", func(w fleet.World) {
			says(w, "c1", func(s *fleet.ServiceState) {
				*s = fleet.ServiceState{Phase: fleet.Running, Replica: fleet.Replica{UUID: one, Part: fleet.PartSynced}}
			})
			w.Flights["join/db/c3/0"] = fleet.Flight{Order: fleet.Order{Verb: VerbJoin, Thing: "service/db", To: "c3", Boot: "b"}, Sent: w.Now, Tries: 1}
		}, "", "", ""},
		{"all that last saw each other are there", func(w fleet.World) { viewed(w, "c1", "c2", "c3") }, "start c1 start c2 start c3 =/0", "go on together", ""},
		{"two of them were left at the end", func(w fleet.World) { viewed(w, "c2", "c3") }, "position c2 position c3", "where its data stand", ""},
		{"two of them think so, and one is silent", func(w fleet.World) {
			viewed(w, "c1", "c2")
			silent(w, "c3", time.Second)
		}, "start c3", "word from c3", ""}, // which can only join
		{"one is missing of those", func(w fleet.World) {
			viewed(w, "c1", "c2", "c3")
			says(w, "c2", func(s *fleet.ServiceState) { s.Replica.View, s.Replica.Seen, s.Replica.Me = "", "", "" })
		}, "position c1 position c2 position c3", "where its data stand", "--without c1"},
		{"they have had their time", func(w fleet.World) {
			viewed(w, "c1", "c2", "c3")
			w.State.Bootstraps["db"] = fleet.Bootstrap{Service: "db", Since: w.Wall.Add(-together)}
		}, "position c1 position c2 position c3", "", ""},
		{"disarmed", func(w fleet.World) { w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm"} }, "", "armed again", "disarm off"},
		{"G2 the empty one is not asked", func(w fleet.World) {
			says(w, "c3", func(s *fleet.ServiceState) { s.Replica = fleet.Replica{Empty: true, Seqno: 999} })
		}, "=c2/1", "", ""},
		{"one could go on by itself beside them", func(w fleet.World) {
			says(w, "c2", func(s *fleet.ServiceState) { s.Replica.View, s.Replica.Seen, s.Replica.Me = viewABC, "c2,gone", "c2" })
		}, "position c2", "", ""},
		{"all are empty", func(w fleet.World) {
			for _, host := range []string{"c1", "c2", "c3"} {
				says(w, host, func(s *fleet.ServiceState) { s.Replica = fleet.Replica{Empty: true} })
			}
		}, "start c1 start c2 start c3", "a person to found", "galera_new_cluster"},
		{"somebody founds it", func(w fleet.World) {
			for _, host := range []string{"c2", "c3"} {
				says(w, host, func(s *fleet.ServiceState) { s.Replica = fleet.Replica{Empty: true} })
			}
			says(w, "c1", func(s *fleet.ServiceState) {
				*s = fleet.ServiceState{Phase: fleet.Starting, Replica: fleet.Replica{UUID: one}}
			})
		}, "=/0", "it alone has data", ""},
		{"two histories", func(w fleet.World) { says(w, "c2", func(s *fleet.ServiceState) { s.Replica.UUID = two }) }, "", "different histories", "--without HOST"},
		{"two histories, and a person's word", func(w fleet.World) {
			says(w, "c2", func(s *fleet.ServiceState) { s.Replica.UUID = two })
			waive(w, "c2")
		}, "=c3/1", "", ""},
		{"G2b one cannot tell", func(w fleet.World) {
			says(w, "c2", func(s *fleet.ServiceState) { s.Replica.Known, s.Replica.Seqno = false, 0 })
		}, "position c2", "c2 to say where its data stand", "--without c2"},
		{"it is given up, and asked all the same", func(w fleet.World) {
			says(w, "c2", func(s *fleet.ServiceState) { s.Replica.Known, s.Replica.Seqno = false, 0 })
			waive(w, "c2")
		}, "position c2", "c2 to say where its data stand", ""},
		{"it is given up, and could not tell", func(w fleet.World) {
			says(w, "c2", func(s *fleet.ServiceState) { s.Replica.Known, s.Replica.Seqno = false, 0 })
			waive(w, "c2")
			w.Flights["position/db/c2/b/0"] = fleet.Flight{Effect: &fleet.Effect{Outcome: fleet.Broken, Why: "corrupt page"}, Arrived: w.Now, Tries: 1}
		}, "=c3/1", "", ""},
		{"it is given up, and has the newest after all", func(w fleet.World) {
			says(w, "c2", func(s *fleet.ServiceState) { s.Replica.Seqno = 500 })
			waive(w, "c2")
		}, "=c2/1", "", ""},
		{"one has no unit", func(w fleet.World) {
			says(w, "c2", func(s *fleet.ServiceState) { *s = fleet.ServiceState{Phase: fleet.Absent} })
		}, "", "c2 to say where its data stand: it has no unit", "--without c2"},
		{"G3 one is silent", func(w fleet.World) { silent(w, "c3", time.Second) }, "join-like", "word from c3: it may be in a primary component", "recover oath c3"},
		{"G3 a person gives its data up, but it may run", func(w fleet.World) {
			silent(w, "c3", time.Second)
			waive(w, "c3")
		}, "join-like", "word from c3", "recover oath c3"},
		{"one has outlived its watchdog, which says nothing of a member", func(w fleet.World) {
			dead(w, "c3")
			p := w.State.Proofs["c3"]
			p.Kind = "watchdog"
			w.State.Proofs["c3"] = p
		}, "join-like", "word from c3: it may be in a primary component", "recover oath c3"},
		{"one is proved off, and may have the newest data", func(w fleet.World) { dead(w, "c3") }, "join-like", "c3, which is off", "recover service db --without c3"},
		{"it is, and a person gives its data up", func(w fleet.World) {
			dead(w, "c3")
			waive(w, "c3")
		}, "=c2/1", "", ""},
		{"one runs and does not answer", func(w fleet.World) {
			says(w, "c3", func(s *fleet.ServiceState) { *s = fleet.ServiceState{Phase: fleet.Running} })
		}, "join-like", "word from c3", "kill -s KILL mariadb.service"},
		{"one's state is unknown", func(w fleet.World) {
			says(w, "c3", func(s *fleet.ServiceState) { *s = fleet.ServiceState{Phase: fleet.Unknown, Why: "no bus"} })
		}, "join-like", "word from c3", "no bus"},
		{"one runs apart from the others", func(w fleet.World) {
			says(w, "c3", func(s *fleet.ServiceState) {
				*s = fleet.ServiceState{Phase: fleet.Running, Replica: fleet.Replica{UUID: one, Part: fleet.PartApart}}
			})
		}, "position c3", "", ""},
		{"two boots of one speak", func(w fleet.World) {
			h := w.Heard["c3"]
			h.Rival = "another"
			w.Heard["c3"] = h
		}, "join-like", "word from c3", ""},
		{"one has not joined the site", func(w fleet.World) { delete(w.State.Members, "c3") }, "join-like", "word from c3", ""},
		{"one has not spoken in this epoch", func(w fleet.World) {
			r := w.Reports["c2"]
			r.Epoch = w.Epoch - 1
			w.Reports["c2"] = r
		}, "inventory c2", "in this leader's epoch", ""},
		{"the newest is in maintenance", func(w fleet.World) {
			w.State.Wishes["maintenance-c3"] = fleet.Wish{ID: "maintenance-c3", Verb: "maintenance", Host: "c3"}
		}, "", "c3, which has the newest data and is in maintenance", "maintenance c3 off"},
		{"it was tried too often", func(w fleet.World) {
			says(w, "c3", func(s *fleet.ServiceState) { s.Restarts = 60 })
		}, "", "restarted 60 times", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := lost()
			tc.set(w)
			_, p := Turn(w)
			var got []string
			for _, o := range p.Orders {
				if !strings.HasSuffix(o.Thing, "/db") && o.Verb != VerbInventory {
					continue
				}
				if tc.want == "join-like" && (o.Verb == VerbBootstrap || o.Verb == VerbPosition) {
					t.Errorf("%s %s while somebody may be primary", o.Verb, o.To)
				}
				got = append(got, fmt.Sprintf("%s %s", o.Verb, o.To))
			}
			for _, r := range p.Records {
				if r.Key == "bootstrap/db" {
					var b fleet.Bootstrap
					if err := json.Unmarshal(r.Value, &b); err != nil {
						t.Fatal(err)
					}
					x := fmt.Sprintf("=%s/%d", b.Host, b.Generation)
					if b.Host == "" && len(got) > 0 && strings.HasPrefix(got[0], "join") {
						got = append([]string{x}, got...)
						continue
					}
					got = append(got, x)
				}
			}
			if s := strings.Join(got, " "); tc.want != "join-like" && s != tc.want || tc.want == "join-like" && strings.Contains(s, "=") {
				t.Errorf("got %q, want %q\n%v", s, tc.want, brief(p))
			}
			var wait fleet.Wait
			for _, x := range p.Waits {
				if x.About == "service/db" {
					wait = x
				}
			}
			if !strings.Contains(wait.For, tc.wait) || !strings.Contains(wait.Help, tc.help) {
				t.Errorf("waits for %q (%q), want %q (%q)", wait.For, wait.Help, tc.wait, tc.help)
			}
		})
	}
}

// given lets a host have given up the right to begin.
func given(w fleet.World, host string, generation uint64) {
	r := w.Reports[host]
	r.GivenUp = map[string]uint64{"bootstrap/db": generation}
	w.Reports[host] = r
}

// TestOutageWaiverEnds: once the cluster lives, no word of a person that would cost data
// at the next outage is left.
func TestOutageWaiverEnds(t *testing.T) {
	w := lost()
	waive(w, "c2")
	says(w, "c3", func(s *fleet.ServiceState) {
		*s = fleet.ServiceState{Phase: fleet.Running, Replica: fleet.Replica{UUID: one, Part: fleet.PartSynced}}
	})
	_, p := Turn(w)
	for _, r := range p.Records {
		if r.Key == "wish/without-db-c2" && r.Value == nil {
			return
		}
	}
	t.Errorf("the word stands: %v", brief(p))
}

// TestBootstrapIsGoodForOnce: an agent refuses a right that it has used.
func TestBootstrapIsGoodForOnce(t *testing.T) {
	h, _ := NewHand("c1", "b", Memory{}, []string{"c1", "c2", "c3"}, room, 1000)
	o := fleet.Order{Verb: VerbBootstrap, Thing: "bootstrap/db", Generation: 4, Boot: "b", Stint: 1, Epoch: 3}
	for _, ear := range []string{"c1", "c2"} {
		h.Ack(ear, h.Stint(), 1000, 1001)
	}
	if why := h.Refuses(o, 1001); why != "" {
		t.Fatal(why)
	}
	h.Spent(o.Thing, o.Generation)
	if why := h.Refuses(o, 1001); !strings.Contains(why, "given up") {
		t.Errorf("the same right is taken again: %q", why)
	}
	o.Generation, o.Boot = 5, "earlier"
	if why := h.Refuses(o, 1001); !strings.Contains(why, "boot") {
		t.Errorf("the right of another boot is taken: %q", why)
	}
	o.Boot, o.Stint = "b", 0
	if why := h.Refuses(o, 1001); !strings.Contains(why, "stint") {
		t.Errorf("the right of another stint is taken: %q", why)
	}
}
