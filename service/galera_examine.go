package service

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"mainstay/fleet"
)

// defaultsProgram prints what MariaDB's option files say, as its server would read them:
// one option a line, the last one of a name counts.
const defaultsProgram = "my_print_defaults"

// Examine holds the server's option files against what Mainstay rests on. They, and not
// the running server, say what is in force after its next start.
func (c *galeraCopy) Examine(homes []fleet.Host) []string {
	text, code, last, err := output(context.Background(), 5*time.Second, []string{defaultsProgram, "--mysqld"})
	if err == nil && code != 0 {
		err = fmt.Errorf("%s ended with %d: %s", defaultsProgram, code, last)
	}
	if err != nil {
		return []string{fmt.Sprintf("its configuration cannot be read: %v", err)}
	}
	return galeraOptions(string(text)).lacks(homes, c.timers != "")
}

// serverOptions are a server's options by name, written with underscores.
type serverOptions map[string]string

func galeraOptions(text string) serverOptions {
	out := serverOptions{}
	for line := range strings.Lines(text) {
		name, value, given := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "--"), "=")
		if !given {
			value = "ON"
		}
		out[strings.TrimPrefix(strings.ReplaceAll(strings.ToLower(name), "-", "_"), "loose_")] = value
	}
	return out
}

// provider are the options of the Galera library.
func (o serverOptions) provider() map[string]string {
	out := map[string]string{}
	for option := range strings.SplitSeq(o["wsrep_provider_options"], ";") {
		if name, value, ok := strings.Cut(option, "="); ok {
			out[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return out
}

// lacks says what of the options would cost data, or would let the cluster come apart, be
// slow to notice, or not come back. timed: Mainstay tells the server its timers. The
// defaults are those of MariaDB 10.11.
func (o serverOptions) lacks(homes []fleet.Host, timed bool) (out []string) {
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if v := o["wsrep_on"]; !yes(v) {
		say("wsrep_on is %s: this server is no member of a cluster; want wsrep_on = ON", cmp.Or(v, "not set"))
		return out
	}
	if v := o["wsrep_provider"]; v == "" || strings.EqualFold(v, "none") {
		say("wsrep_provider is %s: want wsrep_provider = /usr/lib/galera/libgalera_smm.so", cmp.Or(v, "not set"))
	} else if _, err := os.Stat(v); err != nil {
		say("the library that wsrep_provider names is not there: %v; apt-get install galera-4", err)
	}
	if v := cmp.Or(o["innodb_flush_log_at_trx_commit"], "1"); v != "1" && v != "3" {
		say("innodb_flush_log_at_trx_commit is %s: when all members lose power at once, up to the last second of acknowledged commits is lost, on all of them; want 1", v)
	}
	if v := cmp.Or(o["binlog_format"], "MIXED"); !strings.EqualFold(v, "ROW") {
		say("binlog_format is %s: a member of Galera does not start with it; want binlog_format = ROW", v)
	}
	if v := cmp.Or(o["innodb_autoinc_lock_mode"], "1"); v != "2" {
		say("innodb_autoinc_lock_mode is %s: parallel appliers of AUTO_INCREMENT tables end in deadlocks; want 2", v)
	}
	provider := o.provider()
	if v := provider["pc.recovery"]; v != "" && !yes(v) {
		say("pc.recovery is %s: members that all lost power cannot go on together by themselves, and Mainstay has to compare them each time; leave it out of wsrep_provider_options", v)
	}
	if v := provider["pc.ignore_sb"]; yes(v) {
		say("pc.ignore_sb is %s: both sides of a partition go on, and one side's writes are lost; leave it out of wsrep_provider_options", v)
	}
	if d, ok := period(provider["evs.suspect_timeout"]); ok && d < time.Second && !timed {
		say("evs.suspect_timeout is %s: a member that is busy for so short a time is taken for gone; want PT1S at least (or leave suspect_timeout of the site's file to set it)", provider["evs.suspect_timeout"])
	}
	out = append(out, lacksTransfer(cmp.Or(o["wsrep_sst_method"], "rsync"), o["wsrep_sst_auth"])...)
	return append(out, lacksMembers(o["wsrep_cluster_address"], homes)...)
}

// lacksTransfer says what of the way in which a whole copy is sent would not do.
func lacksTransfer(method, auth string) (out []string) {
	var tools [][]string // one of each
	switch method {
	case "mariabackup", "mariadb-backup":
		tools = [][]string{{"mariadb-backup", "mariabackup"}, {"socat"}}
		if user, _, _ := strings.Cut(auth, ":"); user == "" {
			out = append(out, "wsrep_sst_auth is not set: mariadb-backup cannot log in to the donor; want wsrep_sst_auth = mysql: (the socket asks for no password)")
		}
	case "rsync", "rsync_wan", "mysqldump":
		tools = map[string][][]string{"mysqldump": {{"mariadb-dump", "mysqldump"}}}[method]
		if tools == nil {
			tools = [][]string{{"rsync"}}
		}
		out = append(out, fmt.Sprintf("wsrep_sst_method is %s: a donor takes no writes while it sends its data; want mariabackup", method))
	}
	for _, either := range tools {
		if !slices.ContainsFunc(either, func(name string) bool { _, err := exec.LookPath(name); return err == nil }) {
			out = append(out, fmt.Sprintf("%s is not installed, and wsrep_sst_method is %s: a member that needs a whole copy gets none; apt-get install %[1]s", either[0], method))
		}
	}
	return out
}

// lacksMembers compares the members that the server looks for with those that Mainstay
// knows of.
func lacksMembers(address string, homes []fleet.Host) (out []string) {
	list, _, _ := strings.Cut(strings.TrimPrefix(address, "gcomm://"), "?")
	var want []string
	for _, h := range homes {
		want = append(want, h.Name)
	}
	if strings.TrimSpace(list) == "" {
		return []string{fmt.Sprintf("wsrep_cluster_address is %s: each start of this server begins a cluster of its own; want gcomm:// and the addresses of %s", cmp.Or(address, "not set"), strings.Join(want, ", "))}
	}
	found, blind := map[string]bool{}, false
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		if host, _, err := net.SplitHostPort(name); err == nil {
			name = host
		}
		home, known := homeOf(strings.Trim(name, "[]"), homes)
		switch {
		case home != "":
			found[home] = true
		case !known:
			blind = true
			out = append(out, fmt.Sprintf("wsrep_cluster_address names %s, and this host finds no address of that name", name))
		default:
			out = append(out, fmt.Sprintf("wsrep_cluster_address names %s, on which the site's file puts no member: after a loss of all Mainstay would not wait for it; take it out here, or in there", name))
		}
	}
	for _, name := range want {
		if !found[name] && !blind {
			out = append(out, fmt.Sprintf("wsrep_cluster_address does not name %s: when only that one is left, this member does not find it; want the addresses of %s", name, strings.Join(want, ", ")))
		}
	}
	return out
}

// homeOf is the host that a name or an address stands for, "" if none of them; known is
// false of a name that has no address.
func homeOf(name string, homes []fleet.Host) (host string, known bool) {
	var addrs []netip.Addr
	if a, err := netip.ParseAddr(name); err == nil {
		addrs = append(addrs, a)
	}
	short, _, _ := strings.Cut(name, ".")
	for _, h := range homes {
		if len(addrs) == 0 && (h.Name == name || h.Name == short) {
			return h.Name, true
		}
	}
	if len(addrs) == 0 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		addrs, _ = net.DefaultResolver.LookupNetIP(ctx, "ip", name) // none: not known
	}
	for _, h := range homes {
		for _, own := range h.Addresses {
			if slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Unmap() == own.Unmap() }) {
				return h.Name, true
			}
		}
	}
	return "", len(addrs) > 0
}

// yes reads a boolean as MariaDB and Galera write it.
func yes(v string) bool {
	switch strings.ToLower(v) {
	case "on", "1", "true", "yes", "force":
		return true
	}
	return false
}

var periodRule = regexp.MustCompile(`^P(?:T(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?)$`)

// period reads a span of time as Galera writes it (ISO 8601: PT0.5S).
func period(text string) (time.Duration, bool) {
	m := periodRule.FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	var seconds float64
	for i, unit := range []float64{3600, 60, 1} {
		if m[i+1] == "" {
			continue
		}
		n, err := strconv.ParseFloat(m[i+1], 64)
		if err != nil {
			return 0, false
		}
		seconds += n * unit
	}
	return time.Duration(seconds * float64(time.Second)), true
}
