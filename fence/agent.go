package fence

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"mainstay/fleet"
)

// The programs of Debian's package fence-agents, some eighty of them, speak for power
// strips, chassis and hypervisors. Their protocol (FenceAgentAPI.md of ClusterLabs'
// fence-agents): "key=value" lines on standard input, an exit code; what parameters
// there are, the program's own metadata says, and it is all the documentation we have
// of them. What a program prints is for people and is never parsed.
var agent = Row{
	Name:  "agent",
	About: "a program of Debian's package fence-agents (power strips, chassis, hypervisors), by its own parameters",
	Params: []Param{
		{Name: "agent", Required: true, Doc: "the program, such as fence_apc_snmp; `man fence_apc_snmp` has its parameters, which stand beside this one"},
		{Name: "deadline", Default: "8s", Doc: "how long one run may take, 100ms to 8s"},
	},
	More: agentParams,
	New:  newAgent,
}

// agentDirs are where fence agents are installed.
var agentDirs = []string{"/usr/sbin", "/sbin", "/usr/local/sbin"}

// agentName is what a fence agent may be called: no path, no option.
var agentName = regexp.MustCompile(`^fence_[a-z0-9_]+$`)

// ours are the parameters that Mainstay gives itself, or that would let a program write
// our secrets into a file.
var ours = map[string]string{
	"action": "", "help": "", "version": "", "verbose": "", "verbose_level": "", "quiet": "",
	"debug": "it would write passwords into a file", "debug_file": "it would write passwords into a file",
	"delay": "who fences first is Mainstay's to decide",
}

// metadata is what a program says of itself.
type metadata struct {
	Short      string `xml:"shortdesc,attr"`
	Parameters []struct {
		Name       string `xml:"name,attr"`
		Deprecated string `xml:"deprecated,attr"`
		Short      string `xml:"shortdesc"`
		Content    struct {
			Default string `xml:"default,attr"`
		} `xml:"content"`
	} `xml:"parameters>parameter"`
	Actions []struct {
		Name string `xml:"name,attr"`
	} `xml:"actions>action"`
}

// known keeps what programs said of themselves: asking starts a Python for each.
var known struct {
	sync.Mutex
	by map[string]metadata
}

// metadataBound is how long a program may take to describe itself.
const metadataBound = 20 * time.Second

func describe(path string) (metadata, error) {
	known.Lock()
	defer known.Unlock()
	info, err := os.Stat(path)
	if err != nil {
		return metadata{}, err
	}
	key := fmt.Sprint(path, info.ModTime(), info.Size())
	if m, ok := known.by[key]; ok {
		return m, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), metadataBound)
	defer cancel()
	cmd := program(ctx, path, "-o", "metadata")
	out, err := cmd.Output()
	if err != nil {
		return metadata{}, fmt.Errorf("%s -o metadata: %w", path, err)
	}
	var m metadata
	if err := xml.Unmarshal(out, &m); err != nil {
		return metadata{}, fmt.Errorf("%s -o metadata: %w", path, err)
	}
	if known.by == nil {
		known.by = map[string]metadata{}
	}
	known.by[key] = m
	return m, nil
}

// program is a run of a fence agent that ends, with all that it started, by ctx.
func program(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "PYTHONWARNINGS=ignore"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// find returns the path of the program that the parameters name.
func find(name string) (string, error) {
	if !agentName.MatchString(name) {
		return "", fmt.Errorf("%q is no fence agent's name; right would be fence_apc_snmp", name)
	}
	for _, dir := range agentDirs {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no %s in %s: apt install fence-agents", name, strings.Join(agentDirs, ", "))
}

// agentParams are the parameters that the named program has.
func agentParams(raw map[string]string) ([]Param, error) {
	path, err := find(raw["agent"])
	if err != nil {
		return nil, &ParamError{Param: "agent", Text: err.Error()}
	}
	m, err := describe(path)
	if err != nil {
		return nil, &ParamError{Param: "agent", Text: err.Error()}
	}
	var out []Param
	for _, p := range m.Parameters {
		if _, own := ours[p.Name]; own || p.Deprecated == "1" {
			continue
		}
		out = append(out, Param{Name: p.Name, Doc: p.Short, Default: p.Content.Default, Secret: isSecret(p.Name)})
	}
	return out, nil
}

// Program is what a program of Debian's fence-agents says of itself, as a row of the
// table of drivers. The program must be on this host.
func Program(name string) (Row, error) {
	params, err := agentParams(map[string]string{"agent": name})
	if err != nil {
		return Row{}, err
	}
	path, err := find(name)
	if err != nil {
		return Row{}, err
	}
	m, err := describe(path)
	if err != nil {
		return Row{}, err
	}
	return Row{Name: name, About: m.Short, Params: params}, nil
}

// ProgramNamed says whether a word is the name of such a program: fence_apc_snmp.
func ProgramNamed(word string) bool { return agentName.MatchString(word) }

// isSecret says whether a parameter's value is a secret; the metadata does not say.
func isSecret(name string) bool {
	return (name == "community" || strings.Contains(name, "passw") || strings.Contains(name, "secret") || strings.Contains(name, "token") || strings.HasSuffix(name, "_kg")) &&
		!strings.HasSuffix(name, "_script") && !strings.HasSuffix(name, "_file")
}

// fenceAgent runs a program for each question.
type fenceAgent struct {
	path     string
	plain    []string // "key=value"
	shown    string   // the same, for people
	secrets  map[string]secret
	deadline time.Duration
	warnings []string
}

func newAgent(p *Params) (Driver, error) {
	a := &fenceAgent{deadline: p.duration("deadline", maxDeadline, 100*time.Millisecond, maxDeadline), secrets: map[string]secret{}}
	if path, err := find(p.text("agent")); err == nil { // agentParams has said what is wrong with it
		a.path = path
	}
	for _, key := range fleet.Sorted(p.raw) {
		if name, ok := strings.CutSuffix(key, "_file"); ok && isSecret(name) {
			a.secrets[name] = p.secret(name)
			continue
		}
		if name, ok := strings.CutSuffix(key, "_env"); ok && isSecret(name) {
			a.secrets[name] = p.secret(name)
			continue
		}
		value := p.raw[key]
		switch {
		case key == "agent" || key == "deadline":
			continue
		case strings.ContainsAny(value, "\r\n\x00"):
			p.fail(key, "a value is one line")
		case strings.ContainsAny(value, "{}"):
			p.fail(key, "it holds a placeholder that is not known; {name}, for the host's name, is the only one")
		}
		a.plain = append(a.plain, key+"="+value)
	}
	a.shown = strings.Join(append([]string{filepath.Base(a.path)}, a.plain...), " ")
	p.warn("%s cannot say which machine it switches: a swapped cable shows only when another host falls silent in its place", a.shown)
	a.warnings = p.warnings
	return a, nil
}

func (a *fenceAgent) Device() string          { return "agent " + a.shown }
func (a *fenceAgent) Deadline() time.Duration { return a.deadline }
func (a *fenceAgent) Warnings() []string      { return a.warnings }
func (a *fenceAgent) Close()                  {}

// Identity says that a plug has none.
func (a *fenceAgent) Identity(context.Context) (string, error) {
	return "", &Error{fleet.Refused, a.Device(), "ask for its UUID", ErrNoIdentity}
}

// State runs "status": 0 is on, 2 is off.
func (a *fenceAgent) State(ctx context.Context) (Power, error) {
	code, err := a.run(ctx, "status")
	switch {
	case err != nil:
		return Unknown, err
	case code == 2:
		return Off, nil
	}
	return On, nil
}

// Off runs "off", which most programs end only when the device says off; whether it is,
// Prove asks by itself, for some report success early (fence_ipmilan says so of itself).
func (a *fenceAgent) Off(ctx context.Context) error {
	_, err := a.run(ctx, "off")
	return err
}

// On runs "on".
func (a *fenceAgent) On(ctx context.Context) error {
	_, err := a.run(ctx, "on")
	return err
}

// run lets the program do one action.
func (a *fenceAgent) run(ctx context.Context, action string) (code int, err error) {
	ctx, cancel := context.WithTimeout(ctx, a.deadline)
	defer cancel()
	wrong := func(o fleet.Outcome, err error) (int, error) {
		return 0, &Error{Outcome: o, Device: a.Device(), Doing: action, Err: err}
	}
	ask := append([]string{"action=" + action}, a.plain...)
	var hidden []string
	for _, name := range fleet.Sorted(a.secrets) {
		value, err := a.secrets[name].read()
		if err != nil {
			return wrong(fleet.Refused, err)
		}
		hidden = append(hidden, value)
		ask = append(ask, name+"="+value)
	}
	cmd := program(ctx, a.path)
	cmd.Stdin = strings.NewReader(strings.Join(ask, "\n") + "\n")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err = cmd.Run()
	if ctx.Err() != nil {
		return wrong(fleet.NoWord, timely(ctx, ctx.Err(), a.deadline))
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		return wrong(fleet.Broken, err) // it never ran
	case action == "status" && exit.ExitCode() == 2:
		return 2, nil
	case action == "status":
		return wrong(fleet.Broken, fmt.Errorf("%w%s", err, lastLine(said.String(), hidden)))
	}
	return wrong(fleet.NoWord, fmt.Errorf("%w; perhaps it acted%s", err, lastLine(said.String(), hidden)))
}

// lastLine is the last that a program said, with a colon before it and no secret in it.
func lastLine(text string, hidden []string) string {
	for _, h := range hidden {
		text = strings.ReplaceAll(text, h, "[hidden]")
	}
	text = strings.TrimSpace(text)
	if text = text[strings.LastIndex(text, "\n")+1:]; text == "" {
		return ""
	}
	if len(text) > 200 {
		text = text[:200] + "..."
	}
	return ": " + text
}
