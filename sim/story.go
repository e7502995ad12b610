package sim

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"
	"time"

	"mainstay/fleet"
)

// Parse reads a story:
//
//	A title
//
//	# What it teaches, and the id in docs/HOLES.md or docs/INCIDENTS.md.
//	site timing=room voters=3 hosts=0 networks=2 clocks=20000 seed=1
//	guard promise ears
//	from 9s
//
//	10s     cut c1 management both
//	12s     expect address/internal on c2
//	20s     end
//	---
//	the log that must result
//
// The words of the site line are all optional, as are found=SERVICE@HOST,...,
// coarse=HOST,..., on_failure=, restarts=, levels=POWER SWITCHES, servers=SERVERS (on the computes, and an OpenStack), lost=NETWORK:THEN,... (openstack/lost), meta=SERVER.KEY=VALUE;... (what owners say: s3.After=db), reserved=HOST,..., local=EVERY/WAIT (the servers' disks are on their hosts), heartbeat=NETWORK (the computes beat to storage behind it; san: it has a way of its own), watchdog=TIME-OUT (of every host), kdump=TIME (of every host), and the bare words arbiter (the last voter), rebalance (servers go back to computes that returned),
// cluster (a database whose members share one history), brokers (a RabbitMQ cluster), skip, heal and promoted (the site has a service in that mode,
// drbd, on which cinder stands), mirror (the same, and its copies are one disk; mirror=2: of two copies, on c1 and c2).
func Parse(text string) (Story, error) {
	st := Story{Shape: Shape{Timing: "room", Voters: 3, Networks: 2}, Seed: 1}
	lines := bufio.NewScanner(strings.NewReader(text))
	n, golden := 0, false
	for lines.Scan() {
		n++
		line := strings.TrimRight(lines.Text(), " ")
		words := strings.Fields(line)
		switch {
		case golden:
			st.Golden = append(st.Golden, line)
		case n == 1:
			st.Title = line
		case line == "---":
			golden = true
		case len(words) == 0:
		case words[0] == "#" || strings.HasPrefix(line, "#"):
			st.About = append(st.About, strings.TrimSpace(strings.TrimPrefix(line, "#")))
		case words[0] == "site":
			if err := st.site(words[1:]); err != nil {
				return st, fmt.Errorf("line %d: %w", n, err)
			}
		case words[0] == "guard":
			for _, g := range words[1:] {
				st.Guards = append(st.Guards, fleet.Guard(g))
			}
		case words[0] == "from":
			d, err := time.ParseDuration(words[1])
			if err != nil {
				return st, fmt.Errorf("line %d: %w", n, err)
			}
			st.From = d
		default:
			d, err := time.ParseDuration(words[0])
			if err != nil || len(words) < 2 {
				return st, fmt.Errorf("line %d: want a time and a command, not %q", n, line)
			}
			st.Commands = append(st.Commands, Command{At: d, Verb: words[1], Args: words[2:], Group: n})
		}
	}
	return st, lines.Err()
}

func (st *Story) site(words []string) error {
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		n, err := strconv.Atoi(value)
		number := true
		switch key {
		case "voters":
			st.Shape.Voters = n
		case "hosts":
			st.Shape.Hosts = n
		case "networks":
			st.Shape.Networks = n
		case "clocks":
			st.Shape.Clocks = int64(n)
		case "restarts":
			st.Shape.Restarts = n
		case "levels":
			st.Shape.Levels = n
		case "servers":
			st.Shape.Servers = n
		case "room":
			st.Shape.Room = n
		case "seed":
			st.Seed = uint64(n)
		default:
			number = false
		}
		if number {
			if err != nil {
				return fmt.Errorf("%s: %w", w, err)
			}
			continue
		}
		switch key {
		case "timing":
			st.Shape.Timing = value
		case "found":
			st.Shape.Found = strings.Split(value, ",")
		case "coarse":
			st.Coarse = strings.Split(value, ",")
		case "lost":
			st.Shape.Lost = map[string]fleet.Loss{}
			for _, pair := range strings.Split(value, ",") {
				network, then, _ := strings.Cut(pair, ":")
				st.Shape.Lost[network] = fleet.Loss(then)
			}
		case "meta":
			st.Shape.Meta = strings.Split(value, ";")
		case "local":
			if st.Shape.Local = value; value != "" {
				if _, _, err := st.Shape.local(); err != nil {
					return fmt.Errorf("%s: %w", w, err)
				}
			}
		case "reserved":
			st.Shape.Reserved = strings.Split(value, ",")
		case "heartbeat":
			st.Shape.Heartbeat = value
		case "apart":
			st.Shape.Apart = value
		case "on_failure":
			st.Shape.OnFailure = fleet.OnFailure(value)
		case "watchdog":
			d, err := time.ParseDuration(value)
			if err != nil {
				return fmt.Errorf("%s: %w", w, err)
			}
			st.Shape.Watchdog = d
		case "kdump":
			d, err := time.ParseDuration(value)
			if err != nil {
				return fmt.Errorf("%s: %w", w, err)
			}
			st.Shape.Kdump = d
		case "arbiter":
			st.Shape.Arbiter = true
		case "promoted":
			st.Shape.Promoted = true
		case "mirror":
			st.Shape.Promoted, st.Shape.Mirror, st.Shape.Copies = true, true, n
		case "rebalance":
			st.Shape.Rebalance = true
		case "cluster":
			st.Shape.Cluster = true
		case "brokers":
			st.Shape.Brokers = true
		case "skip":
			st.Skips = true
		case "heal":
			st.Heals = true
		default:
			return fmt.Errorf("a site has no %q", key)
		}
	}
	return nil
}

// Write writes a story as Parse reads it.
func (st Story) Write() string {
	var b strings.Builder
	b.WriteString(st.Title + "\n\n")
	for _, line := range st.About {
		b.WriteString(strings.TrimSpace("# "+line) + "\n")
	}
	sh := st.Shape
	fmt.Fprintf(&b, "site timing=%s voters=%d hosts=%d networks=%d clocks=%d seed=%d", sh.Timing, sh.Voters, sh.Hosts, sh.Networks, sh.Clocks, st.Seed)
	if sh.Restarts > 0 {
		fmt.Fprintf(&b, " restarts=%d", sh.Restarts)
	}
	if sh.Levels > 0 {
		fmt.Fprintf(&b, " levels=%d", sh.Levels)
	}
	if sh.Servers > 0 {
		fmt.Fprintf(&b, " servers=%d", sh.Servers)
	}
	if sh.Room > 0 {
		fmt.Fprintf(&b, " room=%d", sh.Room)
	}
	if len(sh.Lost) > 0 {
		var pairs []string
		for _, network := range fleet.Sorted(sh.Lost) {
			pairs = append(pairs, network+":"+string(sh.Lost[network]))
		}
		b.WriteString(" lost=" + strings.Join(pairs, ","))
	}
	if len(sh.Meta) > 0 {
		b.WriteString(" meta=" + strings.Join(sh.Meta, ";"))
	}
	if len(sh.Reserved) > 0 {
		b.WriteString(" reserved=" + strings.Join(sh.Reserved, ","))
	}
	if sh.Local != "" {
		b.WriteString(" local=" + sh.Local)
	}
	if sh.Heartbeat != "" {
		b.WriteString(" heartbeat=" + sh.Heartbeat)
	}
	if sh.Apart != "" {
		b.WriteString(" apart=" + sh.Apart)
	}
	if sh.OnFailure != "" {
		fmt.Fprintf(&b, " on_failure=%s", sh.OnFailure)
	}
	if len(sh.Found) > 0 {
		b.WriteString(" found=" + strings.Join(sh.Found, ","))
	}
	if sh.Arbiter {
		b.WriteString(" arbiter")
	}
	if sh.Watchdog > 0 {
		fmt.Fprintf(&b, " watchdog=%v", sh.Watchdog)
	}
	if sh.Kdump > 0 {
		fmt.Fprintf(&b, " kdump=%v", sh.Kdump)
	}
	if len(st.Coarse) > 0 {
		b.WriteString(" coarse=" + strings.Join(st.Coarse, ","))
	}
	if sh.Copies > 0 {
		fmt.Fprintf(&b, " mirror=%d", sh.Copies)
	} else if sh.Mirror {
		b.WriteString(" mirror")
	} else if sh.Promoted {
		b.WriteString(" promoted")
	}
	if sh.Rebalance {
		b.WriteString(" rebalance")
	}
	if sh.Cluster {
		b.WriteString(" cluster")
	}
	if sh.Brokers {
		b.WriteString(" brokers")
	}
	if st.Skips {
		b.WriteString(" skip")
	}
	if st.Heals {
		b.WriteString(" heal")
	}
	b.WriteString("\n")
	if len(st.Guards) > 0 {
		b.WriteString("guard")
		for _, g := range st.Guards {
			b.WriteString(" " + string(g))
		}
		b.WriteString("\n")
	}
	if st.From > 0 {
		fmt.Fprintf(&b, "from %s\n", st.From)
	}
	b.WriteString("\n")
	for _, c := range st.Commands {
		b.WriteString(c.String() + "\n")
	}
	b.WriteString("---\n")
	for _, line := range st.Golden {
		b.WriteString(line + "\n")
	}
	return b.String()
}

// Shown returns the part of a log that a story shows.
func (st Story) Shown(log []string) []string {
	var out []string
	for _, line := range log {
		stamp, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if x, err := strconv.ParseFloat(stamp, 64); err == nil && x >= st.From.Seconds() {
			out = append(out, line)
		}
	}
	return out
}
