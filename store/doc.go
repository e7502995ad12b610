// Package store is the quorum: what a majority of voters remembers together.
// It is embedded etcd, and the only package that knows so.
//
// There are two halves, in two processes, so that neither costs the other.
// etcd exits on a disk error; an agent restarts for an upgrade.
//
//	mainstay quorum (RunQuorum)                 mainstay run (Client)
//	  etcd member  <--- quorum.sock (gRPC) ---   State, Commit, Events ...
//	     |                                        |
//	  gate         <--- lead.sock (JSON) ------   ping each t, Lead, MoveLead
//	     |
//	  other voters (mutual TLS, port 7402)
//
// Both sockets are Unix sockets of the own host: a client never fails over to
// another member, so "I lead" and the read that proves it speak of the same one.
//
// # Who leads
//
// "I am the raft leader" alone lied for up to 408 ms after a cut. So the agent
// reads its clock (t0) and pings; the gate answers "you lead" only if the member
// led, then confirmed a linearizable read with a majority, then still led in the
// same term. The agent may then act until t0 + Timing.LeadLease, by its own
// CLOCK_BOOTTIME, and asks again each t. No vote can succeed earlier, because a
// follower that took part in the read refuses to vote for E, less two ticks.
// Four things would break that sentence, and each has its guard:
//
//   - a restarted follower has forgotten that it heard the leader [restart-wait];
//   - a transfer of the lead forces the vote past that refusal [transfer];
//   - the agent is hung while its member leads on for ever [orphan];
//   - two voters changed at once have majorities that do not meet [one-voter].
//
// # What is remembered
//
//	/mainstay/state/KEY    the Records of fleet.State; written under the epoch
//	/mainstay/event/ID     history, bounded
//	/mainstay/private/KEY  the CA's key, join tokens, an open change of voters
//
// A Commit is one transaction that compares the epoch: a leader that has been
// superseded writes nothing. Its errors keep apart what matters: ErrEpoch means
// surely not written, ErrUnknown means that nobody knows.
package store
