package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Verb is a word of the stories and of "mainstay lab".
type Verb struct {
	Name string
	Args string // what follows it, for people
	Does string // in one line
	// Example is one use of it, as on the command line.
	Example string
	min     int
	play    func(ctx context.Context, l *Lab, args []string, term Terminal) (any, error)
}

// Terminal is where a played Exec reads and writes; nil fields are nowhere.
type Terminal struct {
	In       io.Reader
	Out, Err io.Writer
}

// Verbs lists what Play knows about a lab that exists, in the order of a help
// text. To build one is Up; "down" takes it away.
func Verbs() []Verb {
	return []Verb{
		{"status", "", "how each host is", "status", 0,
			func(ctx context.Context, l *Lab, _ []string, _ Terminal) (any, error) { return l.Status(ctx) }},
		{"down", "", "take the lab away with all that belongs to it", "down", 0,
			func(ctx context.Context, l *Lab, _ []string, _ Terminal) (any, error) { return nil, l.Down(ctx) }},
		{"kill", "HOST", "cut a host's power, and its BMC's", "kill c1", 1,
			func(ctx context.Context, l *Lab, a []string, _ Terminal) (any, error) { return l.Kill(ctx, a[0]) }},
		{"poweroff", "HOST", "switch a host off as its BMC does", "poweroff c1", 1,
			func(ctx context.Context, l *Lab, a []string, _ Terminal) (any, error) { return l.PowerOff(ctx, a[0]) }},
		{"start", "HOST", "give a host power, and wait until it has booted", "start c1", 1,
			func(ctx context.Context, l *Lab, a []string, _ Terminal) (any, error) {
				d, err := l.Start(ctx, a[0])
				if err == nil {
					_, err = l.Booted(ctx, a[0])
				}
				return d, err
			}},
		{"hang", "HOST [UNIT|UNIT#N|pid:N,N|disk|all]", "stop a host's processes, or some of them (SIGSTOP), or its disk", "hang c2 keystone.service", 1,
			func(ctx context.Context, l *Lab, a []string, _ Terminal) (any, error) {
				return l.Hang(ctx, a[0], arg(a, 1))
			}},
		{"resume", "HOST [UNIT|UNIT#N|pid:N,N|disk|all]", "let them go on", "resume c2 keystone.service", 1,
			func(ctx context.Context, l *Lab, a []string, _ Terminal) (any, error) {
				return l.Resume(ctx, a[0], arg(a, 1))
			}},
		{"faildisk", "HOST", "let a running host's disk fail", "faildisk c3", 1,
			func(ctx context.Context, l *Lab, a []string, _ Terminal) (any, error) { return l.FailDisk(ctx, a[0]) }},
		{"cut", "HOST [NETWORK|all] [both|in|out|link] [PEER]", "take away a host's frames on a network", "cut c1 management out", 1,
			func(ctx context.Context, l *Lab, a []string, _ Terminal) (any, error) {
				return l.Cut(ctx, Cut{Host: a[0], Network: arg(a, 1), Direction: Direction(arg(a, 2)), Peer: arg(a, 3)})
			}},
		{"heal", "HOST [NETWORK|all]", "end every cut that has to do with a host", "heal c1", 1,
			func(ctx context.Context, l *Lab, a []string, _ Terminal) (any, error) {
				return l.Heal(ctx, a[0], arg(a, 1))
			}},
		{"exec", "HOST PROGRAM [ARG...]", "run a program on a host, or on the client", "exec c2 -- mainstay status", 2,
			func(ctx context.Context, l *Lab, a []string, t Terminal) (any, error) {
				argv := a[1:]
				if argv[0] == "--" {
					argv = argv[1:]
				}
				return nil, l.Exec(ctx, a[0], argv, t.In, t.Out, t.Err)
			}},
		{"console", "HOST", "the end of a host's console and journal, also of a dead one", "console c1", 1,
			func(_ context.Context, l *Lab, a []string, _ Terminal) (any, error) { return l.Console(a[0], 200) }},
	}
}

func arg(args []string, n int) string {
	if n < len(args) {
		return args[n]
	}
	return ""
}

// Play carries out one verb on the lab and returns what there is to show of it:
// a Deed, a Status, a text, or nil.
func (l *Lab) Play(ctx context.Context, verb string, args []string, term Terminal) (any, error) {
	var names []string
	for _, v := range Verbs() {
		if v.Name != verb {
			names = append(names, v.Name)
			continue
		}
		most := len(strings.Fields(v.Args))
		if len(args) < v.min || len(args) > most && verb != "exec" {
			return nil, fmt.Errorf("lab %s %s: that takes %s", verb, strings.Join(args, " "), v.Args)
		}
		return v.play(ctx, l, args, term)
	}
	return nil, errors.New("lab " + verb + ": the words are " + strings.Join(names, " "))
}
