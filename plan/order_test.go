package plan

import (
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// owned gives n1, which is dead, more servers, each with what its owner says of it:
// "id project key=value ...".
func owned(w fleet.World, lines ...string) {
	delete(w.Cloud.Servers, "vm")
	for i, line := range lines {
		words := strings.Fields(line)
		s := fleet.Server{ID: words[0], Project: words[1], Host: "n1", State: fleet.ServerActive, RAM: 64, Created: string(rune('a' + i)), Metadata: map[string]string{}}
		for _, pair := range words[2:] {
			key, value, _ := strings.Cut(pair, "=")
			s.Metadata["HA_"+key] = value
		}
		w.Cloud.Servers[s.ID] = s
	}
}

// asked lists the servers that a plan asks for, in its order.
func asked(p fleet.Plan) (out []string) {
	for _, r := range p.Records {
		if id, ok := strings.CutPrefix(r.Key, "evacuation/"); ok {
			out = append(out, id)
		}
	}
	return out
}

// there ends the evacuation of a server of owned's, with or without its gate.
func there(w fleet.World, id string, gated bool) fleet.Evacuation {
	s := w.Cloud.Servers[id]
	e := fleet.Evacuation{Server: id, From: "n1", Boot: "b", Was: fleet.ServerActive, Try: 1, To: "n2", Epoch: w.Epoch, At: w.Wall.Add(-time.Minute), Ended: "on n2", Project: s.Project, Group: groupOf(s)}
	if gated {
		e.Gate = &fleet.Gate{Server: id, Check: fleet.Check{Kind: "tcp", Port: 5432}, Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.7")}}
	}
	w.State.Evacuations[id] = e
	s.Host = "n2"
	w.Cloud.Servers[id] = s
	return e
}

// byAgent has db on n2, whose gate is its guest agent.
func byAgent(w fleet.World, change func(*fleet.Guests)) {
	e := there(w, "db", false)
	e.Gate = &fleet.Gate{Server: "db", Check: fleet.Check{Kind: fleet.CheckAgent}}
	w.State.Evacuations["db"] = e
	r := w.Reports["n2"]
	r.Guests = fleet.Guests{Asked: true}
	change(&r.Guests)
	w.Reports["n2"] = r
}

func TestOrder(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(w *fleet.World)
		want   string // who is asked for, in order
		waits  string // a part of what is told
	}{
		{"each project's next in turn, its own by priority, then the oldest", func(w *fleet.World) {
			owned(*w, "a1 a", "a2 a Priority=7", "a3 a Priority=-1", "b1 b Priority=999", "b2 b")
		}, "a2 b1 a1 b2 a3", ""},
		{"Masakari's word goes before all", func(w *fleet.World) { owned(*w, "a1 a Priority=7", "a2 a Enabled=True") }, "a2 a1", ""},
		{"what is no number is told, and taken for not said", func(w *fleet.World) { owned(*w, "a1 a", "a2 a Priority=high") }, "a1 a2", `"high" is no whole number`},
		{"a group before those after it", func(w *fleet.World) { owned(*w, "app a After=db", "db a Group=db", "x a") }, "db x", "group db, which it comes after: db is on n1 yet"},
		{"another project's group of that name holds nobody up", func(w *fleet.World) { owned(*w, "app a After=db", "db b Group=db") }, "app db", ""},
		{"a group that was not lost holds nobody up", func(w *fleet.World) { owned(*w, "app a After=db,cache") }, "app", ""},
		{"one of it is on its way", func(w *fleet.World) {
			owned(*w, "app a After=db", "db a Group=db")
			e := there(*w, "db", false)
			e.Ended = ""
			w.State.Evacuations["db"] = e
			s := w.Cloud.Servers["db"]
			s.Host, s.Migration = "n1", fleet.Migration{ID: 3, Status: "accepted", To: "n2"}
			w.Cloud.Servers["db"] = s
		}, "", "db is on its way"},
		{"it is there, and has no gate", func(w *fleet.World) {
			owned(*w, "app a After=db", "db a Group=db")
			there(*w, "db", false)
		}, "app", ""},
		{"it is there, and its gate was not asked", func(w *fleet.World) {
			owned(*w, "app a After=db", "db a Group=db")
			there(*w, "db", true)
		}, "", "db is there, and not ready: not asked yet"},
		{"its gate refuses", func(w *fleet.World) {
			owned(*w, "app a After=db", "db a Group=db")
			there(*w, "db", true)
			w.Cloud.Gates = map[string]string{"db": "connection refused"}
		}, "", "connection refused"},
		{"its gate has been answered", func(w *fleet.World) {
			owned(*w, "app a After=db", "db a Group=db")
			e := there(*w, "db", true)
			w.State.Groups = map[string]fleet.RestartGroup{"a/db": {Project: "a", Name: "db", Since: w.Wall.Add(-time.Minute), Ready: []string{e.Key()}}}
		}, "app", ""},
		{"an answer of its former way is none", func(w *fleet.World) {
			owned(*w, "app a After=db", "db a Group=db")
			there(*w, "db", true)
			w.State.Groups = map[string]fleet.RestartGroup{"a/db": {Project: "a", Name: "db", Since: w.Wall.Add(-time.Minute), Ready: []string{"evacuate/db/before/1"}}}
		}, "", "not asked yet"},
		{"its guest agent is its gate, and answers", func(w *fleet.World) {
			owned(*w, "app a After=db", "db a Group=db")
			byAgent(*w, func(g *fleet.Guests) { g.Answering = []string{"x", "db"} })
			w.State.Groups = map[string]fleet.RestartGroup{"a/db": {Project: "a", Name: "db", Since: w.Wall.Add(-time.Minute)}}
		}, "app", ""},
		{"it does not yet", func(w *fleet.World) {
			owned(*w, "app a After=db", "db a Group=db")
			byAgent(*w, func(g *fleet.Guests) { g.Answering = []string{"x"} })
			w.State.Groups = map[string]fleet.RestartGroup{"a/db": {Project: "a", Name: "db", Since: w.Wall.Add(-time.Minute)}}
		}, "", "its guest agent does not answer on n2"},
		{"libvirt says nothing there: what it said is of before", func(w *fleet.World) {
			owned(*w, "app a After=db", "db a Group=db")
			byAgent(*w, func(g *fleet.Guests) { g.Answering, g.Unknown = []string{"db"}, "libvirt does not answer" })
		}, "", "db is there, and not ready: not asked yet"},
		{"it answers on another host", func(w *fleet.World) {
			owned(*w, "app a After=db", "db a Group=db")
			byAgent(*w, func(g *fleet.Guests) {})
			r := w.Reports["n3"]
			r.Guests = fleet.Guests{Asked: true, Answering: []string{"db"}}
			w.Reports["n3"] = r
		}, "", "its guest agent does not answer on n2"},
		{"which needs no address", func(w *fleet.World) { owned(*w, "db a Group=db Ready=agent") }, "db", ""},
		{"its time is over", func(w *fleet.World) {
			owned(*w, "app a After=db", "db a Group=db")
			there(*w, "db", true)
			w.State.Groups = map[string]fleet.RestartGroup{"a/db": {Project: "a", Name: "db", Since: w.Wall.Add(-time.Hour), Late: true}}
		}, "app", ""},
		{"a circle of two, and of one", func(w *fleet.World) {
			owned(*w, "a1 a Group=x After=y", "a2 a Group=y After=x", "a3 a Group=z After=z")
		}, "a1 a2 a3", "group y comes after x itself"},
		{"what comes after a circle waits for it", func(w *fleet.World) {
			owned(*w, "a1 a Group=x After=y", "a2 a Group=y After=x", "a3 a After=x")
		}, "a1 a2", "group x, which it comes after"},
		{"one that is left to its owner holds nobody up", func(w *fleet.World) { owned(*w, "app a After=db", "db a Group=db Enabled=false") }, "app", ""},
		{"another compute is lost, and nobody has seen what is on it", func(w *fleet.World) {
			owned(*w, "app a After=db", "x a")
			w.State.Intents["n3"] = fleet.Intent{Host: "n3", Boot: "b", Executor: "c1", Epoch: w.Epoch, At: w.Wall, Lasts: time.Minute}
		}, "x", "nobody has seen yet what is on n3"},
		{"and then nothing of the group is", func(w *fleet.World) {
			owned(*w, "app a After=db", "x a")
			w.State.Intents["n3"] = fleet.Intent{Host: "n3", Boot: "b", Executor: "c1", Epoch: w.Epoch, At: w.Wall, Lasts: time.Minute}
			w.Cloud.Looked["n3"] = w.Cloud.At
		}, "app x", ""},
		{"a gate that nobody may ask is told, and none", func(w *fleet.World) {
			owned(*w, "db a Group=db Ready=tcp:5432")
			s := w.Cloud.Servers["db"]
			s.Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.11")}
			w.Cloud.Servers["db"] = s
		}, "db", "is not asked, for none of its addresses is in a network of openstack/ready"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := computed()
			w.Spec.OpenStack.Ready = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
			c.change(&w)
			_, p := Turn(w)
			if got := strings.Join(asked(p), " "); got != c.want {
				t.Errorf("asked for %q, want %q; %+v", got, c.want, p.Waits)
			}
			for _, g := range p.Gates {
				if g.Check.Kind == fleet.CheckAgent {
					t.Errorf("the leader's host is to ask a guest agent: %+v", g)
				}
			}
			told := false
			for _, x := range p.Waits {
				told = told || c.waits != "" && strings.HasPrefix(x.About, "server/") && strings.Contains(x.For, c.waits)
				if c.waits == "" && strings.HasPrefix(x.About, "server/") {
					t.Errorf("told: %+v", x)
				}
			}
			if c.waits != "" && !told {
				t.Errorf("not told: %s in %+v", c.waits, p.Waits)
			}
		})
	}
}

// TestGroupRecord: since when a group is waited for is in the record, its time begins when
// nothing holds it up itself, and the record goes when nobody waits.
func TestGroupRecord(t *testing.T) {
	group := func(p fleet.Plan, key string) (out []string) {
		for _, r := range p.Records {
			if r.Key == "group/"+key {
				out = append(out, r.Text)
			}
		}
		return out
	}
	w := computed()
	owned(w, "web a After=app", "app a Group=app After=db", "db a Group=db")
	_, p := Turn(w)
	if len(group(p, "a/db")) != 1 || len(group(p, "a/app")) != 0 {
		t.Errorf("want db on record and app not, which waits itself: %+v", p.Records)
	}
	there(w, "db", true)
	w.State.Groups = map[string]fleet.RestartGroup{"a/db": {Project: "a", Name: "db", Since: w.Wall.Add(-groupLasts + time.Second)}}
	if _, p = Turn(w); len(p.Gates) != 1 || len(group(p, "a/db")) != 0 {
		t.Errorf("want its gate asked, and nothing recorded: %+v %+v", p.Gates, p.Records)
	}
	w.Cloud.Gates = map[string]string{"db": ""}
	if _, p = Turn(w); len(group(p, "a/db")) != 1 || !strings.Contains(group(p, "a/db")[0], "are ready: db") {
		t.Errorf("want its answer on record: %+v", p.Records)
	}
	w.Cloud.Gates = nil
	w.State.Groups["a/db"] = fleet.RestartGroup{Project: "a", Name: "db", Since: w.Wall.Add(-groupLasts)}
	if _, p = Turn(w); len(group(p, "a/db")) != 1 || !strings.Contains(group(p, "a/db")[0], "is not ready after 10m0s") {
		t.Errorf("want it told that it is late: %+v", p.Records)
	}
	delete(w.Cloud.Servers, "app")
	delete(w.Cloud.Servers, "web")
	if _, p = Turn(w); len(group(p, "a/db")) != 1 || !strings.Contains(group(p, "a/db")[0], "nobody waits") {
		t.Errorf("want it gone: %+v", p.Records)
	}
	w.Cloud.Looked = map[string]fleet.Moment{}
	if _, p = Turn(w); len(group(p, "a/db")) != 0 {
		t.Errorf("a leader that has not looked forgets since when it is waited for: %+v", p.Records)
	}
}

// TestGroupOutlivesReturn: a host is back, and the record of what left it is kept while its
// group is waited for.
func TestGroupOutlivesReturn(t *testing.T) {
	w := computed()
	owned(w, "db a Group=db")
	there(w, "db", true)
	w.State.Holdings[Compute("n1")] = fleet.Holding{Thing: Compute("n1"), Generation: 2}
	reboot(w, "n1", "x")
	w.Heard["n1"] = fleet.Heard{Stint: w.Heard["n1"].Stint, Last: w.Now, Nets: w.Heard["n2"].Nets, Leased: true}
	w.State.Members["n1"] = fleet.Member{Host: "n1", Admitted: "x"}
	for _, waited := range []bool{true, false} {
		w.State.Groups = map[string]fleet.RestartGroup{}
		if waited {
			w.State.Groups["a/db"] = fleet.RestartGroup{Project: "a", Name: "db", Since: w.Wall}
		}
		_, p := Turn(w)
		licensed, removed := false, false
		for _, r := range p.Records {
			licensed = licensed || r.Key == "holding/compute/n1"
			removed = removed || r.Key == "evacuation/db" && r.Value == nil
		}
		if !licensed || removed == waited {
			t.Errorf("waited for: %v; licensed %v, removed %v", waited, licensed, removed)
		}
	}
}

func TestGate(t *testing.T) {
	for text, want := range map[string]string{"tcp:5432": "tcp 5432 ", "http:8080/healthz": "http 8080 /healthz", "http:80": "http 80 /", " tcp:1 ": "tcp 1 ", "agent": "agent 0 "} {
		c, err := Gate(text)
		if got := c.Kind + " " + strconv.Itoa(c.Port) + " " + c.Path; err != nil || got != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "tcp", "tcp:", "tcp:0", "tcp:65536", "tcp:80/x", "udp:53", "agent:5m", "agents", "http:80/a b", "http://10.0.0.1/", "http:80/\r\nHost: x"} {
		if _, err := Gate(text); err == nil {
			t.Errorf("%q is taken for a question", text)
		}
	}
}

// TestLock: a server is locked while it is asked for, if nobody has locked it, and unlocked
// when it has arrived, once; the lock holds nothing up.
func TestLock(t *testing.T) {
	locked := func(w fleet.World, reason string) {
		s := w.Cloud.Servers["vm"]
		s.Locked, s.LockedFor = true, reason
		w.Cloud.Servers["vm"] = s
	}
	ended := func(w fleet.World, change func(*fleet.Evacuation)) fleet.Evacuation {
		s := w.Cloud.Servers["vm"]
		s.Host, s.Migration = "n2", fleet.Migration{ID: 7, Status: "done", From: "n1", To: "n2"}
		w.Cloud.Servers["vm"] = s
		return evacuating(w, func(e *fleet.Evacuation) {
			e.Lock, e.Ended = fleet.LockSeen, "on n2"
			change(e)
		})
	}
	flight := func(w fleet.World, key string, sent time.Duration, o fleet.Outcome) {
		f := fleet.Flight{Sent: w.Now.Add(-sent), Tries: 1}
		if o != "" {
			f.Arrived, f.Effect = w.Now.Add(-ms), &fleet.Effect{Outcome: o}
		}
		w.Flights[key] = f
	}
	for _, c := range []struct {
		name   string
		change func(w fleet.World)
		want   string // steps and records about it
	}{
		{"its lock is recorded with the try", func(fleet.World) {}, "record asked"},
		{"an owner's is not ours", func(w fleet.World) { locked(w, "hands off") }, "record "},
		{"locked beside the evacuation, which does not wait", func(w fleet.World) { evacuating(w, func(e *fleet.Evacuation) { e.Lock = fleet.LockAsked }) }, "evacuate lock"},
		{"once", func(w fleet.World) {
			evacuating(w, func(e *fleet.Evacuation) { e.Lock = fleet.LockAsked })
			flight(w, "lock/vm/b/1", 500*ms, "")
		}, "evacuate"},
		{"so late that it could be carried out when its record is gone: not", func(w fleet.World) {
			evacuating(w, func(e *fleet.Evacuation) { e.Lock, e.At = fleet.LockAsked, w.Wall.Add(-cloudLasts-ms) })
		}, "evacuate"},
		{"it is locked: it is asked for", func(w fleet.World) {
			evacuating(w, func(e *fleet.Evacuation) { e.Lock = fleet.LockAsked })
			locked(w, "mainstay: x")
		}, "evacuate"},
		{"arrived: unlocked", func(w fleet.World) { ended(w, func(*fleet.Evacuation) {}); locked(w, "mainstay: x") }, "unlock"},
		{"arrived, and locked by its owner since: that stays", func(w fleet.World) { ended(w, func(*fleet.Evacuation) {}); locked(w, "hands off") }, "record "},
		{"its lock is gone for good", func(w fleet.World) { ended(w, func(*fleet.Evacuation) {}) }, "record "},
		{"a request for it may be carried out yet", func(w fleet.World) {
			ended(w, func(e *fleet.Evacuation) { e.Lock = fleet.LockAsked })
		}, ""},
		{"and was", func(w fleet.World) {
			ended(w, func(e *fleet.Evacuation) { e.Lock = fleet.LockAsked })
			locked(w, "mainstay: x")
		}, "unlock"},
		{"and can be no more", func(w fleet.World) {
			ended(w, func(e *fleet.Evacuation) { e.Lock, e.At = fleet.LockAsked, w.Wall.Add(-2*cloudLasts-time.Second) })
		}, "record "},
		{"its new host dies before it was unlocked: the lock is ours still", func(w fleet.World) {
			ended(w, func(e *fleet.Evacuation) { e.From = "n2" })
			s := w.Cloud.Servers["vm"]
			s.Host, s.Migration = "n1", fleet.Migration{}
			w.Cloud.Servers["vm"] = s
			locked(w, "mainstay: x")
		}, "record seen unlock"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := computed()
			c.change(w)
			_, p := Turn(w)
			var got []string
			for _, r := range p.Records {
				if e, ok := strings.CutPrefix(r.Key, "evacuation/"); ok && e == "vm" {
					s, err := w.State.Apply(r)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, "record "+s.Evacuations["vm"].Lock)
				}
			}
			for _, o := range p.Orders {
				if o.Thing == "server/vm" {
					got = append(got, o.Step)
				}
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got %q, want %q", s, c.want)
			}
		})
	}
}

// TestReserved walks a compute of the reserve through its use: each step is taken on what
// Nova shows.
func TestReserved(t *testing.T) {
	site := func() fleet.World {
		w := computed()
		w.Spec.OpenStack.Reserved, w.State.Reserves = []string{"n3"}, map[string]fleet.Reserve{}
		w.Cloud.Aggregates = map[string]fleet.Aggregate{
			"1": {ID: "1", Name: "ssd", Hosts: []string{"n1", "n2"}}, "2": {ID: "2", Name: "gpu", Hosts: []string{"n2"}},
		}
		w.Cloud.Computes["n2"] = fleet.Compute{ID: "n2", Up: true, Zone: "nova", FreeRAM: 100}
		w.Cloud.Computes["n3"] = fleet.Compute{ID: "n3", Up: true, Zone: "nova", FreeRAM: 4096, Disabled: true, Reason: disabledBy + "it is kept in reserve"}
		return w
	}
	compute := func(w fleet.World, host string, change func(*fleet.Compute)) {
		c := w.Cloud.Computes[host]
		change(&c)
		w.Cloud.Computes[host] = c
	}
	inUse := func(w fleet.World, change func(*fleet.Reserve)) {
		r := fleet.Reserve{Host: "n3", For: "n1", Boot: "b", Added: []string{"1"}, Since: w.Wall.Add(-10 * time.Second)}
		if change != nil {
			change(&r)
		}
		w.State.Reserves["n3"] = r
	}
	joined := func(w fleet.World) {
		w.Cloud.Aggregates["1"] = fleet.Aggregate{ID: "1", Name: "ssd", Hosts: []string{"n1", "n2", "n3"}}
	}
	home := func(w fleet.World) { // n1 is back, and vm went to n2
		w.State.Holdings["compute/n1"] = fleet.Holding{Thing: "compute/n1", Host: "n1", Boot: "x", Generation: 3}
		w.Heard["n1"] = fleet.Heard{Stint: fleet.Stint{Host: "n1", Boot: "x", N: 1}, Last: w.Now, Nets: w.Heard["n2"].Nets, Leased: true}
		r := w.Reports["n2"]
		r.Host, r.Boot, r.Stint = "n1", "x", 1
		w.Reports["n1"] = r
		delete(w.State.Proofs, "n1")
		w.State.Members["n1"] = fleet.Member{Host: "n1", Admitted: "x"}
		delete(w.Cloud.Servers, "vm")
		compute(w, "n1", func(c *fleet.Compute) { c.Up, c.Forced, c.Disabled = true, false, false })
	}
	for _, c := range []struct {
		name   string
		change func(w fleet.World)
		want   string
	}{
		{"it fits elsewhere: the reserve stays", func(w fleet.World) { compute(w, "n2", func(c *fleet.Compute) { c.FreeRAM = 4096 }) }, "evacuation/vm n2"},
		{"it fits nowhere else", func(fleet.World) {}, "reserve/n3 1"},
		{"no other compute is left: the dead one stays off for it", func(w fleet.World) { compute(w, "n2", func(c *fleet.Compute) { c.Disabled = true }) }, "reserve/n3 1"},
		{"nor another reserve: it is turned on", func(w fleet.World) {
			compute(w, "n2", func(c *fleet.Compute) { c.Disabled = true })
			compute(w, "n3", func(c *fleet.Compute) { c.FreeRAM = 100 })
		}, "power-on"},
		{"not disabled yet: no target", func(w fleet.World) { compute(w, "n3", func(c *fleet.Compute) { c.Disabled, c.Reason = false, "" }) }, "evacuation/vm  disable"},
		{"nor is Nova asked to call one whom nobody reaches", func(w fleet.World) {
			compute(w, "n3", func(c *fleet.Compute) { c.Disabled, c.Reason = false, "" })
			silent(w, "n3", 20*time.Second)
		}, "evacuation/vm "},
		{"taken once for two", func(w fleet.World) {
			w.Cloud.Servers["vm2"] = fleet.Server{ID: "vm2", Host: "n1", State: fleet.ServerActive, RAM: 512}
		}, "reserve/n3 1"},
		{"disabled by a person: not ours to take", func(w fleet.World) { compute(w, "n3", func(c *fleet.Compute) { c.Reason = "disks" }) }, "evacuation/vm "},
		{"of another zone", func(w fleet.World) {
			compute(w, "n3", func(c *fleet.Compute) { c.Zone = "west" })
			w.Cloud.Aggregates["3"] = fleet.Aggregate{ID: "3", Name: "west", Zone: "west", Hosts: []string{"n3"}}
		}, "evacuation/vm "},
		{"of no zone yet: the aggregate makes it", func(w fleet.World) {
			w.Cloud.Aggregates["1"] = fleet.Aggregate{ID: "1", Name: "east", Zone: "east", Hosts: []string{"n1", "n2"}}
			compute(w, "n1", func(c *fleet.Compute) { c.Zone = "east" })
		}, "reserve/n3 1"},
		{"on record: it joins the aggregates of the lost one", func(w fleet.World) { inUse(w, nil) }, "join 1"},
		{"answered as failed, and it is in: it is enabled", func(w fleet.World) {
			inUse(w, nil)
			joined(w)
			w.Flights["join/n3/1/x"] = fleet.Flight{Arrived: w.Now, Effect: &fleet.Effect{Outcome: fleet.Broken}}
		}, "enable"},
		{"enabled: it is asked for there", func(w fleet.World) {
			inUse(w, nil)
			joined(w)
			compute(w, "n3", func(c *fleet.Compute) { c.Disabled, c.Reason = false, "" })
		}, "evacuation/vm n3"},
		{"never ready: Nova's scheduler has its say", func(w fleet.World) {
			inUse(w, func(r *fleet.Reserve) { r.Since = w.Wall.Add(-reserveLasts - time.Second) })
		}, "evacuation/vm  join 1 waits Nova to "},
		{"the lost one is back, and it has servers: a person's", func(w fleet.World) {
			inUse(w, nil)
			joined(w)
			home(w)
			compute(w, "n3", func(c *fleet.Compute) { c.Disabled, c.Reason, c.Servers = false, "", 2 })
		}, "waits a person"},
		{"a person drains it: the drain tells what stays, and Nova's count is late", func(w fleet.World) {
			inUse(w, nil)
			joined(w)
			home(w)
			compute(w, "n3", func(c *fleet.Compute) { c.Disabled, c.Reason, c.Servers = true, disabledBy+"maintenance by ann", 1 })
			w.Cloud.Looked["n3"] = w.Cloud.At
			w.State.Wishes["maintenance-n3"] = fleet.Wish{ID: "maintenance-n3", Verb: "maintenance", Host: "n3", By: "ann", At: w.Wall, Drain: true}
		}, ""},
		{"a person maintains it, and drains nothing", func(w fleet.World) {
			inUse(w, nil)
			joined(w)
			home(w)
			compute(w, "n3", func(c *fleet.Compute) { c.Reason, c.Servers = disabledBy+"maintenance by ann", 1 })
			w.State.Wishes["maintenance-n3"] = fleet.Wish{ID: "maintenance-n3", Verb: "maintenance", Host: "n3", By: "ann", At: w.Wall}
		}, "waits a person"},
		{"the lost one is back, and it is empty", func(w fleet.World) {
			inUse(w, nil)
			joined(w)
			home(w)
			compute(w, "n3", func(c *fleet.Compute) { c.Disabled, c.Reason = false, "" })
		}, "reserve/n3 back"},
		{"first it is disabled", func(w fleet.World) {
			inUse(w, func(r *fleet.Reserve) { r.Back = w.Wall })
			joined(w)
			home(w)
			compute(w, "n3", func(c *fleet.Compute) { c.Disabled, c.Reason = false, "" })
		}, "disable"},
		{"what was sent there before may arrive yet", func(w fleet.World) {
			inUse(w, func(r *fleet.Reserve) { r.Back = w.Wall.Add(-reserveCalm + time.Second) })
			joined(w)
			home(w)
			w.Cloud.Looked["n3"] = w.Cloud.At
		}, ""},
		{"something came: it stays in use", func(w fleet.World) {
			inUse(w, func(r *fleet.Reserve) { r.Back = w.Wall.Add(-reserveCalm) })
			joined(w)
			home(w)
			w.Cloud.Looked["n3"] = w.Cloud.At
			w.Cloud.Servers["new"] = fleet.Server{ID: "new", Host: "n3", State: fleet.ServerActive}
		}, "reserve/n3 1"},
		{"nobody has looked", func(w fleet.World) {
			inUse(w, func(r *fleet.Reserve) { r.Back = w.Wall.Add(-reserveCalm) })
			joined(w)
			home(w)
		}, ""},
		{"empty: it leaves the aggregates that it joined", func(w fleet.World) {
			inUse(w, func(r *fleet.Reserve) { r.Back = w.Wall.Add(-reserveCalm) })
			joined(w)
			home(w)
			w.Cloud.Looked["n3"] = w.Cloud.At
		}, "leave 1"},
		{"and is in reserve again", func(w fleet.World) {
			inUse(w, func(r *fleet.Reserve) { r.Back = w.Wall.Add(-reserveCalm) })
			home(w)
			w.Cloud.Looked["n3"] = w.Cloud.At
		}, "reserve/n3 removed"},
		{"not in use, and enabled: it is disabled", func(w fleet.World) {
			home(w)
			compute(w, "n3", func(c *fleet.Compute) { c.Disabled, c.Reason = false, "" })
		}, "disable"},
		{"not in use: whatever disabled it, its service's return does not enable it", home, ""},
		{"no reserve any more", func(w fleet.World) {
			w.Spec.OpenStack.Reserved[0] = "n9"
			inUse(w, nil)
			home(w)
			compute(w, "n3", func(c *fleet.Compute) { c.Disabled, c.Reason = false, "" })
		}, "reserve/n3 removed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := site()
			c.change(w)
			_, p := Turn(w)
			var got []string
			for _, r := range p.Records {
				kind, _, _ := strings.Cut(r.Key, "/")
				s, err := w.State.Apply(r)
				if err != nil {
					t.Fatal(err)
				}
				switch n3, used := s.Reserves["n3"]; {
				case kind == "evacuation":
					got = append(got, r.Key+" "+s.Evacuations["vm"].To)
				case kind != "reserve":
				case !used:
					got = append(got, r.Key+" removed")
				case !n3.Back.IsZero():
					got = append(got, r.Key+" back")
				default:
					got = append(got, r.Key+" "+strings.Join(n3.Added, ","))
				}
			}
			for _, o := range p.Orders {
				if o.Verb == fleet.VerbPowerOn {
					got = append(got, "power-on")
				}
				if o.Thing == "compute/n3" {
					got = append(got, strings.TrimSpace(o.Step+" "+o.With))
				}
			}
			for _, x := range p.Waits {
				if x.About == "compute/n3" {
					got = append(got, "waits "+x.For[:min(8, len(x.For))])
				}
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got %q, want %q", s, c.want)
			}
		})
	}
}

// TestCircle: of groups drawn by lot, those are in a circle of which each comes after the other by way of any.
func TestCircle(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	circles := 0
	for range 300 {
		o := &ordering{groups: map[string]*restart{}}
		name := func() string { return string(rune('a' + dice.IntN(9))) } // i is a group that nobody is of
		for key := range strings.SplitSeq("abcdefgh", "") {
			o.groups[key] = &restart{after: map[string]bool{}}
			for range dice.IntN(3) {
				o.groups[key].after[name()] = true
			}
		}
		for key, g := range o.groups {
			for by := range g.after {
				seen, next := map[string]bool{}, []string{by}
				for len(next) > 0 {
					at := next[0]
					if next = next[1:]; !seen[at] && o.groups[at] != nil {
						next = append(next, fleet.Sorted(o.groups[at].after)...)
					}
					seen[at] = true
				}
				if got := o.circle(key, by); got != seen[key] {
					t.Fatalf("%s after %s in a circle: %v", key, by, got)
				}
				if seen[key] {
					circles++
				}
			}
		}
	}
	if circles < 100 {
		t.Errorf("%d circles", circles)
	}
}
