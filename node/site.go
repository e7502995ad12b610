package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/plan"
	"mainstay/service"
)

// The site's file is one for all hosts. A new one is checked by every host that can
// be reached; if none refuses it, it is recorded in the store, and from then on the
// leader brings it to whoever has another: at once to those that are there, later to
// those that were away. A host that takes it goes on with it in a new process
// (succeed.go), so no lease ends and no connection breaks.

// siteKey is where the store keeps the site's file.
const siteKey = "site"

// recorded is what stands there.
type recorded struct {
	Text string    `json:"text"`
	By   string    `json:"by"`
	At   time.Time `json:"at"`
}

// sumOf is a file's version: equal texts have equal ones.
func sumOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:6])
}

// versions is what a voter knows of the files of all hosts.
type versions struct {
	mu       sync.Mutex
	sums     map[string]string // by host, as last reported
	refused  map[string]string // by host, why it did not take the site's file
	recorded string            // the sum of the store's; "" while none was read
}

// SiteFile implements api.Backend.
func (n *node) SiteFile(context.Context) ([]byte, error) { return os.ReadFile(n.cfg.siteFile()) }

// Apply implements api.Backend.
func (n *node) Apply(ctx context.Context, r api.ApplyRequest) (api.ApplyAnswer, error) {
	var none api.ApplyAnswer
	if n.store == nil {
		return none, n.passOn(ctx, "POST", "/v1/site", r, &none)
	}
	n.applying.Add(1)
	defer n.applying.Add(-1)
	leader := n.store.Leader()
	if leader == "" {
		return none, api.Refuse(http.StatusServiceUnavailable, "mainstay status", "nobody leads at present: a new file is distributed by the leader")
	}
	if leader != n.host {
		var a api.ApplyAnswer
		return a, n.once(ctx, leader, "/v1/site", r, &a)
	}
	spec, faults := Check(ctx, n.cfg, "the new file", []byte(r.Text), "")
	if wrong := faults.Errors(); len(wrong) > 0 {
		return none, api.Refuse(http.StatusUnprocessableEntity, "mainstay check --file FILE", "%v", wrong.Err())
	}
	a := api.ApplyAnswer{Sum: sumOf([]byte(r.Text)), Changes: changes(n.spec, spec), Hosts: map[string]string{}}
	for _, w := range faults.Warnings() {
		a.Warnings = append(a.Warnings, w.Error())
	}
	at, reports, state := n.desk.Told(), n.desk.Reports(), n.store.State()
	told := func(host string) bool { return at[host] != 0 && n.now().Sub(at[host]) < servesFor }
	if wrong := append(unsafe(n.spec, spec, state, reports), deserts(n.spec, spec, state, reports, told)...); len(wrong) > 0 {
		return none, api.Refuse(http.StatusConflict, "mainstay apply --help", "%s", strings.Join(wrong, "\n"))
	}
	raw, revision, err := n.store.Private(ctx, siteKey)
	if err != nil {
		return none, err
	}
	offer := api.SiteOffer{Text: r.Text, By: r.By, Only: "check"}
	said := n.offer(ctx, spec, offer)
	var refusals []string
	for _, host := range fleet.Sorted(said) {
		a.Hosts[host] = "would take it"
		var refusal *api.Refusal
		switch err := said[host]; {
		case errors.As(err, &refusal):
			refusals = append(refusals, fmt.Sprintf("%s refuses it: %v", host, err))
		case err != nil:
			a.Hosts[host] = "is away, and would get it when it returns"
		}
	}
	if len(refusals) > 0 {
		return none, api.Refuse(http.StatusConflict, "mainstay check --file FILE on that host", "nothing was changed anywhere:\n%s", strings.Join(refusals, "\n"))
	}
	if r.Preview {
		return a, nil
	}
	value, err := json.Marshal(recorded{Text: r.Text, By: r.By, At: time.Now()})
	if err != nil {
		return none, err
	}
	if err := n.tell(ctx, r.By, "site", fmt.Sprintf("applies site file %s: %s", a.Sum, strings.Join(a.Changes, "; "))); err != nil {
		return none, err
	}
	if !bytes.Equal(raw, value) {
		if err := n.store.PutPrivate(ctx, siteKey, value, revision); err != nil {
			return none, fmt.Errorf("record the new file (is another apply under way?): %w", err)
		}
	}
	offer.Only = ""
	for host, err := range n.offer(ctx, spec, offer) {
		a.Hosts[host] = "has it"
		if err != nil {
			a.Hosts[host] = fmt.Sprintf("has not got it yet and will: %v", err)
		}
	}
	return a, nil
}

// unsafe says what of a new file cannot be changed on a running site with that state and
// these reports, or not by one file.
func unsafe(now, spec fleet.Spec, state fleet.State, reports map[string]fleet.Report) (out []string) {
	if spec.Site != now.Site {
		return []string{fmt.Sprintf("this is site %s, not %s", now.Site, spec.Site)}
	}
	if !slices.Equal(spec.Voters(), now.Voters()) {
		out = append(out, fmt.Sprintf("voters: are %v, and would be %v. Between two lists there would be two majorities that do not meet: a dead voter's place is taken by mainstay voters replace, under its name", now.Voters(), spec.Voters()))
	}
	if spec.Timing != now.Timing {
		out = append(out, "timing: while some hosts have the old one and some the new, an ear may call a lease over that still lives. It is changed with every agent stopped, in the file of each host")
	}
	if spec.Mode == "shadow" && now.Mode != "shadow" {
		for _, a := range spec.Addresses {
			if h := state.Holdings[a.Thing()]; h.Host != "" {
				out = append(out, fmt.Sprintf("mode: in shadow nobody would keep %s, which %s has: take the addresses out of the file first, and give them to whatever shall have them. If Mainstay shall only do nothing for a while: mainstay disarm on", a.Thing(), h.Host))
			}
		}
	}
	for _, h := range now.Hosts {
		next, _ := spec.Host(h.Name)
		if r := reports[h.Name]; r.Watchdog > 0 && !r.Leaving && (next.Watchdog.Device != h.Watchdog.Device || spec.Mode == "shadow" && now.Mode != "shadow") {
			// The process that would go on does not know it, and nobody kicks it any more.
			out = append(out, fmt.Sprintf("hosts: the watchdog %s of %s is armed, and would reset the host as soon as no agent keeps it: stop the agent of %[2]s first, with nothing on it (docs/OPERATING.md, Watchdogs)", h.Watchdog.Device, h.Name))
		}
	}
	for _, h := range now.Hosts {
		next, stays := spec.Host(h.Name)
		for _, thing := range fleet.Sorted(state.Holdings) {
			if servers := thing == plan.Compute(h.Name); !stays && !servers && state.Holdings[thing].Host == h.Name {
				out = append(out, fmt.Sprintf("hosts: %s would go, and holds %s: mainstay maintenance %s on moves it away first", h.Name, thing, h.Name))
			}
		}
		was, err := PeerURL(h)
		is, nextErr := PeerURL(next)
		if stays && h.Voter && next.Voter && err == nil && nextErr == nil && was != is {
			out = append(out, fmt.Sprintf("hosts: %s is a voter, and the others know its store as %s, not as %s: a voter's own address stays", h.Name, was, is))
		}
	}
	return out
}

// offerBound is how long a host has to check a file, or to take it.
const offerBound = 8 * time.Second

// offer brings a file to every member of the site at once, to this host last, and
// returns what came of it. An error that is no refusal says that the host is away.
func (n *node) offer(ctx context.Context, spec fleet.Spec, o api.SiteOffer) map[string]error {
	bounded, cancel := context.WithTimeout(ctx, offerBound)
	defer cancel()
	members := n.store.State().Members
	o.Epoch = n.store.State().Epoch
	var mu sync.Mutex
	var wait sync.WaitGroup
	out := map[string]error{}
	for _, h := range spec.Hosts {
		if _, joined := members[h.Name]; !joined || h.Name == n.host {
			continue
		}
		if err := n.away(h.Name); err != nil {
			mu.Lock()
			out[h.Name] = err
			mu.Unlock()
			continue
		}
		wait.Go(func() {
			err := n.offerTo(bounded, h.Name, o)
			mu.Lock()
			defer mu.Unlock()
			out[h.Name] = err
		})
	}
	wait.Wait()
	mine, cancel := context.WithTimeout(ctx, offerBound)
	defer cancel()
	out[n.host] = n.OfferSite(mine, o)
	return out
}

// awayAfter is the silence after which nothing is sent to a host: to connect to one
// that has no power takes seconds.
const awayAfter = 5 * time.Second

// away says why a host cannot be reached at present; nil if it may be.
func (n *node) away(host string) error {
	h, ok := n.agent.Heard()[host]
	if silent := n.now().Sub(h.Last); ok && silent > awayAfter {
		return fmt.Errorf("nothing was heard of it for %v", silent.Round(time.Second))
	}
	if !ok {
		return errors.New("nothing was heard of it")
	}
	return nil
}

func (n *node) offerTo(ctx context.Context, host string, o api.SiteOffer) error {
	return n.once(ctx, host, "/v1/host/site", o, nil)
}

// once asks a host for what takes long and should be done once: the next network is
// tried only where nobody answered on the one before.
func (n *node) once(ctx context.Context, host, path string, question, answer any) error {
	err := errors.New("this host's own file does not know the way to it yet")
	for _, c := range n.peers.of(host) {
		var refusal *api.Refusal
		if err = c.Do(ctx, "POST", path, question, answer); err == nil || errors.As(err, &refusal) {
			return err
		}
	}
	return err
}

// OfferSite implements api.Backend: a leader's file is checked here and, unless that
// was all it wanted, kept and taken into use.
func (n *node) OfferSite(ctx context.Context, o api.SiteOffer) error {
	text := []byte(o.Text)
	if sumOf(text) == n.sum && o.Only == "" {
		return nil
	}
	spec, faults := Check(ctx, n.cfg, "the new file", text, n.host)
	if _, ok := spec.Host(n.host); !ok && len(faults.Errors()) == 0 {
		return api.Refuse(http.StatusUnprocessableEntity, "", "it has no host %s", n.host)
	}
	if wrong := n.lacking(faults.Errors()); len(wrong) > 0 {
		return api.Refuse(http.StatusUnprocessableEntity, "", "%v", wrong.Err())
	}
	if o.Only == "check" {
		return nil
	}
	n.taking.Lock()
	defer n.taking.Unlock()
	if n.succeeded.Load() {
		return errors.New("another process goes on in this one's place, and reads what is there")
	}
	if known := max(n.agent.Epoch(), n.offered); o.Epoch < known {
		return api.Refuse(http.StatusConflict, "", "epoch %d is over, %d has begun", o.Epoch, known)
	}
	n.offered = o.Epoch
	if err := replaceFile(n.cfg.siteFile(), text, 0o640); err != nil {
		return fmt.Errorf("keep the new site file: %w", err)
	}
	n.log.Info("a new site file is taken into use", "sum", sumOf(text), "by", o.By)
	select {
	case n.renewed <- struct{}{}:
	default: // a successor is being started already, and will be once more if need be
	}
	return nil
}

// lacking leaves out of a host's faults those that it has already with the file in
// use: a unit that is missing today is no reason to refuse tomorrow's file.
func (n *node) lacking(faults fleet.Faults) fleet.Faults {
	if len(faults) == 0 {
		return nil
	}
	text, err := os.ReadFile(n.cfg.siteFile())
	if err != nil {
		return faults
	}
	ctx, cancel := context.WithTimeout(context.Background(), offerBound)
	defer cancel()
	_, present := Check(ctx, n.cfg, "the new file", text, n.host)
	return slices.DeleteFunc(faults, func(f fleet.Fault) bool {
		return slices.ContainsFunc(present, func(p fleet.Fault) bool {
			return p.Path == f.Path && p.Rule == f.Rule && p.Problem == f.Problem
		})
	})
}

// replaceFile puts a file in another's place, whole and on the disk.
func replaceFile(path string, text []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncFolder(path)
}

// syncFolder returns when the name of a file, or that it is gone, is on the disk.
func syncFolder(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// keepSite brings the recorded file to whoever reports another, as long as this
// host leads.
func (n *node) keepSite(ctx context.Context) {
	ticker := time.NewTicker(2 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if !n.quorum.Holds(n.now()) {
			continue
		}
		raw, _, err := n.store.Private(ctx, siteKey)
		var r recorded
		if err != nil || len(raw) == 0 || json.Unmarshal(raw, &r) != nil {
			continue // nothing was applied yet, or the store cannot say
		}
		want := sumOf([]byte(r.Text))
		n.versions.mu.Lock()
		n.versions.recorded = want
		n.versions.sums[n.host] = n.sum
		var others []string
		for _, host := range fleet.Sorted(n.versions.sums) {
			if n.versions.sums[host] != want && (host == n.host || n.away(host) == nil) {
				others = append(others, host)
			} else if n.versions.sums[host] == want {
				delete(n.versions.refused, host)
			}
		}
		n.versions.mu.Unlock()
		offer := api.SiteOffer{Text: r.Text, By: r.By, Epoch: n.store.State().Epoch}
		for _, host := range others {
			once, cancel := context.WithTimeout(ctx, offerBound)
			var err error
			if host == n.host {
				err = n.OfferSite(once, offer)
			} else {
				err = n.offerTo(once, host, offer)
			}
			cancel()
			var refusal *api.Refusal
			if !errors.As(err, &refusal) {
				continue // taken, or away
			}
			n.versions.mu.Lock()
			told := n.versions.refused[host] == err.Error()
			n.versions.refused[host] = err.Error()
			n.versions.mu.Unlock()
			if !told {
				n.log.Error("a host does not take the site's file", "host", host, "why", err)
			}
		}
	}
}

// siteOf says how a host's file differs from the site's; "" if it does not, or
// nothing is known of it.
func (n *node) siteOf(host string) string {
	n.versions.mu.Lock()
	defer n.versions.mu.Unlock()
	want := n.versions.recorded
	if want == "" {
		want = n.sum
	}
	have := n.versions.sums[host]
	if have == "" || have == want {
		return ""
	}
	out := fmt.Sprintf("has another site file: %s, the site's is %s", have, want)
	if why := n.versions.refused[host]; why != "" {
		out += "; it refuses that one: " + why
	}
	return out
}

// env is what this host's copies of services share.
func (n *node) env() service.Env {
	return service.Env{Systemd: n.system, Held: filepath.Join(n.cfg.Run, "held"), Shims: filepath.Join(n.cfg.Run, "ocf"), Kept: filepath.Join(n.cfg.State, "ocf"), Saved: filepath.Join(n.cfg.State, "saved")}
}

// forgetServices takes back what was prepared on this host for services that the
// file in use when it last started still named.
func (n *node) forgetServices(ctx context.Context) {
	path := filepath.Join(n.cfg.State, "site.known.yaml")
	env := n.env()
	if text, err := os.ReadFile(path); err == nil {
		former, _ := fleet.Read(path, text, service.Catalogue())
		for _, v := range former.Services {
			if !forgotten(former, n.spec, v, n.host) {
				continue
			}
			c, err := service.Open(v, env)
			if err == nil {
				err = errors.Join(c.Forget(ctx), c.Close())
			}
			if err != nil {
				n.log.Error("forget a service that the site's file names no more", "service", v.Name, "error", err)
				return // tried again at the next start
			}
			n.log.Info("a service is Mainstay's no more; what runs of it runs on", "service", v.Name)
		}
	}
	if err := replaceFile(path, n.text, 0o600); err != nil {
		n.log.Error("keep which services this host was prepared for", "error", err)
	}
}

// forgotten says whether a host was prepared for a service as the former file had it, and
// is not for what the present one makes of it: another kind or mode has another bar, or none.
func forgotten(former, present fleet.Spec, v fleet.Service, host string) bool {
	now, stays := present.Service(v.Name)
	same := stays && now.Mode == v.Mode && now.Kind == v.Kind && slices.Contains(present.Homes(now), host)
	return slices.Contains(former.Homes(v), host) && !same
}

// changes says in words what a new file changes, one line for each.
func changes(old, now fleet.Spec) (out []string) {
	out = append(out, changed("network", named(old.Networks, func(x fleet.Network) string { return x.Name }), named(now.Networks, func(x fleet.Network) string { return x.Name }))...)
	out = append(out, changed("host", named(old.Hosts, func(x fleet.Host) string { return x.Name }), named(now.Hosts, func(x fleet.Host) string { return x.Name }))...)
	out = append(out, changed("address", named(old.Addresses, func(x fleet.Address) string { return x.Name }), named(now.Addresses, func(x fleet.Address) string { return x.Name }))...)
	out = append(out, changed("service", named(old.Services, func(x fleet.Service) string { return x.Name }), named(now.Services, func(x fleet.Service) string { return x.Name }))...)
	rest := func(s fleet.Spec) map[string]any {
		var alarms []string // told by host and a digest: what is behind may be a token
		for _, a := range s.Alarms {
			alarms = append(alarms, fmt.Sprintf("%s (%.4s)", api.BareURL(a), sumOf([]byte(a))))
		}
		return map[string]any{"timing": s.Timing, "mode": s.Mode, "tls": s.TLS, "alarms": alarms, "operators": s.Operators, "openstack": s.OpenStack, "brakes": s.Brakes, "voters": s.Voters()}
	}
	return append(out, fields("site", rest(old), rest(now))...)
}

func named[T any](list []T, name func(T) string) map[string]any {
	out := map[string]any{}
	for _, x := range list {
		out[name(x)] = x
	}
	return out
}

func changed(kind string, old, now map[string]any) (out []string) {
	for _, name := range fleet.Sorted(old) {
		if _, stays := now[name]; !stays {
			out = append(out, kind+" "+name+" goes")
		}
	}
	for _, name := range fleet.Sorted(now) {
		was, there := old[name]
		if !there {
			out = append(out, kind+" "+name+" is new")
			continue
		}
		out = append(out, fields(kind+" "+name, plain(was), plain(now[name]))...)
	}
	return out
}

// plain is a value as JSON shows it, field by field.
func plain(v any) map[string]any {
	raw, err := json.Marshal(v)
	out := map[string]any{}
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	if err != nil { // our own plain values always marshal
		panic(fmt.Sprintf("node: compare site files: %v", err))
	}
	return out
}

// fields compares two values field by field; a field that is there in one only is
// compared with nothing.
func fields(what string, old, now map[string]any) (out []string) {
	all := map[string]bool{}
	for name := range old {
		all[name] = true
	}
	for name := range now {
		all[name] = true
	}
	for _, name := range fleet.Sorted(all) {
		was, is := text(old[name]), text(now[name])
		if was != is {
			out = append(out, fmt.Sprintf("%s: %s is %s, was %s", what, name, is, was))
		}
	}
	return out
}

func text(v any) string {
	raw, err := json.Marshal(v)
	if err != nil || v == nil {
		return "not set"
	}
	return string(raw)
}
