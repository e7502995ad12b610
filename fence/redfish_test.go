package fence

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"mainstay/fence/falsebmc"
	"mainstay/fleet"
)

// openRedfish opens the driver for a server, with pairs of further parameters.
func openRedfish(t *testing.T, url string, with ...string) (Driver, context.Context) {
	t.Helper()
	params := map[string]string{"url": url, "user": "mainstay", "password_file": secretFile(t, rightPassword), "deadline": "8s"}
	for i := 0; i < len(with); i += 2 {
		params[with[i]] = with[i+1]
	}
	d, err := Open(fleet.Fence{Driver: "redfish", Params: params})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return d, ctx
}

func TestRedfishTLS(t *testing.T) {
	var asked atomic.Int64 // requests that got through TLS
	l := &lamp{}
	bmc := falsebmc.New(falsebmc.Config{UUID: uuidC2, User: "mainstay", Password: rightPassword, Power: l})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		bmc.ServeHTTP(w, r)
	}))
	s.Config.ErrorLog = quiet()
	s.StartTLS()
	t.Cleanup(func() { bmc.Close(); s.Close() })

	sum := sha256.Sum256(s.Certificate().Raw)
	wrong := sha256.Sum256(nil)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		with []string
		want fleet.Outcome
	}{
		{"an authority nobody knows", nil, fleet.Refused},
		{"the authority is given", []string{"ca_file", ca}, fleet.Done},
		{"the certificate is pinned", []string{"cert_sha256", hex.EncodeToString(sum[:])}, fleet.Done},
		{"another certificate is pinned", []string{"cert_sha256", hex.EncodeToString(wrong[:])}, fleet.Refused},
		{"whoever it is", []string{"insecure", "true"}, fleet.Done},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, ctx := openRedfish(t, s.URL, tt.with...)
			before := asked.Load()
			_, err := d.State(ctx)
			if OutcomeOf(err) != tt.want {
				t.Fatalf("outcome %q, want %q: %v", OutcomeOf(err), tt.want, err)
			}
			if err != nil && asked.Load() != before {
				t.Fatal("a request, and the password with it, went to a stranger")
			}
		})
	}
}

// TestRedfishOddities plays answers that real BMCs have given.
func TestRedfishOddities(t *testing.T) {
	const sys = "/redfish/v1/Systems/1"
	system := func(power, target string) string {
		return fmt.Sprintf(`{"Id":"1","UUID":%q,"PowerState":%s,"Actions":{"#ComputerSystem.Reset":{"target":%q}}}`, uuidC2, power, target)
	}
	standard := map[string]string{
		"GET /redfish/v1/":        `{"Systems":{"@odata.id":"/redfish/v1/Systems"}}`,
		"GET /redfish/v1/Systems": `{"Members":[{"@odata.id":"` + sys + `"}]}`,
		"GET " + sys:              system(`"On"`, sys+"/reset"),
		"POST " + sys + "/reset":  "",
	}
	tests := []struct {
		name  string
		say   map[string]string // over standard; "500 text" is an answer with that status
		with  []string
		off   fleet.Outcome
		state Power
		text  string // in Off's error
	}{
		{"as it should be", nil, nil, fleet.Done, On, ""},
		{"powering off", map[string]string{"GET " + sys: system(`"PoweringOff"`, sys+"/reset")}, nil, fleet.Done, Unknown, ""},
		{"power null", map[string]string{"GET " + sys: system(`null`, sys+"/reset")}, nil, fleet.Done, Unknown, ""},
		{"task accepted", map[string]string{"POST " + sys + "/reset": `202 {"@odata.id":"/redfish/v1/TaskService/Tasks/1"}`}, nil, fleet.Done, On, ""},
		{"refused though on", map[string]string{"POST " + sys + "/reset": `400 {"error":{"message":"not now"}}`}, nil, fleet.Refused, On, "not now"},
		{"refused since off", map[string]string{"GET " + sys: system(`"Off"`, sys+"/reset"), "POST " + sys + "/reset": `400 {}`}, nil, fleet.Done, Off, ""},
		{"broken under the order", map[string]string{"POST " + sys + "/reset": `500 {}`}, nil, fleet.NoWord, On, "perhaps it acted"},
		{"broken under the question", map[string]string{"GET " + sys: `503 {}`}, nil, fleet.Broken, Unknown, "503"},
		{"not JSON", map[string]string{"GET " + sys: `<html>`}, nil, fleet.NoWord, Unknown, "no JSON"},
		{"no reset", map[string]string{"GET " + sys: `{"PowerState":"On"}`}, nil, fleet.Refused, On, "no such reset"},
		{"only graceful", map[string]string{"GET " + sys: `{"PowerState":"On","Actions":{"#ComputerSystem.Reset":{"target":"/r",
			"ResetType@Redfish.AllowableValues":["GracefulShutdown"]}}}`}, nil, fleet.Refused, On, "GracefulShutdown"},
		{"a link to another host", map[string]string{"GET /redfish/v1/": `{"Systems":{"@odata.id":"https://evil.example/x"}}`}, nil, fleet.Broken, Unknown, "no path"},
		{"a link to another host, hidden", map[string]string{"GET /redfish/v1/": `{"Systems":{"@odata.id":"//evil.example/x"}}`}, nil, fleet.Broken, Unknown, "no path"},
		{"a redirect", map[string]string{"GET /redfish/v1/": `301 https://evil.example/`}, nil, fleet.Refused, Unknown, "evil.example"},
		{"several systems", map[string]string{"GET /redfish/v1/Systems": `{"Members":[{"@odata.id":"/redfish/v1/Systems/a"},{"@odata.id":"` + sys + `"}]}`}, nil, fleet.Refused, Unknown, "system: ID"},
		{"the one of several", map[string]string{"GET /redfish/v1/Systems": `{"Members":[{"@odata.id":"/redfish/v1/Systems/a"},{"@odata.id":"` + sys + `"}]}`}, []string{"system", "1"}, fleet.Done, On, ""},
		{"none of several", map[string]string{}, []string{"system", "7"}, fleet.Refused, Unknown, `"7"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				key := r.Method + " " + r.URL.Path
				text, ok := tt.say[key]
				if !ok {
					text, ok = standard[key]
				}
				status := 200
				if !ok {
					status = 404
				}
				if _, err := fmt.Sscanf(text, "%d ", &status); err == nil {
					_, text, _ = strings.Cut(text, " ")
				}
				if status == 301 {
					w.Header().Set("Location", text)
				}
				w.WriteHeader(status)
				_, _ = io.WriteString(w, text)
			}))
			t.Cleanup(s.Close)
			d, ctx := openRedfish(t, s.URL, append([]string{"insecure", "true"}, tt.with...)...)
			state, err := d.State(ctx)
			if state != tt.state || (state == Unknown) != (err != nil) {
				t.Errorf("state %q with error %v, want %q, and an error only with unknown", state, err, tt.state)
			}
			err = d.Off(ctx)
			if OutcomeOf(err) != tt.off {
				t.Errorf("off: outcome %q, want %q: %v", OutcomeOf(err), tt.off, err)
			}
			if err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("off: the error does not say %q: %v", tt.text, err)
			}
		})
	}
}

// TestRedfishEcho: a BMC that repeats what it was sent must not bring the
// secrets into an error.
func TestRedfishEcho(t *testing.T) {
	for _, auth := range []string{"basic", "session"} {
		t.Run(auth, func(t *testing.T) {
			const token = "t0ken-of-the-session"
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/Sessions") {
					w.Header().Set("X-Auth-Token", token)
					w.Header().Set("Location", "/redfish/v1/SessionService/Sessions/1")
					w.WriteHeader(http.StatusCreated)
					return
				}
				w.WriteHeader(http.StatusBadRequest)
				// Padded, so that cutting the text would cut the password in two.
				text := fmt.Sprint(r.Header["Authorization"], r.Header["X-Auth-Token"])
				text += strings.Repeat(".", max(0, 195-len(text))) + rightPassword
				_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": text}})
			}))
			t.Cleanup(s.Close)
			d, ctx := openRedfish(t, s.URL, "insecure", "true", "auth", auth)
			_, err := d.State(ctx)
			if err == nil {
				t.Fatal("no error")
			}
			coded := base64.StdEncoding.EncodeToString([]byte("mainstay:" + rightPassword))
			for _, secret := range []string{rightPassword, rightPassword[:5], coded, token} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%q stands in: %v", secret, err)
				}
			}
		})
	}
}

// quiet drops what net/http logs of clients that turn away.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// TestRedfishForgottenSession: a BMC that restarts knows no session any more;
// the driver logs in again, and its order is carried out.
func TestRedfishForgottenSession(t *testing.T) {
	l := &lamp{}
	l.on.Store(true)
	var now atomic.Pointer[falsebmc.BMC]
	restart := func() {
		bmc := falsebmc.New(falsebmc.Config{UUID: uuidC2, User: "mainstay", Password: rightPassword, Power: l})
		t.Cleanup(bmc.Close)
		now.Store(bmc)
	}
	restart()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { now.Load().ServeHTTP(w, r) }))
	t.Cleanup(s.Close)
	d, ctx := openRedfish(t, s.URL, "insecure", "true", "auth", "session")
	if got, err := d.State(ctx); err != nil || got != On {
		t.Fatal(got, err)
	}
	restart()
	if err := d.Off(ctx); err != nil || l.on.Load() {
		t.Fatalf("on %v, %v", l.on.Load(), err)
	}
}
