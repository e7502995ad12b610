package lab

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// What is promised of RabbitMQ, where a node by itself starts as fast as on an idle machine
// like this one: for how long a loss of one node may stand in all clients' way, and how
// soon after the last host's start it serves when all have lost their power.
const (
	rabbitLoss   = 10 * time.Second
	rabbitOutage = time.Minute
	rabbitBare   = 6 * time.Second
	// rabbitWaits is plan's wait for a node that went down later than those which are back
	// (R5): no machine is so slow that it takes longer.
	rabbitWaits = 40 * time.Second
)

// bareRabbit starts a node of its own beside the cluster's, by the same package, and prints
// after how many milliseconds it served.
const bareRabbit = `#!/bin/sh
set -e
dir=$(mktemp -d /var/lib/rabbitmq/bare.XXXXXX)
chown rabbitmq: "$dir"
begun=$(date +%s%3N)
unit=rabbitmq-bare-$$.service
systemd-run -q --collect --unit=$unit --service-type=notify -p NotifyAccess=all -p User=rabbitmq -p WorkingDirectory=/var/lib/rabbitmq -p TimeoutStartSec=300 \
	-E RABBITMQ_NODENAME=bare@$(hostname) -E RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 -E RABBITMQ_NODE_PORT=5699 -E RABBITMQ_DIST_PORT=25699 \
	-E RABBITMQ_MNESIA_BASE="$dir" -E RABBITMQ_LOG_BASE="$dir" -E RABBITMQ_CONFIG_FILE="$dir/none" -E RABBITMQ_ADVANCED_CONFIG_FILE="$dir/none" \
	/usr/lib/rabbitmq/bin/rabbitmq-server >&2
echo $(($(date +%s%3N) - begun))
systemctl kill -s KILL $unit
systemctl stop $unit >&2 || true
rm -r "$dir"
`

// within fails if something took longer than is promised, beside how long a bare node takes
// to start at this moment: a machine on which that takes longer is given as much more for
// all but what is only waited for.
func (r *rabbitSite) within(t *testing.T, what string, took, waits, promised time.Duration) {
	t.Helper()
	out := r.run(t, r.other(""), "rabbitmq-bare")
	var ms int64
	if _, err := fmt.Sscan(strings.TrimSpace(out), &ms); err != nil {
		t.Fatalf("a bare node's start: %q: %v", out, err)
	}
	bare := time.Duration(ms) * time.Millisecond
	bound := allowed(waits, promised, bare)
	t.Logf("%s: %v; a bare node starts in %v now, so %v are allowed", what, took.Round(100*time.Millisecond), bare.Round(100*time.Millisecond), bound.Round(100*time.Millisecond))
	if took > bound {
		t.Errorf("%s: %v, more than %v", what, took.Round(100*time.Millisecond), bound.Round(100*time.Millisecond))
	}
}

func allowed(waits, promised, bare time.Duration) time.Duration {
	return max(promised, waits+time.Duration(float64(promised-waits)*bare.Seconds()/rabbitBare.Seconds()))
}

// TestAllowed: a fast machine does not shorten what is promised, a slow one lengthens in
// proportion what is not waiting.
func TestAllowed(t *testing.T) {
	for _, c := range []struct{ waits, promised, bare, want time.Duration }{
		{0, rabbitLoss, rabbitBare / 2, rabbitLoss}, {0, rabbitLoss, rabbitBare, rabbitLoss}, {0, rabbitLoss, 3 * rabbitBare, 3 * rabbitLoss},
		{rabbitWaits, rabbitOutage, rabbitBare / 2, rabbitOutage}, {rabbitWaits, rabbitOutage, 2 * rabbitBare, 80 * time.Second},
	} {
		if got := allowed(c.waits, c.promised, c.bare); got != c.want {
			t.Errorf("%v, of which %v are waiting, where a bare node starts in %v: %v are allowed, want %v", c.promised, c.waits, c.bare, got, c.want)
		}
	}
}
