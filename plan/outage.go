package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// The verbs for copies that share one history, as the members of a Galera cluster
// do. VerbStart lets a member go on by itself with those that it last saw.
const (
	// VerbJoin starts a member that may only join others: what it could go on from by
	// itself is put aside first.
	VerbJoin fleet.Verb = "join"
	// VerbPosition ends a member, puts aside what it could go on from by itself, and
	// finds out where its data stand. A generation is given up by it.
	VerbPosition fleet.Verb = "position"
	// VerbBootstrap starts a member as the first one of its cluster, once under each
	// generation.
	VerbBootstrap fleet.Verb = "bootstrap"
)

// together is how long members may take to recover by themselves, from when all that
// are needed for it were seen. MariaDB gives up the wait for its peers after 30 s and
// begins anew, so this is three tries.
const together = 90 * time.Second

// toldFor is how long the newest report of a member is believed; one comes each second.
// A host that was cut off is heard again before it reports what became of it meanwhile.
const toldFor = 3 * time.Second

// member is one home of a clustered service, as this turn sees it.
type member struct {
	host  string
	s     fleet.ServiceState
	heard bool // it has told of itself in the boot that is heard now
	fresh bool // and in this epoch
	mute  bool // though a few of its beats are missing now
	old   bool // though that was long ago
	dead  bool // its boot is proved dead
	// waived: a person has given up what data only it may have. mum: it was asked for
	// its position, and could not tell.
	waived, mum bool
	// out: its data were given up when the cluster was begun without them, and it may have
	// them still; gone: its host has been off since.
	out, gone bool
	// fixed: it is in maintenance or shuts down, and is not to be touched.
	fixed bool
}

// primary says whether the member is in the one component that takes writes.
func (m *member) primary() bool {
	return m.heard && !m.old && m.s.Phase == fleet.Running && m.s.Replica.Part != "" && m.s.Replica.Part != fleet.PartApart
}

func (m *member) joins() bool {
	return m.heard && (m.s.Phase == fleet.Starting || m.primary() && (m.s.Replica.Part == fleet.PartJoining || m.s.Replica.Part == fleet.PartJoined))
}

// silent says whether it may be in a primary component for all that is known. A server
// that runs and does not answer is; one that is on its way up is not, for it takes no
// writes yet, and is ended before anything rests on it.
func (m *member) silent() bool {
	switch {
	case !m.heard, m.mute, m.old, m.s.Phase == "", m.s.Phase == fleet.Unknown:
		return true
	}
	return m.s.Phase == fleet.Running && m.s.Replica.Part == ""
}

func (m *member) down() bool {
	return m.heard && (m.s.Phase == fleet.Stopped || m.s.Phase == fleet.Failed || m.s.Phase == fleet.Absent && m.waived)
}

// settled says whether it is down, can begin nothing by itself, and has said where its
// data stand.
func (m *member) settled() bool {
	r := m.s.Replica
	return m.down() && r.View == "" && (r.Known || r.Empty || m.out || m.waived && m.mum)
}

// revival is what is to be done about the members of one cluster. At most one of the
// lists is filled, or the reason says what is waited for.
type revival struct {
	lives     bool     // some member is primary
	join      []string // down, to be started one at a time
	natively  []string // to be started with what they last saw
	watch     bool     // the time that they may take for it runs
	kill      string   // hangs, and is to be ended
	position  []string // to end and to say where their data stand
	ask       []string // to report in this epoch
	choose    string   // to be recorded as the one that begins
	bootstrap string   // recorded, and to be ordered so
	why, help string
}

// revive decides how a cluster of which no member may be primary comes back. A second
// writable primary component and the loss of a commit that was acknowledged are what
// it must never bring about:
//
//   - whoever may still run, or cannot be asked, blocks it: no answer is no proof
//     (INCIDENTS G3); but one that hangs on a host that is well is ended (unhang);
//   - as long as all members that last saw each other are there, they go on by
//     themselves, which needs no decision of ours (pc.recovery);
//   - else all are ended, what any of them could go on from by itself is put aside,
//     and each says where its data stand by its storage engine (G2b);
//   - one with the newest data begins. Not one without data, whatever its files say (G2),
//     and none when two have different histories. A member that cannot tell is left out
//     only on a person's word, for it alone may have the last commits.
//
// held is the host that a record names to begin and whose try is not over; waited, for
// how long all that are needed for recovery by themselves have been there.
func revive(service, unit string, all []member, held string, waited time.Duration) (r revival) {
	without := func(host string) string {
		return fmt.Sprintf("mainstay recover service %s --without %s", service, host)
	}
	var ms []*member
	for i := range all {
		if m := &all[i]; m.heard || !m.dead || !m.waived && !m.gone {
			ms = append(ms, m)
		}
	}
	joining := ""
	for _, m := range ms {
		r.lives = r.lives || m.primary()
		if m.joins() && joining == "" {
			joining = m.host
		}
	}
	if r.lives {
		for _, m := range ms {
			if m.down() && !m.fixed {
				r.join = append(r.join, m.host)
			}
		}
		if joining != "" && len(r.join) > 0 { // two at once broke the transfer of both (G5)
			r.why = fmt.Sprintf("%s to have joined: one member joins at a time", joining)
			r.join = nil
		}
		return r
	}
	var silent []string
	for _, m := range ms {
		if !m.silent() {
			continue
		}
		silent = append(silent, m.host)
		switch {
		case m.dead:
			r.why, r.help = fmt.Sprintf("%s, which is off and may have the newest data", m.host), without(m.host)+", if it will not return: what only it has is lost then"
		case r.help != "":
		case m.heard && !m.mute && !m.old && m.s.Phase == fleet.Running:
			r.help = fmt.Sprintf("on %s: journalctl -u %s -n 50; if it hangs: systemctl kill -s KILL %[2]s", m.host, unit)
		case m.heard && !m.mute:
			r.help = fmt.Sprintf("on %s: systemctl status %s (%s)", m.host, unit, m.s.Why)
		default:
			r.help = fmt.Sprintf("start %s and its agent, or mainstay recover oath %[1]s, once you have seen that it is off", m.host)
		}
	}
	if len(silent) > 0 {
		view := common(ms, len(all))
		for _, m := range ms {
			// Another one could only join, and one joins at a time.
			alone := m.s.Replica.View != view || view == ""
			if alone && m.s.Replica.View != "" {
				continue // it could go on with some, and without what another has
			}
			if m.down() && !m.fixed && !m.out && m.host != held && (!alone || joining == "" && len(r.natively) == 0) {
				r.natively = append(r.natively, m.host)
			}
		}
		if m, ask, why := unhang(ms); why != "" {
			if r.ask = ask; m != nil {
				r.kill = m.host
			}
			r.why = cmp.Or(r.why, why)
		}
		if r.why == "" {
			r.why = fmt.Sprintf("word from %s: it may be in a primary component, and no answer is no proof", strings.Join(silent, ", "))
		}
		return r
	}
	if held != "" && !find(ms, held).down() {
		r.why = held + " to have begun the cluster"
		if m, ask, why := unhang(ms); why != "" {
			if r.ask, r.why = ask, why; m != nil {
				r.kill = m.host
			}
		}
		return r
	}
	if names := reunion(ms, len(all)); held == "" && len(names) > 0 && waited < together {
		for _, m := range ms {
			if m.down() && !m.fixed && slices.Contains(names, m.host) {
				r.natively = append(r.natively, m.host)
			}
		}
		r.watch = true
		r.why = fmt.Sprintf("%s to go on together: each of them was the last to see the others, and none is missing", strings.Join(names, ", "))
		return r
	}
	if why, help, done := histories(ms, unit, waited, &r); done {
		r.why, r.help = why, help
		if help == "" {
			r.help = fmt.Sprintf("look: mainstay status; when one of them is the right one, for each other: %s", without("HOST"))
		}
		return r
	}
	for _, m := range ms {
		switch {
		case m.settled():
		case m.s.Phase == fleet.Absent && !m.waived:
			r.why, r.help = fmt.Sprintf("%s to say where its data stand: it has no unit of the service", m.host), without(m.host)
		case m.fixed:
			r.why, r.help = fmt.Sprintf("%s to say where its data stand: it is in maintenance or shuts down", m.host), "mainstay maintenance "+m.host+" off"
		default:
			r.position = append(r.position, m.host)
			if r.why == "" {
				r.why = fmt.Sprintf("%s to say where its data stand (%s)", m.host, m.s.Why)
				r.help = without(m.host) + ", if it never will: what only it has is lost then"
			}
		}
	}
	if r.why != "" {
		return r
	}
	for _, m := range ms {
		if !m.fresh {
			r.ask = append(r.ask, m.host)
			r.why = m.host + " to say so in this leader's epoch"
		}
	}
	if len(r.ask) > 0 {
		return r
	}
	best := newest(ms)
	switch {
	case best == nil: // all were waived, or have nothing
		r.why, r.help = "a person: no member is left that has data", "mainstay status"
	case held != "" && find(ms, held).s.Replica.Seqno == best.s.Replica.Seqno:
		r.bootstrap, r.why = held, held+" to begin the cluster"
	case held != "":
		r.position, r.why = []string{held}, held+" to give its right to begin back: others have newer data"
	case best.fixed:
		r.why, r.help = fmt.Sprintf("%s, which has the newest data and is in maintenance or shuts down", best.host), "mainstay maintenance "+best.host+" off"
	default:
		r.choose = best.host
	}
	return r
}

func find(ms []*member, host string) *member {
	for _, m := range ms {
		if m.host == host {
			return m
		}
	}
	return &member{}
}

// reunion lists the hosts whose members last saw exactly each other in a primary
// component, if all of them are there; nil if there is no such set.
//
// It must be every member of the site's file: the file that names the last component is
// put in place without being synced, so after a power cut it may be an older one, of a
// group without a member that has taken writes since (seen in the lab).
func reunion(ms []*member, homes int) []string {
	for _, m := range ms {
		if !whole(m, homes) || m.waived || m.out {
			continue
		}
		var names []string
		seen := strings.Split(m.s.Replica.Seen, ",")
		for _, o := range ms {
			if !o.waived && !o.out && o.s.Replica.View == m.s.Replica.View && slices.Contains(seen, o.s.Replica.Me) {
				names = append(names, o.host)
			}
		}
		if len(names) == len(seen) {
			return names
		}
	}
	return nil
}

// whole says whether a member last saw all the others.
func whole(m *member, homes int) bool {
	return m.s.Replica.View != "" && len(strings.Split(m.s.Replica.Seen, ",")) == homes
}

// common is the component of all that most of the members which are heard last saw.
func common(ms []*member, homes int) string {
	view, most := "", 0
	seen := map[string]int{}
	for _, m := range ms {
		if v := m.s.Replica.View; m.heard && !m.out && whole(m, homes) {
			if seen[v]++; seen[v] > most {
				view, most = v, seen[v]
			}
		}
	}
	return view
}

// histories says what keeps the members' data from being compared at all.
func histories(ms []*member, unit string, waited time.Duration, r *revival) (why, help string, stop bool) {
	var told, out []string
	uuids := map[string][]string{}
	have := 0
	var only *member
	for _, m := range ms {
		x := m.s.Replica
		if m.out && !x.Empty {
			out = append(out, m.host)
		}
		if m.waived || m.out || x.Empty || x.UUID == "" {
			continue // what is not known yet is asked for
		}
		have, only = have+1, m
		uuids[x.UUID] = append(uuids[x.UUID], m.host)
	}
	for _, m := range ms {
		if !m.waived && !m.out && !m.s.Replica.Empty && m.s.Replica.UUID == "" {
			have++
		}
	}
	switch {
	case have == 0 && len(out) > 0:
		return fmt.Sprintf("a person: only %s may have data, which were given up when the cluster was begun without them", strings.Join(out, ", ")), "", true
	case have == 0:
		for _, m := range ms {
			if m.down() && !m.fixed {
				r.natively = append(r.natively, m.host)
			}
		}
		return "a person to found the cluster: no member has data of one",
			"galera_new_cluster on the host that is to begin; the others join it by themselves", true
	case len(uuids) > 1:
		for _, id := range fleet.Sorted(uuids) {
			told = append(told, fmt.Sprintf("%s on %s", id, strings.Join(uuids[id], ", ")))
		}
		return "a person: the members have different histories (" + strings.Join(told, "; ") + "), and one of them would be lost", "", true
	case have == 1 && only != nil && only.s.Phase == fleet.Starting && waited < together:
		r.watch = true // somebody founds it there
		return only.host + " to have started: it alone has data", "journalctl -fu " + unit + " on " + only.host, true
	}
	return "", "", false
}

// newest is the first of the members with the most of the history. One whose data were
// given up has a voice, too, if it can tell and has the same history as the others.
func newest(ms []*member) *member {
	var best *member
	for _, waived := range []bool{false, true} {
		for _, m := range ms {
			x := m.s.Replica
			if m.waived != waived || m.out || x.Empty || !x.Known {
				continue
			}
			if best == nil || x.Seqno > best.s.Replica.Seqno && x.UUID == best.s.Replica.UUID {
				best = m
			}
		}
	}
	return best
}

// clustered keeps the members of a cluster running, and brings it back when none of
// them is primary any more.
func (d *decision) clustered(v fleet.Service) {
	thing := "bootstrap/" + v.Name
	b := d.w.State.Bootstraps[v.Name]
	b.Service = v.Name
	var ms []member
	var given uint64
	for _, host := range d.homes[v.Name] {
		x := d.see(host)
		s, told := x.report.Services[v.Name]
		_, joined := d.w.State.Members[host]
		_, waived := d.w.State.Wishes["without-"+v.Name+"-"+host]
		ms = append(ms, member{
			host: host, s: s, heard: joined && told && x.current && x.reaches && d.w.Heard[host].Rival == "", fresh: x.report.Epoch >= d.w.Epoch,
			old:  d.w.Now.Sub(d.w.Told[host]) > toldFor,
			mute: d.w.Verdicts[host].Condition == fleet.Suspect, dead: d.offNow(host), waived: waived, mum: d.mum(v, b, host), fixed: x.maintenance || x.down,
		})
		given = max(given, x.report.GivenUp[thing])
	}
	if wish, stopped := d.w.State.Wishes["stop-"+v.Name]; stopped {
		d.keepDown(v, wish, ms)
		return
	}
	d.leftOut(b, ms)
	held, owed := "", false
	if i := slices.IndexFunc(ms, func(m member) bool { return m.host == b.Host }); b.Host != "" && i >= 0 {
		var over bool
		if over, owed = d.tried(b, ms[i]); !over {
			held = b.Host
		}
		owed = owed && ms[i].down()
	}
	waited := time.Duration(0)
	if !b.Since.IsZero() {
		waited = d.w.Wall.Sub(b.Since)
	}
	r := revive(v.Name, strings.Join(v.Units[:min(1, len(v.Units))], ""), ms, held, waited)
	if r.why != "" {
		d.wait(v.Thing(), r.why, r.help)
	}
	put := func(text string) { d.record(fleet.Put(thing, b, text)) }
	if r.lives {
		switch {
		case owed: // or an order that is late could begin a second one
			d.position(v, b, b.Host)
		case held != "" && !d.spent(b):
			d.wait(v.Thing(), held+" to give its right to begin back: others have begun", "mainstay status")
		case b.Host != "" || !b.Since.IsZero():
			b = fleet.Bootstrap{Service: v.Name, Generation: b.Generation, Without: b.Without}
			put(v.Name + " has a primary component")
		default:
			if left, text := letBack(v, b, ms); text != "" {
				b.Without = left
				put(text)
			}
		}
		d.outsiders(v, b, ms)
		d.backups(v, ms)
		d.drags(v, ms)
		for _, m := range ms {
			if m.waived {
				d.record(fleet.Remove("wish/without-"+v.Name+"-"+m.host, fmt.Sprintf("%s has a primary component: no need to go on without %s", v.Name, m.host)))
			}
			if m.heard && !m.down() && !m.s.Stuck {
				d.run(v, m.host, VerbJoin) // what is not installed, or not to be asked
			}
		}
		d.unhangOne(v, ms)
		if host := d.joiner(v); host != "" && len(r.join) > 0 { // ordered, though its host has not said so yet
			r.join = []string{host}
			d.wait(v.Thing(), fmt.Sprintf("%s to have joined: one member joins at a time", host), "")
		}
		for _, m := range lastIn(r.join, ms) {
			if d.letIn(v, b, m) {
				return
			}
		}
		return
	}
	for _, host := range r.natively {
		d.active(v, host)
	}
	switch {
	case r.watch && b.Since.IsZero():
		b.Since = d.w.Wall
		put(fmt.Sprintf("%s has no primary component: %s may go on by themselves until %v from now", v.Name, strings.Join(d.homes[v.Name], ", "), together))
	case r.watch:
		d.wake(together - waited)
	case d.disarmed && (r.kill != "" || len(r.position) > 0 || r.choose != "" || r.bootstrap != ""):
		d.wait(v.Thing(), "Mainstay to be armed again", "mainstay disarm off")
	case r.choose != "":
		s := ms[slices.IndexFunc(ms, func(m member) bool { return m.host == r.choose })].s
		if !d.budget(v, s, v.Thing()) {
			return
		}
		m := s.Replica
		b.Host, b.Boot, b.Generation, b.At = r.choose, d.w.Heard[r.choose].Stint.Boot, max(b.Generation, given)+1, d.w.Wall
		b.Why = fmt.Sprintf("its data are the newest, %s:%d", m.UUID, m.Seqno)
		b.Without = d.leaveOut(b, ms, b.Host)
		put(fmt.Sprintf("%s begins %s: %s (%s)", b.Host, v.Name, b.Why, positions(ms)))
	case r.bootstrap != "":
		d.order(d.to(fleet.Order{Key: fmt.Sprintf("%s/%s/%d", thing, b.Host, b.Generation), Verb: VerbBootstrap, Thing: thing, Generation: b.Generation, Why: b.Why}, b.Host))
	}
	for _, host := range r.ask {
		d.order(d.to(fleet.Order{Key: fmt.Sprintf("inventory/%s/%d", host, d.w.Epoch), Verb: VerbInventory,
			Why: v.Name + " has no primary component: where its data stand must be known in this epoch"}, host))
	}
	if d.disarmed {
		return
	}
	if r.kill != "" {
		d.killOne(v, &ms[slices.IndexFunc(ms, func(m member) bool { return m.host == r.kill })], ms)
	}
	for _, host := range r.position {
		d.position(v, b, host)
	}
}

// offNow says whether the newest boot that we know of a host is proved off. The contract of
// a watchdog does not prove that: a host that had nothing which only one may have lives on,
// and with it a member of a cluster.
func (d *decision) offNow(host string) bool {
	return d.deadNow(host) && d.w.State.Proofs[host].Kind != "watchdog"
}

// joiner is the host whose member was ordered to start a moment ago, "" if none was: an
// order without an answer may be carried out late.
func (d *decision) joiner(v fleet.Service) string {
	for _, key := range fleet.Sorted(d.w.Flights) {
		f := d.w.Flights[key]
		if f.Order.Thing != v.Thing() || f.Order.Verb != VerbJoin && f.Order.Verb != fleet.VerbStart || f.Order.Boot != d.w.Heard[f.Order.To].Stint.Boot || d.offNow(f.Order.To) {
			continue
		}
		if r, ok := d.current(f.Order.To); ok && d.w.Told[f.Order.To].After(f.Sent) && r.Services[v.Name].Phase == fleet.Running {
			continue // it has
		}
		open := f.Effect == nil || f.Effect.Outcome == fleet.NoWord
		if open && d.w.Now.Sub(f.Sent) < restMax || !open && f.Effect.Outcome == fleet.Done && d.w.Now.Sub(f.Arrived) < restMin {
			return f.Order.To
		}
	}
	return ""
}

// position orders a member to say where its data stand, and to give a right to begin
// back, if it has one.
func (d *decision) position(v fleet.Service, b fleet.Bootstrap, host string) {
	if f, sent := d.w.Flights[d.positionKey(v, b, host)]; sent && f.Effect == nil {
		return // given again, it would be carried out twice
	}
	o := fleet.Order{Key: d.positionKey(v, b, host), Verb: VerbPosition, Thing: "bootstrap/" + v.Name,
		Why: v.Name + " has no primary component, and its members cannot go on by themselves"}
	if host == b.Host && !d.spent(b) {
		o.Generation, o.Why = b.Generation, "its right to begin "+v.Name+" is taken back"
	}
	d.order(d.to(o, host))
}

func (d *decision) mum(v fleet.Service, b fleet.Bootstrap, host string) bool {
	f, asked := d.w.Flights[d.positionKey(v, b, host)]
	return asked && f.Effect != nil && f.Effect.Outcome != fleet.Done
}

func (d *decision) positionKey(v fleet.Service, b fleet.Bootstrap, host string) string {
	return fmt.Sprintf("position/%s/%s/%s/%d", v.Name, host, d.w.Heard[host].Stint.Boot, b.Generation)
}

// spent says whether the right of a record has been used or given back, or whoever had it
// is gone: no order under it, however late, can begin anything.
func (d *decision) spent(b fleet.Bootstrap) bool {
	r, ok := d.current(b.Host)
	return d.offNow(b.Host) || ok && (r.Boot != b.Boot || r.GivenUp["bootstrap/"+b.Service] >= b.Generation)
}

// tried says whether the try to begin a cluster that a record allowed is over: the boot
// that was to do it is gone, or it has used its one right and is in no cluster; and
// whether it still has the right although it is to begin nothing any more.
func (d *decision) tried(b fleet.Bootstrap, m member) (over, owed bool) {
	if !d.spent(b) {
		return false, true
	}
	return !m.heard || d.see(m.host).report.Boot != b.Boot || m.down() || m.s.Phase == fleet.Running && m.s.Replica.Part == fleet.PartApart, false
}

// positions tells where each member's data stand.
func positions(ms []member) string {
	var out []string
	for _, m := range ms {
		x := m.s.Replica
		switch {
		case m.out:
			out = append(out, m.host+" was left out before")
		case x.Empty:
			out = append(out, m.host+" has no data")
		case !x.Known:
			out = append(out, m.host+" is left out on a person's word")
		default:
			out = append(out, fmt.Sprintf("%s has %d", m.host, x.Seqno))
		}
	}
	return strings.Join(out, ", ")
}
