package agent

import "mainstay/probe/heartbeat"

// Taken counts what became of the datagrams that came here.
func (a *Agent) Taken() heartbeat.Stats {
	if a.conn == nil {
		return heartbeat.Stats{}
	}
	return a.conn.Stats()
}
