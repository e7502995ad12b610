// Package heartbeat carries the small authenticated datagrams that leases rest
// on, over UDP on every network of the site:
//
//	Beat    host -> ear     I live; this is my stint; the clock reads Sent
//	Ack     ear -> host     I heard the beat that you sent at Sent
//	Ask     leader -> ear   will you acknowledge this stint no more?
//	Answer  ear -> leader   I promise, or I do not, and why
//
// It is a courier and knows no rule of leases: a Conn hands over what is
// authentic and fresh, and throws the rest away, counted by reason.
//
// # Authentic
//
// Every datagram is sealed with AES-256-GCM. Beats and their acknowledgements
// use the beating host's own key, which only that host and the voters can know,
// so a compute node cannot speak for another. Asks and answers use a key that
// only voters have. The site, the sender's name and the network are sealed in:
// what was recorded on one network is worthless on another. The nonce is 8
// random bytes drawn by each Conn (its session) and a counter for each key. The
// memory of a running machine, cloned and resumed, would repeat nonces; such a
// twin is reported as a Conflict, and the beat keys must then be rotated.
//
// # Fresh
//
// An Ack proves itself: it echoes a reading of the host's own clock, and the
// lease counts from that reading, however late the echo comes. An Answer
// likewise echoes epoch and round. A Beat and an Ask come unasked, and a
// recording of one must not count: neither after the ear has been restarted and
// remembers nothing, nor after the host has, for a later boot is proof that the
// earlier one is dead. Boot ids have no order, so no table of an ear's could
// tell. Hence the ear's token: each Beat and Ask bears the newest token that its
// sender got from that ear, and the ear makes tokens from a secret that its own
// process drew for this sender, the number of sessions it has accepted from it,
// and its own clock in steps of ten seconds. A datagram without a good
// token is not delivered but answered with one, so that the next beat counts;
// every Ack brings the newest. From this follow four facts:
//
//   - Nothing sealed before the ear's process began is ever believed.
//   - Nothing of an earlier boot, or of an earlier process of the same boot, is
//     believed once a later one has been.
//   - Nothing is believed that is older than 20 s, even if it was held back on
//     its way and is seen for the first time.
//   - Nothing is believed twice: within a session a window over the counter, one
//     for each network, refuses it.
//
// The price is one lost beat for each ear when a host's agent or the ear starts.
// There is no state to keep on disk and no clock to compare between hosts.
//
// # Two senders
//
// A process never returns to a session that it left, and never uses one counter
// twice. When either is seen, two machines live under one name. Conn reports it
// and delivers the beats of neither until one has been silent for ten seconds.
//
// # Received when
//
// Datagram.At is read from CLOCK_BOOTTIME after the datagram was taken from the
// socket. It may be late but is never early, whatever happens to the wall clock
// (which a kernel timestamp would be in); rules count silence from it. A
// process that was itself late must first read what waits: see Conn.Drain.
package heartbeat
