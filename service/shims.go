package service

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Resource agents tell Pacemaker how well their copy could be promoted, and have it
// remember values of their own, by three of its programs. Mainstay's own program
// answers to their names in the directory that an agent is given as HA_SBIN_DIR, and
// keeps what it is told in files of this host. Attributes of other hosts, or of the
// whole cluster, there are none: an agent that asks for such gets an error that says so.
var shims = []string{"crm_master", "crm_attribute", "attrd_updater"}

// shimRun and shimKept name the environment by which a shim finds its files.
const (
	shimRun  = "MAINSTAY_OCF_REBOOT"
	shimKept = "MAINSTAY_OCF_FOREVER"
)

// The exit codes of Pacemaker's tools, for people who read agents (crm_exit_t).
const (
	crmOK     = 0
	crmError  = 1
	crmUsage  = 64
	crmNoSuch = 105
)

// infinity is Pacemaker's INFINITY.
const infinity = 1000000

// linking lets one service make the shims at a time: all that start together need them.
var linking sync.Mutex

// linkShims makes the directory in which the shims are.
func linkShims(dir string) error {
	linking.Lock()
	defer linking.Unlock()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range shims {
		path := filepath.Join(dir, name)
		if to, err := os.Readlink(path); err == nil && to == self {
			continue
		}
		next := fmt.Sprintf("%s.%d", path, os.Getpid())
		if err := errors.Join(os.Symlink(self, next), os.Rename(next, path)); err != nil {
			return fmt.Errorf("link %s: %w", path, err)
		}
	}
	return nil
}

// attributes are the values that one service's agent had us remember.
type attributes struct {
	env     Env
	service string
}

func (a attributes) dirs() []string {
	return []string{filepath.Join(a.env.Shims, "attributes", a.service), filepath.Join(a.env.Kept, a.service)}
}

// score is how well the copy could be promoted, by its agent's newest word; 0 if it
// gave none.
func (a attributes) score() int {
	raw, err := os.ReadFile(filepath.Join(a.dirs()[0], promotion(a.service)))
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(string(raw))
	return n
}

func (a attributes) forget() (err error) {
	for _, dir := range a.dirs() {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// promotion is the name of the attribute that holds a promotion score.
func promotion(service string) string { return "master-" + service }

// Shim does what one of Pacemaker's programs would, if argv[0] is the name of one that
// resource agents call; is says whether it is.
func Shim(argv []string, stdout, stderr io.Writer) (code int, is bool) {
	name := filepath.Base(argv[0])
	if !slices.Contains(shims, name) {
		return 0, false
	}
	s := shim{name: name, stderr: stderr}
	if code := s.parse(argv[1:]); code != crmOK {
		return code, true
	}
	value, code := s.do()
	switch {
	case code != crmOK || !s.query:
	case s.quiet:
		fmt.Fprintln(stdout, value)
	case name == "attrd_updater":
		fmt.Fprintf(stdout, "name=%q host=%q value=%q\n", s.attribute, s.node, value)
	default:
		fmt.Fprintf(stdout, "scope=status  name=%s value=%s\n", s.attribute, value)
	}
	return code, true
}

// shim is one call of one program.
type shim struct {
	name, service, attribute, node, lifetime, kind string
	value                                          *string
	remove, query, quiet, score                    bool
	fallback                                       string
	stderr                                         io.Writer
}

func (s *shim) fail(code int, format string, args ...any) int {
	fmt.Fprintf(s.stderr, "%s: %s\n", s.name, fmt.Sprintf(format, args...))
	return code
}

// parse reads the options that the three programs share, and where they differ.
func (s *shim) parse(args []string) int {
	f := flag.NewFlagSet(s.name, flag.ContinueOnError)
	f.SetOutput(s.stderr)
	text := func(to *string, names ...string) {
		for _, n := range names {
			f.StringVar(to, n, "", "")
		}
	}
	flags := func(to *bool, names ...string) {
		for _, n := range names {
			f.BoolVar(to, n, false, "")
		}
	}
	var ignored string
	var ignoredFlag bool
	update := func(names ...string) {
		for _, n := range names {
			f.Func(n, "", func(v string) error { s.value = &v; return nil })
		}
	}
	update("v", "update", "attr-value")
	text(&s.node, "N", "node", "uname")
	flags(&s.remove, "D", "delete")
	text(&ignored, "dampen", "delay")
	switch s.name {
	case "attrd_updater":
		update("U", "B", "update-both")
		text(&s.attribute, "n", "name")
		flags(&s.query, "Q", "query")
		flags(&s.quiet, "q", "quiet")
		flags(&ignoredFlag, "p", "private", "w", "W", "wait")
		text(&ignored, "d", "S", "s", "set", "l", "lifetime")
	default:
		text(&s.lifetime, "l", "lifetime")
		flags(&s.query, "G", "query", "get-value")
		flags(&s.quiet, "Q", "q", "quiet")
		text(&s.fallback, "d", "default")
		if s.name == "crm_master" {
			s.score = true
			text(&s.service, "r", "resource")
		} else {
			flags(&s.score, "p", "promotion")
			text(&s.attribute, "n", "name", "attr-name")
			text(&s.kind, "t", "type")
			text(&ignored, "s", "set-name", "i", "id")
			flags(&ignoredFlag, "z", "utilization")
		}
	}
	if err := f.Parse(args); err != nil {
		return crmUsage // the flag package has said why
	}
	if f.NArg() > 0 {
		return s.fail(crmUsage, "%q is not understood here; Mainstay knows -n, -v, -D, -G, -Q, -N, -l and their long names", f.Args())
	}
	if s.service == "" {
		s.service = os.Getenv("OCF_RESOURCE_INSTANCE")
	}
	return crmOK
}

// do reads, writes or removes the value.
func (s *shim) do() (value string, code int) {
	host, _ := os.Hostname()
	dir := os.Getenv(shimRun)
	if s.lifetime == "forever" {
		dir = os.Getenv(shimKept)
	}
	if s.score {
		s.attribute, dir = promotion(s.service), os.Getenv(shimRun)
	}
	switch {
	case dir == "" || s.service == "":
		return "", s.fail(crmError, "this is Mainstay's, for the resource agents that it runs: it needs OCF_RESOURCE_INSTANCE and %s", shimRun)
	case s.kind != "" && s.kind != "nodes" && s.kind != "status":
		return "", s.fail(crmError, "Mainstay keeps attributes of this host and this service alone, none of the %s", s.kind)
	case s.node != "" && s.node != host && s.node != "auto":
		return "", s.fail(crmNoSuch, "Mainstay keeps attributes of this host alone, none of %s", s.node)
	case s.attribute == "" || strings.ContainsAny(s.attribute, "/\x00"):
		return "", s.fail(crmUsage, "%q is not the name of an attribute", s.attribute)
	}
	s.node = host
	path := filepath.Join(dir, s.service, s.attribute)
	switch {
	case s.remove:
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", s.fail(crmError, "%v", err)
		}
	case s.value != nil:
		text := *s.value
		if s.score {
			n, err := promotionScore(text)
			if err != nil {
				return "", s.fail(crmUsage, "%q is not a promotion score: a whole number, INFINITY or -INFINITY", text)
			}
			text = strconv.Itoa(n)
		}
		if _, err := write(path, []byte(text)); err != nil {
			return "", s.fail(crmError, "%v", err)
		}
	default: // all three query when told nothing else
		s.query = true
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && s.fallback != "" {
			return s.fallback, crmOK
		}
		if errors.Is(err, fs.ErrNotExist) {
			return "", s.fail(crmNoSuch, "%s has no attribute %s on this host", s.service, s.attribute)
		}
		if err != nil {
			return "", s.fail(crmError, "%v", err)
		}
		return string(raw), crmOK
	}
	return "", crmOK
}

func promotionScore(text string) (int, error) {
	switch strings.ToUpper(text) {
	case "INFINITY", "+INFINITY":
		return infinity, nil
	case "-INFINITY":
		return -infinity, nil
	}
	n, err := strconv.Atoi(text)
	return max(-infinity, min(n, infinity)), err
}
