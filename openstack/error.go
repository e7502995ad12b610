package openstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/gophercloud/gophercloud/v2"

	"mainstay/fleet"
)

// Error is why a deed of Do came to nothing, or why nobody knows.
type Error struct {
	// Outcome is fleet.Refused (Nova or Keystone said no), fleet.Broken (it was not asked,
	// or not done) or fleet.NoWord (it may have been done, now or later).
	Outcome fleet.Outcome
	// Doing is what was attempted on what, Why the reason in Nova's words where it gave any.
	Doing, Why string
}

func (e *Error) Error() string { return e.Doing + ": " + e.Why }

// OutcomeOf returns the outcome that an error of Do stands for: done for nil, and unknown
// for an error that does not say.
func OutcomeOf(err error) fleet.Outcome {
	if err == nil {
		return fleet.Done
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Outcome
	}
	return fleet.NoWord
}

// answer is an answer that was not the one hoped for.
type answer struct {
	status int
	words  string
}

func (a *answer) Error() string { return a.words }

// plain is err in the words of whoever answered, without the request's address, which an
// operator does not know, and without a page of HTML that a proxy made.
func plain(err error) error {
	if u, ok := errors.AsType[*unasked](err); ok {
		return &unasked{plain(u.error)}
	}
	if again, ok := errors.AsType[*gophercloud.ErrUnableToReauthenticate](err); ok {
		return &unasked{fmt.Errorf("no new token from Keystone: %w", plain(again.ErrReauth))}
	}
	code, ok := errors.AsType[gophercloud.ErrUnexpectedResponseCode](err)
	if !ok {
		return err
	}
	a := &answer{code.Actual, fmt.Sprintf("%d %s", code.Actual, http.StatusText(code.Actual))}
	// Nova: {"badRequest": {"message": ...}}; Keystone: {"error": {"message": ...}}.
	var body map[string]struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(code.Body, &body) == nil {
		for _, word := range fleet.Sorted(body) {
			if m := strings.TrimSpace(body[word].Message); m != "" {
				a.words += ": " + m
			}
		}
	}
	return a
}

// unasked marks an error of a request that was surely not carried out.
type unasked struct{ error }

func (u *unasked) Unwrap() error { return u.error }

// status is the status of the answer that err is, or 0.
func status(err error) int {
	if a, ok := errors.AsType[*answer](err); ok {
		return a.status
	}
	return 0
}

// outcome says what err, as plain gives it, tells of the deed.
func outcome(err error) fleet.Outcome {
	_, not := errors.AsType[*unasked](err)
	dial, opened := errors.AsType[*net.OpError](err)
	switch s := status(err); {
	case s == http.StatusTooManyRequests, s == http.StatusRequestEntityTooLarge: // a limit of Nova's or of a proxy's
		return fleet.Broken
	case s >= 400 && s < 500 && s != http.StatusRequestTimeout:
		return fleet.Refused
	case not, opened && dial.Op == "dial": // no connection, so no request
		return fleet.Broken
	}
	return fleet.NoWord
}

// failed makes an *Error.
func failed(doing string, err error) error {
	err = plain(err)
	why := err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		why = "no answer in time"
	}
	return &Error{Outcome: outcome(err), Doing: doing, Why: why}
}
