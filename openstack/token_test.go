package openstack_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"mainstay/openstack"
	"mainstay/openstack/falsecloud"
)

// TestCaller: whose a token is, is Keystone's word, each time; that it is away says nothing of the
// token, and no error tells it.
func TestCaller(t *testing.T) {
	f, _, client := serve(t, falsecloud.Config{})
	at := address(t, f)
	good := token(t, at, "admin")
	ask := func(token string) (openstack.Caller, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return client.Caller(ctx, token)
	}
	who, err := ask(good)
	if err != nil || who.User != "admin" || who.Project != "admin" || strings.Join(who.Roles, " ") != "member admin" {
		t.Fatalf("%+v, %v", who, err)
	}
	if who, err := ask(token(t, at, "member")); err != nil || strings.Join(who.Roles, " ") != "member" {
		t.Errorf("a member: %+v, %v", who, err)
	}
	if _, err := ask("nobodys"); !errors.Is(err, openstack.ErrToken) || strings.Contains(err.Error(), "nobodys") {
		t.Errorf("no token of anybody's: %v", err)
	}
	f.ExpireTokens() // all of them, this client's own too
	if _, err := ask(good); !errors.Is(err, openstack.ErrToken) {
		t.Errorf("a token that was revoked: %v", err)
	}
	good = token(t, at, "admin")
	f.Break(falsecloud.Fault{Path: "/identity", Status: http.StatusServiceUnavailable})
	if _, err := ask(good); err == nil || errors.Is(err, openstack.ErrToken) || strings.Contains(err.Error(), good) {
		t.Errorf("Keystone is away: %v", err)
	}
	f.Mend()
	f.Break(falsecloud.Fault{Path: "/compute", Status: http.StatusServiceUnavailable})
	if _, err := ask(good); err != nil {
		t.Errorf("Nova is away, which nobody asks: %v", err)
	}
	f.Break(falsecloud.Fault{Path: "/identity", Hang: true})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := client.Caller(ctx, good); err == nil || errors.Is(err, openstack.ErrToken) {
		t.Errorf("Keystone hangs: %v", err)
	}
}

// token logs a user of the played Keystone in.
func token(t *testing.T, at, user string) string {
	t.Helper()
	body := `{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"` + user + `","password":"secret"}}}}}`
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, at+"/auth/tokens", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.Header.Get("X-Subject-Token")
}
