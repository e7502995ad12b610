package agent

import "testing"

// A process that goes on with a stint knows enough when each service has been
// asked, and not before it knows which services there are.
func TestKnows(t *testing.T) {
	a := &Agent{watchers: map[string]*watcher{}}
	if a.knows() {
		t.Error("it knows of services that it has not looked for")
	}
	a.watchers["web"], a.watchers["db"] = &watcher{known: true}, &watcher{}
	a.watching = true
	if a.knows() {
		t.Error("nobody has asked db")
	}
	a.watchers["db"].known = true
	if !a.knows() {
		t.Error("all are known")
	}
}
