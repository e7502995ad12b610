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

// What a former process severed is not severed anew: by then the flows to the
// address are sound ones.
func TestSeveredIsRemembered(t *testing.T) {
	run := t.TempDir()
	a := &Agent{cfg: Config{Run: run}}
	if got, err := a.recallSevered(); err != nil || len(got) != 0 {
		t.Errorf("after a boot: %v, %v", got, err)
	}
	a.severed = map[string]uint64{"internal": 7}
	if err := a.keepSevered(); err != nil {
		t.Fatal(err)
	}
	next := &Agent{cfg: Config{Run: run}}
	if got, err := next.recallSevered(); err != nil || got["internal"] != 7 {
		t.Errorf("the next process remembers %v, %v", got, err)
	}
}
