package fence

import (
	"context"
	"errors"
	"time"
)

// Examination is what a device answered to all that can be asked of it without
// switching anything: long before it is needed, that is how one learns of a password
// that expired, a cable that was swapped, a BMC that hangs.
type Examination struct {
	Device string        `json:"device"`
	Power  Power         `json:"power"`
	Took   time.Duration `json:"took"`
	// Machine says whose machine it is: "the host's own", or why that is not known.
	Machine string `json:"machine"`
	Err     error  `json:"-"` // why the device would prove nothing now
}

// Examine asks d for its machine and its power. It switches nothing.
func Examine(ctx context.Context, d Driver, want Target) Examination {
	begun := time.Now()
	x := Examination{Device: d.Device(), Power: Unknown, Machine: "the host's own"}
	x.Err = same(ctx, d, want)
	switch {
	case errors.Is(x.Err, ErrNoIdentity):
		x.Machine, x.Err = ErrNoIdentity.Error(), nil
	case x.Err != nil:
		x.Machine = "not known"
	}
	if x.Err == nil {
		x.Power, x.Err = d.State(ctx)
	}
	if x.Err == nil && x.Power == Off && want.Beats != nil {
		x.Err = contradiction(ctx, d, want)
	}
	x.Took = time.Since(begun)
	return x
}

// contradiction is the error of a device that says off of a host which beats.
func contradiction(ctx context.Context, d Driver, want Target) error {
	before := want.beats()
	if err := pause(ctx, d, Apart); err != nil {
		return err
	}
	if want.beats() != before {
		return voice(d)
	}
	return nil
}
