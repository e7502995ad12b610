package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/store"
)

// voter is one that answers what the test says.
type voter struct {
	api.Backend
	view   string
	events []fleet.Event
	wishes chan fleet.Wish
	told   chan string
}

func (v *voter) Status(_ context.Context, local bool) (api.Status, error) {
	return api.Status{By: v.view, View: v.view}, nil
}
func (v *voter) Events(context.Context, string, int) ([]fleet.Event, error) { return v.events, nil }
func (v *voter) KeptWorld(_ context.Context, id string, local bool) (api.WorldView, error) {
	if !local {
		return api.WorldView{}, errors.New("two voters would ask each other in turn")
	}
	if id != v.view {
		return api.WorldView{}, api.Refuse(404, "", "World %s is not kept here", id)
	}
	return api.WorldView{ID: id}, nil
}
func (v *voter) Follow(context.Context, string) (<-chan fleet.Event, error) {
	c := make(chan fleet.Event, len(v.events))
	for _, e := range v.events {
		c <- e
	}
	close(c)
	return c, nil
}
func (v *voter) Operator(_ context.Context, by string, r api.OperatorRequest) error {
	v.told <- by + " " + r.Name
	return nil
}
func (v *voter) Wish(_ context.Context, w fleet.Wish) error {
	v.wishes <- w
	return nil
}

// plainHost is a host without a store; of its three voters c1 is dead, c2 cut off from
// the others, and c3 leads.
func plainHost(t *testing.T, role string, leads *voter) *node {
	t.Helper()
	n := &node{host: "n1", spec: fleet.Spec{Hosts: []fleet.Host{{Name: "n1", Roles: []string{role}}}}}
	n.peers = newPeers(n.spec, n.host, nil, "")
	for name, v := range map[string]*voter{"c1": nil, "c2": {view: "c2's own"}, "c3": leads} {
		n.spec.Hosts = append(n.spec.Hosts, fleet.Host{Name: name, Voter: true})
		path := filepath.Join(t.TempDir(), name)
		n.peers.clients[name] = []*api.Client{api.NewUnix(path)}
		if v == nil {
			continue
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: api.Named(api.Handler(v, slog.New(slog.DiscardHandler))), ConnContext: api.UnixContext, ReadHeaderTimeout: time.Minute}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { s.Close() })
	}
	return n
}

// TestElsewhere: a host without a store answers all the same, with what the voters that
// can know it say, although one is dead and one is cut off.
func TestElsewhere(t *testing.T) {
	leads := &voter{view: leaderView, events: []fleet.Event{{ID: "1.1", Text: "seen"}, {ID: "1.2", Text: "done"}}, wishes: make(chan fleet.Wish, 1), told: make(chan string, 1)}
	n := plainHost(t, "controller", leads)
	if s, err := n.statusElsewhere(t.Context()); err != nil || s.View != leaderView {
		t.Errorf("the status is %q, %v; want the leader's", s.View, err)
	}
	if v, err := n.KeptWorld(t.Context(), leaderView, false); err != nil || v.ID != leaderView {
		t.Errorf("a World that only c3 keeps: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := n.Follow(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	for seen := map[string]bool{}; !seen["1.1"] || !seen["1.2"]; {
		e, ok := <-stream
		if !ok {
			t.Fatal("the stream ended")
		}
		seen[e.ID] = true
	}
	if list, err := n.Events(t.Context(), "", 0); err != nil || len(list) != 2 {
		t.Errorf("history: %v, %v", list, err)
	}
	if err := n.Operator(t.Context(), "root", api.OperatorRequest{Name: "ann"}); err != nil {
		t.Errorf("told of an operator: %v", err)
	} else if got := <-leads.told; !strings.HasSuffix(got, " ann") {
		t.Errorf("told of %q", got)
	}
	if err := n.Wish(t.Context(), fleet.Wish{Verb: "disarm"}); err != nil {
		t.Fatalf("a controller's wish: %v", err)
	}
	if w := <-leads.wishes; w.Verb != "disarm" {
		t.Errorf("a controller wishes %+v", w)
	}
}

// TestKeptElsewhere: a voter finds a World that another one keeps; that none keeps it is
// said only when all have answered, and of this host alone only when that was asked.
func TestKeptElsewhere(t *testing.T) {
	n := plainHost(t, "controller", &voter{view: "c3's"})
	n.host, n.store = "c2", &store.Client{}
	var err error
	if n.worlds, err = newWorlds(t.TempDir(), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if err := n.worlds.write(&api.WorldView{ID: "mine"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id    string
		local bool
		code  int    // of the refusal; 0: it is found
		words string // of the refusal
	}{
		{"mine", false, 0, ""},
		{"c3's", false, 0, ""},
		{"mine", true, 0, ""},
		{"c3's", true, 404, "not kept on this host"},
		{"nobody's", false, 503, "no word of c1 ("},
		{"../secret", false, 400, "no World's id"},
	} {
		v, err := n.KeptWorld(t.Context(), c.id, c.local)
		var refusal *api.Refusal
		switch {
		case c.code == 0 && (err != nil || v.ID != c.id):
			t.Errorf("%s, local %v: %v", c.id, c.local, err)
		case c.code != 0 && (!errors.As(err, &refusal) || refusal.Code != c.code || !strings.Contains(err.Error(), c.words) || strings.Contains(err.Error(), "c3 (")):
			t.Errorf("%s, local %v: %v; want %d %q", c.id, c.local, err, c.code, c.words)
		}
	}
	n.spec.Hosts = slices.DeleteFunc(n.spec.Hosts, func(h fleet.Host) bool { return h.Name == "c1" }) // which is dead
	var refusal *api.Refusal
	if _, err := n.KeptWorld(t.Context(), "nobody's", false); !errors.As(err, &refusal) || refusal.Code != 404 {
		t.Errorf("all have said that they do not keep it: %v", err)
	}
}

// TestLooksOnly: a compute host looks, and is told where its operator can act.
func TestLooksOnly(t *testing.T) {
	leads := &voter{view: leaderView, wishes: make(chan fleet.Wish, 1)}
	n := plainHost(t, "compute", leads)
	var refusal *api.Refusal
	if err := n.Wish(t.Context(), fleet.Wish{Verb: "disarm"}); !errors.As(err, &refusal) || refusal.Code != 403 || !strings.Contains(refusal.Help, "--cert") {
		t.Errorf("a wish on a compute host: %v", err)
	}
	var b bytes.Buffer
	if err := n.Backup(t.Context(), answerTo{&b}); !errors.As(err, &refusal) || b.Len() > 0 {
		t.Errorf("a backup on a compute host: %v", err)
	}
}

type answerTo struct{ *bytes.Buffer }

func (answerTo) Header() http.Header { return http.Header{} }
func (answerTo) WriteHeader(int)     {}
