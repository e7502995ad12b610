package probe

import (
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

func TestHung(t *testing.T) {
	ms := time.Millisecond
	at := func(d time.Duration) fleet.Moment { return fleet.Moment(1).Add(d) }
	prev := Sample{At: at(0), Finished: 10, CPU: time.Second}
	tests := []struct {
		name string
		prev Sample
		next Sample
		want bool
		why  string
	}{
		{"all three signs", prev, Sample{at(500 * ms), at(400 * ms), 10, time.Second}, true, "no request finished"},
		{"at exactly the shortest watch", prev, Sample{at(Still), at(Still), 10, time.Second}, true, "no request finished"},
		{"only its master wakes", prev, Sample{at(500 * ms), at(400 * ms), 10, time.Second + 5*ms}, true, "5ms of CPU within 500ms"},
		{"healthy", prev, Sample{at(500 * ms), 0, 12, time.Second + 30*ms}, false, "answered"},
		{"idle, probes answered", prev, Sample{at(500 * ms), 0, 10, time.Second}, false, "answered"},
		{"probe overdue, requests finish", prev, Sample{at(500 * ms), at(400 * ms), 11, time.Second}, false, "1 requests finished"},
		{"probe overdue, one long computation", prev, Sample{at(500 * ms), at(400 * ms), 10, time.Second + 6*ms}, false, "busy"},
		{"probe overdue, both move", prev, Sample{at(500 * ms), at(400 * ms), 11, time.Second + 400*ms}, false, "busy"},
		{"too short a watch", prev, Sample{at(Still - 1), at(100 * ms), 10, time.Second}, false, "watched for"},
		{"the same sample twice", Sample{at(0), at(0), 10, 0}, Sample{at(0), at(0), 10, 0}, false, "watched for"},
		{"the wrong way round", prev, Sample{at(-500 * ms), at(-600 * ms), 10, time.Second}, false, "watched for"},
		{"restarted: the CPU began anew", prev, Sample{at(500 * ms), at(400 * ms), 10, 0}, false, "began anew"},
		{"HAProxy reloaded: the count began anew", prev, Sample{at(500 * ms), at(400 * ms), 0, time.Second}, false, "began anew"},
		{"nobody counts its requests, the rest still", Sample{At: at(0)}, Sample{At: at(500 * ms), Overdue: at(100 * ms)}, true, "0s of CPU"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, why := Hung(tt.prev, tt.next)
			if got != tt.want || !strings.Contains(why, tt.why) {
				t.Fatalf("%v: %s; want %v and %q", got, why, tt.want, tt.why)
			}
		})
	}
}

// TestHungIsNeverOneSign takes each sign alone, and each two.
func TestHungIsNeverOneSign(t *testing.T) {
	for signs := range 8 {
		overdue, unfinished, idle := signs&1 > 0, signs&2 > 0, signs&4 > 0
		prev, next := Sample{At: 1}, Sample{At: fleet.Moment(1).Add(time.Second)}
		if overdue {
			next.Overdue = 2
		}
		if !unfinished {
			next.Finished++
		}
		if !idle {
			next.CPU += 100 * time.Millisecond
		}
		if got, why := Hung(prev, next); got != (overdue && unfinished && idle) {
			t.Errorf("overdue %v, nothing finished %v, no CPU %v: %v, %s", overdue, unfinished, idle, got, why)
		}
	}
}
