package vip

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkClaim measures a claim from the call to the first announcement.
func BenchmarkClaim(b *testing.B) {
	for _, addr := range []netip.Addr{v4, v6} {
		b.Run(map[bool]string{true: "v4", false: "v6"}[addr.Is4()], func(b *testing.B) {
			s := newNetwork(b, 1)[0].open(nil)
			var took []time.Duration
			for b.Loop() {
				start := s.now()
				c, err := s.Claim(b.Context(), addr, start.Add(lease))
				if err != nil {
					b.Fatal(err)
				}
				took = append(took, c.At.Sub(start))
				b.StopTimer()
				if err := s.Release(b.Context(), addr); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			report(b, took)
		})
	}
}

// BenchmarkRenew measures renewals of three addresses back to back.
func BenchmarkRenew(b *testing.B) {
	s := holding(b)
	var took []time.Duration
	for b.Loop() {
		start := s.now()
		if _, err := s.Renew(start.Add(long)); err != nil {
			b.Fatal(err)
		}
		took = append(took, s.now().Sub(start))
	}
	report(b, took)
}

// BenchmarkRenewAt20Hz measures what a holder of three addresses costs: 20
// renewals a second, the agent asleep in between.
func BenchmarkRenewAt20Hz(b *testing.B) {
	s := holding(b)
	var took []time.Duration
	tick := time.NewTicker(beat)
	defer tick.Stop()
	cpu, wall := processTime(b), time.Now()
	for b.Loop() {
		<-tick.C
		start := s.now()
		if _, err := s.Renew(start.Add(lease)); err != nil {
			b.Fatal(err)
		}
		took = append(took, s.now().Sub(start))
	}
	b.ReportMetric(100*float64(processTime(b)-cpu)/float64(time.Since(wall)), "%cpu")
	report(b, took)
}

func holding(b *testing.B) *Set {
	s := newNetwork(b, 1)[0].open(nil)
	for _, m := range site {
		if _, err := s.Claim(b.Context(), m.Addr, s.now().Add(long)); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

func processTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	us := func(d time.Duration) float64 { return float64(d) / 1e3 }
	b.ReportMetric(us(took[len(took)/2]), "median-us")
	b.ReportMetric(us(took[len(took)*99/100]), "p99-us")
	b.ReportMetric(us(took[len(took)-1]), "worst-us")
}
