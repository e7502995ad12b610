// Package mainstay_test holds the rules of the house (docs/DESIGN.md section 2)
// as tests. A rule that no test enforces is a wish; a message that does not
// teach is a riddle. So each rule says what to do instead and why, and each is
// itself tested on a small source that breaks it.
package mainstay_test

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// rows are the layers of the house, from the roof down. A package imports only
// from rows below its own; the first part of its path is what counts, and what
// shares that part (fence, fence/falsebmc) is one family.
var rows = [][]string{
	{"cmd"},
	{"cli"},
	{"lab"},
	{"node"},
	{"agent"},
	{"leader", "api", "sim"},
	{"store", "fence", "probe", "service", "vip", "balance", "mirror", "openstack", "trust", "web"},
	{"plan"},
	{"judge"},
	{"lease"},
	{"fleet"},
}

// only narrows what a family may import of ours.
var only = map[string][]string{
	"cmd": {"cli"},
	"sim": pure,
	"web": {},

	"store": {"lease", "fleet"}, "fence": {"lease", "fleet"}, "probe": {"lease", "fleet"},
	"service": {"lease", "fleet"}, "vip": {"lease", "fleet"}, "balance": {"lease", "fleet"},
	"mirror": {"lease", "fleet"}, "openstack": {"lease", "fleet"}, "trust": {"lease", "fleet"},
}

// pure are the packages below the water line.
var pure = []string{"plan", "judge", "lease", "fleet"}

// owners says which families may import a module of others. A module that is not
// here is a new dependency: add a line, and say in CONTRIBUTING's words why.
var owners = []struct {
	module   string
	families []string
	why      string
}{
	{"go.etcd.io/raft", []string{"store", "sim"}, "the quorum is store's affair, and sim's to play"},
	{"go.etcd.io", []string{"store"}, "the quorum is store's affair; everybody else asks store"},
	{"google.golang.org/grpc", []string{"store"}, "it comes with etcd; between our own processes we speak HTTP and JSON"},
	{"go.uber.org/zap", []string{"store"}, "it comes with etcd; we log by log/slog"},
	{"github.com/gophercloud", []string{"openstack"}, "OpenStack in Mainstay's words is openstack's affair"},
	{"github.com/digitalocean/go-libvirt", []string{"probe"}, "asking a hypervisor how its guests are is probe's affair"},
	{"github.com/vishvananda", []string{"vip", "lab"}, "addresses and links are vip's affair, and the lab's to break"},
	{"github.com/mdlayher/netlink", []string{"vip", "lab"}, "addresses and links are vip's affair, and the lab's to break"},
	{"github.com/google/nftables", []string{"vip", "lab"}, "the kernel guard is vip's affair, and the lab's to break"},
	{"github.com/coreos/go-systemd", []string{"service", "node", "cli"}, "units are service's affair; who runs a process tells systemd that it is ready"},
	{"github.com/godbus/dbus", []string{"service"}, "units are service's affair"},
	{"github.com/go-sql-driver/mysql", []string{"service", "lab"}, "asking Galera how it is, is service's affair, and the lab's to measure"},
	{"github.com/bougou/go-ipmi", []string{"fence"}, "power switches are fence's affair"},
	{"github.com/rabbitmq", []string{"service", "lab"}, "asking RabbitMQ whether messages pass is service's affair, and the lab's to measure"},
	{"github.com/spf13", []string{"cli"}, "commands are cli's affair"},
	{"github.com/goccy/go-yaml", []string{"fleet", "cli"}, "the site's file is fleet's affair, output in YAML cli's"},
	{"github.com/prometheus", []string{"api", "store", "node"}, "metrics leave by api; store registers etcd's"},
	{"golang.org/x", nil, ""}, // anybody above the water line
}

// calm are the packages of the standard library that can be used below the water
// line: none of them does I/O, reads a clock, waits, locks or throws dice.
var calm = []string{
	"bytes", "cmp", "encoding/binary", "encoding/hex", "encoding/json", "errors", "fmt", "hash/fnv", "iter", "maps", "math", "math/bits",
	"net/netip", "net/url", "path", "slices", "sort", "strconv", "strings", "time", "unicode", "unicode/utf8",
}

// wild are calls into calm packages that are not calm.
var wild = map[string]string{
	"time.Now": "the clock is read above; take a fleet.Moment (rules) or time.Time (people) as an argument", "time.Since": "as time.Now", "time.Until": "as time.Now",
	"time.Sleep": "nothing waits here; return when to be asked again (Plan.Wake)", "time.After": "as time.Sleep", "time.AfterFunc": "as time.Sleep",
	"time.Tick": "as time.Sleep", "time.NewTimer": "as time.Sleep", "time.NewTicker": "as time.Sleep",
	"fmt.Print": "return text, do not print it", "fmt.Printf": "return text, do not print it", "fmt.Println": "return text, do not print it",
	"fmt.Scan": "take input as an argument", "fmt.Scanf": "take input as an argument", "fmt.Scanln": "take input as an argument",
	"maps.Keys": "the order of a map is dice: walk over fleet.Sorted(m)", "maps.Values": "as maps.Keys", "maps.All": "as maps.Keys",
}

// folders are names that say nothing about what is inside.
var folders = []string{"util", "utils", "common", "helper", "helpers", "manager", "managers", "misc", "base", "shared", "lib", "pkg", "internal", "core"}

// words that an exported name may not contain, each with ours (docs/GLOSSARY.md).
var words = map[string]string{
	"master": "leader (who decides) or holder (who has a thing)", "slave": "backup", "conductor": "leader",
	"resource": "thing, or service or address", "stonith": "fence",
}

// longest is the length in lines that a file may have. It only ever goes down.
const longest = 1000

// source is one Go file.
type source struct {
	name   string // slashes, from the root
	dir    string
	family string
	test   bool
	text   string
	tree   *ast.File
}

// house is what the rules look at: the project, or a small bad one.
type house struct {
	fset     *token.FileSet
	sources  []source
	others   map[string]string // docs and the like, by name
	folders  map[string]int    // how many files are in or below each
	compiled func(importPath string) (io.ReadCloser, error)
}

func (h *house) add(name, text string) error {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		h.folders[dir]++
	}
	if !strings.HasSuffix(name, ".go") {
		h.others[name] = text
		return nil
	}
	tree, err := parser.ParseFile(h.fset, name, text, parser.ParseComments)
	if err != nil {
		return err
	}
	s := source{name: name, dir: path.Dir(name), text: text, tree: tree, test: strings.HasSuffix(name, "_test.go")}
	s.family, _, _ = strings.Cut(s.dir, "/")
	h.sources = append(h.sources, s)
	return nil
}

func newHouse() *house {
	return &house{fset: token.NewFileSet(), others: map[string]string{}, folders: map[string]int{}, compiled: compiled()}
}

// project reads the tree that this file stands in.
func project(t *testing.T) *house {
	t.Helper()
	h := newHouse()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if d.IsDir() {
			if name != "." && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".ci" || name == "bin") {
				return fs.SkipDir
			}
			if name != "." {
				h.folders[name] += 0
			}
			return nil
		}
		text := []byte{}
		if slices.Contains([]string{".go", ".md", ".sh", ".txt", ".yml", ".yaml", ".service", ""}, path.Ext(name)) && !strings.Contains(name, "testdata/") {
			if text, err = os.ReadFile(name); err != nil {
				return err
			}
		} else if strings.HasSuffix(name, ".go") { // of testdata: not ours to judge
			name += ".testdata"
		}
		return h.add(name, string(text))
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// at says where a node stands.
func (h *house) at(n ast.Node) string {
	p := h.fset.Position(n.Pos())
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

// rule is one rule of the house, with a source that breaks it and one that does not.
type rule struct {
	name  string
	check func(*house) []string
	bad   map[string]string
	good  map[string]string
}

var rules = []rule{
	{
		name: "imports run downwards", check: layers,
		bad:  map[string]string{"judge/a.go": "package judge\nimport _ \"mainstay/plan\"\n"},
		good: map[string]string{"plan/a.go": "package plan\nimport _ \"mainstay/judge\"\n"},
	}, {
		name: "a port knows no other port", check: layers,
		bad:  map[string]string{"vip/a.go": "package vip\nimport _ \"mainstay/store\"\n"},
		good: map[string]string{"vip/a.go": "package vip\nimport _ \"mainstay/fleet\"\n", "fence/b.go": "package fence\nimport _ \"mainstay/fence/falsebmc\"\n"},
	}, {
		name: "a port does not know the mind", check: layers,
		bad:  map[string]string{"vip/a.go": "package vip\nimport _ \"mainstay/plan\"\n"},
		good: map[string]string{"leader/a.go": "package leader\nimport _ \"mainstay/plan\"\n"},
	}, {
		name: "each package has its row", check: layers,
		bad:  map[string]string{"cellar/a.go": "package cellar\n"},
		good: map[string]string{"cmd/mainstay/main.go": "package main\nimport _ \"mainstay/cli\"\n"},
	}, {
		name: "each dependency has its owner", check: layers,
		bad:  map[string]string{"agent/a.go": "package agent\nimport _ \"go.etcd.io/etcd/client/v3\"\n"},
		good: map[string]string{"store/a.go": "package store\nimport _ \"go.etcd.io/etcd/client/v3\"\n", "store/a_test.go": "package store\nimport _ \"github.com/google/go-cmp/cmp\"\n"},
	}, {
		name: "below the water line no import of the world", check: water,
		bad:  map[string]string{"lease/a.go": "package lease\nimport _ \"sync/atomic\"\n"},
		good: map[string]string{"lease/a.go": "package lease\nimport _ \"net/netip\"\n", "lease/a_test.go": "package lease\nimport _ \"os\"\n"},
	}, {
		name: "below the water line no clock", check: water,
		bad:  map[string]string{"plan/a.go": "package plan\nimport \"time\"\nvar x = time.Now()\n"},
		good: map[string]string{"plan/a.go": "package plan\nimport \"time\"\nvar x = 2 * time.Second\n"},
	}, {
		name: "below the water line no clock under another name", check: water,
		bad:  map[string]string{"plan/a.go": "package plan\nimport clock \"time\"\nvar x = clock.Since\n"},
		good: map[string]string{"plan/a.go": "package plan\nimport \"mainstay/fleet\"\nvar x = fleet.Moment(1).After(2)\n"},
	}, {
		name: "below the water line no goroutine", check: water,
		bad:  map[string]string{"judge/a.go": "package judge\nfunc f() { go f() }\n"},
		good: map[string]string{"judge/a.go": "package judge\nfunc f() { defer f() }\n"},
	}, {
		name: "below the water line no channel", check: water,
		bad:  map[string]string{"judge/a.go": "package judge\ntype T struct{ c chan int }\n"},
		good: map[string]string{"agent/a.go": "package agent\ntype T struct{ c chan int }\n"},
	}, {
		name: "below the water line no order of a map", check: mapOrder,
		bad:  map[string]string{"fleet/a.go": "package fleet\ntype M map[string]int\nfunc f(m M) { for range m {} }\n"},
		good: map[string]string{"fleet/a.go": "package fleet\nfunc f(m []int) { for range m {} ; for range 3 {} }\n"},
	}, {
		name: "below the water line no order of a map behind a type parameter", check: mapOrder,
		bad:  map[string]string{"fleet/a.go": "package fleet\nfunc f[M ~map[string]int](m M) { for range m {} }\n"},
		good: map[string]string{"fleet/a.go": "package fleet\nfunc f[S ~[]int](m S) { for range m {} }\n"},
	}, {
		name: "below the water line no order of maps.Keys", check: water,
		bad:  map[string]string{"fleet/a.go": "package fleet\nimport \"maps\"\nfunc f(m map[string]int) { for range maps.Keys(m) {} }\n"},
		good: map[string]string{"fleet/a.go": "package fleet\nimport \"maps\"\nfunc Sorted(m map[string]int) { _ = maps.Keys(m) }\n"},
	}, {
		name: "each package says what it is", check: comments,
		bad:  map[string]string{"vip/a.go": "// Package vip is vip.\npackage vip\n"},
		good: map[string]string{"vip/a.go": "// Package vip speaks for addresses. " + strings.Repeat("It teaches its idea on the first screen. ", 6) + "\npackage vip\n"},
	}, {
		name: "each exported name is explained", check: documented,
		bad:  map[string]string{"vip/a.go": "package vip\n// T is one.\ntype T struct{}\nfunc (T) Hidden() {}\n"},
		good: map[string]string{"vip/a.go": "package vip\n// The modes.\nconst (\n\tA = 1\n\tB = 2\n)\n// F does.\nfunc F() {}\ntype t struct{}\nfunc (t) Close() {}\n"},
	}, {
		name: "folders are named after what is in them", check: folderNames,
		bad:  map[string]string{"vip/util/a.go": "package util\n"},
		good: map[string]string{"vip/arp/a.go": "package arp\n"},
	}, {
		name: "one word for one thing", check: oneWord,
		bad:  map[string]string{"vip/a.go": "package vip\n// MasterHost is one.\nfunc MasterHost() {}\n"},
		good: map[string]string{"vip/a.go": "package vip\n// Leader is one.\nfunc Leader() {}\n"},
	}, {
		name: "each noun is in the glossary", check: glossary,
		bad:  map[string]string{"fleet/a.go": "package fleet\n// Gadget is one.\ntype Gadget struct{}\n", "docs/GLOSSARY.md": "**Host**: one machine.\n"},
		good: map[string]string{"fleet/a.go": "package fleet\n// Host is one.\ntype Host struct{}\n", "docs/GLOSSARY.md": "**Host**: one machine.\n"},
	}, {
		name: "nothing is left for later", check: finished,
		bad:  map[string]string{"vip/a_test.go": "package vip\nfunc f(t *T) { t." + "Skip(\"no root\") }\n"},
		good: map[string]string{"vip/a_test.go": "package vip\nfunc f(t *T) {\n\tif testing.Short() {\n\t\tt." + "Skip(\"slow\")\n\t}\n}\n"},
	}, {
		name: "nothing outside the project is read", check: finished,
		bad:  map[string]string{"Makefile": "test:\n\tcat /wor" + "k/shared/docs/DESIGN.md\n"},
		good: map[string]string{"Makefile": "test:\n\tcat docs/DESIGN.md\n"},
	}, {
		name: "a file can be read at one sitting", check: short,
		bad:  map[string]string{"vip/a.go": "package vip\n" + strings.Repeat("// line\n", longest)},
		good: map[string]string{"vip/a.go": "package vip\n"},
	},
}

// TestHouse holds the project to the rules.
func TestHouse(t *testing.T) {
	h := project(t)
	if len(h.sources) < 10 {
		t.Fatalf("found only %d Go files: this test looks at nothing", len(h.sources))
	}
	told := map[string]bool{}
	for _, r := range rules {
		for _, finding := range r.check(h) {
			if !told[finding] { // several rules share a check
				t.Error(finding)
			}
			told[finding] = true
		}
	}
	for dir, n := range h.folders {
		if n == 0 {
			t.Errorf("%s: the folder is empty. A folder appears with its first working content.", dir)
		}
	}
}

// TestRulesCanFail breaks each rule once, and keeps it once.
func TestRulesCanFail(t *testing.T) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			for want, sources := range map[bool]map[string]string{true: r.bad, false: r.good} {
				h := newHouse()
				for name, text := range sources {
					if err := h.add(name, text); err != nil {
						t.Fatal(err)
					}
				}
				if found := r.check(h); (len(found) > 0) != want {
					t.Errorf("broken: %v, found: %q", want, found)
				}
			}
		})
	}
}

func row(family string) int {
	return slices.IndexFunc(rows, func(r []string) bool { return slices.Contains(r, family) })
}

// imports calls f for each import of a file.
func (s source) imports(f func(spec *ast.ImportSpec, importPath string)) {
	for _, i := range s.tree.Imports {
		if p, err := strconv.Unquote(i.Path.Value); err == nil {
			f(i, p)
		}
	}
}

func layers(h *house) (found []string) {
	for _, s := range h.sources {
		if s.dir == "." {
			continue // this test
		}
		mine := row(s.family)
		if mine < 0 {
			found = append(found, fmt.Sprintf("%s: %q stands in no row of house_test.go. Say where it belongs (docs/DESIGN.md section 2), or put the file where it does.", s.dir, s.family))
			continue
		}
		s.imports(func(spec *ast.ImportSpec, p string) {
			if ours, ok := strings.CutPrefix(p, "mainstay/"); ok {
				family, _, _ := strings.Cut(ours, "/")
				allowed, narrow := only[s.family]
				switch {
				case family == s.family:
				case row(family) < 0:
					found = append(found, fmt.Sprintf("%s: %s stands in no row of house_test.go.", h.at(spec), p))
				case narrow && !slices.Contains(allowed, family):
					found = append(found, fmt.Sprintf("%s: %s imports %s, but sees only %v. A port knows fleet's nouns and its own library, never another port and never the mind: let agent, leader or node bring the two together.", h.at(spec), s.family, p, allowed))
				case row(family) <= mine:
					found = append(found, fmt.Sprintf("%s: %s imports %s, which stands beside or above it. Imports run downwards only: let the caller pass in what you need, as a value or a small interface of your own.", h.at(spec), s.family, p))
				}
				return
			}
			if first, _, _ := strings.Cut(p, "/"); !strings.Contains(first, ".") {
				return // the standard library
			}
			if s.test && strings.HasPrefix(p, "github.com/google/go-cmp") {
				return
			}
			for _, o := range owners {
				if p != o.module && !strings.HasPrefix(p, o.module+"/") {
					continue
				}
				if o.families != nil && !slices.Contains(o.families, s.family) {
					found = append(found, fmt.Sprintf("%s: only %s may import %s: %s.", h.at(spec), strings.Join(o.families, " and "), p, o.why))
				}
				return
			}
			found = append(found, fmt.Sprintf("%s: %s is a new dependency. Is it worth its upkeep? Then name its one owner in house_test.go and .golangci.yml.", h.at(spec), p))
		})
	}
	return found
}

// water checks what can be seen without types.
func water(h *house) (found []string) {
	for _, s := range h.sources {
		if !slices.Contains(pure, s.family) || s.test {
			continue
		}
		names := map[string]string{} // as the file calls them -> import path
		s.imports(func(spec *ast.ImportSpec, p string) {
			name := path.Base(p)
			if spec.Name != nil {
				name = spec.Name.Name
			}
			names[name] = p
			first, _, _ := strings.Cut(p, "/")
			if first != "mainstay" && !strings.Contains(first, ".") && !slices.Contains(calm, p) {
				found = append(found, fmt.Sprintf("%s: %s below the water line. Here is no I/O, clock, goroutine, lock or randomness: take what you need as a value, and let agent or leader do the deed.", h.at(spec), p))
			}
			if strings.HasPrefix(p, "golang.org/x/") {
				found = append(found, fmt.Sprintf("%s: %s below the water line. The system is asked above it.", h.at(spec), p))
			}
		})
		say := func(n ast.Node, what string) {
			found = append(found, fmt.Sprintf("%s: %s below the water line. A decision is a function of its World: equal Worlds give equal Plans, in a test, in sim and in a replay.", h.at(n), what))
		}
		for _, d := range s.tree.Decls {
			inSorted := false
			if f, ok := d.(*ast.FuncDecl); ok {
				inSorted = s.family == "fleet" && f.Recv == nil && f.Name.Name == "Sorted"
			}
			ast.Inspect(d, func(n ast.Node) bool {
				switch x := n.(type) {
				case *ast.GoStmt:
					say(x, "a goroutine")
				case *ast.ChanType:
					say(x, "a channel")
				case *ast.SelectStmt:
					say(x, "select")
				case *ast.SendStmt:
					say(x, "a send")
				case *ast.SelectorExpr:
					id, ok := x.X.(*ast.Ident)
					if !ok {
						break
					}
					call := names[id.Name] + "." + x.Sel.Name
					if why, ok := wild[call]; ok && !inSorted {
						found = append(found, fmt.Sprintf("%s: %s below the water line: %s.", h.at(x), call, why))
					}
				}
				return true
			})
		}
	}
	return found
}

// mapOrder type-checks the pure packages and finds each walk over a map.
func mapOrder(h *house) (found []string) {
	for _, family := range pure {
		byDir := map[string][]*ast.File{}
		for _, s := range h.sources {
			if s.family == family && !s.test && !strings.Contains(s.text, "//go:build mutate\n") {
				byDir[s.dir] = append(byDir[s.dir], s.tree)
			}
		}
		for dir, files := range byDir {
			info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
			conf := types.Config{Importer: importer.ForCompiler(h.fset, "gc", h.compiled)}
			if _, err := conf.Check("mainstay/"+dir, h.fset, files, info); err != nil {
				found = append(found, fmt.Sprintf("%s: cannot be checked: %v", dir, err))
				continue
			}
			for _, f := range files {
				ast.Inspect(f, func(n ast.Node) bool {
					if r, ok := n.(*ast.RangeStmt); ok && isMap(info.TypeOf(r.X)) {
						found = append(found, fmt.Sprintf("%s: a walk over a map. Its order is dice: walk over fleet.Sorted(m), so that equal Worlds give equal Plans.", h.at(r)))
					}
					return true
				})
			}
		}
	}
	return found
}

func isMap(t types.Type) bool {
	if t == nil {
		return false
	}
	if p, ok := t.(*types.TypeParam); ok {
		if constraint, ok := p.Constraint().Underlying().(*types.Interface); ok {
			for i := range constraint.NumEmbeddeds() {
				switch e := constraint.EmbeddedType(i).(type) {
				case *types.Union:
					for j := range e.Len() {
						if isMap(e.Term(j).Type()) {
							return true
						}
					}
				default:
					if isMap(e) {
						return true
					}
				}
			}
		}
		return false
	}
	_, ok := t.Underlying().(*types.Map)
	return ok
}

// compiled finds what the pure packages import in the build cache, asking the go
// command once.
var compiled = sync.OnceValue(func() func(string) (io.ReadCloser, error) {
	args := []string{"list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}"}
	for _, p := range pure {
		args = append(args, "./"+p)
	}
	var complaint bytes.Buffer
	cmd := exec.Command("go", args...)
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	exports := map[string]string{}
	for line := range strings.Lines(string(out)) {
		p, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		exports[p] = file
	}
	if err == nil {
		err = errors.New("it is not among what the pure packages import")
	}
	return func(p string) (io.ReadCloser, error) {
		if file := exports[p]; file != "" {
			return os.Open(file)
		}
		return nil, fmt.Errorf("no export data for %s: go list: %w %s", p, err, complaint.String())
	}
})

func comments(h *house) (found []string) {
	type seen struct {
		text string
		file string
	}
	best := map[string]seen{}
	for _, s := range h.sources {
		if s.test || s.dir == "." {
			continue
		}
		text := s.tree.Doc.Text()
		if old, ok := best[s.dir]; !ok || len(text) > len(old.text) {
			best[s.dir] = seen{text, s.name}
		}
	}
	for dir, b := range best {
		switch {
		case len(b.text) < 150 && !strings.HasPrefix(b.text, "Command ") || len(b.text) < 80:
			found = append(found, fmt.Sprintf("%s: the package comment has %d characters. Teach the idea on the first screen: what it does, the one picture or rule to know, what it does not do.", dir, len(b.text)))
		case !strings.HasPrefix(b.text, "Package ") && !strings.HasPrefix(b.text, "Command "):
			found = append(found, fmt.Sprintf("%s: the package comment begins with %q, not with \"Package %s\", so go doc does not find it.", b.file, b.text[:20], path.Base(dir)))
		}
	}
	return found
}

// exported says whether a method belongs to a type that others can see.
func exported(f *ast.FuncDecl) bool {
	if f.Recv == nil || len(f.Recv.List) == 0 {
		return f.Name.IsExported()
	}
	t := f.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return f.Name.IsExported() && x.IsExported()
		default:
			return false
		}
	}
}

// usual are methods that say by their name alone what they do.
var usual = []string{"Error", "Unwrap", "String"}

// names calls f for each exported name with whether it is explained.
func (s source) names(f func(name *ast.Ident, explained bool)) {
	for _, d := range s.tree.Decls {
		switch x := d.(type) {
		case *ast.FuncDecl:
			if exported(x) && !slices.Contains(usual, x.Name.Name) {
				f(x.Name, x.Doc.Text() != "")
			}
		case *ast.GenDecl:
			for _, spec := range x.Specs {
				switch y := spec.(type) {
				case *ast.TypeSpec:
					if y.Name.IsExported() {
						f(y.Name, y.Doc.Text() != "" || x.Doc.Text() != "")
					}
				case *ast.ValueSpec:
					for _, n := range y.Names {
						if n.IsExported() {
							f(n, y.Doc.Text() != "" || y.Comment.Text() != "" || x.Doc.Text() != "")
						}
					}
				}
			}
		}
	}
}

func documented(h *house) (found []string) {
	for _, s := range h.sources {
		if s.test {
			continue
		}
		s.names(func(n *ast.Ident, explained bool) {
			if !explained {
				found = append(found, fmt.Sprintf("%s: %s is exported and not explained. Say what it is for, its units and errors; or keep it to the package.", h.at(n), n.Name))
			}
		})
	}
	return found
}

func folderNames(h *house) (found []string) {
	for dir := range h.folders {
		if slices.Contains(folders, path.Base(dir)) {
			found = append(found, fmt.Sprintf("%s: a folder of that name says nothing and collects everything. Name it after what it does, or put its content where it is used.", dir))
		}
	}
	return found
}

func oneWord(h *house) (found []string) {
	for _, s := range h.sources {
		if s.test {
			continue
		}
		s.names(func(n *ast.Ident, _ bool) {
			for word, ours := range words {
				if strings.Contains(strings.ToLower(n.Name), word) {
					found = append(found, fmt.Sprintf("%s: %s: say %s in place of %q. One word for one thing (docs/GLOSSARY.md), in code, log, API and document alike.", h.at(n), n.Name, ours, word))
				}
			}
		})
	}
	return found
}

func glossary(h *house) (found []string) {
	text := strings.ToLower(h.others["docs/GLOSSARY.md"])
	for _, s := range h.sources {
		if s.dir != "fleet" || s.test {
			continue
		}
		for _, d := range s.tree.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range g.Specs {
				if t, ok := spec.(*ast.TypeSpec); ok && t.Name.IsExported() && !strings.Contains(text, "**"+strings.ToLower(t.Name.Name)+"**") {
					found = append(found, fmt.Sprintf("%s: %s is a noun of ours and not in docs/GLOSSARY.md. Give it one meaning there, in one line: **%s**.", h.at(t), t.Name.Name, t.Name.Name))
				}
			}
		}
	}
	return found
}

// marks are what unfinished or foreign work leaves behind. They are written in
// two halves, so that this file does not find itself.
var marks = map[string]string{
	"TO" + "DO": "finish it, or write the issue", "FIX" + "ME": "fix it, or write the issue", skip: "install what the test needs in .ci/run: a test that does not run proves nothing (after testing.Short() alone it may be left out)",
	"not impl" + "emented": "a stub promises what it does not do: leave the name out until it works", "/wor" + "k/shared": "copy what the project needs into its own docs",
}

const skip = "t.Ski" + "p("

func finished(h *house) (found []string) {
	look := func(name, text string) {
		n, before := 0, ""
		for line := range strings.Lines(text) {
			n++
			for mark, instead := range marks {
				if strings.Contains(line, mark) && !(mark == skip && strings.Contains(before, "testing.Short()")) {
					found = append(found, fmt.Sprintf("%s:%d: %q: %s.", name, n, mark, instead))
				}
			}
			before = line
		}
	}
	for _, s := range h.sources {
		look(s.name, s.text)
	}
	for name, text := range h.others {
		look(name, text)
	}
	slices.Sort(found)
	return found
}

func short(h *house) (found []string) {
	for _, s := range h.sources {
		if n := strings.Count(s.text, "\n"); n > longest {
			found = append(found, fmt.Sprintf("%s: %d lines. More than %d cannot be read at one sitting: what in it stands by itself?", s.name, n, longest))
		}
	}
	return found
}
