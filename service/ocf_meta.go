package service

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"mainstay/fleet"
)

// ocfAgent is one resource agent.
type ocfAgent struct{ provider, kind, path string }

func (a ocfAgent) String() string { return "ocf:" + a.provider + ":" + a.kind }

// ocfMeta is what an agent says of itself (its action meta-data): the documentation of
// its parameters, and how long each of its actions may take.
type ocfMeta struct {
	Short      string      `xml:"shortdesc"`
	Parameters []ocfParam  `xml:"parameters>parameter"`
	Actions    []ocfAction `xml:"actions>action"`
}

type ocfAction struct {
	Name    string `xml:"name,attr"`
	Timeout string `xml:"timeout,attr"`
}

type ocfParam struct {
	Name     string `xml:"name,attr"`
	Required string `xml:"required,attr"`
	Short    string `xml:"shortdesc"`
	Content  struct {
		Default string `xml:"default,attr"`
	} `xml:"content"`
}

func (q ocfParam) about() string { return strings.Join(strings.Fields(q.Short), " ") }

func (m ocfMeta) param(name string) (ocfParam, bool) {
	for _, q := range m.Parameters {
		if q.Name == name {
			return q, true
		}
	}
	return ocfParam{}, false
}

func (m ocfMeta) names() []string {
	var out []string
	for _, q := range m.Parameters {
		name := q.Name
		if ocfSecret(name) {
			name += "_file"
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func (m ocfMeta) has(action string) bool {
	return slices.ContainsFunc(m.Actions, func(a ocfAction) bool { return a.Name == action })
}

// timeout is the longest that the agent advises for an action; 0: none.
func (m ocfMeta) timeout(action string) (longest time.Duration) {
	for _, a := range m.Actions {
		if a.Name == action {
			longest = max(longest, ocfSpan(a.Timeout))
		}
	}
	return longest
}

// ocfSpan reads a time as agents write it: "20", "20s", "2min"; 0 if it is none.
func ocfSpan(text string) time.Duration {
	number := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyz")
	n, err := strconv.Atoi(strings.TrimSpace(number))
	unit, known := map[string]time.Duration{
		"": time.Second, "s": time.Second, "sec": time.Second, "ms": time.Millisecond, "msec": time.Millisecond,
		"us": time.Microsecond, "usec": time.Microsecond, "m": time.Minute, "min": time.Minute, "h": time.Hour, "hr": time.Hour,
	}[text[len(number):]]
	if err != nil || !known || n < 0 {
		return 0
	}
	return time.Duration(n) * unit
}

// ocfSecret says whether a parameter's value is a secret; the metadata does not say.
func ocfSecret(name string) bool {
	return (strings.Contains(name, "passw") || strings.Contains(name, "secret")) && !strings.HasSuffix(name, "_use_empty")
}

// described keeps what agents said of themselves: a State must not cost a process more.
var described struct {
	sync.Mutex
	by map[string]ocfMeta
}

// describeBound is how long an agent may take to describe itself. The API advises
// agents to need no more than 5 s.
const describeBound = 20 * time.Second

// describe returns the agent's metadata. The error is fs.ErrNotExist where there is no
// such agent here, and ErrUnknown where it did not answer in time.
func (c *ocfCopy) describe(ctx context.Context) (ocfMeta, error) {
	info, err := os.Stat(c.agent.path)
	if err != nil {
		return ocfMeta{}, err
	}
	key := fmt.Sprint(c.agent.path, info.ModTime(), info.Size())
	described.Lock()
	m, ok := described.by[key]
	described.Unlock()
	if ok {
		return m, nil
	}
	ctx, cancel := context.WithTimeout(ctx, describeBound)
	defer cancel()
	out := speech{whole: true}
	env := append(ocfBase(c.env), "OCF_RESOURCE_INSTANCE="+c.name, "OCF_RESOURCE_TYPE="+c.agent.kind, "OCF_RESOURCE_PROVIDER="+c.agent.provider)
	code, err := runOCF(ctx, c.agent.path, "meta-data", env, &out, nil)
	if err != nil {
		return ocfMeta{}, err
	}
	if code != ocfSuccess {
		return ocfMeta{}, fmt.Errorf("%s meta-data returned %d", c.agent.path, code)
	}
	if err := xml.Unmarshal(out.text, &m); err != nil {
		return ocfMeta{}, fmt.Errorf("%s meta-data: %w", c.agent.path, err)
	}
	described.Lock()
	defer described.Unlock()
	if described.by == nil {
		described.by = map[string]ocfMeta{}
	}
	described.by[key] = m
	return m, nil
}

// Agent is what a resource agent of the OCF says of itself.
type Agent struct {
	Name   string // heartbeat:IPaddr2
	Doc    string
	Params []AgentParam // as the site's file names them: a secret's has _file
}

// AgentParam is a parameter of a resource agent.
type AgentParam struct {
	Param
	Required bool
}

// AgentNamed says whether a word is the name of a resource agent, such as heartbeat:IPaddr2.
func AgentNamed(word string) bool { return ocfName.MatchString(word) }

// Describe asks a resource agent of this host for its metadata. The error is
// fs.ErrNotExist where there is no such agent here.
func Describe(ctx context.Context, name string, env Env) (Agent, error) {
	env = env.filled()
	c, err := openOCF(fleet.Service{Name: "explain", Kind: "ocf", Params: map[string]string{"agent": name}}, env)
	copied, ok := c.(*ocfCopy)
	if !ok || copied.agent.path == "" {
		return Agent{}, err
	}
	m, err := copied.describe(ctx)
	if err != nil {
		return Agent{}, fmt.Errorf("ask %s what it is: %w", copied.agent, err)
	}
	out := Agent{Name: copied.agent.provider + ":" + copied.agent.kind, Doc: strings.Join(strings.Fields(m.Short), " ")}
	for _, q := range m.Parameters {
		x := AgentParam{Param{q.Name, q.about(), q.Content.Default}, q.Required == "1"}
		if ocfSecret(q.Name) {
			x.Name += "_file"
		}
		out.Params = append(out.Params, x)
	}
	for _, action := range ocfActions {
		if t := m.timeout(action); t > 0 {
			out.Params = append(out.Params, AgentParam{Param: Param{"op_" + action, "how long its " + action + " may take", t.String()}})
		}
	}
	return out, nil
}

// Agents are the names of the resource agents that are on this host.
func Agents(env Env) []string {
	env = env.filled()
	found, _ := filepath.Glob(filepath.Join(env.OCF, "resource.d", "*", "*")) // the pattern is well formed
	var out []string
	for _, path := range found {
		if name := filepath.Base(filepath.Dir(path)) + ":" + filepath.Base(path); AgentNamed(name) {
			out = append(out, name)
		}
	}
	return out
}

// speech is what an agent says: all of it for its metadata, else its reason and its
// last line.
type speech struct {
	whole bool
	mu    sync.Mutex
	text  []byte
	last  string
	why   string
}

// spoken bounds what is kept of a speech.
const spoken = 1 << 20

func (s *speech) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = append(s.text, p...)
	if s.whole {
		if len(s.text) > spoken {
			return 0, fmt.Errorf("more than %d bytes", spoken)
		}
		return len(p), nil
	}
	for {
		line, rest, ended := bytes.Cut(s.text, []byte("\n"))
		if !ended {
			s.text = s.text[:min(len(s.text), 4096)]
			return len(p), nil
		}
		s.hear(string(line))
		s.text = append(s.text[:0], rest...)
	}
}

func (s *speech) hear(line string) {
	line = strings.TrimSpace(line)
	if why, ok := strings.CutPrefix(line, ocfReason); ok {
		s.why = strings.TrimSpace(why)
	} else if line != "" {
		s.last = line
	}
}

// reasons are why it failed, in the agent's words: the reason that it gave, and its last
// line, which may be one.
func (s *speech) reasons(hide func(string) string) (why, last string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hear(string(s.text))
	return shortened(hide(s.why)), shortened(hide(s.last))
}
