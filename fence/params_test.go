package fence

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mainstay/fleet"
)

// paramErrors returns the text for each *ParamError that err joins, by parameter.
func paramErrors(err error) map[string]string {
	out := map[string]string{}
	var walk func(error)
	walk = func(err error) {
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range many.Unwrap() {
				walk(e)
			}
			return
		}
		var p *ParamError
		if errors.As(err, &p) {
			out[p.Param] = p.Text
		}
	}
	walk(err)
	return out
}

func TestParams(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	password, empty, noPEM := file("password", "geheim"), file("empty", "\n"), file("ca.pem", "no certificate")
	t.Setenv("MAINSTAY_TEST_PASSWORD", "geheim")

	good := map[string]string{"url": "https://bmc-c1", "user": "mainstay", "password_file": password}
	tests := []struct {
		name  string
		set   map[string]string // over good; "" removes
		param string            // that must be complained of; "" is fine
		text  string            // part of the complaint
	}{
		{"good", nil, "", ""},
		{"from the environment", map[string]string{"password_file": "", "password_env": "MAINSTAY_TEST_PASSWORD"}, "", ""},
		{"an address in brackets", map[string]string{"url": "https://[fe80::1]:8443/"}, "", ""},
		{"a password in clear", map[string]string{"password_file": "", "password": "geheim"}, "password", "password_file: /etc/mainstay/"},
		{"a password in the URL", map[string]string{"url": "https://root:geheim@bmc-c1"}, "url", "password_file"},
		{"an unreadable URL with a password", map[string]string{"url": "https://root:geheim@bmc%zz"}, "url", "not a URL"},
		{"no password", map[string]string{"password_file": ""}, "password_file", "missing"},
		{"two passwords", map[string]string{"password_env": "MAINSTAY_TEST_PASSWORD"}, "password_env", "not both"},
		{"an absent file", map[string]string{"password_file": dir + "/absent"}, "password_file", "no such file"},
		{"an empty file", map[string]string{"password_file": empty}, "password_file", "is empty"},
		{"an unset variable", map[string]string{"password_file": "", "password_env": "MAINSTAY_TEST_ABSENT"}, "password_env", "MAINSTAY_TEST_ABSENT"},
		{"no URL", map[string]string{"url": ""}, "url", "missing"},
		{"a URL with a path", map[string]string{"url": "https://bmc-c1/redfish/v1/Systems/1"}, "url", "scheme and host alone"},
		{"a bare name", map[string]string{"url": "bmc-c1"}, "url", "https://bmc-c1"},
		{"a placeholder left over", map[string]string{"url": "https://bmc-{nmae}"}, "url", "{name}"},
		{"http", map[string]string{"url": "http://bmc-c1"}, "url", "insecure: true"},
		{"http, meant so", map[string]string{"url": "http://bmc-c1", "insecure": "true"}, "", ""},
		{"a misspelt key", map[string]string{"pasword_file": "x"}, "pasword_file", "password_file"},
		{"a deadline without unit", map[string]string{"deadline": "5"}, "deadline", "such as 5s"},
		{"a deadline of an hour", map[string]string{"deadline": "1h"}, "deadline", "8s"},
		{"a way to log in that is not there", map[string]string{"auth": "kerberos"}, "auth", "basic, session"},
		{"a flag that is none", map[string]string{"insecure": "maybe"}, "insecure", "true nor false"},
		{"an authority without certificate", map[string]string{"ca_file": noPEM}, "ca_file", "no PEM"},
		{"half a fingerprint", map[string]string{"cert_sha256": "aa:bb"}, "cert_sha256", "openssl x509"},
		{"a pin and insecure", map[string]string{"cert_sha256": strings.Repeat("ab:", 31) + "ab", "insecure": "true"}, "insecure", "contradicts"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			params := map[string]string{}
			for _, from := range []map[string]string{good, tt.set} {
				for k, v := range from {
					if params[k] = v; v == "" {
						delete(params, k)
					}
				}
			}
			_, err := Check(fleet.Fence{Driver: "redfish", Params: params})
			if err != nil && strings.Contains(err.Error(), "geheim") {
				t.Errorf("the secret stands in the error: %v", err)
			}
			got := paramErrors(err)
			if tt.param == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if text, ok := got[tt.param]; !ok || !strings.Contains(text, tt.text) {
				t.Fatalf("complaints %q; want one about %s that says %q", got, tt.param, tt.text)
			}
		})
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	params := map[string]string{"url": "bmc", "password": "x", "colour": "red", "deadline": "soon"}
	for _, password := range []string{"password", "password_file"} { // in clear it is a mistake, and not missing as well
		_, err := Open(fleet.Fence{Driver: "redfish", Params: params})
		got := paramErrors(err)
		want := []string{"colour", "deadline", password, "url", "user"}
		if told := fleet.Sorted(got); !slices.Equal(told, want) {
			t.Errorf("told are %q, not %q", told, want)
		}
		delete(params, "password")
	}
}

func TestNoSuchDriver(t *testing.T) {
	_, err := Open(fleet.Fence{Driver: "redfisch"})
	if err == nil || !strings.Contains(err.Error(), `"redfisch"; there are: redfish`) {
		t.Fatal(err)
	}
}

func TestWarnings(t *testing.T) {
	file := secretFile(t, "geheim")
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := Check(fleet.Fence{Driver: "redfish", Params: map[string]string{
		"url": "http://bmc-c1", "insecure": "true", "user": "mainstay", "password_file": file}})
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{"insecure: http://bmc-c1", "chmod 600 " + file} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning says %q:\n%s", want, all)
		}
	}
}

func TestEveryParameterIsDocumented(t *testing.T) {
	for _, row := range Drivers() {
		if row.Name == "" || row.About == "" || row.New == nil {
			t.Errorf("row %q lacks a name, a sentence or New", row.Name)
		}
		for _, p := range row.Params {
			if p.Doc == "" {
				t.Errorf("%s: parameter %s has no sentence", row.Name, p.Name)
			}
		}
	}
}
