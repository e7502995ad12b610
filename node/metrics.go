package node

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"mainstay/fleet"
	"mainstay/judge"
)

// Metrics implements api.Backend: what this host knows, in Prometheus' format.
func (n *node) Metrics() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector(), (*metrics)(n))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// metrics describes a node to Prometheus.
type metrics node

var (
	descHost = prometheus.NewDesc("mainstay_host_condition", "1 for the condition that a host is in, as this voter sees it", []string{"host", "condition"}, nil)
	descHold = prometheus.NewDesc("mainstay_holding", "generation of an exclusive thing, by its recorded holder", []string{"thing", "host"}, nil)
	descCopy = prometheus.NewDesc("mainstay_service_ready", "1 if a host's copy of a service is ready", []string{"service", "host"}, nil)
	descLead = prometheus.NewDesc("mainstay_leader", "1 on the host that leads", nil, nil)
	descLive = prometheus.NewDesc("mainstay_lease_alive", "1 while a majority of ears acknowledges this host", nil, nil)
	descWait = prometheus.NewDesc("mainstay_waits", "how many things wait, on the host that leads: mainstay status names them", nil, nil)
	descStor = prometheus.NewDesc("mainstay_store_serves", "1 if a voter's member of the store serves, by its own agent's report", []string{"host"}, nil)
	descSize = prometheus.NewDesc("mainstay_store_bytes", "size of the data of this host's member of the store, of the 2 GiB that are allowed", nil, nil)
	descSync = prometheus.NewDesc("mainstay_store_fsync_seconds", "how long the disk took for 99 of 100 writes of this host's member of the store since its start", nil, nil)
	descMiss = prometheus.NewDesc("mainstay_capacity_short_servers", "how many of a compute's servers would find no place if it died, on the host that leads; 0 for all others", []string{"host"}, nil)
	descBear = prometheus.NewDesc("mainstay_capacity_bearable_computes", "how many computes of a zone can be lost at once, on the host that leads", []string{"zone"}, nil)
	descOld  = prometheus.NewDesc("mainstay_snapshots_oldest_seconds", "the age of the newest snapshot of the server with a local disk whose newest is oldest, on the host that leads", nil, nil)
	descLate = prometheus.NewDesc("mainstay_snapshots_late_servers", "how many servers with local disks have no snapshot newer than twice their interval, on the host that leads", nil, nil)
	descLook = prometheus.NewDesc("mainstay_capacity_look_seconds", "when that was looked at, in seconds since 1970", nil, nil)
	descEra  = prometheus.NewDesc("mainstay_epoch", "the epoch that this host knows", nil, nil)
)

// Describe implements prometheus.Collector.
func (m *metrics) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descHost, descHold, descCopy, descLead, descLive, descWait, descStor, descSize, descSync, descMiss, descBear, descOld, descLate, descLook, descEra} {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(c chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	n := (*node)(m)
	w := fleet.World{Spec: n.spec, Now: n.now(), Leader: n.host, Reports: n.desk.Reports(), Heard: n.agent.Heard()}
	if n.store != nil {
		w.State = n.store.State()
		gauge(descLead, bit(n.quorum.Holds(n.now())))
		gauge(descEra, float64(w.State.Epoch))
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if seen, p, leads := n.leader.Look(ctx); leads {
			gauge(descWait, float64(len(p.Waits)))
			if t := seen.Tally; t.Servers > 0 {
				late, _ := t.Overdue(seen.Wall)
				gauge(descLate, float64(late))
				for _, p := range t.Oldest { // those without any are due first
					if !p.Newest.IsZero() {
						gauge(descOld, seen.Wall.Sub(p.Newest).Seconds())
						break
					}
				}
			}
			if !seen.Capacity.At.IsZero() {
				gauge(descLook, float64(seen.Capacity.At.Unix()))
				for host := range seen.Cloud.Computes {
					gauge(descMiss, float64(seen.Capacity.Short[host].Servers), host)
				}
				for zone, b := range seen.Capacity.Zones {
					gauge(descBear, float64(b.K), zone)
				}
			}
		}
		if st, err := n.store.Status(ctx); err == nil {
			gauge(descSize, float64(st.Bytes))
			gauge(descSync, st.Fsync.Seconds())
		}
		cancel()
		for host, v := range judge.Judge(w) {
			gauge(descHost, 1, host, string(v.Condition))
		}
		for thing, h := range w.State.Holdings {
			gauge(descHold, float64(h.Generation), thing, h.Host)
		}
	}
	for host, r := range w.Reports {
		for name, s := range r.Services {
			gauge(descCopy, bit(s.Ready), name, host)
		}
		if h, ok := n.spec.Host(host); ok && h.Voter {
			gauge(descStor, bit(r.Store.Phase == "" || r.Store.Phase == fleet.StoreLearns), host)
		}
		if host == n.host {
			gauge(descLive, bit(r.Leased))
		}
	}
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
