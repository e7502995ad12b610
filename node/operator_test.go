package node

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/store"
	"mainstay/trust"
)

// operator is a folder with a person's certificate.
func operator(t *testing.T, ca *trust.CA, name string) *trust.Files {
	t.Helper()
	csr, key, err := trust.NewRequest(name)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.SignOperator(csr, name, trust.Operate, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	f := &trust.Files{Dir: t.TempDir()}
	for file, text := range map[string][]byte{trust.CAFile: ca.PEM(), trust.CertFile: cert, trust.KeyFile: key} {
		if err := os.WriteFile(filepath.Join(f.Dir, file), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// TestRevoked: whom the site's file revokes is refused by the API with any certificate,
// and everybody else is not; no new one is made under that name.
func TestRevoked(t *testing.T) {
	c := Config{Config: t.TempDir(), State: t.TempDir(), Run: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	ca := certificate(t, c.tls(), "c1", time.Now())
	people := map[string]*trust.Files{"ann": operator(t, ca, "ann"), "bob": operator(t, ca, "bob")}
	for _, file := range []struct {
		more    string
		refused map[string]bool
	}{
		{"", nil},
		{"operators: {revoked: [ann]}\n", map[string]bool{"ann": true}},
	} {
		text := "site: test\nnetworks: {a: {cidr: 10.9.0.0/24}}\nhosts: {\"c[1-3]\": {roles: [controller], addresses: {a: 10.9.0.1}}}\n" + file.more
		if err := os.WriteFile(c.siteFile(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := prepare(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: api.Handler(&voter{view: "c1"}, n.log), TLSConfig: n.files.Server(), ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
		go func() { _ = s.ServeTLS(l, "", "") }()
		t.Cleanup(func() { s.Close() })
		for name, files := range people {
			client := api.NewTLS(l.Addr().String(), files.Client("c1"))
			_, err := client.LocalStatus(t.Context())
			client.Close()
			if (err != nil) != file.refused[name] {
				t.Errorf("%s, where the file says %q: %v", name, file.more, err)
			}
		}
		n.store = &store.Client{}
		err = nil
		if file.refused["ann"] {
			err = n.Operator(t.Context(), "root", api.OperatorRequest{Name: "ann", Role: trust.Operate})
		}
		refusal, ok := errors.AsType[*api.Refusal](err)
		if got := ok && refusal.Code == http.StatusConflict; got != file.refused["ann"] {
			t.Errorf("a new certificate for ann, where the file says %q: %v", file.more, err)
		}
	}
}
