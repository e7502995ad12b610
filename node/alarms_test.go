package node

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"mainstay/fleet"
)

func TestAlarming(t *testing.T) {
	for _, c := range []struct {
		kind, text string
		want       bool
	}{
		{"wait", "service/x waits for proof", true},
		{"wait", "service/x waits no more", false},
		{"verdict", "c1 is lapsed: c2, c3 promised", true},
		{"verdict", "c1 is dead: off", true},
		{"verdict", "c1 is suspect: three beats missed", false},
		{"order", "c1 shall start x", false},
		{"alarm", "anything", true},
	} {
		if got := alarming(fleet.Event{Kind: c.kind, Text: c.text}); got != c.want {
			t.Errorf("%s %q: alarming = %v, want %v", c.kind, c.text, got, c.want)
		}
	}
}

// An alarm that is refused at first is sent again, whole.
func TestPostAlarm(t *testing.T) {
	calls := 0
	var got struct {
		Site  string      `json:"site"`
		Event fleet.Event `json:"event"`
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		if calls == 1 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
	}))
	defer s.Close()
	if err := postAlarm(t.Context(), s.Client(), s.URL, "beijing", fleet.Event{ID: "1.2", Text: "c1 is dead"}); err != nil {
		t.Fatal(err)
	}
	if calls != 2 || got.Site != "beijing" || got.Event.ID != "1.2" {
		t.Errorf("%d calls, got %+v", calls, got)
	}
}
