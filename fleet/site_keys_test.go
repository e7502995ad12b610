package fleet

import (
	"slices"
	"strings"
	"testing"
)

// TestKeys: the reference names each key that Read knows, and no other. Read is asked by
// a key that nobody has, in each mapping.
func TestKeys(t *testing.T) {
	const stranger = "qqqqqqqqqqqqqqqqqqqqqqqq"
	text := strings.ReplaceAll(`?: 1
networks: {a: {?: 1}}
hosts: {c1: {?: 1, watchdog: {?: 1}}}
addresses: {x: {?: 1}}
services: {y: {?: 1, check: {?: 1}, listen: {?: 1}, restarts: {?: 1}}}
timing: {?: 1}
brakes: {?: 1, roles: {a: {?: 1}}, zones: {a: {?: 1}}}
tls: {?: 1}
operators: {?: 1}
openstack: {?: 1, local_disks: {?: 1}, snapshots: {?: 1}}
`, "?", stranger)
	own := map[string]string{"a": "NAME", "c1": "NAME", "x": "NAME", "y": "NAME"}
	var known []string
	_, faults := Read("site.yaml", []byte(text), nil)
	for _, f := range faults {
		if f.Rule != "unknown-key" {
			continue
		}
		path := strings.Split(strings.TrimSuffix(f.Path, stranger), "/")
		for i, p := range path {
			if name, ok := own[p]; ok {
				path[i] = name
			}
		}
		for _, key := range strings.Split(strings.TrimPrefix(f.Want, "one of "), ", ") {
			known = append(known, strings.Join(path, "/")+key)
		}
	}
	var told []string
	for _, k := range Keys() {
		told = append(told, k.Path)
		if k.Doc == "" {
			t.Errorf("%s is not explained", k.Path)
		}
	}
	// A key that holds a mapping is told by what is in it.
	known = slices.DeleteFunc(known, func(k string) bool {
		return slices.ContainsFunc(told, func(path string) bool { return strings.HasPrefix(path, k+"/") })
	})
	slices.Sort(known)
	slices.Sort(told)
	if len(known) < 40 || !slices.Equal(known, told) {
		t.Errorf("Read knows\n%s\nand told are\n%s", strings.Join(known, "\n"), strings.Join(told, "\n"))
	}
}
