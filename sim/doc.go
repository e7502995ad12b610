// Package sim is a whole virtual site in one goroutine: hosts with clocks that
// disagree, networks that lose, delay, double and cut one way, a real raft on
// disks that stall, power switches that lie, and on every host the very same
// lease.Holder, lease.Ear, judge.Judge, plan.Decide and plan.Hand that run in
// production, driven by shells that take the steps of agent and leader in the
// same order.
//
//	script (a story, or drawn from a seed)
//	   -> events in virtual time -> hosts, networks, store, BMCs
//	                                  -> audits, at every step, from outside
//
// Nothing here reads a clock, starts a goroutine or throws other dice than its
// seed's: the same script gives the same log, byte for byte. The audits know
// what must never happen (docs/DESIGN.md section 7), not how it is avoided, so
// that a wrong idea cannot hide behind its own check.
//
// Where nothing is amiss, nothing is on its way and no fault is near, virtual
// time is counted but not played: all clocks stand still together, which is the
// same as moving every Moment by the same span. A skipped stretch can hide
// nothing but its own quiet.
package sim
