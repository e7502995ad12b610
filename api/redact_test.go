package api

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestRedact: a marker in each place where a secret may be does not come out, and what
// is none stays.
func TestRedact(t *testing.T) {
	const marker = "hunter2"
	for _, c := range []string{
		"alarms: [https://hooks.example.org/services/T0/hunter2]",
		"alarms: [https://ann:hunter2@hooks.example.org]",
		"alarms: ['https://hooks.example.org?key=hunter2']",
		"alarms: [https://ann:x/hunter2@hooks.example.org/]",
		`{"alarms":["https://hooks.example.org/a?b=1\u0026c=hunter2"]}`,
		`Post "https://hooks.example.org/hunter2": connection refused`,
		"password: hunter2", `"password":"hunter2"`, "OS_PASSWORD=hunter2", `api-token = 'hunter2'`, "community: hunter2",
		`{"MESSAGE":"password=\"hunter2\" is wrong"}`,
		"  user admin insecure-password hunter2", "  stats auth admin:hunter2", "  user admin password $5$hunter2",
		"-----BEGIN EC PRIVATE KEY-----\nhunter2\n-----END EC PRIVATE KEY-----",
		"-----BEGIN PRIVATE KEY-----\nhunter2 cut short",
	} {
		if got := string(Redact([]byte(c))); strings.Contains(got, marker) {
			t.Errorf("%s: %s", c, got)
		}
	}
	for _, c := range []string{
		"password_file: /etc/mainstay/bmc-password", "community_env: PDU_COMMUNITY", `url: "https://bmc-{name}"`,
		"c1 is lapsed: c2, c3 promised", "ann makes a join token, good until 2026-11-26T18:00:00Z", "internal: 10.0.0.100/24",
	} {
		if got := string(Redact([]byte(c))); got != c {
			t.Errorf("%s became %s", c, got)
		}
	}
	whole := `{"a":"https://h.example/x","b":{"password":"p","c":1},"d":"token: \"x\" y"}`
	if got := Redact([]byte(whole)); !json.Valid(got) {
		t.Errorf("JSON no more: %s", got)
	}
	for url, want := range map[string]string{
		"https://hooks.example.org/T0/x": "https://hooks.example.org/...", "http://ann:x@h:8080": "http://h:8080/...", "https://h": "https://h", "hunter2": "...",
	} {
		if got := BareURL(url); got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
}
