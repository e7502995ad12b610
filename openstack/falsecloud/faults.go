package falsecloud

import (
	"net/http"
	"strings"
	"time"
)

// Fault is how the cloud's API misbehaves towards some requests. Empty fields fit all.
type Fault struct {
	Method string
	Path   string // a part of it: "/identity" is Keystone, "/compute" Nova
	Body   string // a part of it: "evacuate"
	Times  int    // for how many requests; 0: until Mend

	Slow   time.Duration // before anything else happens, in real time
	Hang   bool          // takes the request, does nothing and never answers
	Status int           // answers so and does nothing, as a proxy before it does
	Lost   bool          // carries it out and closes the connection
}

// Break lets a fault happen from now on, beside those before.
func (c *Cloud) Break(f Fault) {
	defer c.enter()()
	c.faults = append(c.faults, &f)
}

// Mend ends all faults.
func (c *Cloud) Mend() {
	defer c.enter()()
	c.faults = nil
}

// fault finds and uses up the one that fits.
func (c *Cloud) fault(r *http.Request, body string) Fault {
	defer c.enter()()
	for i, f := range c.faults {
		if f.Method != "" && f.Method != r.Method || !strings.Contains(r.URL.Path, f.Path) || !strings.Contains(body, f.Body) {
			continue
		}
		if f.Times == 1 {
			c.faults = append(c.faults[:i:i], c.faults[i+1:]...)
		}
		f.Times--
		return *f
	}
	return Fault{}
}

// misbehave plays the fault around the request, and says whether that was all.
func (c *Cloud) misbehave(w http.ResponseWriter, r *http.Request, body string) bool {
	f := c.fault(r, body)
	wait := func(d <-chan time.Time) {
		select {
		case <-d:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		case <-c.life.Done():
			panic(http.ErrAbortHandler)
		}
	}
	if f.Slow > 0 {
		wait(time.After(f.Slow))
	}
	switch {
	case f.Hang:
		wait(nil)
	case f.Status != 0:
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(f.Status)
		_, _ = w.Write([]byte("<html><body><h1>No server is available to handle this request.</h1></body></html>"))
		return true
	case f.Lost:
		c.mux.ServeHTTP(void{http.Header{}}, r)
		panic(http.ErrAbortHandler)
	}
	return false
}

// void is an answer that nobody gets.
type void struct{ header http.Header }

func (v void) Header() http.Header         { return v.header }
func (v void) Write(b []byte) (int, error) { return len(b), nil }
func (v void) WriteHeader(int)             {}
