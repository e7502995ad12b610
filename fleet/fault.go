package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Fault is one mistake in a site's file, told so that it can be mended without
// reading a manual: where it stands, what stands there, what is wrong with it
// and what would be right.
type Fault struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`   // counts from 1; 0: not located
	Column int    `json:"column,omitempty"` // counts from 1
	// Path leads to the place by names: "services/keystone/after/0".
	Path string `json:"path"`
	// Rule is a short name that stays the same from release to release.
	Rule string `json:"rule"`
	// Value is what stands there; empty when it is missing or may be a secret.
	Value   string `json:"value,omitempty"`
	Problem string `json:"problem"`
	Want    string `json:"want,omitempty"`
	// Warning marks what may be meant so. Everything else keeps the file from
	// being used.
	Warning bool `json:"warning,omitempty"`
}

// Error tells the fault on one line, in the form that editors jump to.
func (f Fault) Error() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File + ":")
	}
	if f.Line > 0 {
		fmt.Fprintf(&b, "%d:%d:", f.Line, f.Column)
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	if f.Warning {
		b.WriteString("warning: ")
	} else {
		b.WriteString("error: ")
	}
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	if f.Value != "" {
		fmt.Fprintf(&b, "%q ", f.Value)
	}
	b.WriteString(f.Problem)
	if f.Want != "" {
		b.WriteString("; right would be: " + f.Want)
	}
	return b.String()
}

// Faults are all mistakes of one file, in the order of its lines.
type Faults []Fault

// Errors returns those that keep the file from being used.
func (fs Faults) Errors() Faults { return fs.where(false) }

// Warnings returns those that may be meant so.
func (fs Faults) Warnings() Faults { return fs.where(true) }

func (fs Faults) where(warning bool) Faults {
	var out Faults
	for _, f := range fs {
		if f.Warning == warning {
			out = append(out, f)
		}
	}
	return out
}

// Err returns nil when there is no error among the faults, else one error that
// tells every one of them.
func (fs Faults) Err() error {
	if errs := fs.Errors(); len(errs) > 0 {
		return errs
	}
	return nil
}

// Error tells every fault on a line of its own.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Sort puts the faults in the order of their lines.
func (fs Faults) Sort() {
	slices.SortStableFunc(fs, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Path, b.Path), cmp.Compare(a.Problem, b.Problem))
	})
}

// Locate fills in file, line and column of faults that were found elsewhere than
// in Read (a unit that does not exist, a fence driver that refuses its
// parameters), by their Path. What the file does not say is located at the
// nearest thing around it that it does. What all hosts of a pattern have in common is
// told once.
func (fs Faults) Locate(file string, text []byte) Faults {
	r := newReader(file)
	if root, ok := r.parse(text); ok {
		r.index(root)
	}
	out := slices.Clone(fs)
	for i := range out {
		out[i].File = file
		out[i].Line, out[i].Column = r.locate(out[i].Path)
	}
	out.Sort()
	return r.once(out)
}

// nearest returns the known word that is most like the given one, or "" when
// none is like it.
func nearest(word string, known []string) string {
	best, least := "", len(word)/3+2
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour that make a into b.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	if len(x) > 64 || len(y) > 64 {
		return max(len(x), len(y))
	}
	before, last, row := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(x); i++ {
		row[0] = i
		for j := 1; j <= len(y); j++ {
			differ := 1
			if x[i-1] == y[j-1] {
				differ = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+differ)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(y)]
}
