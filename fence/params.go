package fence

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// ParamError is a mistake in one parameter of a site's file; whoever knows the
// file adds its name and line.
type ParamError struct {
	Param string // the key in the site's file
	Text  string // what is wrong and what would be right; never a secret
}

func (e *ParamError) Error() string { return "fence." + e.Param + ": " + e.Text }

// Params are a driver's raw parameters. Each method reads one, and records a
// mistake instead of returning it, so that all mistakes are reported at once.
type Params struct {
	raw      map[string]string
	errs     []error
	warnings []string
}

func (p *Params) fail(key, format string, args ...any) {
	p.errs = append(p.errs, &ParamError{Param: key, Text: fmt.Sprintf(format, args...)})
}

func (p *Params) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

func (p *Params) text(key string) string { return p.raw[key] }

func (p *Params) flag(key string) bool {
	text, given := p.raw[key]
	if !given {
		return false
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		p.fail(key, "%q is neither true nor false", text)
	}
	return v
}

func (p *Params) choice(key string, first string, others ...string) string {
	text, given := p.raw[key]
	if !given || text == first {
		return first
	}
	for _, c := range others {
		if text == c {
			return c
		}
	}
	p.fail(key, "%q is not one of: %s", text, strings.Join(append([]string{first}, others...), ", "))
	return first
}

func (p *Params) duration(key string, absent, least, most time.Duration) time.Duration {
	text, given := p.raw[key]
	if !given {
		return absent
	}
	v, err := time.ParseDuration(text)
	if err != nil || v < least || v > most {
		p.fail(key, "%q is no duration from %s to %s, such as 5s", text, least, most)
		return absent
	}
	return v
}

// base reads the URL of a device: scheme and host, no more.
func (p *Params) base(key string) *url.URL {
	text := p.raw[key]
	if text == "" {
		return &url.URL{}
	}
	u, err := url.Parse(text)
	switch {
	case strings.ContainsAny(text, "{}"):
		p.fail(key, "it holds a placeholder that is not known; {name}, for the host's name, is the only one")
	case err != nil:
		// The parser's error repeats the text, which may hold a password.
		p.fail(key, "not a URL; right would be https://bmc-c1")
	case u.User != nil:
		p.fail(key, "a user or password does not belong in a URL: give user and password_file")
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		p.fail(key, "%q is not scheme and host alone; right would be https://bmc-c1", text)
	default:
		return &url.URL{Scheme: u.Scheme, Host: u.Host}
	}
	return &url.URL{}
}

// pool reads a file of PEM certificates; nil when the parameter is absent.
func (p *Params) pool(key string) *x509.CertPool {
	file, given := p.raw[key]
	if !given {
		return nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		p.fail(key, "%v", err)
		return nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		p.fail(key, "%s holds no PEM certificate", file)
		return nil
	}
	return pool
}

// fingerprint reads the SHA-256 of a certificate; nil when absent.
func (p *Params) fingerprint(key string) []byte {
	text, given := p.raw[key]
	if !given {
		return nil
	}
	sum, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil || len(sum) != sha256.Size {
		p.fail(key, "%q is no SHA-256 fingerprint; `openssl x509 -noout -fingerprint -sha256` prints it", text)
		return nil
	}
	return sum
}

// secret is where a secret stands. It is read at each use, so that it can be
// changed without a restart, and so that no value of ours ever holds it.
type secret struct{ file, env string }

// secret reads the reference NAME_file or NAME_env, and whether it can be
// followed now.
func (p *Params) secret(name string) secret {
	s := secret{file: p.raw[name+"_file"], env: p.raw[name+"_env"]}
	switch {
	case s.file != "" && s.env != "":
		p.fail(name+"_env", "give %s_file or %s_env, not both", name, name)
	case s == secret{}:
	default:
		if _, err := s.read(); err != nil {
			key := name + "_file"
			if s.env != "" {
				key = name + "_env"
			}
			p.fail(key, "%v", err)
		}
	}
	if info, err := os.Stat(s.file); err == nil && info.Mode().Perm()&0o077 != 0 {
		p.warn("%s can be read by others than its owner: chmod 600 %s", s.file, s.file)
	}
	return s
}

// read returns the secret, without a line's end. Its error names the place only.
func (s secret) read() (string, error) {
	if s.env != "" {
		if v := os.Getenv(s.env); v != "" {
			return v, nil
		}
		return "", fmt.Errorf("environment variable %s is empty or not set", s.env)
	}
	raw, err := os.ReadFile(s.file)
	if err != nil {
		return "", err
	}
	v := strings.TrimRight(string(raw), "\r\n")
	if v == "" {
		return "", fmt.Errorf("%s is empty", s.file)
	}
	return v, nil
}
