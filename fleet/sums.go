package fleet

import (
	"fmt"
	"time"
)

// Sum is one line of what a fault costs a client: computed from the site's
// timings, not measured on it.
type Sum struct {
	Case    string        `json:"case"`
	Formula string        `json:"formula"`
	Median  time.Duration `json:"median"`
	Worst   time.Duration `json:"worst"`
}

// What it takes to ask, decide, commit, order and claim once the silence is
// over, as measured on three hosts of one bridge; add the site's round trips.
const (
	turnMedian = 10 * time.Millisecond
	turnWorst  = 40 * time.Millisecond
)

// lead returns how soon after the loss of a leader the next one holds its lease:
// soonest, median and worst. The lines are drawn through what was measured with
// etcd 3.7 at heartbeat/election 20/200 (255, worst 408 ms) and 50/500 (677,
// worst 932 ms); 100/1000 fell within 15 per cent of them.
func (t Timing) lead() (soonest, median, worst time.Duration) {
	ms := time.Millisecond
	return t.Election, max(t.Election, t.Election*141/100-27*ms), t.Election*175/100 + 58*ms
}

// Sums returns what `mainstay check` prints for this site: how long an address
// is silent after each sort of fault. The first two hold wherever the nftables
// guard works; the next line says what its loss would cost.
func (s Spec) Sums() []Sum {
	t := s.Timing
	if _, pair := s.Pair(); pair {
		return t.pairSums()
	}
	w, coarse := t.Silence(GuardLate), t.Silence(CoarseLate)
	soonest, median, worst := t.lead()
	wText := fmt.Sprintf("W = 1.1 x lease + %v + %v = %v", GuardLate, SilenceSlack, w)
	back := t.Lease - t.Beat - 5*time.Millisecond
	sums := []Sum{
		{
			Case:    "the holder dies and is not the leader",
			Formula: fmt.Sprintf("W - (0..beat) + R; %s; R = %v, worst %v", wText, turnMedian, turnWorst),
			Median:  w - t.Beat/2 + turnMedian,
			Worst:   w + turnWorst,
		}, {
			Case:    "the holder dies and is the leader",
			Formula: fmt.Sprintf("max(W - (0..beat), election and the leader's lease %v, worst %v) + R", median, worst),
			Median:  laterMedian(w-t.Beat, w, soonest, median, worst) + turnMedian,
			Worst:   max(w, worst) + turnWorst,
		}, {
			Case:    "the holder's agent is stopped (SIGSTOP): the client's gap",
			Formula: fmt.Sprintf("W + R - lease - (0..%v): the host itself speaks on until its lease and the guard have ended", GuardLate),
			Median:  w + turnMedian - t.Lease - GuardLate,
			Worst:   w + turnWorst - t.Lease,
		}, {
			Case:    fmt.Sprintf("the holder's agent is killed and back within %v", back),
			Formula: "lease - beat - one round trip of 5ms: it goes on with its stint",
		}, {
			Case:    "the holder's answers are lost, one way",
			Formula: "R: it says so itself",
			Median:  turnMedian,
			Worst:   turnWorst,
		}, {
			Case:    "the holder dies without its nftables guard",
			Formula: fmt.Sprintf("W - (0..beat) + R; W = 1.1 x lease + %v + %v = %v", CoarseLate, SilenceSlack, coarse),
			Median:  coarse - t.Beat/2 + turnMedian,
			Worst:   coarse + turnWorst,
		},
	}
	var wd time.Duration
	for _, h := range s.Hosts {
		wd = max(wd, h.Watchdog.Timeout)
	}
	if wd > 0 {
		d := Outlived(t.Lease, wd)
		sums = append(sums, Sum{
			Case:    "an active/passive service's host dies together with its BMC, and has a watchdog: until it is started elsewhere",
			Formula: fmt.Sprintf("1.1 x (lease + 2 x watchdog) + 1s + (0..lease) + R; watchdog = %v", wd),
			Median:  d + t.Lease/2 + turnMedian,
			Worst:   d + t.Lease + turnWorst,
		})
	}
	return sums
}

// laterMedian returns the median of the later of two times: one lies evenly
// between from and to, the other with one half evenly between low and mid and
// the other half evenly between mid and high.
func laterMedian(from, to, low, mid, high time.Duration) time.Duration {
	part := func(x, a, b time.Duration) float64 {
		switch {
		case x >= b:
			return 1
		case x <= a:
			return 0
		}
		return float64(x-a) / float64(b-a)
	}
	x := min(from, low)
	for x < max(to, high) && part(x, from, to)*(part(x, low, mid)+part(x, mid, high))/2 < 0.5 {
		x += time.Millisecond
	}
	return x
}
