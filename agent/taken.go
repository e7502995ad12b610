package agent

// Taken counts the beats that were authentic and fresh, and whatever else was.
func (a *Agent) Taken() uint64 {
	if a.conn == nil {
		return 0
	}
	return a.conn.Stats().Heard
}
