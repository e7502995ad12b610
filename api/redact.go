package api

import (
	"regexp"
	"strings"
)

// BareURL is a URL as it may be told: a webhook's path, query and user are as good as a
// password.
func BareURL(url string) string {
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok {
		return "..."
	}
	host := rest
	if i := strings.IndexAny(rest, `/?#\`); i >= 0 {
		host = rest[:i]
	}
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	} else if strings.Contains(rest, "@") {
		return scheme + "://..." // its password may hold a slash, and be what looks like the host
	}
	if host == rest {
		return url
	}
	return scheme + "://" + host + "/..."
}

// What Redact takes for a secret: it would rather take too much.
var (
	urls = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://(?:[^\s"'<>\\]|\\u[0-9a-fA-F]{4})*`)
	// NAME: VALUE and NAME=VALUE, with or without quotes.
	named = regexp.MustCompile(`(?i)([\w-]*(?:password|passwd|passphrase|secret|token|api_?key|private_?key|credential|community)[\w-]*)(\\?["']?\s*[:=]\s*)(\\?"[^"\n]*"|'[^'\n]*'|[^\s,}&"']+)`)
	// HAProxy's own words.
	spoken = regexp.MustCompile(`(?i)\b(insecure-password|password|stats\s+auth)(\s+)(\S+)`)
	pem    = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)`)
)

const removed = "(removed)"

// Redact takes out of a text whatever looks like a secret: of each URL all but its host,
// private keys, and the values of names that speak of a password or token. Where a
// secret is kept (password_file, password_env) is none.
func Redact(text []byte) []byte {
	text = pem.ReplaceAll(text, []byte(removed))
	text = urls.ReplaceAllFunc(text, func(u []byte) []byte { return []byte(BareURL(string(u))) })
	text = named.ReplaceAllFunc(text, func(m []byte) []byte {
		p := named.FindSubmatch(m)
		name := strings.ToLower(string(p[1]))
		if strings.HasSuffix(name, "_file") || strings.HasSuffix(name, "_env") {
			return m
		}
		value := removed
		for _, quote := range []string{`\"`, `"`, `'`} {
			if strings.HasPrefix(string(p[3]), quote) {
				value = quote + removed + quote
				break
			}
		}
		return []byte(string(p[1]) + string(p[2]) + value)
	})
	return spoken.ReplaceAll(text, []byte("${1}${2}"+removed))
}
