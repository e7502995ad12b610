package store

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// BenchmarkFailover kills the leader's process and measures until another host
// leads, and until it has committed: the median and the worst of b.N.
//
//	go test -run '^$' -bench Failover -benchtime 10x ./store
func BenchmarkFailover(b *testing.B) {
	for _, mood := range []string{"rack", "room"} {
		b.Run(mood, func(b *testing.B) {
			h := newHouse(b, fleet.Presets()[mood], "c1", "c2", "c3")
			children := h.spawnAll()
			var leads, commits []time.Duration
			ctx := context.Background()
			for b.Loop() {
				old, _ := h.raise()
				name := old.cfg.Name
				var rest []string
				for n := range h.rooms {
					if n != name {
						rest = append(rest, n)
					}
				}
				began := now()
				if err := children[name].cmd.Process.Kill(); err != nil {
					b.Fatal(err)
				}
				heir := h.leader(rest...)
				leads = append(leads, now().Sub(began))
				_, epoch, err := heir.client.RaiseEpoch(ctx, heir.cfg.Name)
				check(b, err)
				check(b, heir.client.Commit(ctx, epoch, []fleet.Record{holding("address/a", heir.cfg.Name, epoch)}, []fleet.Event{event(epoch, 1)}))
				commits = append(commits, now().Sub(began))
				children[name].kill()
				children[name] = old.spawn()
				if _, err := old.client.kv.Get(ctx, epochKey); err != nil { // it is back
					b.Fatal(err)
				}
			}
			report(b, "lead", leads)
			report(b, "commit", commits)
		})
	}
}

func report(b *testing.B, what string, all []time.Duration) {
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, what+"-p50-ms")
	b.ReportMetric(float64(all[len(all)-1].Microseconds())/1000, what+"-max-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkIdle measures what a member costs while nothing happens, apart from
// the pings of its agent.
func BenchmarkIdle(b *testing.B) {
	for _, mood := range []string{"rack", "room"} {
		b.Run(mood, func(b *testing.B) {
			h := newHouse(b, fleet.Presets()[mood], "c1", "c2", "c3")
			children := h.spawnAll()
			lead, _ := h.raise()
			before := map[string]time.Duration{}
			for n, c := range children {
				before[n], _ = usage(b, c.cmd.Process.Pid)
			}
			own, _ := usage(b, os.Getpid())
			began := time.Now()
			for b.Loop() {
				check(b, sleep(context.Background(), 10*time.Second))
			}
			span := time.Since(began)
			var follower, most float64
			for n, c := range children {
				cpu, rss := usage(b, c.cmd.Process.Pid)
				share := 100 * (cpu - before[n]).Seconds() / span.Seconds()
				if n == lead.cfg.Name {
					b.ReportMetric(share, "leader-%cpu")
				} else {
					follower = max(follower, share)
				}
				most = max(most, rss)
			}
			after, _ := usage(b, os.Getpid())
			b.ReportMetric(follower, "follower-%cpu")
			b.ReportMetric(100*(after-own).Seconds()/span.Seconds()/3, "client-%cpu")
			b.ReportMetric(most, "rss-MB")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkCommit measures one commit of a record and an event.
func BenchmarkCommit(b *testing.B) {
	h := newHouse(b, room(), "c1", "c2", "c3")
	h.spawnAll()
	lead, epoch := h.raise()
	n := 0
	for b.Loop() {
		n++
		check(b, lead.client.Commit(context.Background(), epoch, []fleet.Record{holding("address/a", "c1", uint64(n))}, []fleet.Event{event(epoch, n)}))
	}
}

// usage reads a process's CPU time and resident megabytes.
func usage(b *testing.B, pid int) (cpu time.Duration, rss float64) {
	b.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	check(b, err)
	_, rest, _ := strings.Cut(string(raw), ") ")
	f := strings.Fields(rest)
	var ticks int
	for _, i := range []int{11, 12} { // utime, stime
		n, err := strconv.Atoi(f[i])
		check(b, err)
		ticks += n
	}
	pages, err := strconv.Atoi(f[21])
	check(b, err)
	return time.Duration(ticks) * (time.Second / 100), float64(pages*os.Getpagesize()) / (1 << 20)
}
