package fleet

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// This file knows YAML and nothing of sites: where each value stands, how a
// wrong one is told, and how the plain types are read. site.go says what a
// site's file may hold, site_check.go what must be true of it.

// Bounds of a site's file: far above any real one, and low enough that a wrong
// file (or an evil one) costs neither memory nor time.
const (
	maxBytes = 1 << 20
	maxLine  = 8 << 10
	maxDepth = 50
	maxHosts = 10_000
	maxPath  = 6 // names in a path; the file's own keys need five
)

// place is where something stands in the file.
type place struct{ line, column int }

// field is one node of the file with the way that leads to it.
type field struct {
	name string
	path string
	node ast.Node // nil: nothing was written
	at   place    // of the value if it is a single one, else of the key
	key  place
}

// reader walks the file and collects faults.
type reader struct {
	file   string
	faults Faults
	places map[string]place
	// pattern is, by host, the key that stands for it: c1 -> c[1-3].
	pattern map[string]string
	// unread holds the paths whose values could not be read: what follows from
	// that alone is not told a second time.
	unread map[string]bool
}

func newReader(file string) *reader {
	return &reader{file: file, places: map[string]place{}, pattern: map[string]string{}, unread: map[string]bool{}}
}

// parse turns the text into a tree; ok is false when there is none.
func (r *reader) parse(text []byte) (root field, ok bool) {
	stop := func(line, column int, problem, want string) (field, bool) {
		r.faults = append(r.faults, Fault{Line: line, Column: column, Rule: "syntax", Problem: problem, Want: want})
		return field{}, false
	}
	if len(text) > maxBytes {
		return stop(1, 1, fmt.Sprintf("the file has %d bytes", len(text)), fmt.Sprintf("at most %d; hosts can be written as a pattern, n[001-200]", maxBytes))
	}
	if !utf8.Valid(text) {
		return stop(1, 1, "the file is not UTF-8 text", "a YAML file")
	}
	line, depth, length := 1, 0, 0
	for _, c := range string(text) {
		length++
		switch c {
		case '\n':
			line, length = line+1, 0
		case '[', '{':
			depth++
		case ']', '}':
			depth = max(0, depth-1)
		}
		if length > maxLine || depth > maxDepth {
			return stop(line, 1, "the line is too long or nested too deeply", fmt.Sprintf("lines of at most %d characters, at most %d brackets open", maxLine, maxDepth))
		}
	}
	tree, err := parseYAML(text)
	if err != nil {
		var syntax *yaml.SyntaxError
		if errors.As(err, &syntax) && syntax.Token != nil && syntax.Token.Position != nil {
			p := syntax.Token.Position
			return stop(max(1, p.Line), max(1, p.Column), "this is not YAML: "+oneLine(syntax.Message), "YAML; until then nothing else can be checked")
		}
		return stop(1, 1, "this is not YAML: "+oneLine(err.Error()), "YAML; until then nothing else can be checked")
	}
	root.at = place{1, 1}
	for _, d := range tree.Docs {
		body := bare(d.Body)
		if body == nil {
			continue
		}
		if root.node != nil {
			p := position(body, place{1, 1})
			return stop(p.line, p.column, "a second document begins here", "one document in one file")
		}
		root.node = body
	}
	if root.node == nil {
		return stop(1, 1, "the file says nothing", "a site's file; mainstay init writes one to start from")
	}
	return root, true
}

// parseYAML keeps a panic of the parser, should it have one, from taking the
// program along: a site's file is foreign input.
func parseYAML(text []byte) (tree *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			tree, err = nil, fmt.Errorf("the parser gave up: %v", p)
		}
	}()
	return parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey())
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// bare takes off tags; a missing value, however written, becomes nil.
func bare(n ast.Node) ast.Node {
	for {
		switch x := n.(type) {
		case nil, *ast.NullNode, *ast.CommentNode, *ast.CommentGroupNode:
			return nil
		case *ast.TagNode:
			n = x.Value
		default:
			return n
		}
	}
}

func position(n ast.Node, otherwise place) place {
	if n == nil {
		return otherwise
	}
	var t *token.Token
	switch x := n.(type) {
	case *ast.MappingNode: // its own token is the first ':' when it is a block
		if len(x.Values) > 0 && x.Values[0].Key != nil {
			t = x.Values[0].Key.GetToken()
		}
	case *ast.MappingValueNode:
		if x.Key != nil {
			t = x.Key.GetToken()
		}
	}
	if t == nil {
		t = n.GetToken()
	}
	if t == nil || t.Position == nil {
		return otherwise
	}
	return place{max(1, t.Position.Line), max(1, t.Position.Column)}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "/" + name
}

// pairs returns the entries of a mapping and whether it is one.
func pairs(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch x := n.(type) {
	case *ast.MappingNode:
		return x.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{x}, true
	}
	return nil, false
}

// children returns the entries of a mapping, or the elements of a sequence.
func children(f field) []field {
	var out []field
	if list, ok := pairs(f.node); ok {
		for _, p := range list {
			name := keyText(p.Key)
			key := position(p.Key, f.at)
			child := field{name: name, path: join(f.path, name), node: bare(p.Value), at: key, key: key}
			if _, scalar := scalarText(child.node); scalar {
				child.at = position(child.node, child.at)
			}
			out = append(out, child)
		}
	} else if seq, ok := f.node.(*ast.SequenceNode); ok {
		for i, v := range seq.Values {
			name := strconv.Itoa(i)
			at := position(v, f.at)
			out = append(out, field{name: name, path: join(f.path, name), node: bare(v), at: at, key: at})
		}
	}
	return out
}

func keyText(k ast.MapKeyNode) string {
	if k == nil {
		return ""
	}
	if s, ok := k.(*ast.StringNode); ok {
		return s.Value
	}
	if t := k.GetToken(); t != nil {
		return strings.TrimSpace(t.Value)
	}
	return ""
}

// scalarText returns a scalar as it was written.
func scalarText(n ast.Node) (string, bool) {
	switch x := n.(type) {
	case *ast.StringNode:
		return x.Value, true
	case *ast.LiteralNode:
		if x.Value == nil {
			return "", true
		}
		return x.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		if t := n.GetToken(); t != nil {
			return strings.TrimSpace(t.Value), true
		}
		return "", true
	}
	return "", false
}

// index notes where everything stands. The first of two equal keys counts; a
// sequence of services is indexed by the names in it.
func (r *reader) index(f field) {
	if _, seen := r.places[f.path]; !seen {
		r.places[f.path] = f.at
	}
	if f.path != "" && strings.Count(f.path, "/") == 1 && strings.HasPrefix(f.path, "hosts/") {
		if names, err := expand(f.name); err == nil {
			for _, n := range names {
				if _, seen := r.pattern[n]; !seen {
					r.pattern[n] = f.name
				}
			}
		}
	}
	if strings.Count(f.path, "/") >= maxPath {
		return
	}
	for _, c := range children(f) {
		if f.path == "services" {
			if s, ok := scalarText(c.node); ok {
				if _, seq := f.node.(*ast.SequenceNode); seq {
					c.path = join(f.path, s)
				}
			}
		}
		r.index(c)
	}
}

// canon replaces a host's name in a path by the key that stands for it.
func (r *reader) canon(path string) string {
	rest, ok := strings.CutPrefix(path, "hosts/")
	if !ok {
		return path
	}
	name, rest, deeper := strings.Cut(rest, "/")
	if p, ok := r.pattern[name]; ok {
		name = p
	}
	if deeper {
		return "hosts/" + name + "/" + rest
	}
	return "hosts/" + name
}

// locate finds a path, or what is nearest around it.
func (r *reader) locate(path string) (line, column int) {
	for path = r.canon(path); ; path = parent(path) {
		if p, ok := r.places[path]; ok {
			return p.line, p.column
		}
		if path == "" {
			return 1, 1
		}
	}
}

func parent(path string) string {
	i := strings.LastIndexByte(path, '/')
	return path[:max(0, i)]
}

// told says whether a fault at this path only follows from one that is known:
// something at it, around it or directly in it could not be read.
func (r *reader) told(path string) bool {
	path = r.canon(path)
	for p := path; ; p = parent(p) {
		if r.unread[p] {
			return true
		}
		if p == "" {
			break
		}
	}
	for _, u := range Sorted(r.unread) {
		if parent(u) == path {
			return true
		}
	}
	return false
}

// report gives every fault its place, and sorts.
func (r *reader) report() Faults {
	for i, f := range r.faults {
		r.faults[i].File = r.file
		if f.Line == 0 {
			r.faults[i].Line, r.faults[i].Column = r.locate(f.Path)
		}
	}
	r.faults.Sort()
	return r.once(r.faults)
}

// once tells what is wrong with a whole pattern of hosts only once. The faults are
// located and sorted.
func (r *reader) once(faults Faults) Faults {
	var out Faults
	type pattern struct {
		line, column int
		rule, path   string
	}
	first, alike := map[pattern]int{}, map[int]int{}
	for _, f := range faults {
		if strings.HasPrefix(f.Path, "hosts/") {
			key := pattern{f.Line, f.Column, f.Rule, r.canon(f.Path)}
			if i, told := first[key]; told && out[i].Path != f.Path {
				alike[i]++
				continue
			}
			first[key] = len(out)
		}
		out = append(out, f)
	}
	for i := range out {
		if n := alike[i]; n > 0 {
			out[i].Problem += fmt.Sprintf(" (and %d more of this pattern alike)", n)
		}
	}
	return out
}

// bad reports a value that cannot be read.
func (r *reader) bad(f field, rule, problem, want string) {
	value, _ := scalarText(f.node)
	r.unread[f.path] = true
	r.faults = append(r.faults, Fault{Line: f.at.line, Column: f.at.column, Path: f.path, Rule: rule, Value: value, Problem: problem, Want: want})
}

// badKey reports a key; its value is no part of the fault.
func (r *reader) badKey(f field, rule, problem, want string) {
	r.faults = append(r.faults, Fault{Line: f.key.line, Column: f.key.column, Path: f.path, Rule: rule, Problem: problem, Want: want})
}

// whole reports anchors, aliases and merges; ok is false then.
func (r *reader) whole(f field) bool {
	switch f.node.(type) {
	case *ast.AnchorNode, *ast.AliasNode:
		r.bad(f, "syntax", "anchors and aliases are not read here", "the value itself, written out")
		return false
	}
	return true
}

// entries returns what a mapping holds, in the order of the file, each key once.
func (r *reader) entries(f field, want string) []field {
	if f.node == nil || !r.whole(f) {
		return nil
	}
	if _, ok := pairs(f.node); !ok {
		r.bad(f, "type", "is not a mapping of names to values", want)
		return nil
	}
	seen := map[string]place{}
	var out []field
	for _, c := range children(f) {
		if c.name == "<<" {
			r.bad(c, "syntax", "merged mappings are not read here", "the values themselves, written out")
			continue
		}
		if first, dup := seen[c.name]; dup {
			r.badKey(c, "duplicate", fmt.Sprintf("stands here a second time; it is at line %d already", first.line), "one of the two")
			continue
		}
		seen[c.name] = c.at
		out = append(out, c)
	}
	return out
}

// column is one key that a mapping may have, and what reads its value.
type column struct {
	name string
	read func(field)
}

// record reads a mapping with known keys.
func (r *reader) record(f field, want string, columns []column) {
	known := make([]string, len(columns))
	for i, c := range columns {
		known[i] = c.name
	}
	for _, e := range r.entries(f, want) {
		i := slices.Index(known, e.name)
		if i < 0 {
			right := "one of " + strings.Join(known, ", ")
			if n := nearest(e.name, known); n != "" {
				right = n
				r.unread[join(f.path, n)] = true // it was meant, so it is not called missing as well
			}
			r.badKey(e, "unknown-key", "unknown key", right)
			continue
		}
		columns[i].read(e)
	}
}

func (r *reader) scalar(f field, want string) (string, bool) {
	if !r.whole(f) {
		return "", false
	}
	if f.node == nil {
		r.bad(f, "type", "has no value", want)
		return "", false
	}
	s, ok := scalarText(f.node)
	if !ok {
		r.bad(f, "type", "is not a single value", want)
	}
	return s, ok
}

func (r *reader) text(to *string, want string) func(field) {
	return func(f field) {
		if s, ok := r.scalar(f, want); ok {
			*to = strings.TrimSpace(s)
		}
	}
}

func (r *reader) number(to *int, want string) func(field) {
	return func(f field) {
		s, ok := r.scalar(f, want)
		if !ok {
			return
		}
		n, err := strconv.Atoi(s)
		if err != nil {
			r.bad(f, "type", "is not a whole number", want)
			return
		}
		*to = n
	}
}

func (r *reader) flag(to *bool) func(field) {
	return func(f field) {
		s, ok := r.scalar(f, "true or false")
		if !ok {
			return
		}
		if s != "true" && s != "false" {
			r.bad(f, "type", "is neither true nor false", "true or false")
			return
		}
		*to = s == "true"
	}
}

func (r *reader) span(to *time.Duration) func(field) {
	return func(f field) {
		s, ok := r.scalar(f, "a number with its unit: 50ms, 2s, 10m")
		if !ok {
			return
		}
		d, err := time.ParseDuration(s)
		if err != nil {
			want := "a number with its unit: 50ms, 2s, 10m"
			if _, err := strconv.Atoi(s); err == nil {
				want = s + "ms or " + s + "s"
			}
			r.bad(f, "type", "is not a duration", want)
			return
		}
		*to = d
	}
}

// elements returns the scalars of a sequence; a single scalar stands for a list
// of one. ok is false if something in it could not be read.
func (r *reader) elements(f field, want string) (out []field, ok bool) {
	if !r.whole(f) {
		return nil, false
	}
	if _, ok := scalarText(f.node); ok {
		return []field{f}, true
	}
	if _, ok := f.node.(*ast.SequenceNode); !ok {
		r.bad(f, "type", "is not a list", want)
		return nil, false
	}
	ok = true
	for _, c := range children(f) {
		if _, scalar := r.scalar(c, want); scalar {
			out = append(out, c)
		} else {
			ok = false
		}
	}
	return out, ok
}

// list reads words. An empty list is a statement too: it takes away what the
// catalogue says.
func (r *reader) list(to *[]string, want string) func(field) {
	return func(f field) {
		elements, _ := r.elements(f, want)
		*to = []string{}
		for _, e := range elements {
			s, _ := scalarText(e.node)
			*to = append(*to, strings.TrimSpace(s))
		}
	}
}

func (r *reader) numbers(to *[]int, want string) func(field) {
	return func(f field) {
		elements, _ := r.elements(f, want)
		*to = nil
		for _, e := range elements {
			var n int
			r.number(&n, want)(e)
			*to = append(*to, n)
		}
	}
}

// expand makes names of a pattern: c[1-3] is c1 c2 c3, n[001-200] keeps zeros.
func expand(pattern string) ([]string, error) {
	head, rest, ok := strings.Cut(pattern, "[")
	if !ok {
		if !hostName(pattern) {
			return nil, errors.New("is not a host's name")
		}
		return []string{pattern}, nil
	}
	span, tail, ok := strings.Cut(rest, "]")
	from, to, ok2 := strings.Cut(span, "-")
	if !ok || !ok2 || strings.ContainsAny(tail, "[]") {
		return nil, errors.New("is not a pattern that can be read")
	}
	first, err1 := strconv.ParseUint(from, 10, 31)
	last, err2 := strconv.ParseUint(to, 10, 31)
	switch {
	case err1 != nil || err2 != nil:
		return nil, errors.New("does not count from one number to another")
	case last < first:
		return nil, errors.New("counts downwards")
	case last-first >= maxHosts:
		return nil, fmt.Errorf("makes more than %d hosts", maxHosts)
	case from[0] == '0' && len(from) != len(to):
		return nil, errors.New("counts with zeros in front to a number of another width")
	}
	width := 1
	if from[0] == '0' {
		width = len(from)
	}
	var out []string
	for n := first; n <= last; n++ {
		name := fmt.Sprintf("%s%0*d%s", head, width, n, tail)
		if !hostName(name) {
			return nil, errors.New("does not make names of hosts")
		}
		out = append(out, name)
	}
	return out, nil
}

// hostName says whether s may be a host's name, as hostname(1) prints it.
func hostName(s string) bool { return named(s, ".-") && !strings.Contains(s, "..") }

// thingName says whether s may name a site, network, role, address or service.
func thingName(s string) bool { return named(s, "_-") }

func named(s, also string) bool {
	if s == "" || len(s) > 63 || strings.ContainsAny(s[:1]+s[len(s)-1:], also) {
		return false
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(also, c) {
			return false
		}
	}
	return true
}
