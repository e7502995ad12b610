// Package fence proves that a host is off.
//
// Whatever a host held may start elsewhere only when the host cannot act any
// more. Silence is no proof: a host that we cannot hear may well be writing to
// the disk that its successor is about to open. So we ask the one device that
// can take its power away, and believe it only so far:
//
//	is this the machine we mean?   its UUID, as the host itself reported it
//	turn it off                    our own order, acknowledged
//	is it off?                     yes, and at least one second later: yes again
//	did it speak meanwhile?        one later beat and all of it is void
//
// Prove does these four; anything else that may happen on the way (no answer,
// half an answer, a refusal, a contradiction) is an error and never a proof. An
// error says which of three things it is, in the words of fleet.Outcome:
//
//	refused   the device said no, or is not the one we mean; asking again will not help
//	failed    it did not work: no order was sent, or the host has power; asking again may help
//	unknown   it may have been carried out, now or later; asking again may help
//
// Confirm asks once more, right before the start that relies on the proof, and
// PowerOn brings the host back after what was taken from it has arrived.
//
// A device is spoken to by a Driver; drivers.go is the table of them. A new
// driver is one file, one row there, and one false device in contract_test.go.
package fence

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mainstay/fleet"
)

// Power is what a device says of its host.
type Power string

// The states. Unknown always comes with an error that says why.
const (
	On      Power = "on"
	Off     Power = "off"
	Unknown Power = "unknown"
)

// Driver speaks to the device that holds one host's power. Opening a driver
// reads its parameters and touches no device. Every call ends by its context or
// after Deadline, whichever comes first; every error is, or wraps, an *Error.
// A driver is used by one goroutine at a time.
type Driver interface {
	// Device names the device for people and evidence: "redfish https://bmc-c2".
	// It never contains a secret.
	Device() string

	// Identity returns the UUID of the machine whose power the device holds, as
	// the device states it now: never from memory, for cables are swapped. A device
	// that switches a plug and knows no machine says ErrNoIdentity.
	Identity(ctx context.Context) (uuid string, err error)

	// State returns On or Off only when the device said so in answer to this
	// very question. In-between states, no answer and half an answer are Unknown
	// with an error.
	State(ctx context.Context) (Power, error)

	// Off orders the power off at once, without asking the host's system. It
	// returns nil only when the device acknowledged the order, or refused it
	// because the host is off already; nil does not say that the host is off yet.
	// It is idempotent. An error with outcome unknown means that the order may
	// still be carried out.
	Off(ctx context.Context) error

	// On orders the power on, with the same promises.
	On(ctx context.Context) error

	// Deadline bounds each of the calls above.
	Deadline() time.Duration

	// Warnings are sentences for `mainstay check`: what is allowed but unwise in
	// the driver's parameters.
	Warnings() []string

	// Close gives back what the driver holds: connections, a session.
	Close()
}

// Errors of outcome refused; the first two are for a person to mend.
var (
	// ErrCredentials: the device does not take our user and password.
	ErrCredentials = errors.New("user or password not accepted")
	// ErrIdentity: the device is not, or cannot say that it is, the one of the
	// host that we mean.
	ErrIdentity = errors.New("not the machine we mean")
	// ErrNoIdentity: the device switches a plug and knows no machine. Prove then
	// watches whether another host falls silent in place of the one we mean.
	ErrNoIdentity = errors.New("it knows no machine")
)

// Error is any failure of this package.
type Error struct {
	// Outcome is fleet.Refused, fleet.Broken (failed) or fleet.NoWord (unknown).
	Outcome fleet.Outcome
	// Device is the device's name, Doing what was attempted.
	Device, Doing string
	Err           error
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s: %v", e.Device, e.Doing, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// OutcomeOf returns the outcome that an error of this package stands for: done
// for nil, and unknown for an error that does not say.
func OutcomeOf(err error) fleet.Outcome {
	if err == nil {
		return fleet.Done
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Outcome
	}
	return fleet.NoWord
}
