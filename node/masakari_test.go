package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/trust"
)

// TestMasakariServed: a voter serves Masakari's API on its own addresses and the site's, with the
// site's certificate where there is one; a port that is taken keeps it from nothing else.
func TestMasakariServed(t *testing.T) {
	own, virtual, taken := netip.MustParseAddr("127.77.0.1"), netip.MustParseAddr("127.77.0.2"), netip.MustParseAddr("127.77.0.3")
	other, err := net.Listen("tcp", taken.String()+":15868")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	pem := filepath.Join(t.TempDir(), "site.pem")
	for scheme, file := range map[string]string{"http": "", "https": pem} {
		t.Run(scheme, func(t *testing.T) {
			roots := x509.NewCertPool()
			if file != "" {
				dir := t.TempDir()
				roots.AppendCertsFromPEM(certificate(t, dir, "site", time.Now()).PEM())
				var text []byte
				for _, part := range []string{trust.CertFile, trust.KeyFile} {
					read, err := os.ReadFile(filepath.Join(dir, part))
					if err != nil {
						t.Fatal(err)
					}
					text = append(text, read...)
				}
				if err := os.WriteFile(pem, text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			i := &instanceHA{node: &node{host: "c1", log: slog.New(slog.DiscardHandler), spec: fleet.Spec{
				Hosts:     []fleet.Host{{Name: "c1", Voter: true, Addresses: map[string]netip.Addr{"management": own}}},
				Addresses: []fleet.Address{{Name: "taken", Addr: taken}, {Name: "internal", Addr: virtual}}, TLS: fleet.TLS{Certificate: file},
			}}}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); i.serve(ctx) }()
			defer func() { cancel(); <-done }()
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, InsecureSkipVerify: true}}} //nolint:gosec // names are not what is tested
			for _, at := range []netip.Addr{own, virtual} {
				var text []byte
				bound := time.After(time.Minute)
				for again := time.Tick(10 * time.Millisecond); text == nil; {
					if resp, err := client.Get(scheme + "://" + at.String() + ":15868/"); err == nil {
						text, _ = io.ReadAll(resp.Body)
						resp.Body.Close()
						break
					}
					select {
					case <-again:
					case <-bound:
						t.Fatal("nobody serves on ", at)
					}
				}
				if !strings.Contains(string(text), `"version":"1.3"`) || !strings.Contains(string(text), scheme+"://"+at.String()+":15868/v1/") {
					t.Errorf("%s: %s", at, text)
				}
			}
		})
	}
}
