package openstack_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"mainstay/openstack/falsecloud"
)

// TestRival: another program that answers for instance HA is told, Mainstay's own and one that is away are not.
func TestRival(t *testing.T) {
	var asked []string
	answers := func(server string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.URL.Path)
			if server != "" {
				w.Header().Set("Server", server)
			}
			w.WriteHeader(http.StatusUnauthorized) // as Masakari, of a caller without a token
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	away := httptest.NewServer(http.NotFoundHandler())
	away.Close()
	for _, c := range []struct {
		name, at, asks string
		told           bool
	}{
		{"Masakari's own", answers("") + "/v1/%s", "/v1/", true},
		{"behind its web server", answers("Apache/2.4") + "/instance-ha/v1", "/instance-ha/v1/", true},
		{"Mainstay's", answers("mainstay") + "/v1", "/v1/", false},
		{"away", away.URL + "/v1", "", false},
		{"none", "", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := falsecloud.Config{Newest: 100}
			if c.at != "" {
				cfg.Endpoints = map[string]string{"instance-ha": c.at}
			}
			asked = nil
			_, _, client := serve(t, cfg)
			found := strings.Join(client.Examine(t.Context(), nil), "; ")
			if told := strings.Contains(found, "masakari-engine"); told != c.told || found != "" && !told {
				t.Errorf("found: %q", found)
			}
			if got := strings.Join(asked, " "); got != c.asks {
				t.Errorf("asked for %q, want %q", got, c.asks)
			}
		})
	}
}
