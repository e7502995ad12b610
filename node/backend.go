package node

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/judge"
	"mainstay/plan"
	"mainstay/store"
	"mainstay/trust"
)

// tokenLife is how long a join token is good for unless told else, tokenMost how
// long it can be.
const (
	tokenLife = 15 * time.Minute
	tokenMost = 24 * time.Hour
)

// leaderView is what Status.View says where the leader's own World was asked.
const leaderView = "leader"

// look returns what the leader last saw and decided; elsewhere what this host
// alone sees, with why it is not the leader's view.
func (n *node) look(ctx context.Context) (fleet.World, fleet.Plan, string) {
	if n.leader != nil {
		if w, p, ok := n.leader.Look(ctx); ok {
			return w, p, leaderView
		}
	}
	w := fleet.World{Spec: n.spec, Now: n.now(), Wall: time.Now(), Leader: n.host, Reports: n.desk.Reports(), Heard: n.agent.Heard()}
	view := "this host's own view"
	if n.store != nil {
		w.State = n.store.State()
		w.Epoch = w.State.Epoch
	} else {
		view += ": it is no voter"
	}
	w.Verdicts = judge.Judge(w)
	return w, fleet.Plan{}, view
}

// Status implements api.Backend.
func (n *node) Status(ctx context.Context, local bool) (api.Status, error) {
	w, p, view := n.look(ctx)
	if n.store == nil && !local {
		if s, err := n.statusElsewhere(ctx); err == nil {
			return s, nil
		} else {
			view += "; " + err.Error()
		}
	} else if view != leaderView && !local {
		if s, err := n.leaderStatus(ctx); err == nil {
			return s, nil
		} else if w.State.Leader != "" && w.State.Leader != n.host {
			view += "; the leader " + w.State.Leader + " did not answer"
		}
	}
	s := api.StatusOf(w, p)
	s.By, s.Version, s.View = n.host, n.cfg.Version, view
	if n.pair != nil && view != leaderView {
		if x, waits := n.pair.waits(); waits {
			s.Waits = append(s.Waits, x)
		}
	}
	if n.store != nil {
		s.Leader = n.store.Leader()
		parts := n.memberships(ctx)
		for i := range s.Hosts {
			s.Hosts[i].Store, s.Hosts[i].Site = cmp.Or(s.Hosts[i].Store, parts[s.Hosts[i].Name]), n.siteOf(s.Hosts[i].Name)
		}
	}
	return s, nil
}

func (n *node) leaderStatus(ctx context.Context) (api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	ask := n.store.Leader()
	if ask == "" {
		return n.askLeader(ctx) // this host's own store may be the one that is missing
	}
	if ask == n.host {
		return api.Status{}, errors.New("no leader is known")
	}
	return race(ctx, n.peers.of(ask), func(ctx context.Context, c *api.Client) (api.Status, error) { return c.LocalStatus(ctx) })
}

// World implements api.Backend.
func (n *node) World(ctx context.Context) (api.WorldView, error) {
	if n.store == nil {
		return askVoters(ctx, n, func(ctx context.Context, c *api.Client) (v api.WorldView, err error) {
			return v, c.Do(ctx, "GET", "/v1/world", nil, &v)
		})
	}
	w, p, _ := n.look(ctx)
	return api.WorldView{World: bare(w), Plan: p}, nil
}

// KeptWorld implements api.Backend.
func (n *node) KeptWorld(ctx context.Context, id string, local bool) (api.WorldView, error) {
	if local || n.store != nil {
		if v, err := n.worlds.read(id); local || !notKept(err) {
			return v, err
		}
	}
	return n.keptElsewhere(ctx, id)
}

// Events implements api.Backend.
func (n *node) Events(ctx context.Context, after string, limit int) ([]fleet.Event, error) {
	if n.store == nil {
		c, err := n.aVoter(ctx)
		if err != nil {
			return nil, err
		}
		return c.Events(ctx, after, limit)
	}
	return n.store.Events(ctx, after, limit)
}

// Follow implements api.Backend.
func (n *node) Follow(ctx context.Context, after string) (<-chan fleet.Event, error) {
	if n.store == nil {
		return n.followElsewhere(ctx, after), nil
	}
	return n.store.WatchEvents(ctx, after), nil
}

// Wish implements api.Backend.
func (n *node) Wish(ctx context.Context, w fleet.Wish) error {
	if n.store == nil {
		return n.passOn(ctx, "POST", "/v1/wishes", w, nil)
	}
	if n.spec.Mode == "shadow" && w.Verb != "maintenance" && w.Verb != "disarm" {
		// It would stand in the store, and come true on the day when the site begins to act.
		return api.Refuse(http.StatusConflict, "mainstay events --follow", "the site is in shadow mode: nothing is carried out, and a wish for %s would come true when it begins to act", w.Verb)
	}
	switch w.Verb {
	case "maintenance":
		if _, ok := n.spec.Host(w.Host); !ok {
			return n.noHost(w.Host)
		}
		if host, _ := n.spec.Host(w.Host); w.Drain && (n.spec.OpenStack.Cloud == "" || !host.HasRole("compute")) {
			return api.Refuse(http.StatusConflict, "", "%s is no compute of an OpenStack that this site's file names: it has no servers to be live-migrated", w.Host)
		}
		w.ID = "maintenance-" + w.Host
	case "disarm":
		w.ID = "disarm"
	case "move":
		if err := n.checkMove(&w); err != nil {
			return err
		}
	case "oath":
		return n.swear(ctx, w)
	case "reset":
		if err := n.checkReset(&w); err != nil {
			return err
		}
	case "without":
		if err := n.checkWithout(&w); err != nil {
			return err
		}
	case plan.WishCopy:
		if err := n.checkCopy(&w); err != nil {
			return err
		}
	case "stop":
		if err := n.checkStop(&w); err != nil {
			return err
		}
	case "restart":
		if err := n.checkRestart(&w); err != nil {
			return err
		}
	default:
		return api.Refuse(http.StatusBadRequest, "", "no such wish: %q; there are maintenance, disarm, move, oath, reset, without, copy, stop and restart", w.Verb)
	}
	return n.store.Wish(ctx, []fleet.Record{fleet.Put("wish/"+w.ID, w, fmt.Sprintf("%s wishes: %s %s%s", w.By, w.Verb, w.Host, w.Thing))})
}

func (n *node) noHost(host string) error {
	var names []string
	for _, h := range n.spec.Hosts {
		names = append(names, h.Name)
	}
	return api.Refuse(http.StatusNotFound, "", "the site has no host %q; it has %s", host, strings.Join(names, ", "))
}

// checkMove completes a wish to move and refuses what can never come true.
func (n *node) checkMove(w *fleet.Wish) error {
	if _, ok := n.spec.Host(w.To); !ok {
		return n.noHost(w.To)
	}
	if a, ok := n.spec.Address(strings.TrimPrefix(w.Thing, "address/")); ok {
		w.Thing = a.Thing()
		host, _ := n.spec.Host(w.To)
		if !n.spec.MayCarry(a, host) {
			return api.Refuse(http.StatusConflict, "", "%s may not carry %s: it has no address on %s, or not the company it wants (%s)", w.To, a.Name, a.Network, strings.Join(a.With, ", "))
		}
	} else if v, ok := n.spec.Service(strings.TrimPrefix(w.Thing, "service/")); ok {
		w.Thing = v.Thing()
		if !v.Mode.Exclusive() {
			return api.Refuse(http.StatusConflict, "mainstay maintenance HOST takes a host out of rotation", "%s is %s: it runs on every one of its hosts and is not moved", v.Name, v.Mode)
		}
		for _, with := range v.With {
			if b, ok := n.spec.Service(strings.TrimPrefix(with, "service/")); ok && with == b.Thing() && b.Mode.Exclusive() {
				return api.Refuse(http.StatusConflict, fmt.Sprintf("mainstay move %s %s", b.Name, w.To), "%s stands on %s and goes where that goes", v.Name, b.Name)
			}
		}
		if !slices.Contains(n.spec.Homes(v), w.To) {
			return api.Refuse(http.StatusConflict, "", "%s may not live on %s; it may on %s", v.Name, w.To, strings.Join(n.spec.Homes(v), ", "))
		}
	} else {
		return api.Refuse(http.StatusNotFound, "mainstay status", "the site has no address or service %q", w.Thing)
	}
	w.ID = moveID(w.Thing)
	return nil
}

// checkReset completes a wish to reset a cluster, or one of its nodes.
func (n *node) checkReset(w *fleet.Wish) error {
	v, ok := n.spec.Service(strings.TrimPrefix(w.Thing, "service/"))
	switch {
	case !ok:
		return api.Refuse(http.StatusNotFound, "mainstay status", "the site has no service %q", w.Thing)
	case v.Kind != "rabbitmq":
		return api.Refuse(http.StatusConflict, "", "%s is of kind %s: only one of kind rabbitmq is reset", v.Name, v.Kind)
	case w.Host != "" && !slices.Contains(n.spec.Homes(v), w.Host):
		return api.Refuse(http.StatusConflict, "", "%s does not live on %s; it does on %s", v.Name, w.Host, strings.Join(n.spec.Homes(v), ", "))
	}
	w.Thing = v.Thing()
	w.ID = "reset-" + v.Name
	return nil
}

// checkRestart completes a wish to restart a service host by host.
func (n *node) checkRestart(w *fleet.Wish) error {
	v, ok := n.spec.Service(strings.TrimPrefix(w.Thing, "service/"))
	switch {
	case !ok:
		return api.Refuse(http.StatusNotFound, "mainstay status", "the site has no service %q", w.Thing)
	case v.Mode != fleet.ActiveActive:
		return api.Refuse(http.StatusConflict, "mainstay move "+v.Name+" HOST", "%s is %s: what only one host has is moved by the word of who has it", v.Name, v.Mode)
	}
	if w.Upgrade && (v.Kind == "exec" || v.Kind == "ocf") {
		return api.Refuse(http.StatusConflict, "mainstay restart "+v.Name, "%s is of kind %s, of which nobody knows in which package it comes", v.Name, v.Kind)
	}
	w.Thing, w.ID, w.Done, w.Stuck = v.Thing(), "restart-"+v.Name, nil, ""
	return nil
}

// checkStop completes a wish to end all members of a cluster and keep them down.
func (n *node) checkStop(w *fleet.Wish) error {
	v, ok := n.spec.Service(strings.TrimPrefix(w.Thing, "service/"))
	switch {
	case !ok:
		return api.Refuse(http.StatusNotFound, "mainstay status", "the site has no service %q", w.Thing)
	case v.Kind != "galera":
		return api.Refuse(http.StatusConflict, "", "%s is of kind %s: only a database of kind galera is stopped as a whole, to be restored", v.Name, v.Kind)
	}
	w.Thing, w.ID = v.Thing(), "stop-"+v.Name
	return nil
}

// servesFor is how long a host's word that its copy serves counts: one comes each second.
const servesFor = 5 * time.Second

// checkWithout completes a person's word that a cluster may go on without what data
// only one of its members may have.
func (n *node) checkWithout(w *fleet.Wish) error {
	v, ok := n.spec.Service(strings.TrimPrefix(w.Thing, "service/"))
	switch {
	case !ok:
		return api.Refuse(http.StatusNotFound, "mainstay status", "the site has no service %q", w.Thing)
	case v.Kind != "galera":
		return api.Refuse(http.StatusConflict, "", "%s is of kind %s: its copies share no history that one could go on without", v.Name, v.Kind)
	case !slices.Contains(n.spec.Homes(v), w.Host):
		return api.Refuse(http.StatusNotFound, "", "%s has no member on %q; it has on %s", v.Name, w.Host, strings.Join(n.spec.Homes(v), ", "))
	}
	reports, told := n.desk.Reports(), n.desk.Told()
	for _, host := range n.spec.Homes(v) {
		// Asked for while all is well it would stand until the day when it costs data.
		if told[host] != 0 && n.now().Sub(told[host]) < servesFor && reports[host].Services[v.Name].Ready {
			return api.Refuse(http.StatusConflict, "", "%s serves on %s: nothing waits for %s", v.Name, host, w.Host)
		}
	}
	w.Thing = v.Thing()
	w.ID = "without-" + v.Name + "-" + w.Host
	return nil
}

// swear records a person's oath that a host is off. The proof is written by the
// leader's hand, so it must be sworn where the leader is.
func (n *node) swear(ctx context.Context, w fleet.Wish) error {
	if _, ok := n.spec.Host(w.Host); !ok {
		return n.noHost(w.Host)
	}
	if h, ok := n.agent.Heard()[w.Host]; ok && n.now().Sub(h.Last) < n.spec.Timing.Silence(fleet.CoarseLate) {
		return api.Refuse(http.StatusConflict, "cut its power first", "%s was heard %v ago: it is not off", w.Host, n.now().Sub(h.Last).Round(time.Millisecond))
	}
	boot := n.store.State().Members[w.Host].Admitted
	if boot == "" {
		return api.Refuse(http.StatusConflict, "", "no boot of %s holds anything", w.Host)
	}
	w.ID, w.Boot = "oath-"+w.Host, boot
	return n.store.Wish(ctx, []fleet.Record{fleet.Put("wish/"+w.ID, w, fmt.Sprintf("%s swears that %s is off", w.By, w.Host))})
}

// Unwish implements api.Backend.
func (n *node) Unwish(ctx context.Context, id, by string) error {
	if n.store == nil {
		return n.passOn(ctx, "DELETE", "/v1/wishes/"+url.PathEscape(id), nil, nil)
	}
	id, ok := wishID(n.store.State().Wishes, id)
	if !ok {
		return api.Refuse(http.StatusNotFound, "mainstay status", "nobody wishes %q", id)
	}
	wish := n.store.State().Wishes[id]
	about := wish.Thing
	if about == "" && wish.Host != "" {
		about = "host/" + wish.Host
	}
	return n.store.Wish(ctx, []fleet.Record{
		fleet.Remove("wish/"+id, by+" takes the wish back: "+id),
		fleet.Deed(by, about, fmt.Sprintf("takes back what %s wished: %s", wish.By, id), time.Now()),
	})
}

// moveID is under which id a wish to move a thing stands.
func moveID(thing string) string { return "move-" + strings.ReplaceAll(thing, "/", "-") }

// wishID finds a wish by its id, and one to move by the thing's short name too.
func wishID(wishes map[string]fleet.Wish, id string) (string, bool) {
	if _, ok := wishes[id]; ok {
		return id, true
	}
	if thing, ok := strings.CutPrefix(id, "move-"); ok {
		for _, full := range []string{thing, "address/" + thing, "service/" + thing} {
			if _, ok := wishes[moveID(full)]; ok {
				return moveID(full), true
			}
		}
	}
	return id, false
}

// tell puts into history what a person is about to do beside the plan: first, so that
// nothing is done that nobody did.
func (n *node) tell(ctx context.Context, by, about, what string) error {
	n.log.Info("a person's deed", "by", by, "about", about, "what", what)
	return n.store.Wish(ctx, []fleet.Record{fleet.Deed(by, about, what, time.Now())})
}

// Token implements api.Backend.
func (n *node) Token(ctx context.Context, by string, valid time.Duration) (string, error) {
	if n.store == nil {
		var answer map[string]string
		err := n.passOn(ctx, "POST", "/v1/tokens", api.TokenRequest{Valid: valid}, &answer)
		return answer["token"], err
	}
	if valid == 0 {
		valid = tokenLife
	}
	if valid < 0 || valid > tokenMost {
		return "", api.Refuse(http.StatusBadRequest, "", "a token can be good for %v at most, not %v", tokenMost, valid)
	}
	ca, err := trust.LoadCA(n.cfg.tls())
	if err != nil {
		return "", err
	}
	token, invite := ca.NewToken(time.Now(), valid)
	if err := n.tell(ctx, by, "site", fmt.Sprintf("makes a join token, good until %s", invite.Expires.UTC().Format(time.RFC3339))); err != nil {
		return "", err
	}
	if err := n.store.PutToken(ctx, invite.Hash, invite.Expires); err != nil {
		return "", err
	}
	return token, nil
}

// Operator implements api.Backend: the certificate itself is made by who has the CA's key.
func (n *node) Operator(ctx context.Context, by string, r api.OperatorRequest) error {
	if n.store == nil {
		return n.passOn(ctx, "POST", "/v1/operators", r, nil)
	}
	if slices.Contains(n.spec.Operators.Revoked, r.Name) {
		return api.Refuse(http.StatusConflict, fmt.Sprintf("mainstay token --operator %s-2", r.Name), "the site's file revokes every certificate of %s, and a new one would be refused too", r.Name)
	}
	return n.tell(ctx, by, "site", fmt.Sprintf("makes operator %s a certificate to %s, good until %s", r.Name, r.Role, r.Until.UTC().Format(time.RFC3339)))
}

// Join implements api.Backend: the caller has proved itself by a token's secret.
func (n *node) Join(ctx context.Context, r api.JoinRequest) (api.JoinAnswer, error) {
	var none api.JoinAnswer
	if n.store == nil {
		return none, api.Refuse(http.StatusConflict, "mainstay join VOTER; the voters are "+strings.Join(n.spec.Voters(), ", "), "%s is no voter and takes in nobody", n.host)
	}
	host, ok := n.spec.Host(r.Host)
	if !ok {
		return none, n.noHost(r.Host)
	}
	hash, err := trust.HashSecret(r.Secret)
	if err != nil {
		return none, api.Refuse(http.StatusForbidden, "mainstay token", "%v", err)
	}
	// The same joiner may ask again when our answer was lost: it is known by its
	// request, which it signs with its own key.
	sum := sha256.Sum256([]byte(r.CSR))
	var records []fleet.Record
	if _, joined := n.store.State().Members[host.Name]; !joined {
		records = append(records, fleet.Put("member/"+host.Name, fleet.Member{Host: host.Name}, host.Name+" has joined"))
	}
	err = n.store.UseToken(ctx, hash, host.Name+" "+hex.EncodeToString(sum[:8]), records...)
	if errors.Is(err, store.ErrToken) {
		return none, api.Refuse(http.StatusForbidden, "mainstay token, on a voter, makes a new one", "%v", err)
	}
	if err != nil {
		return none, err
	}
	answer, err := n.grant(host, r.CSR)
	if err != nil || !host.Voter {
		return answer, err
	}
	peer, err := PeerURL(host)
	if err != nil {
		return none, err
	}
	answer.Cluster, err = n.addVoter(ctx, host.Name, peer)
	return answer, err
}

// addVoter makes room for a new member, waiting for the one before to grow up.
func (n *node) addVoter(ctx context.Context, name, peer string) (cluster string, err error) {
	err = patiently(ctx, 30*time.Second, func() (err error) {
		cluster, err = n.store.AddVoter(ctx, name, peer)
		return err
	})
	switch {
	case errors.Is(err, store.ErrExists):
		return "", api.Refuse(http.StatusConflict, fmt.Sprintf("if that machine is gone: mainstay voters replace %s %s", name, name), "%v", err)
	case err != nil:
		return "", fmt.Errorf("make %s a voter: %w", name, err)
	}
	return cluster, nil
}

// patiently repeats a change of the store's members while another is under way or
// etcd finds that they have not been in touch for long enough.
func patiently(ctx context.Context, bound time.Duration, change func() error) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	for {
		err := change()
		if err == nil || errors.Is(err, store.ErrExists) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// changeBound is how long a change of voters may take; the command line waits a
// little longer for its answer.
const changeBound = 12 * time.Second

func (n *node) grant(host fleet.Host, csr string) (api.JoinAnswer, error) {
	return grant(n.cfg, n.keys, host, csr)
}

// RenewSelf gives a voter a new certificate by the CA's key that it has, also when the
// present one has expired: a site whose voters were all off for that long has nobody
// else to ask. It returns the host's name.
func RenewSelf(c Config) (string, error) {
	files := trust.Files{Dir: c.tls()}
	id, err := files.Load()
	if expired, is := errors.AsType[*trust.ExpiredError](err); is {
		id.Name = expired.Host
	} else if err != nil {
		return "", err
	}
	spec, _, err := ReadSite(c.siteFile())
	keys, keysErr := trust.LoadBeatKeys(c.tls())
	csr, key, csrErr := trust.NewRequest(id.Name)
	if err := errors.Join(err, keysErr, csrErr); err != nil {
		return "", err
	}
	me, ok := spec.Host(id.Name)
	if !ok || !me.Voter {
		return "", fmt.Errorf("%s is no voter by %s: mainstay token on a voter, then mainstay join VOTER here", id.Name, c.siteFile())
	}
	a, err := grant(c, keys, me, string(csr))
	if err != nil {
		return "", err
	}
	return id.Name, files.Install(a.Grant, key)
}

func grant(c Config, keys trust.BeatKeys, host fleet.Host, csr string) (api.JoinAnswer, error) {
	var none api.JoinAnswer
	ca, err := trust.LoadCA(c.tls())
	if err != nil {
		return none, err
	}
	spec := trust.HostSpec{Name: host.Name, Voter: host.Voter}
	for _, network := range fleet.Sorted(host.Addresses) {
		spec.Addresses = append(spec.Addresses, host.Addresses[network])
	}
	cert, err := ca.SignCSR([]byte(csr), spec, time.Now())
	if err != nil {
		return none, api.Refuse(http.StatusBadRequest, "", "%v", err)
	}
	site, err := os.ReadFile(c.siteFile())
	if err != nil {
		return none, fmt.Errorf("read the site's file: %w", err)
	}
	g := trust.Grant{CA: string(ca.PEM()), Certificate: string(cert)}
	if host.Voter {
		key, err := ca.KeyPEM()
		if err != nil {
			return none, err
		}
		g.CAKey, g.Beat = string(key), keys
	} else if g.Beat, err = keys.For(host.Name); err != nil {
		return none, err
	}
	return api.JoinAnswer{Grant: g, Site: string(site)}, nil
}

// Renew implements api.Backend: the caller has proved itself by its certificate.
func (n *node) Renew(_ context.Context, host string, r api.JoinRequest) (api.JoinAnswer, error) {
	h, ok := n.spec.Host(host)
	if !ok {
		return api.JoinAnswer{}, n.noHost(host)
	}
	return n.grant(h, r.CSR)
}

// renew replaces this host's certificate long before it ends.
func (n *node) renew(ctx context.Context) {
	ticker := time.NewTicker(time.Hour)
	defer ticker.Stop()
	for {
		said := ""
		if due, err := n.files.Due(); err == nil && due {
			if err := n.renewNow(ctx); err != nil && ctx.Err() == nil {
				n.log.Error("renew this host's certificate", "error", err, "help", "mainstay join --renew")
				if ends, known := n.files.Ends(); known == nil && time.Until(ends) < soonExpired {
					said = fmt.Sprintf("it ends on %s, and no new one came: %v", ends.UTC().Format(time.RFC3339), err)
				}
			}
		}
		n.unrenewed.Store(&said)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (n *node) renewNow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	csr, key, err := trust.NewRequest(n.host)
	if err != nil {
		return err
	}
	r := api.JoinRequest{Host: n.host, CSR: string(csr)}
	me, _ := n.spec.Host(n.host)
	if me.Voter {
		a, err := n.grant(me, r.CSR)
		if err != nil {
			return err
		}
		return n.files.Install(a.Grant, key)
	}
	var errs []error
	for _, voter := range n.spec.Voters() {
		a, err := race(ctx, n.peers.of(voter), func(ctx context.Context, c *api.Client) (api.JoinAnswer, error) {
			var a api.JoinAnswer
			return a, c.Do(ctx, "POST", "/v1/host/renew", r, &a)
		})
		if err == nil {
			return n.files.Install(a.Grant, key)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Voters implements api.Backend.
func (n *node) Voters(ctx context.Context, d api.VoterDeed) (api.VoterAnswer, error) {
	var none api.VoterAnswer
	if n.store == nil {
		return none, n.passOn(ctx, "POST", "/v1/voters", d, &none)
	}
	tell := func() error {
		what := fmt.Sprintf("changes the voters: %s %s", d.Do, d.Host)
		if d.Dead != "" {
			what = fmt.Sprintf("changes the voters: %s in the place of %s", d.Host, d.Dead)
		}
		return n.tell(ctx, d.By, "host/"+d.Host, what)
	}
	switch d.Do {
	case "lead":
		if leader := n.store.Leader(); leader != n.host && leader != "" {
			return race(ctx, n.peers.of(leader), func(ctx context.Context, c *api.Client) (api.VoterAnswer, error) {
				var a api.VoterAnswer
				return a, c.Do(ctx, "POST", "/v1/voters", d, &a)
			})
		}
		if err := tell(); err != nil {
			return none, err
		}
		if err := n.store.MoveLead(ctx, d.Host); err != nil {
			return none, err
		}
		return api.VoterAnswer{Text: d.Host + " leads now"}, nil
	case "remove":
		all, err := n.store.Voters(ctx)
		if err != nil {
			return none, err
		}
		remove := func() error { return n.store.RemoveVoter(ctx, d.Host) }
		if !slices.ContainsFunc(all, func(v store.Voter) bool { return v.Name == d.Host }) {
			peer := neverStarted(n.spec, d.Host, all)
			if peer == "" {
				return none, api.Refuse(http.StatusNotFound, "mainstay status", "%s is no member of the store", d.Host)
			}
			remove = func() error { return n.store.RemoveLearner(ctx, peer) }
		}
		if err := tell(); err != nil {
			return none, err
		}
		if err := patiently(ctx, changeBound, remove); err != nil {
			return none, err
		}
		return api.VoterAnswer{Text: d.Host + " is no member of the store any more"}, nil
	case "replace":
		host, ok := n.spec.Host(d.Host)
		if !ok {
			return none, n.noHost(d.Host)
		}
		if !host.Voter {
			return none, api.Refuse(http.StatusConflict, fmt.Sprintf("mainstay voters replace %s %s, for a new machine under the old name", d.Dead, d.Dead),
				"%s is no voter by the site's file: its store would never start, and the vote of %s would be gone", d.Host, d.Dead)
		}
		// Two machines under one name would be two ears that count as one.
		if h, ok := n.agent.Heard()[d.Dead]; ok && n.now().Sub(h.Last) < n.spec.Timing.Silence(fleet.CoarseLate) {
			return none, api.Refuse(http.StatusConflict, "cut its power first, for good", "%s was heard %v ago: it is not dead", d.Dead, n.now().Sub(h.Last).Round(time.Millisecond))
		}
		peer, err := PeerURL(host)
		if err != nil {
			return none, err
		}
		all, err := n.store.Voters(ctx)
		if err != nil {
			return none, err
		}
		if err := tell(); err != nil {
			return none, err
		}
		err = patiently(ctx, changeBound, func() error {
			// A machine that broke before its first start, and comes back elsewhere.
			if old := neverStarted(n.spec, d.Host, all); old != "" && old != peer {
				if err := n.store.RemoveLearner(ctx, old); err != nil {
					return err
				}
			}
			_, err := n.store.ReplaceVoter(ctx, d.Dead, d.Host, peer)
			return err
		})
		if err != nil {
			return none, err
		}
		token, err := n.Token(ctx, d.By, 0)
		if err != nil {
			return none, err
		}
		me, _ := n.spec.Host(n.host)
		at := me.Addresses["management"]
		for _, network := range fleet.Sorted(me.Addresses) {
			if !at.IsValid() {
				at = me.Addresses[network]
			}
		}
		return api.VoterAnswer{Token: token, Text: fmt.Sprintf("%s takes the place of %s. On it, within %v: mainstay join %s TOKEN && systemctl enable --now mainstay", d.Host, d.Dead, tokenLife, at)}, nil
	}
	return none, api.Refuse(http.StatusBadRequest, "", "no such deed: %q; there are lead, remove and replace", d.Do)
}

// neverStarted is the peer of a member that has no name, for it never started, and is
// this host's: it is where the file has it, or where the file has nobody any more.
func neverStarted(s fleet.Spec, host string, all []store.Voter) string {
	owner := map[string]string{}
	for _, h := range s.Hosts {
		if peer, err := PeerURL(h); err == nil {
			owner[peer] = h.Name
		}
	}
	for _, v := range all {
		if v.Name == "" && v.Learner && (owner[v.Peer] == "" || owner[v.Peer] == host) {
			return v.Peer
		}
	}
	return ""
}

// Backup implements api.Backend.
func (n *node) Backup(ctx context.Context, w http.ResponseWriter) error {
	if n.store == nil {
		return n.passOn(ctx, "GET", "/v1/backup", nil, io.Writer(w))
	}
	_, err := n.store.Backup(ctx, w, n.spec.Site, n.cfg.Version)
	return err
}

// Report implements api.Backend.
func (n *node) Report(_ context.Context, r fleet.Report, site string) {
	n.versions.mu.Lock()
	n.versions.sums[r.Host] = site
	n.versions.mu.Unlock()
	n.desk.Put(r)
}

// Order implements api.Backend.
func (n *node) Order(ctx context.Context, o fleet.Order) fleet.Effect { return n.agent.Order(ctx, o) }
