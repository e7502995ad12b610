package fleet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestFaces: the faces of a service begin with one home each, and follow each other.
func TestFaces(t *testing.T) {
	told := func(v Service) string {
		var out []string
		for _, f := range v.Faces([]string{"c2", "c1", "c3"}) {
			out = append(out, fmt.Sprintf("%s %d %s", f.Name, f.Port, strings.Join(f.Order, "")))
		}
		return strings.Join(out, "; ")
	}
	db := Service{Name: "db", Listen: Listen{Port: 3306, Writer: true}}
	spread := db
	spread.Listen.Writers = map[string]int{"neutron": 3308, "nova": 3307, "rest": 3309}
	for _, c := range []struct {
		v    Service
		want string
	}{
		{Service{Name: "cache"}, ""},
		{Service{Name: "api", Listen: Listen{Port: 5000}}, "api 5000 c2c1c3"},
		{db, "db 3306 c1c2c3"},
		{spread, "db 3306 c1c2c3; db-neutron 3308 c2c3c1; db-nova 3307 c3c1c2; db-rest 3309 c1c2c3"},
	} {
		if got := told(c.v); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// TestNext goes round, and knows when nobody is left.
func TestNext(t *testing.T) {
	f := Face{Order: []string{"c2", "c3", "c1"}}
	for _, c := range []struct{ after, fit, want string }{
		{"", "c1 c2 c3", "c2"}, {"c2", "c1 c3", "c3"}, {"c2", "c1", "c1"}, {"c1", "c2 c3", "c2"}, {"c1", "c1", "c1"}, {"c9", "c3", "c3"}, {"c1", "", ""},
	} {
		if got := f.Next(c.after, func(h string) bool { return slices.Contains(strings.Fields(c.fit), h) }); got != c.want {
			t.Errorf("after %q of %q: %q, want %q", c.after, c.fit, got, c.want)
		}
	}
}
