package balance

import (
	"strings"
	"testing"

	"mainstay/fleet"
)

// TestBare: of a snippet nothing but its name is told, not even where it looks like ours.
func TestBare(t *testing.T) {
	h := New(Config{Dir: t.TempDir(), Run: t.TempDir()})
	text, _, err := h.render(fleet.Spec{Site: "x"}, []snippet{
		{"a.cfg", "userlist u\n  user admin insecure-password hunter2"}, {"b.cfg", "# Written by Mainstay\nlisten s\n  stats auth admin:hunter2"},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := string(Bare(text))
	for _, word := range []string{"site's file of x", "haproxy.d/a.cfg", "haproxy.d/b.cfg"} {
		if !strings.Contains(got, word) {
			t.Errorf("%q is missing:\n%s", word, got)
		}
	}
	for _, word := range []string{"hunter2", "userlist", "stats auth"} {
		if strings.Contains(got, word) {
			t.Errorf("%q is told:\n%s", word, got)
		}
	}
}
