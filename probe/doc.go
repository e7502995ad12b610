// Package probe asks a service whether it serves, and a unit whether it works.
//
// A probe is one question at layer 7 with a deadline, on a connection of its
// own. What came of it is one of four things, and they are never mixed up:
//
//	answered   it spoke, and as expected
//	bad        it spoke, but not as expected: a 500, garbage, a closed connection
//	refused    nobody listens there
//	timeout    no answer: nothing is known, neither that it is dead nor that it lives
//
// A timeout alone is the mark of a busy service as much as of a hung one: the
// only worker of a service answers its probe after the request it is at. So a
// copy is called hung only on three signs together: a probe past its deadline,
// no request finished, and no CPU used by its unit (Hung, UnitUsage).
//
// probes.go is the table of checks. A new one is a function on an open
// connection, one row there, and one server in contract_test.go.
package probe
