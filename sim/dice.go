package sim

import (
	"crypto/rand"
	"io"
	"runtime"
	"sync"
	"syscall"
)

// table is where sites are played, each by a thread of its own. Raft draws its election
// time-outs from crypto/rand, whatever site it belongs to: while anybody plays, it gets
// them from the dice of the site whose thread asks.
var table struct {
	sync.RWMutex
	sites map[int]*Site
	was   io.Reader
}

// sit takes a place for the site, and returns how to leave it.
func (s *Site) sit() (leave func()) {
	runtime.LockOSThread()
	place := syscall.Gettid()
	table.Lock()
	defer table.Unlock()
	if len(table.sites) == 0 {
		table.sites, table.was, rand.Reader = map[int]*Site{}, rand.Reader, drawn{}
	}
	table.sites[place] = s
	return func() {
		table.Lock()
		defer table.Unlock()
		if delete(table.sites, place); len(table.sites) == 0 {
			rand.Reader = table.was
		}
		runtime.UnlockOSThread()
	}
}

// drawn reads from the dice of whoever asks.
type drawn struct{}

func (drawn) Read(p []byte) (int, error) {
	table.RLock()
	s, was := table.sites[syscall.Gettid()], table.was
	table.RUnlock()
	if s == nil {
		return was.Read(p)
	}
	for i := range p {
		p[i] = byte(s.dice.Uint32())
	}
	return len(p), nil
}
