package falsebmc

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// lamp is a Power without a host.
type lamp struct{ on atomic.Bool }

func (l *lamp) State(context.Context) (bool, error) { return l.on.Load(), nil }
func (l *lamp) Off(context.Context) error           { l.on.Store(false); return nil }
func (l *lamp) On(context.Context) error            { l.on.Store(true); return nil }

// patience is a generous bound for what should happen at once.
const patience = 20 * time.Second

func serve(t *testing.T) (*httptest.Server, *lamp, *Faults) {
	t.Helper()
	l, f := &lamp{}, &Faults{}
	l.on.Store(true)
	b := New(Config{UUID: "0a", User: "admin", Password: "secret", Power: l, Faults: f})
	s := httptest.NewServer(b)
	t.Cleanup(func() { b.Close(); s.Close() })
	return s, l, f
}

// do makes one request and returns its status and decoded body.
func do(t *testing.T, method, url, body string, as func(*http.Request)) (int, map[string]any, http.Header, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if as != nil {
		as(r)
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil, nil, err
	}
	defer a.Body.Close()
	var out map[string]any
	_ = json.NewDecoder(a.Body).Decode(&out)
	return a.StatusCode, out, a.Header, nil
}

func admin(r *http.Request) { r.SetBasicAuth("admin", "secret") }

func TestHonest(t *testing.T) {
	s, l, _ := serve(t)
	steps := []struct {
		name, method, path, body string
		as                       func(*http.Request)
		want                     int
		on                       bool
	}{
		{"root is open", "GET", "/redfish/v1/", "", nil, 200, true},
		{"systems are not", "GET", "/redfish/v1/Systems", "", nil, 401, true},
		{"wrong password", "GET", systemPath, "", func(r *http.Request) { r.SetBasicAuth("admin", "x") }, 401, true},
		{"restart refused", "POST", resetPath, `{"ResetType":"ForceRestart"}`, admin, 400, true},
		{"no JSON", "POST", resetPath, `off`, admin, 400, true},
		{"off", "POST", resetPath, `{"ResetType":"ForceOff"}`, admin, 204, false},
		{"off again", "POST", resetPath, `{"ResetType":"ForceOff"}`, admin, 409, false},
		{"on", "POST", resetPath, `{"ResetType":"On"}`, admin, 204, true},
		{"on again", "POST", resetPath, `{"ResetType":"On"}`, admin, 409, true},
	}
	for _, st := range steps { // in order: each step starts from the one before
		got, _, _, err := do(t, st.method, s.URL+st.path, st.body, st.as)
		if err != nil || got != st.want || l.on.Load() != st.on {
			t.Fatalf("%s: status %d, on %v, error %v; want status %d, on %v", st.name, got, l.on.Load(), err, st.want, st.on)
		}
	}
}

func TestSessions(t *testing.T) {
	s, _, _ := serve(t)
	login := `{"UserName":"admin","Password":"secret"}`
	if got, _, _, _ := do(t, "POST", s.URL+sessionsPath, `{"UserName":"admin","Password":"x"}`, nil); got != 401 {
		t.Fatalf("a wrong password logged in: %d", got)
	}
	var last http.Header
	for range maxSessions {
		status, _, h, _ := do(t, "POST", s.URL+sessionsPath, login, nil)
		if status != 201 {
			t.Fatalf("login: %d", status)
		}
		last = h
	}
	if got, _, _, _ := do(t, "POST", s.URL+sessionsPath, login, nil); got != 503 {
		t.Fatalf("session %d was given: %d", maxSessions+1, got)
	}
	as := func(r *http.Request) { r.Header.Set("X-Auth-Token", last.Get("X-Auth-Token")) }
	if got, _, _, _ := do(t, "GET", s.URL+systemPath, "", as); got != 200 {
		t.Fatalf("with a token: %d", got)
	}
	if got, _, _, _ := do(t, "DELETE", s.URL+last.Get("Location"), "", as); got != 204 {
		t.Fatalf("logout: %d", got)
	}
	if got, _, _, _ := do(t, "GET", s.URL+systemPath, "", as); got != 401 {
		t.Fatalf("the token outlived its session: %d", got)
	}
}

func TestFaults(t *testing.T) {
	off := `{"ResetType":"ForceOff"}`
	t.Run("lies", func(t *testing.T) {
		s, l, f := serve(t)
		f.Set(Fault{Lies: true})
		status, _, _, _ := do(t, "POST", s.URL+resetPath, off, admin)
		_, sys, _, _ := do(t, "GET", s.URL+systemPath, "", admin)
		if status != 204 || sys["PowerState"] != "Off" || !l.on.Load() {
			t.Fatalf("status %d, says %v, on %v", status, sys["PowerState"], l.on.Load())
		}
	})
	t.Run("hang", func(t *testing.T) {
		s, _, f := serve(t)
		f.Set(Fault{Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		r, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/redfish/v1", nil)
		if a, err := http.DefaultClient.Do(r); err == nil {
			a.Body.Close()
			t.Fatal("it answered")
		}
	})
	t.Run("locked", func(t *testing.T) {
		s, _, f := serve(t)
		f.Set(Fault{Locked: true})
		if got, _, _, _ := do(t, "GET", s.URL+systemPath, "", admin); got != 401 {
			t.Fatal(got)
		}
	})
	t.Run("lost", func(t *testing.T) {
		s, l, f := serve(t)
		f.Set(Fault{Lost: true})
		if _, _, _, err := do(t, "POST", s.URL+resetPath, off, admin); err == nil || l.on.Load() {
			t.Fatalf("error %v, on %v; want an error and the deed", err, l.on.Load())
		}
	})
	t.Run("late", func(t *testing.T) {
		s, l, f := serve(t)
		f.Set(Fault{Late: 50 * time.Millisecond})
		if got, _, _, _ := do(t, "POST", s.URL+resetPath, off, admin); got != 204 {
			t.Fatal(got)
		}
		for end := time.Now().Add(patience); l.on.Load(); {
			if time.Now().After(end) {
				t.Fatal("never carried out")
			}
			_, _, _, _ = do(t, "GET", s.URL+systemPath, "", admin)
		}
	})
	t.Run("another chassis", func(t *testing.T) {
		s, _, f := serve(t)
		f.Set(Fault{UUID: "0b"})
		if _, sys, _, _ := do(t, "GET", s.URL+systemPath, "", admin); sys["UUID"] != "0b" {
			t.Fatal(sys)
		}
	})
}

func TestFaultsEndpoint(t *testing.T) {
	f := &Faults{}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	if got, _, _, _ := do(t, "PUT", s.URL, `{"lies":true,"slow":"300ms","late":"10s","uuid":"0b"}`, nil); got != 200 {
		t.Fatal(got)
	}
	want := Fault{Lies: true, Slow: 300 * time.Millisecond, Late: 10 * time.Second, UUID: "0b"}
	if d := cmp.Diff(want, f.Get()); d != "" {
		t.Fatal(d)
	}
	_, said, _, _ := do(t, "GET", s.URL, "", nil)
	if d := cmp.Diff(map[string]any{"lies": true, "slow": "300ms", "late": "10s", "uuid": "0b"}, said); d != "" {
		t.Fatal(d)
	}
	if got, _, _, _ := do(t, "PUT", s.URL, `{"slow":"soon"}`, nil); got != 400 || f.Get() != want {
		t.Fatalf("status %d, fault %+v: a bad fault must change nothing", got, f.Get())
	}
	if got, _, _, _ := do(t, "DELETE", s.URL, "", nil); got != 200 || f.Get() != (Fault{}) {
		t.Fatal(got, f.Get())
	}
}
